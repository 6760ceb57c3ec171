//! Pages of 1 GiB on the arena: where their frames come from, leaves in PUD pages through fork, mprotect and mremap in every
//! mode, and what is refused.

use super::{HugeSize, NoSurplus, counts, head_of, overcommit, resize, set_overcommit};
use crate::error::MmError;
use crate::frame::{alloc_kernel, free_kernel};
use crate::rmap::for_each_mapping;
use crate::testing::Arena;
use crate::{Access, Env, FaultOutcome, MapRequest, Mm, Object, ObjectInfo, Sharing, Userfault};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::sys::general as abi;
use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte};
use std::sync::Arc;

const GIB: u64 = 1 << 30;
const FRAMES: u64 = HugeSize::Gib1.frames();
const SIZE: HugeSize = HugeSize::Gib1;
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
const READ: u64 = abi::PROT_READ as u64;
/// A multiple of what a PUD page spans, so that what is mapped here lies in one.
const BASE: u64 = 0x80_0000_0000;
const MODES: [Sharing; 3] = [Sharing::None, Sharing::Pte, Sharing::Tree];

/// A machine in whose memory lie `gib` aligned GiB, and less than one around them.
fn machine(gib: u64) -> Arena {
    let arena = Arena::new(((gib + 1) * FRAMES + 4096) as usize);
    arena.set_gib_pages(true);
    arena
}

fn with_pool(pages: u64) -> Arena {
    let arena = machine(pages);
    resize(&arena, SIZE, pages);
    assert_eq!(counts(&arena, SIZE), [pages, pages, 0, 0]);
    arena
}

fn mm(arena: &Arena) -> Arc<Mm<Arena>> {
    Mm::new(arena.clone()).unwrap()
}

fn request(addr: u64, pages: u64, flags: u32) -> MapRequest<Arena> {
    let mut request = MapRequest::anonymous(pages * GIB, RW);
    request.addr = addr;
    request.flags = u64::from(flags | abi::MAP_FIXED | abi::MAP_ANONYMOUS | abi::MAP_HUGETLB);
    request.flags |= u64::from(SIZE.shift()) << abi::MAP_HUGE_SHIFT;
    request
}

fn map(mm: &Mm<Arena>, addr: u64, pages: u64) {
    assert_eq!(mm.mmap(request(addr, pages, abi::MAP_PRIVATE)), Ok(addr));
}

fn memfd(arena: &Arena, pages: u64) -> Arc<Object<Arena>> {
    let info = ObjectInfo::new(7, 1, "/memfd:gib".into());
    Object::hugetlb(arena.clone(), SIZE, info, pages * GIB, None)
}

fn share(mm: &Mm<Arena>, addr: u64, pages: u64, object: &Arc<Object<Arena>>) {
    let mut request = request(addr, pages, abi::MAP_SHARED);
    request.flags = u64::from(abi::MAP_SHARED | abi::MAP_FIXED);
    request.object = Some((object.clone(), 0));
    assert_eq!(mm.mmap(request), Ok(addr));
}

