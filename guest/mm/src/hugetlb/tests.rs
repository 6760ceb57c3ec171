//! The pool, private and shared huge mappings, and PMD pages shared by several mms, on the arena.

use super::{HUGE_BYTES, HugeSize, Quota, set_sharing};
use crate::error::MmError;
use crate::testing::Arena;
use crate::{Access, Env, FaultOutcome, MapRequest, Mm, Object, ObjectInfo, Sharing};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::sys::general as abi;
use ptshare_paging::PAGE_BYTES;
use std::sync::Arc;

const GIB: u64 = 1 << 30;
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
const READ: u64 = abi::PROT_READ as u64;
const BASE: u64 = 0x10_0000_0000;
const MODES: [Sharing; 3] = [Sharing::None, Sharing::Pte, Sharing::Tree];

fn counts(arena: &Arena) -> [u64; 4] {
    super::counts(arena, HugeSize::Mib2)
}

fn resize(arena: &Arena, pages: u64) {
    super::resize(arena, HugeSize::Mib2, pages);
}

/// A machine with this many huge pages in its pool, and about as much ordinary memory again.
fn machine(huge: u64) -> Arena {
    let arena = Arena::new(4096 + 512 * (huge as usize + 8));
    resize(&arena, huge);
    assert_eq!(counts(&arena), [huge, huge, 0, 0]);
    arena
}

fn mm(arena: &Arena) -> Arc<Mm<Arena>> {
    Mm::new(arena.clone()).unwrap()
}

fn memfd(arena: &Arena, huge: u64) -> Arc<Object<Arena>> {
    let info = ObjectInfo::new(7, 1, "/memfd:huge".into());
    Object::hugetlb(arena.clone(), HugeSize::Mib2, info, huge * HUGE_BYTES, None)
}

fn of_object(addr: u64, huge: u64, prot: u64, flags: u32, object: &Arc<Object<Arena>>) -> MapRequest<Arena> {
    let mut request = MapRequest::anonymous(huge * HUGE_BYTES, prot);
    request.addr = addr;
    request.flags = u64::from(flags | abi::MAP_FIXED);
    request.object = Some((object.clone(), 0));
    request
}

fn share(mm: &Mm<Arena>, addr: u64, huge: u64, object: &Arc<Object<Arena>>) {
    assert_eq!(mm.mmap(of_object(addr, huge, RW, abi::MAP_SHARED, object)), Ok(addr));
}

fn anonymous(mm: &Mm<Arena>, addr: u64, huge: u64, flags: u32) -> Result<u64, MmError> {
    let mut request = MapRequest::anonymous(huge * HUGE_BYTES, RW);
    request.addr = addr;
    request.flags = u64::from(flags | abi::MAP_FIXED | abi::MAP_ANONYMOUS | abi::MAP_HUGETLB);
    mm.mmap(request)
}

