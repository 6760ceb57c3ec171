//! Objects' tables: who uses which, and who loses which by what.

use super::is_object_table;
use crate::testing::Arena;
use crate::{Env, MapRequest, Mm, MmError, Object, ObjectInfo, ObjectKind, Sharing};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::sys::general as abi;
use ptshare_paging::{Level, PAGE_BYTES, Pfn};
use std::sync::Arc;

const SPAN: u64 = Level::Pte.span_bytes();
const TABLES: u64 = 4;
const LEN: u64 = TABLES * SPAN;
/// Where mapping `i` begins: `BASE + i * APART`.
const BASE: u64 = 0x20_0000_0000;
const APART: u64 = 8 * SPAN;
const ELSEWHERE: u64 = 0x30_0000_0000;
/// Page of the file that the mappings begin with: the position in a table matters, not the file's own alignment.
const PGOFF: u64 = 100;
/// Pages of each span with a content of their own.
const MARKED: [u64; 3] = [0, 7, 511];
const READ: u64 = abi::PROT_READ as u64;
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    SharedWritable,
    SharedReadOnly,
    PrivateReadOnly,
}

const KINDS: [Kind; 3] = [Kind::SharedWritable, Kind::SharedReadOnly, Kind::PrivateReadOnly];

fn marked() -> impl Iterator<Item = u64> {
    (0..TABLES).flat_map(|table| MARKED.map(|page| table * SPAN + page * PAGE_BYTES))
}

fn file(arena: &Arena) -> Arc<Object<Arena>> {
    let info = ObjectInfo::new(1, 1, "file".into());
    let file = Object::new(arena.clone(), ObjectKind::Tmpfs, info);
    file.truncate(PGOFF * PAGE_BYTES + LEN).unwrap();
    for off in marked() {
        file.write_at(PGOFF * PAGE_BYTES + off, &(off + 1).to_le_bytes()).unwrap();
    }
    file
}

fn map(mm: &Mm<Arena>, at: u64, file: &Arc<Object<Arena>>, kind: Kind) {
    let mut request = MapRequest::anonymous(LEN, if kind == Kind::SharedWritable { RW } else { READ });
    request.addr = at;
    let sort = if kind == Kind::PrivateReadOnly { abi::MAP_PRIVATE } else { abi::MAP_SHARED };
    request.flags = u64::from(sort | abi::MAP_FIXED);
    request.object = Some((file.clone(), PGOFF));
    assert_eq!(mm.mmap(request), Ok(at));
}

/// A process that has read all marked pages.
fn user(arena: &Arena, i: u64, file: &Arc<Object<Arena>>, kind: Kind) -> Arc<Mm<Arena>> {
    let mm = Mm::new(arena.clone()).unwrap();
    map(&mm, place(i), file, kind);
    assert_reads(arena, &mm, place(i));
    mm
}

fn place(i: u64) -> u64 {
    BASE + i * APART
}

fn assert_reads(arena: &Arena, mm: &Mm<Arena>, at: u64) {
    for off in marked() {
        assert_eq!(arena.user_load(mm, at + off), Ok(off + 1), "{off:#x}");
    }
}

fn table(mm: &Mm<Arena>, va: u64) -> Option<Pfn> {
    mm.walk(va, false).map(|path| path.table)
}

fn tables(mm: &Mm<Arena>, at: u64) -> Vec<Option<Pfn>> {
    (0..TABLES).map(|i| table(mm, at + i * SPAN)).collect()
}