#[test]
fn the_pool_takes_runs_of_free_frames_and_gives_them_back_in_blocks() {
    let arena = machine(3);
    // The first aligned GiB begins in virgin memory: what is passed over is listed.
    resize(&arena, SIZE, 1);
    arena.audit(&[]);
    // Frames in use in the second, one at the near end and one in the middle.
    let mut blocks: Vec<Pfn> = Vec::new();
    while blocks.last().is_none_or(|pfn| pfn.0 < 2 * FRAMES + FRAMES / 2) {
        blocks.push(alloc_kernel(&arena, 9, false).unwrap());
    }
    resize(&arena, SIZE, 9);
    assert_eq!(counts(&arena, SIZE), [2, 2, 0, 0], "the GiB with kernel memory in it is left out");
    arena.audit(&[]);
    // Split into the smallest blocks, and given back out of order: they are found all the same.
    let last = blocks.pop().unwrap();
    for pfn in blocks.iter().rev().chain([&last]) {
        free_kernel(&arena, *pfn, 9);
    }
    let small: Vec<Pfn> = (0..1000).map(|_| alloc_kernel(&arena, 0, false).unwrap()).collect();
    small.iter().for_each(|pfn| free_kernel(&arena, *pfn, 0));
    resize(&arena, SIZE, 9);
    assert_eq!(counts(&arena, SIZE), [3, 3, 0, 0]);
    arena.audit(&[]);
    let free = arena.free_frames();
    resize(&arena, SIZE, 0);
    assert_eq!((counts(&arena, SIZE), arena.free_frames()), ([0; 4], free + 3 * FRAMES));
    arena.audit(&[]);
    // Pages of 2 MiB can be made of it, and no GiB while one lies in it.
    resize(&arena, HugeSize::Mib2, 4 * 512);
    resize(&arena, SIZE, 1);
    assert_eq!(counts(&arena, SIZE), [0; 4]);
    resize(&arena, HugeSize::Mib2, 0);
    resize(&arena, SIZE, 3);
    assert_eq!(counts(&arena, SIZE), [3, 3, 0, 0]);
    arena.audit(&[]);
}

#[test]
fn pages_are_not_made_when_they_are_needed() {
    let arena = with_pool(1);
    assert_eq!(set_overcommit(&arena, SIZE, 1), Err(NoSurplus));
    assert_eq!(overcommit(&arena, SIZE), 0);
    let mm = mm(&arena);
    assert_eq!(mm.mmap(request(BASE, 2, abi::MAP_PRIVATE)), Err(MmError::NoMemory));
    map(&mm, BASE, 1);
    assert_eq!(counts(&arena, SIZE), [1, 1, 1, 0]);
    assert_eq!(mm.mmap(request(BASE + GIB, 1, abi::MAP_PRIVATE | abi::MAP_NORESERVE)), Ok(BASE + GIB));
    assert_eq!(arena.user_store(&mm, BASE + GIB, 1), Err(FaultOutcome::BusAdrErr));
    arena.user_store(&mm, BASE, 1).unwrap();
    // In use beyond the size asked for: surplus, which goes when it is given back.
    resize(&arena, SIZE, 0);
    assert_eq!(counts(&arena, SIZE), [1, 0, 0, 1]);
    arena.audit(&[&mm]);
    mm.clear();
    assert_eq!(counts(&arena, SIZE), [0; 4]);
    arena.audit(&[&mm]);
}