fn stat(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn page(n: u64) -> u64 {
    BASE + n * HUGE_BYTES
}

#[test]
fn the_pool_grows_and_shrinks_and_keeps_what_is_promised() {
    let arena = machine(4);
    let mm = mm(&arena);
    assert_eq!(anonymous(&mm, BASE, 3, abi::MAP_PRIVATE), Ok(BASE));
    assert_eq!(counts(&arena), [4, 4, 3, 0]);
    assert_eq!(anonymous(&mm, BASE + GIB, 2, abi::MAP_PRIVATE), Err(MmError::NoMemory));
    resize(&arena, 1);
    // Three are promised: they stay, as surplus beyond what was asked for.
    assert_eq!(counts(&arena), [3, 3, 3, 2]);
    arena.user_store(&mm, BASE, 5).unwrap();
    assert_eq!(counts(&arena), [3, 2, 2, 2]);
    arena.audit(&[&mm]);
    assert_eq!(mm.munmap(BASE, HUGE_BYTES), Ok(()));
    arena.audit(&[&mm]);
    mm.clear();
    arena.audit(&[&mm]);
    assert_eq!(counts(&arena), [1, 1, 0, 0]);
    resize(&arena, 0);
    assert_eq!(counts(&arena), [0; 4]);
    arena.audit(&[&mm]);
}

#[test]
fn surplus_pages_come_and_go() {
    let arena = machine(1);
    super::set_overcommit(&arena, HugeSize::Mib2, 2).unwrap();
    let mm = mm(&arena);
    assert_eq!(anonymous(&mm, BASE, 4, abi::MAP_PRIVATE), Err(MmError::NoMemory));
    assert_eq!(anonymous(&mm, BASE, 3, abi::MAP_PRIVATE), Ok(BASE));
    assert_eq!(counts(&arena), [3, 3, 3, 2]);
    arena.user_store(&mm, page(1), 1).unwrap();
    mm.clear();
    assert_eq!(counts(&arena), [1, 1, 0, 0]);
    arena.audit(&[&mm]);
}

#[test]
fn without_a_reservation_an_empty_pool_is_sigbus() {
    let arena = machine(1);
    let mm = mm(&arena);
    assert_eq!(anonymous(&mm, BASE, 2, abi::MAP_PRIVATE | abi::MAP_NORESERVE), Ok(BASE));
    assert_eq!(counts(&arena), [1, 1, 0, 0]);
    arena.user_store(&mm, page(0), 1).unwrap();
    assert_eq!(arena.user_store(&mm, page(1), 1), Err(FaultOutcome::BusAdrErr));
    arena.audit(&[&mm]);
}

#[test]
fn private_huge_pages_are_copied_on_write_in_every_mode() {
    for mode in MODES {
        let arena = machine(4);
        let parent = mm(&arena);
        anonymous(&parent, BASE, 2, abi::MAP_PRIVATE).unwrap();
        arena.user_store(&parent, page(0) + 8 * PAGE_BYTES, 11).unwrap();
        arena.user_store(&parent, page(1), 12).unwrap();
        let child = parent.fork(mode, 0).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(0) + 8 * PAGE_BYTES), Ok(11));
        arena.user_store(&child, page(0) + 16, 21).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(0) + 8 * PAGE_BYTES), Ok(11), "{mode:?}");
        assert_eq!(arena.user_load(&parent, page(0) + 16), Ok(0));
        arena.user_store(&parent, page(0) + 8 * PAGE_BYTES, 31).unwrap();
        assert_eq!(arena.user_load(&child, page(0) + 8 * PAGE_BYTES), Ok(11));
        arena.user_store(&parent, page(1), 32).unwrap();
        assert_eq!(arena.user_load(&child, page(1)), Ok(12));
        arena.audit(&[&parent, &child]);
        drop(parent);
        arena.user_store(&child, page(1), 22).unwrap();
        arena.audit(&[&child]);
        drop(child);
        arena.audit(&[]);
        assert_eq!(counts(&arena), [4, 4, 0, 0]);
    }
}

#[test]
fn a_child_that_finds_the_pool_empty_gets_sigbus_and_the_parent_nothing() {
    let arena = machine(1);
    let parent = mm(&arena);
    anonymous(&parent, BASE, 1, abi::MAP_PRIVATE).unwrap();
    arena.user_store(&parent, BASE, 1).unwrap();
    let child = parent.fork(Sharing::Pte, 0).unwrap();
    assert_eq!(arena.user_store(&child, BASE, 2), Err(FaultOutcome::BusAdrErr));
    drop(child);
    arena.user_store(&parent, BASE, 3).unwrap();
    arena.audit(&[&parent]);
}

#[test]
fn one_pmd_page_serves_all_mappings_of_a_gibibyte() {
    let arena = machine(512);
    let object = memfd(&arena, 512);
    let mms: Vec<_> = (0..20).map(|_| mm(&arena)).collect();
    let at = |i: u64| BASE + i * 3 * GIB;
    for (i, mm) in mms.iter().enumerate() {
        share(mm, at(i as u64), 512, &object);
    }
    assert_eq!(counts(&arena), [512, 512, 512, 0]);
    for n in 0..512 {
        let (i, mm) = (n % 20, &mms[n as usize % 20]);
        arena.user_store(mm, at(i) + n * HUGE_BYTES + 8 * n, n + 1).unwrap();
    }
    let stats = arena.stats();
    assert_eq!(stat(&stats.pmd_tables_shared), 19);
    // The first 20 built or took over the table, and one page each may have been there already.
    assert_eq!(stat(&stats.hugetlb_faults), 512);
    let all: Vec<&Mm<Arena>> = mms.iter().map(|mm| &**mm).collect();
    arena.audit(&all);
    let faults = stat(&stats.page_faults);
    for n in 0..512 {
        assert_eq!(arena.user_load(&mms[7], at(7) + n * HUGE_BYTES + 8 * n), Ok(n + 1));
    }
    assert_eq!(stat(&stats.page_faults), faults);
    // One root, PUD page and shared PMD page each.
    assert!(mms.iter().all(|mm| stat(&mm.rec().table_pages) == 3));
    assert_eq!(stat(&stats.tables_now), 20 * 2 + 1);
    drop(mms);
    arena.audit(&[]);
    assert_eq!(counts(&arena), [512, 0, 0, 0]);
    drop(object);
    arena.audit(&[]);
    assert_eq!(counts(&arena), [512, 512, 0, 0]);
}