/// An operation on `[start, end)` of the mapping at `base`.
struct Operation {
    name: &'static str,
    run: fn(&Mm<Arena>, u64, u64) -> Result<(), MmError>,
    /// Only the tables that a boundary of the range cuts are lost.
    splits_only: bool,
    /// Pages of the range read as before.
    keeps: bool,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "munmap",
        run: |mm, start, end| mm.munmap(start, end - start),
        splits_only: false,
        keeps: false,
    },
    Operation {
        name: "mprotect(NONE)",
        run: |mm, start, end| mm.mprotect(start, end - start, 0),
        splits_only: false,
        keeps: false,
    },
    Operation {
        name: "mprotect(EXEC)",
        run: |mm, start, end| mm.mprotect(start, end - start, READ | u64::from(abi::PROT_EXEC)),
        splits_only: false,
        keeps: true,
    },
    Operation {
        name: "mprotect(more)",
        run: |mm, start, end| mm.mprotect(start, end - start, RW | u64::from(abi::PROT_EXEC)),
        splits_only: false,
        keeps: true,
    },
    Operation {
        name: "mmap over",
        run: |mm, start, end| {
            let mut request = MapRequest::anonymous(end - start, RW);
            request.addr = start;
            request.flags |= u64::from(abi::MAP_FIXED);
            mm.mmap(request).map(drop)
        },
        splits_only: false,
        keeps: false,
    },
    Operation {
        name: "mremap away",
        run: |mm, start, end| {
            let flags = u64::from(abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED);
            mm.mremap(start, end - start, end - start, flags, ELSEWHERE + start % SPAN).map(drop)
        },
        splits_only: false,
        keeps: false,
    },
    Operation {
        name: "mremap away, not congruent",
        run: |mm, start, end| {
            let flags = u64::from(abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED);
            let to = ELSEWHERE + start % SPAN + 5 * PAGE_BYTES;
            mm.mremap(start, end - start, end - start, flags, to).map(drop)
        },
        splits_only: false,
        keeps: false,
    },
    Operation {
        name: "mremap(DONTUNMAP)",
        run: |mm, start, end| {
            let flags = u64::from(abi::MREMAP_MAYMOVE | abi::MREMAP_DONTUNMAP);
            mm.mremap(start, end - start, end - start, flags, 0).map(drop)
        },
        splits_only: false,
        keeps: true,
    },
    Operation {
        name: "mremap to grow",
        run: |mm, start, end| {
            let flags = abi::MREMAP_MAYMOVE.into();
            mm.mremap(start, end - start, end - start + SPAN, flags, 0).map(drop)
        },
        splits_only: false,
        keeps: false,
    },
    Operation {
        name: "MADV_DONTNEED",
        run: |mm, start, end| mm.madvise(start, end - start, abi::MADV_DONTNEED.into()),
        splits_only: false,
        keeps: true,
    },
    Operation {
        name: "MADV_DONTFORK",
        run: |mm, start, end| mm.madvise(start, end - start, abi::MADV_DONTFORK.into()),
        splits_only: false,
        keeps: true,
    },
    Operation {
        name: "MADV_SEQUENTIAL",
        run: |mm, start, end| mm.madvise(start, end - start, abi::MADV_SEQUENTIAL.into()),
        splits_only: true,
        keeps: true,
    },
    Operation {
        name: "mlock",
        run: |mm, start, end| mm.mlock(start, end - start, abi::MLOCK_ONFAULT.into()),
        splits_only: true,
        keeps: true,
    },
];

/// Ranges of the mapping: aligned to tables, across them, inside one.
const RANGES: [(u64, u64); 5] = [
    (SPAN, 3 * SPAN),
    (0, LEN),
    (SPAN / 2, 2 * SPAN + SPAN / 4),
    (SPAN, 2 * SPAN - PAGE_BYTES),
    (SPAN + 9 * PAGE_BYTES, SPAN + 10 * PAGE_BYTES),
];

fn is_lost(operation: &Operation, table: u64, (start, end): (u64, u64)) -> bool {
    let (first, last) = (table * SPAN, (table + 1) * SPAN);
    let cut = |at: u64| first < at && at < last;
    if operation.name == "mremap to grow" && end == LEN {
        // In place: nothing happens to what is there.
        return false;
    }
    if operation.splits_only { cut(start) || cut(end) } else { start < last && first < end }
}

fn try_operation(operation: &Operation, kind: Kind, range: (u64, u64), sharers: u64) {
    let arena = Arena::new(4096);
    let free = arena.free_frames();
    let file = file(&arena);
    let users: Vec<_> = (0..sharers).map(|i| user(&arena, i, &file, kind)).collect();
    let all: Vec<&Mm<Arena>> = users.iter().map(|mm| &**mm).collect();
    let before = tables(&users[0], BASE);
    for (i, mm) in users.iter().enumerate() {
        assert_eq!(tables(mm, place(i as u64)), before, "one set of tables");
    }
    arena.audit(&all);

    let what = format!("{}, {kind:?}, {range:x?}, {sharers} sharers", operation.name);
    let (start, end) = (BASE + range.0, BASE + range.1);
    assert_eq!((operation.run)(&users[0], start, end), Ok(()), "{what}");
    arena.audit(&all);
    for (i, old) in (0..).zip(&before) {
        let old = old.unwrap();
        let lost = is_lost(operation, i, range);
        let now = table(&users[0], BASE + i * SPAN);
        let refs = u64::from(arena.meta(old).refs.load(Relaxed));
        if !lost {
            assert_eq!((now, refs), (Some(old), sharers), "table {i} must stay: {what}");
            assert!(is_object_table(&arena, old));
        } else if sharers > 1 {
            assert_ne!(now, Some(old), "table {i} must be lost: {what}");
            assert_eq!(refs, sharers - 1, "{what}");
        } else if now == Some(old) {
            assert!(!is_object_table(&arena, old), "the last user keeps it as its own: {what}");
        }
    }
    // The others have everything they had, without a fault.
    for (i, mm) in (1..).zip(&users[1..]) {
        assert_eq!(tables(mm, place(i)), before, "{what}");
        for off in marked() {
            let frame = mm.translate(place(i) + off, false).expect("no fault");
            assert_eq!(arena.word(frame, 0), off + 1);
        }
    }
    for off in marked() {
        let inside = (range.0..range.1).contains(&off);
        if !inside || operation.keeps {
            assert_eq!(arena.user_load(&users[0], BASE + off), Ok(off + 1), "{off:#x}: {what}");
        }
    }
    arena.audit(&all);
    // A store through a shared mapping reaches all, wherever the tables are now.
    if kind == Kind::SharedWritable && sharers > 1 {
        arena.user_store(&users[1], place(1), 77).unwrap();
        for (i, mm) in (0..).zip(&users).skip(1) {
            assert_eq!(arena.user_load(mm, place(i)), Ok(77));
        }
    }
    arena.audit(&all);
    drop(users);
    drop(file);
    arena.audit(&[]);
    assert_eq!(arena.free_frames(), free, "{what}");
}