#[test]
fn a_private_page_is_copied_by_who_writes_first_in_every_mode() {
    for mode in MODES {
        let arena = with_pool(3);
        let parent = mm(&arena);
        map(&parent, BASE, 1);
        let spots = [0, GIB / 2 + 5 * PAGE_BYTES, GIB - 8];
        for (i, at) in spots.into_iter().enumerate() {
            arena.user_store(&parent, BASE + at, 10 + i as u64).unwrap();
        }
        // Memory of other sizes below the same PUD page, and PTE pages enough that they are shared.
        let mut small = MapRequest::anonymous(16 << 20, RW);
        small.addr = BASE + 2 * GIB;
        small.flags |= u64::from(abi::MAP_FIXED);
        parent.mmap(small).unwrap();
        for at in (0..16 << 20).step_by(2 << 20) {
            arena.user_store(&parent, BASE + 2 * GIB + at, 7).unwrap();
        }
        let child = parent.fork(mode, 3).unwrap();
        let grandchild = child.fork(mode, 3).unwrap();
        arena.audit(&[&parent, &child, &grandchild]);
        let pud = |mm: &Mm<Arena>| {
            let mut tables = Vec::new();
            mm.leaf_through(BASE, &mut |table| tables.push(table));
            assert_eq!(mm.leaf_at(BASE).map(|(level, _)| level), Some(Level::Pud));
            tables[1]
        };
        assert_eq!(pud(&parent) == pud(&grandchild), mode == Sharing::Tree, "{mode:?}");
        for mm in [&parent, &child, &grandchild] {
            for (i, at) in spots.into_iter().enumerate() {
                assert_eq!(arena.user_load(mm, BASE + at), Ok(10 + i as u64));
            }
        }
        arena.user_store(&child, BASE + spots[1], 21).unwrap();
        arena.audit(&[&parent, &child, &grandchild]);
        assert_eq!(counts(&arena, SIZE), [3, 1, 0, 0]);
        assert_eq!(arena.user_load(&child, BASE + spots[2]), Ok(12));
        assert_eq!(arena.user_load(&parent, BASE + spots[1]), Ok(11));
        arena.user_store(&parent, BASE + spots[1], 31).unwrap();
        assert_eq!(arena.user_load(&grandchild, BASE + spots[1]), Ok(11));
        arena.audit(&[&parent, &child, &grandchild]);
        drop(child);
        arena.user_store(&grandchild, BASE + spots[1], 41).unwrap();
        assert_eq!(counts(&arena, SIZE), [3, 1, 0, 0], "the last that has a page writes to it");
        arena.audit(&[&parent, &grandchild]);
        drop((parent, grandchild));
        arena.audit(&[]);
        assert_eq!(counts(&arena, SIZE), [3, 3, 0, 0]);
    }
}

#[test]
fn shared_pages_of_an_object_follow_it_in_every_mode() {
    for mode in MODES {
        let arena = with_pool(2);
        let object = memfd(&arena, 2);
        let (a, other) = (mm(&arena), mm(&arena));
        share(&a, BASE, 2, &object);
        share(&other, BASE + 5 * GIB, 2, &object);
        arena.user_store(&a, BASE + 8, 1).unwrap();
        let b = a.fork(mode, 0).unwrap();
        arena.user_store(&b, BASE + GIB + 8, 2).unwrap();
        assert_eq!(arena.user_load(&other, BASE + 6 * GIB + 8), Ok(2));
        assert_eq!(arena.user_load(&a, BASE + GIB + 8), Ok(2));
        arena.audit(&[&a, &b, &other]);
        let pfn = a.translate(BASE + 7 * PAGE_BYTES, true).unwrap();
        assert_eq!(head_of(&arena, pfn), Some((Pfn(pfn.0 - 7), SIZE)));
        let mut places = Vec::new();
        for_each_mapping(&arena, pfn, &mut |mm, va| places.push((mm.slot(), va))).unwrap();
        places.sort_unstable();
        let at = BASE + 7 * PAGE_BYTES;
        let b_has = u32::from(b.translate(at, false).is_some());
        assert_eq!(
            places.len() as u32,
            1 + b_has + u32::from(other.translate(at + 5 * GIB, false).is_some())
        );
        object.punch_hole(0, GIB).unwrap();
        assert_eq!(arena.user_load(&b, BASE + 8), Ok(0));
        object.truncate(GIB).unwrap();
        assert_eq!(arena.user_load(&a, BASE + GIB + 8), Err(FaultOutcome::BusAdrErr));
        arena.audit(&[&a, &b, &other]);
        drop((a, b, other, object));
        arena.audit(&[]);
        assert_eq!(counts(&arena, SIZE), [2, 2, 0, 0]);
    }
}