#[test]
fn only_mappings_that_fit_share() {
    let arena = machine(1024);
    let object = memfd(&arena, 1024);
    let first = mm(&arena);
    share(&first, BASE, 512, &object);
    arena.user_store(&first, BASE, 1).unwrap();
    let shared = |mm: &Mm<Arena>, at: u64| {
        let before = stat(&arena.stats().pmd_tables_shared);
        assert_eq!(arena.user_load(mm, at), Ok(1));
        stat(&arena.stats().pmd_tables_shared) > before
    };
    let other = mm(&arena);
    // Other rights.
    other.mmap(of_object(BASE, 512, READ, abi::MAP_SHARED, &object)).unwrap();
    assert!(!shared(&other, BASE));
    // Private.
    let mut private = of_object(BASE + GIB, 512, RW, abi::MAP_PRIVATE | abi::MAP_NORESERVE, &object);
    private.prot = RW;
    other.mmap(private).unwrap();
    assert!(!shared(&other, BASE + GIB));
    // Less than a GiB, and one that is not aligned.
    share(&other, BASE + 2 * GIB, 511, &object);
    assert!(!shared(&other, BASE + 2 * GIB));
    share(&other, BASE + 4 * GIB + HUGE_BYTES, 512, &object);
    assert!(!shared(&other, BASE + 4 * GIB + HUGE_BYTES));
    // A second mapping of the same mm.
    share(&other, BASE + 6 * GIB, 512, &object);
    assert!(shared(&other, BASE + 6 * GIB));
    // Part of the way into the object, congruent.
    let mut late = of_object(BASE + 8 * GIB, 512, RW, abi::MAP_SHARED, &object);
    late.object = Some((object.clone(), 512 * 512));
    other.mmap(late).unwrap();
    arena.user_store(&other, BASE + 8 * GIB, 9).unwrap();
    let third = mm(&arena);
    share(&third, BASE, 1024, &object);
    assert!(shared(&third, BASE));
    assert_eq!(arena.user_load(&third, BASE + GIB), Ok(9));
    arena.audit(&[&first, &other, &third]);
    set_sharing(&arena, false);
    let fourth = mm(&arena);
    share(&fourth, BASE, 512, &object);
    assert!(!shared(&fourth, BASE));
    arena.audit(&[&first, &other, &third, &fourth]);
}