#[test]
fn every_operation_takes_the_right_tables_from_one_process_alone() {
    for operation in OPERATIONS {
        for kind in KINDS {
            for range in RANGES {
                for sharers in [1, 2, 5] {
                    try_operation(operation, kind, range, sharers);
                }
            }
        }
    }
}

#[test]
fn exit_and_exec_drop_the_tables_of_one_process() {
    for kind in KINDS {
        let arena = Arena::new(4096);
        let file = file(&arena);
        let users: Vec<_> = (0..3).map(|i| user(&arena, i, &file, kind)).collect();
        let before = tables(&users[0], BASE);
        users[1].clear();
        arena.audit(&[&users[0], &users[1], &users[2]]);
        assert_eq!(arena.stats().object_detaches.load(Relaxed), TABLES);
        assert_eq!(arena.meta(before[0].unwrap()).refs.load(Relaxed), 2);
        let [first, _, last] = <[_; 3]>::try_from(users).unwrap_or_else(|_| unreachable!());
        drop(first);
        assert_eq!(tables(&last, place(2)), before);
        assert_reads(&arena, &last, place(2));
        arena.audit(&[&last]);
    }
}

#[test]
fn one_fault_serves_all() {
    let arena = Arena::new(4096);
    let file = file(&arena);
    let (a, b) = (Mm::new(arena.clone()).unwrap(), Mm::new(arena.clone()).unwrap());
    map(&a, BASE, &file, Kind::SharedWritable);
    map(&b, ELSEWHERE, &file, Kind::SharedWritable);
    arena.user_store(&a, BASE + 3 * PAGE_BYTES, 1).unwrap();
    assert_eq!(arena.user_load(&b, ELSEWHERE + 3 * PAGE_BYTES), Ok(1));
    // What one fills now, the other has; for writing too.
    arena.user_store(&a, BASE + 200 * PAGE_BYTES, 2).unwrap();
    let faults = arena.stats().page_faults.load(Relaxed);
    arena.user_store(&b, ELSEWHERE + 200 * PAGE_BYTES + 8, 3).unwrap();
    assert_eq!(arena.stats().page_faults.load(Relaxed), faults);
    assert_eq!(arena.user_load(&a, BASE + 200 * PAGE_BYTES + 8), Ok(3));
    assert_eq!(arena.stats().object_tables_shared.load(Relaxed), 1);
    arena.audit(&[&a, &b]);
    // The same file twice in one process.
    map(&a, ELSEWHERE, &file, Kind::SharedWritable);
    assert_eq!(arena.user_load(&a, ELSEWHERE + 200 * PAGE_BYTES), Ok(2));
    assert_eq!(table(&a, ELSEWHERE), table(&a, BASE));
    arena.audit(&[&a, &b]);
}