#[test]
fn leaves_are_protected_and_moved_out_of_shared_tables() {
    for mode in MODES {
        let arena = with_pool(3);
        let a = mm(&arena);
        map(&a, BASE, 2);
        arena.user_store(&a, BASE, 5).unwrap();
        arena.user_store(&a, BASE + GIB, 6).unwrap();
        let b = a.fork(mode, 0).unwrap();
        a.mprotect(BASE + GIB, GIB, READ).unwrap();
        arena.audit(&[&a, &b]);
        assert_eq!(arena.access(&a, BASE + GIB, Access::WRITE), Err(FaultOutcome::SegvAccErr));
        // To another PUD page.
        let to = BASE + 512 * GIB;
        assert_eq!(a.mremap(BASE, GIB, GIB, 3, to), Ok(to));
        arena.audit(&[&a, &b]);
        assert_eq!(arena.user_load(&a, to), Ok(5));
        assert_eq!(arena.user_load(&a, BASE), Err(FaultOutcome::SegvMapErr));
        arena.user_store(&b, BASE, 7).unwrap();
        assert_eq!(arena.user_load(&a, to), Ok(5));
        b.munmap(BASE + GIB, GIB).unwrap();
        assert_eq!(arena.user_load(&a, BASE + GIB), Ok(6));
        a.mprotect(BASE + GIB, GIB, 0).unwrap();
        assert_eq!(arena.access(&a, BASE + GIB, Access::READ), Err(FaultOutcome::SegvAccErr));
        a.mprotect(BASE + GIB, GIB, RW).unwrap();
        assert_eq!(arena.user_load(&a, BASE + GIB), Ok(6));
        arena.audit(&[&a, &b]);
    }
}

#[test]
fn a_page_stands_where_a_failed_move_has_left_tables() {
    let arena = with_pool(1);
    let mm = mm(&arena);
    let mut small = MapRequest::anonymous(4 << 20, RW);
    small.addr = BASE + 8 * GIB;
    small.flags |= u64::from(abi::MAP_FIXED);
    mm.mmap(small).unwrap();
    for at in [0, 2 << 20] {
        arena.user_store(&mm, BASE + 8 * GIB + at, 1).unwrap();
    }
    // The move builds tables at its target, and finds no frame for the last.
    for budget in 0..4 {
        arena.budget(budget);
        let moved = mm.mremap(BASE + 8 * GIB, 4 << 20, 4 << 20, 3, BASE + (GIB / 2));
        arena.unlimited();
        if let Ok(at) = moved {
            mm.munmap(at, 4 << 20).unwrap();
        }
        map(&mm, BASE, 1);
        arena.user_store(&mm, BASE + GIB / 2, 2).unwrap();
        arena.audit(&[&mm]);
        mm.munmap(BASE, GIB).unwrap();
        arena.audit(&[&mm]);
        if moved.is_ok() {
            return;
        }
    }
    panic!("no budget was enough for the move");
}

#[test]
fn failures_of_allocation_change_nothing() {
    for mode in MODES {
        for budget in 0..8 {
            let arena = with_pool(2);
            let a = mm(&arena);
            map(&a, BASE, 1);
            arena.user_store(&a, BASE, 1).unwrap();
            arena.budget(budget);
            let child = a.fork(mode, 0);
            arena.unlimited();
            if let Ok(child) = &child {
                arena.audit(&[&a, child]);
                arena.budget(budget % 2);
                // No frame for a table of one's own in mode `tree`; the page itself comes from the pool.
                let stored = arena.user_store(child, BASE, 2);
                arena.unlimited();
                assert!(matches!(stored, Ok(()) | Err(FaultOutcome::OutOfMemory)), "{stored:?}");
            }
            assert_eq!(arena.user_load(&a, BASE), Ok(1));
            drop(child);
            arena.budget(budget % 3);
            let to = BASE + 1024 * GIB;
            let moved = a.mremap(BASE, GIB, GIB, 3, to);
            arena.unlimited();
            arena.audit(&[&a]);
            assert_eq!(arena.user_load(&a, if moved.is_ok() { to } else { BASE }), Ok(1));
            drop(a);
            assert_eq!(counts(&arena, SIZE), [2, 2, 0, 0]);
        }
    }
}