/// Every change of one sharer takes the table out of that one alone.
#[test]
fn changes_take_the_table_out_of_one_mm_only() {
    type Change = fn(&Mm<Arena>);
    let changes: [(&str, Change, u64); 8] = [
        ("mprotect of a page", |mm| mm.mprotect(page(3), HUGE_BYTES, READ).unwrap(), 1),
        ("mprotect of all", |mm| mm.mprotect(BASE, GIB, READ).unwrap(), 1),
        ("munmap of a page", |mm| mm.munmap(page(3), HUGE_BYTES).unwrap(), 1),
        ("munmap of all", |mm| mm.munmap(BASE, GIB).unwrap(), 1),
        ("mremap to less", |mm| assert_eq!(mm.mremap(BASE, GIB, GIB / 2, 0, 0), Ok(BASE)), 1),
        (
            "mremap elsewhere",
            |mm| {
                let flags = u64::from(abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED);
                mm.mremap(BASE, GIB, GIB, flags, BASE + 2 * GIB).unwrap();
            },
            1,
        ),
        ("a hint for a page", |mm| mm.madvise(page(3), HUGE_BYTES, abi::MADV_DONTDUMP.into()).unwrap(), 1),
        (
            "MADV_DONTNEED of a page",
            |mm| mm.madvise(page(3), HUGE_BYTES, abi::MADV_DONTNEED.into()).unwrap(),
            1,
        ),
    ];
    for mode in [None, Some(Sharing::Pte), Some(Sharing::Tree)] {
        for (name, change, detached) in changes {
            let arena = machine(512);
            let object = memfd(&arena, 512);
            let a = mm(&arena);
            share(&a, BASE, 512, &object);
            for n in 0..512 {
                arena.user_store(&a, page(n), n + 100).unwrap();
            }
            let b = match mode {
                Some(mode) => a.fork(mode, 0).unwrap(),
                None => {
                    let b = mm(&arena);
                    share(&b, BASE, 512, &object);
                    b
                }
            };
            let c = mm(&arena);
            share(&c, BASE + 5 * GIB, 512, &object);
            assert_eq!(arena.user_load(&b, page(5)), Ok(105));
            assert_eq!(arena.user_load(&c, page(6) + 5 * GIB), Ok(106));
            arena.audit(&[&a, &b, &c]);
            let faults = stat(&arena.stats().page_faults);
            let before = stat(&arena.stats().pmd_detaches);
            change(&b);
            arena.audit(&[&a, &b, &c]);
            assert_eq!(stat(&arena.stats().pmd_detaches) - before, detached, "{name} {mode:?}");
            for n in 0..512 {
                assert_eq!(arena.user_load(&a, page(n)), Ok(n + 100), "{name}");
                assert_eq!(arena.user_load(&c, page(n) + 5 * GIB), Ok(n + 100), "{name}");
            }
            assert_eq!(stat(&arena.stats().page_faults), faults, "the others fault after: {name}");
            // What is still mapped is found again.
            let mut left = Vec::new();
            b.for_each_vma(&mut |vma| left.push((vma.start, vma.end, vma.offset)));
            for (start, end, offset) in left {
                let mut at = start;
                while at < end {
                    let n = (at - start + offset) / HUGE_BYTES;
                    assert_eq!(arena.user_load(&b, at), Ok(n + 100), "{name}");
                    at += HUGE_BYTES;
                }
            }
            arena.audit(&[&a, &b, &c]);
            drop(a);
            arena.audit(&[&b, &c]);
            drop((b, c, object));
            arena.audit(&[]);
            assert_eq!(counts(&arena), [512, 512, 0, 0], "{name}");
        }
    }
}

#[test]
fn the_last_user_keeps_its_table_when_it_changes() {
    let arena = machine(512);
    let object = memfd(&arena, 512);
    let a = mm(&arena);
    share(&a, BASE, 512, &object);
    arena.user_store(&a, page(7), 1).unwrap();
    let faults = stat(&arena.stats().page_faults);
    a.mprotect(page(3), HUGE_BYTES, READ).unwrap();
    assert_eq!(arena.user_load(&a, page(7)), Ok(1));
    assert_eq!(stat(&arena.stats().page_faults), faults);
    // The table is a's own now: another mapping builds its own.
    let b = mm(&arena);
    share(&b, BASE, 512, &object);
    assert_eq!(arena.user_load(&b, page(7)), Ok(1));
    assert_eq!(stat(&arena.stats().pmd_tables_shared), 0);
    arena.audit(&[&a, &b]);
}

#[test]
fn truncate_and_punch_reach_every_sharer_once() {
    let arena = machine(512);
    let object = memfd(&arena, 512);
    let (a, b) = (mm(&arena), mm(&arena));
    share(&a, BASE, 512, &object);
    share(&b, BASE + 4 * GIB, 512, &object);
    for n in 0..8 {
        arena.user_store(&a, page(n), n + 1).unwrap();
    }
    assert_eq!(arena.user_load(&b, page(2) + 4 * GIB), Ok(3));
    object.punch_hole(HUGE_BYTES, 2 * HUGE_BYTES).unwrap();
    arena.audit(&[&a, &b]);
    assert_eq!(arena.user_load(&a, page(0)), Ok(1));
    assert_eq!(arena.user_load(&b, page(1) + 4 * GIB), Ok(0));
    assert_eq!(arena.user_load(&a, page(2)), Ok(0));
    object.punch_hole(3 * HUGE_BYTES, 4096).unwrap();
    assert_eq!(arena.user_load(&a, page(3)), Ok(0));
    object.truncate(4 * HUGE_BYTES).unwrap();
    arena.audit(&[&a, &b]);
    assert_eq!(arena.user_load(&b, page(4) + 4 * GIB), Err(FaultOutcome::BusAdrErr));
    assert_eq!(arena.user_load(&a, page(0)), Ok(1));
    let [total, free, reserved, surplus] = counts(&arena);
    assert_eq!((total, free + 4 - total, reserved, surplus), (512, 0, 0, 0));
    let mut bytes = [0; 8];
    assert_eq!(object.read_at(0, &mut bytes), 8);
    assert_eq!(bytes, 1u64.to_le_bytes());
}