#[test]
fn only_equal_mappings_share() {
    let arena = Arena::new(4096);
    let file = file(&arena);
    let first = user(&arena, 0, &file, Kind::SharedWritable);
    let others = [
        user(&arena, 1, &file, Kind::SharedReadOnly),
        user(&arena, 2, &file, Kind::PrivateReadOnly),
        Mm::new(arena.clone()).unwrap(),
    ];
    // Private and writable; and at an address that is not congruent.
    let mut request = MapRequest::anonymous(LEN, RW);
    request.addr = place(3);
    request.flags = u64::from(abi::MAP_PRIVATE | abi::MAP_FIXED);
    request.object = Some((file.clone(), PGOFF));
    others[2].mmap(request).unwrap();
    map(&others[2], place(5) + PAGE_BYTES, &file, Kind::SharedWritable);
    assert_reads(&arena, &others[2], place(3));
    assert_reads(&arena, &others[2], place(5) + PAGE_BYTES);
    assert_eq!(arena.stats().object_tables_shared.load(Relaxed), 0);
    assert!(!is_object_table(&arena, table(&others[2], place(3)).unwrap()));
    let all = [&first, &others[0], &others[1], &others[2]].map(|mm| &**mm);
    arena.audit(&all);
    // With the option off nothing is shared either.
    arena.set_share_file(false);
    let alone = user(&arena, 6, &file, Kind::SharedWritable);
    assert_eq!(arena.stats().object_tables_shared.load(Relaxed), 0);
    assert!(!is_object_table(&arena, table(&alone, place(6)).unwrap()));
}

#[test]
fn a_read_only_mapping_that_becomes_writable_is_private() {
    let arena = Arena::new(4096);
    let file = file(&arena);
    for sharers in [1, 3] {
        let users: Vec<_> = (0..sharers).map(|i| user(&arena, i, &file, Kind::PrivateReadOnly)).collect();
        users[0].mprotect(BASE, LEN, RW).unwrap();
        arena.user_store(&users[0], BASE, 55).unwrap();
        assert_eq!(arena.user_load(&users[0], BASE), Ok(55));
        users[0].mprotect(BASE, LEN, READ).unwrap();
        assert_eq!(arena.user_load(&users[0], BASE), Ok(55));
        for (i, mm) in (0..).zip(&users).skip(1) {
            assert_reads(&arena, mm, place(i));
        }
        let all: Vec<&Mm<Arena>> = users.iter().map(|mm| &**mm).collect();
        arena.audit(&all);
    }
}

#[test]
fn fork_hands_objects_tables_on() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        for small in [0, 100] {
            for kind in KINDS {
                let arena = Arena::new(4096);
                let file = file(&arena);
                let parent = user(&arena, 0, &file, kind);
                let before = tables(&parent, BASE);
                let child = parent.fork(mode, small).unwrap();
                arena.audit(&[&parent, &child]);
                assert_reads(&arena, &child, BASE);
                assert_eq!(tables(&child, BASE), before, "{mode:?} {kind:?}");
                if kind == Kind::SharedWritable {
                    arena.user_store(&child, BASE, 9).unwrap();
                    assert_eq!(arena.user_load(&parent, BASE), Ok(9));
                    assert_eq!(table(&child, BASE), before[0], "nothing is copied on a write");
                    arena.user_store(&parent, BASE, 1).unwrap();
                }
                arena.audit(&[&parent, &child]);
                child.munmap(BASE + PAGE_BYTES, PAGE_BYTES).unwrap();
                assert_eq!(tables(&parent, BASE), before);
                assert_ne!(table(&child, BASE), before[0]);
                arena.audit(&[&parent, &child]);
                // What is not to be inherited is not.
                parent.madvise(BASE, LEN, abi::MADV_DONTFORK.into()).unwrap();
                assert_reads(&arena, &parent, BASE);
                let other = parent.fork(mode, small).unwrap();
                arena.audit(&[&parent, &child, &other]);
                assert!(arena.user_load(&other, BASE).is_err());
            }
        }
    }
}

#[test]
fn truncate_and_holes_reach_every_sharer_once() {
    for kind in KINDS {
        let arena = Arena::new(4096);
        let file = file(&arena);
        let users: Vec<_> = (0..4).map(|i| user(&arena, i, &file, kind)).collect();
        let all: Vec<&Mm<Arena>> = users.iter().map(|mm| &**mm).collect();
        let before = tables(&users[0], BASE);
        file.punch_hole((PGOFF + 7) * PAGE_BYTES, PAGE_BYTES).unwrap();
        arena.audit(&all);
        for (i, mm) in (0..).zip(&users) {
            assert_eq!(tables(mm, place(i)), before, "the tables stay");
            assert_eq!(mm.translate(place(i) + 7 * PAGE_BYTES, false), None);
        }
        for (i, mm) in (0..).zip(&users) {
            assert_eq!(arena.user_load(mm, place(i) + 7 * PAGE_BYTES), Ok(0));
            assert_eq!(arena.user_load(mm, place(i)), Ok(1));
        }
        file.truncate(PGOFF * PAGE_BYTES + SPAN).unwrap();
        arena.audit(&all);
        for (i, mm) in (0..).zip(&users) {
            assert!(arena.user_load(mm, place(i) + SPAN).is_err());
            assert_eq!(arena.user_load(mm, place(i)), Ok(1));
        }
        arena.audit(&all);
    }
}