#[test]
fn requests_are_refused_as_on_linux() {
    let arena = with_pool(1);
    let mm = mm(&arena);
    assert_eq!(mm.mmap(request(BASE + (2 << 20), 1, abi::MAP_PRIVATE)), Err(MmError::Invalid));
    let mut anywhere = request(0, 1, abi::MAP_PRIVATE);
    (anywhere.len, anywhere.flags) = (1, anywhere.flags & !u64::from(abi::MAP_FIXED));
    let at = mm.mmap(anywhere).unwrap();
    assert!(SIZE.is_aligned(at));
    assert_eq!(mm.munmap(at, 2 << 20), Err(MmError::Invalid));
    assert_eq!(mm.mprotect(at + (2 << 20), GIB - (2 << 20), READ), Err(MmError::Invalid));
    assert_eq!(mm.madvise(at + (2 << 20), GIB, abi::MADV_DONTNEED.into()), Err(MmError::Invalid));
    assert_eq!(mm.mremap(at, GIB, GIB, 3, BASE + (2 << 20)), Err(MmError::Invalid));
    assert_eq!(mm.mremap(at, GIB, 2 * GIB, 1, 0), Err(MmError::Invalid));
    arena.user_store(&mm, at, 1).unwrap();
    let mut seen = 0;
    mm.mincore(at + (512 << 20), 1 << 20, &mut |run| {
        seen += run.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 256);
    let mut smap = Vec::new();
    mm.for_each_smap(&mut |_, entry| smap.push((entry.private_hugetlb, entry.rss)));
    assert_eq!(smap, [(GIB, 0)]);
    assert_eq!(mm.usage().hugetlb, FRAMES);
    let object = memfd(&arena, 2);
    let mut off = request(BASE, 1, abi::MAP_SHARED);
    off.flags = u64::from(abi::MAP_SHARED | abi::MAP_FIXED);
    off.object = Some((object.clone(), 512));
    assert_eq!(mm.mmap(off), Err(MmError::Invalid));
    // Content of 1 GiB is gathered nowhere.
    let uffd = Userfault::new(&mm, false);
    let refused = uffd.register(at, at + GIB, crate::vma::VM_UFFD_MISSING);
    assert_eq!(refused.err(), Some(MmError::Invalid));
    arena.audit(&[&mm]);
    // A processor without them.
    arena.set_gib_pages(false);
    assert_eq!(mm.mmap(request(BASE, 1, abi::MAP_PRIVATE)), Err(MmError::Invalid));
    mm.munmap(at, GIB).unwrap();
    resize(&arena, SIZE, 2);
    assert_eq!(counts(&arena, SIZE), [1, 1, 0, 0], "none is added");
    assert_eq!(arena.stats().pmd_tables_shared.load(Relaxed), 0);
    arena.audit(&[&mm]);
}

/// Whoever looks through the tables must take no leaf of the upper levels for a table: what a program stores there could lead
/// anywhere.
#[test]
fn content_is_not_taken_for_tables() {
    let arena = with_pool(1);
    let mm = mm(&arena);
    map(&mm, BASE, 1);
    arena.user_store(&mm, BASE, !Pte::HUGE).unwrap();
    let mut small = MapRequest::anonymous(3 * PAGE_BYTES, RW);
    small.addr = 2 * BASE;
    small.flags = u64::from(abi::MAP_PRIVATE | abi::MAP_FIXED | abi::MAP_ANONYMOUS);
    assert_eq!(mm.mmap(small), Ok(2 * BASE));
    for page in 0..3 {
        arena.user_store(&mm, 2 * BASE + page * PAGE_BYTES, 1).unwrap();
    }
    assert_eq!(mm.resident_estimate(), 3);
    let usage = mm.usage();
    assert_eq!((usage.rss_anon, usage.hugetlb), (3, SIZE.frames()));
    assert!(mm.release_estimate() > 3);
    assert!(mm.page_view(BASE + PAGE_BYTES).is_some_and(|view| view.exclusive));
    arena.audit(&[&mm]);
}