#[test]
fn files_allocate_and_a_mount_limits_them() {
    let arena = machine(8);
    let quota = Arc::new(Quota::new());
    quota.max.store(3, Relaxed);
    let info = ObjectInfo::new(7, 2, "/huge/file".into());
    let object = Object::hugetlb(arena.clone(), HugeSize::Mib2, info, 0, Some(quota.clone()));
    object.allocate(0, 2 * HUGE_BYTES, true).unwrap();
    assert_eq!((object.size_bytes(), object.pages(), stat(&quota.used)), (2 * HUGE_BYTES, 1024, 2));
    let mm = mm(&arena);
    assert_eq!(mm.mmap(of_object(BASE, 4, RW, abi::MAP_SHARED, &object)), Err(MmError::NoMemory));
    share(&mm, BASE, 3, &object);
    assert_eq!((object.size_bytes(), stat(&quota.used), counts(&arena)), (3 * HUGE_BYTES, 3, [8, 6, 1, 0]));
    object.truncate(0).unwrap();
    assert_eq!((stat(&quota.used), counts(&arena)), (0, [8, 8, 0, 0]));
    arena.audit(&[&mm]);
}

#[test]
fn requests_are_refused_as_on_linux() {
    let arena = machine(4);
    let mm = mm(&arena);
    let mut odd = MapRequest::anonymous(4096, RW);
    odd.flags |= u64::from(abi::MAP_HUGETLB) | 22 << abi::MAP_HUGE_SHIFT;
    assert_eq!(mm.mmap(odd), Err(MmError::Invalid));
    assert_eq!(anonymous(&mm, BASE + 4096, 1, abi::MAP_PRIVATE), Err(MmError::Invalid));
    let mut small = MapRequest::anonymous(4096, RW);
    small.flags |= u64::from(abi::MAP_HUGETLB);
    let at = mm.mmap(small).unwrap();
    assert!(HugeSize::Mib2.is_aligned(at));
    assert_eq!(mm.munmap(at, 4096), Err(MmError::Invalid));
    assert_eq!(mm.munmap(at + 4096, HUGE_BYTES - 4096), Err(MmError::Invalid));
    assert_eq!(mm.mprotect(at, 4096, READ), Err(MmError::Invalid));
    assert_eq!(mm.mremap(at, HUGE_BYTES, 2 * HUGE_BYTES, 1, 0), Err(MmError::Invalid));
    assert_eq!(mm.madvise(at + 4096, 4096, abi::MADV_DONTNEED.into()), Err(MmError::Invalid));
    assert_eq!(mm.madvise(at, 4096, abi::MADV_DONTNEED.into()), Ok(()));
    assert_eq!(mm.madvise(at, HUGE_BYTES, abi::MADV_FREE.into()), Err(MmError::Invalid));
    assert_eq!(arena.access(&mm, at, Access::EXEC), Err(FaultOutcome::SegvAccErr));
    assert_eq!(mm.mlock(at, 4096, 0), Ok(()));
    let mut seen = 0;
    mm.mincore(at, HUGE_BYTES, &mut |run| {
        seen += run.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 512);
    let object = memfd(&arena, 2);
    let mut off = of_object(BASE, 1, RW, abi::MAP_SHARED, &object);
    off.object = Some((object.clone(), 1));
    assert_eq!(mm.mmap(off), Err(MmError::Invalid));
    mm.munmap(at, HUGE_BYTES).unwrap();
    arena.audit(&[&mm]);
    assert_eq!(counts(&arena), [4, 4, 0, 0]);
}

/// Forks in every mode, with huge pages of all sorts in one GiB, and no frame for a table at each point in turn.
#[test]
fn failures_of_allocation_change_nothing() {
    for mode in MODES {
        for budget in 0..12 {
            let arena = machine(16);
            let object = memfd(&arena, 4);
            let a = mm(&arena);
            anonymous(&a, BASE, 2, abi::MAP_PRIVATE).unwrap();
            share(&a, BASE + 4 * HUGE_BYTES, 4, &object);
            arena.user_store(&a, BASE, 1).unwrap();
            arena.user_store(&a, page(4), 2).unwrap();
            let before = arena.digest(&a);
            arena.budget(budget);
            let child = a.fork(mode, 0);
            arena.unlimited();
            if let Ok(child) = &child {
                arena.audit(&[&a, child]);
                assert_eq!(arena.user_load(child, BASE), Ok(1));
                assert_eq!(arena.user_load(child, page(4)), Ok(2));
            } else {
                arena.audit(&[&a]);
                assert_eq!(arena.digest(&a), before);
            }
            drop(child);
            arena.budget(budget % 3);
            let to = BASE + 3 * GIB;
            let moved = a.mremap(BASE, 2 * HUGE_BYTES, 2 * HUGE_BYTES, 3, to);
            arena.unlimited();
            arena.audit(&[&a]);
            let at = if moved.is_ok() { to } else { BASE };
            assert_eq!(arena.user_load(&a, at), Ok(1));
            arena.user_store(&a, at + HUGE_BYTES, 1).unwrap();
            a.clear();
            arena.audit(&[&a]);
            drop((a, object));
            assert_eq!(counts(&arena), [16, 16, 0, 0]);
        }
    }
}

/// Linux's numbers, taken from 6.18: who mapped the pages has them reserved again, a child has not.
#[test]
fn a_private_page_given_back_is_reserved_again() {
    for mode in MODES {
        let arena = machine(8);
        let parent = mm(&arena);
        let discard = |mm: &Mm<Arena>, first, pages| {
            mm.madvise(page(first), pages * HUGE_BYTES, u64::from(abi::MADV_DONTNEED)).unwrap();
        };
        assert_eq!(anonymous(&parent, BASE, 4, abi::MAP_PRIVATE), Ok(BASE));
        (0..4).for_each(|n| arena.user_store(&parent, page(n), 1).unwrap());
        discard(&parent, 1, 2);
        assert_eq!(counts(&arena), [8, 6, 2, 0]);
        discard(&parent, 1, 2);
        assert_eq!(counts(&arena), [8, 6, 2, 0], "given back twice");
        arena.user_store(&parent, page(1), 2).unwrap();
        assert_eq!(counts(&arena), [8, 5, 1, 0]);

        let child = parent.fork(mode, 0).unwrap();
        discard(&child, 0, 1);
        assert_eq!(counts(&arena), [8, 5, 1, 0], "the parent still has it");
        arena.user_store(&child, page(0), 5).unwrap();
        discard(&child, 0, 1);
        assert_eq!(counts(&arena), [8, 5, 1, 0], "the child has reserved nothing");
        drop(child);
        assert_eq!(arena.user_load(&parent, page(0)), Ok(1));

        // Reserved pages go where the mapping goes.
        parent
            .mremap(
                page(0),
                HUGE_BYTES,
                HUGE_BYTES,
                (abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED).into(),
                page(20),
            )
            .unwrap();
        discard(&parent, 20, 1);
        assert_eq!(counts(&arena), [8, 6, 2, 0]);
        parent.munmap(page(1), 3 * HUGE_BYTES).unwrap();
        assert_eq!(counts(&arena), [8, 8, 1, 0]);
        parent.munmap(page(20), HUGE_BYTES).unwrap();

        assert_eq!(anonymous(&parent, BASE, 1, abi::MAP_PRIVATE | abi::MAP_NORESERVE), Ok(BASE));
        arena.user_store(&parent, BASE, 1).unwrap();
        discard(&parent, 0, 1);
        assert_eq!(counts(&arena), [8, 8, 0, 0], "there was no reservation");
        arena.audit(&[&parent]);
    }
}

/// A surplus page goes when it is given back (`__unmap_hugepage_range`: `!h->surplus_huge_pages`).
#[test]
fn a_surplus_page_given_back_is_not_reserved_again() {
    let arena = machine(1);
    super::set_overcommit(&arena, HugeSize::Mib2, 1).unwrap();
    let mm = mm(&arena);
    assert_eq!(anonymous(&mm, BASE, 2, abi::MAP_PRIVATE), Ok(BASE));
    (0..2).for_each(|n| arena.user_store(&mm, page(n), 1).unwrap());
    assert_eq!(counts(&arena), [2, 0, 0, 1]);
    mm.madvise(BASE, HUGE_BYTES, u64::from(abi::MADV_DONTNEED)).unwrap();
    assert_eq!(counts(&arena), [1, 0, 0, 0]);
    mm.madvise(page(1), HUGE_BYTES, u64::from(abi::MADV_DONTNEED)).unwrap();
    assert_eq!(counts(&arena), [1, 1, 1, 0]);
    arena.audit(&[&mm]);
}
