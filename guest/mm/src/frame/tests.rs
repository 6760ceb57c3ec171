//! The allocator and the counts, on the arena.

use super::*;
use crate::testing::Arena;
use std::collections::HashSet;

fn take_kernel(arena: &Arena, order: usize) -> Option<Pfn> {
    alloc_kernel(arena, order, true).ok()
}

#[test]
fn every_frame_is_given_out_once_and_comes_back() {
    let arena = Arena::new(100);
    let mut taken = HashSet::new();
    while let Some(pfn) = take_kernel(&arena, 0) {
        assert!(taken.insert(pfn));
    }
    assert_eq!(taken.len(), 99, "all but the zero page");
    arena.audit(&[]);
    taken.iter().for_each(|pfn| free_kernel(&arena, *pfn, 0));
    arena.audit(&[]);
    assert_eq!(arena.free_frames(), 99);
}

#[test]
fn a_large_block_skips_to_its_alignment_and_lists_what_it_skipped() {
    let arena = Arena::new(2048);
    let block = take_kernel(&arena, 9).unwrap();
    assert_eq!(block.0 % 512, 0);
    arena.audit(&[]);
    // The frames that were skipped are zero, and come before memory never touched.
    let virgin = arena.census().ram[0].virgin.load(Relaxed);
    assert_eq!(virgin, block.0 + 512);
    let small = alloc_kernel(&arena, 0, true).unwrap();
    assert!(small < block);
    assert_eq!(arena.census().ram[0].virgin.load(Relaxed), virgin);
    free_kernel(&arena, block, 9);
    free_kernel(&arena, small, 0);
    arena.audit(&[]);
}

#[test]
fn small_frames_that_lie_side_by_side_become_a_large_block_again() {
    let arena = Arena::new(1024 + 512);
    let mut taken = Vec::new();
    while let Some(pfn) = take_kernel(&arena, 0) {
        taken.push(pfn);
    }
    assert!(take_kernel(&arena, 9).is_none());
    // Every other frame: no two neighbours.
    let (even, odd): (Vec<Pfn>, Vec<Pfn>) = taken.into_iter().partition(|pfn| pfn.0 % 2 == 0);
    even.iter().for_each(|pfn| free_kernel(&arena, *pfn, 0));
    assert!(take_kernel(&arena, 1).is_none());
    odd.iter().for_each(|pfn| free_kernel(&arena, *pfn, 0));
    let block = take_kernel(&arena, 9).unwrap();
    assert_eq!(block.0 % 512, 0);
    arena.audit(&[]);
    free_kernel(&arena, block, 9);
    // And apart again.
    let part = take_kernel(&arena, 3).unwrap();
    arena.audit(&[]);
    free_kernel(&arena, part, 3);
    arena.audit(&[]);
}

#[test]
fn a_request_for_zeroes_gets_zeroes_from_a_dirty_frame() {
    let arena = Arena::new(32);
    while take_kernel(&arena, 0).is_some() {}
    let pfn = Pfn(20);
    arena.write_phys(pfn.pa().0, b"dirt");
    free_kernel(&arena, pfn, 0);
    let again = alloc_data(&arena, FrameKind::Anon, true, Priority::User).unwrap();
    assert_eq!((again, arena.word(again, 0)), (pfn, 0));
    put_data(&arena, again);
    assert_eq!(arena.free_frames(), 1);
}

#[test]
fn memory_that_firmware_has_used_is_not_taken_for_zero() {
    let arena = Arena::new(2048);
    arena.allocator().lock().distrust_virgin();
    let anon = state(FrameKind::Anon, 0, 0);
    let (_, zero) = take(&arena, anon, true, Priority::Kernel).unwrap();
    assert!(!zero, "a virgin frame");
    let (_, zero) = arena.allocator().lock().alloc(&arena, 9, true, anon, Priority::Kernel).unwrap();
    assert!(!zero, "a virgin block");
    let (_, zero) = take(&arena, anon, true, Priority::Kernel).unwrap();
    assert!(!zero, "a frame that the block's alignment skipped");
}

#[test]
fn user_allocations_leave_the_reserve_to_the_kernel() {
    let arena = Arena::new(32);
    arena.budget(2);
    let user = || alloc_data(&arena, FrameKind::Anon, false, Priority::User);
    let (first, second) = (user().unwrap(), user().unwrap());
    assert_eq!(user(), Err(NoMemory));
    let kernel = take_kernel(&arena, 0).unwrap();
    free_kernel(&arena, kernel, 0);
    put_data(&arena, first);
    assert!(user().is_ok());
    put_data(&arena, second);
}

#[test]
fn a_page_with_two_references_outlives_one() {
    let arena = Arena::new(32);
    let free = arena.free_frames();
    let pfn = alloc_data(&arena, FrameKind::Anon, false, Priority::User).unwrap();
    get_data(&arena, pfn);
    put_data(&arena, pfn);
    assert_eq!(arena.free_frames(), free - 1);
    put_data(&arena, pfn);
    assert_eq!(arena.free_frames(), free);
    get_data(&arena, arena.zero_page());
    put_data(&arena, arena.zero_page());
    arena.audit(&[]);
}

/// Random requests and returns keep the books straight.
#[test]
fn random_blocks_never_overlap() {
    let arena = Arena::new(4096);
    let mut held: Vec<(Pfn, usize)> = Vec::new();
    for round in 0..3000 {
        let x = arena.random();
        if x % 5 < 3 {
            let order = (x >> 8) as usize % 10;
            if let Ok(pfn) = alloc_kernel(&arena, order, x & 64 != 0) {
                assert_eq!(pfn.0 % (1 << order), 0);
                let overlaps =
                    |(other, o): &(Pfn, usize)| pfn.0 < other.0 + (1 << o) && other.0 < pfn.0 + (1 << order);
                assert!(!held.iter().any(overlaps));
                held.push((pfn, order));
            }
        } else if !held.is_empty() {
            let (pfn, order) = held.swap_remove(x as usize / 64 % held.len());
            free_kernel(&arena, pfn, order);
        }
        if round % 100 == 0 {
            arena.audit(&[]);
        }
    }
    held.into_iter().for_each(|(pfn, order)| free_kernel(&arena, pfn, order));
    arena.audit(&[]);
}

#[test]
fn known_zero_frames_are_kept_for_tables() {
    let arena = Arena::new(64);
    let table = crate::table::alloc_table(&arena, ptshare_paging::Level::Pte).unwrap();
    let page = alloc_data(&arena, FrameKind::Anon, true, Priority::User).unwrap();
    crate::table::free_table(&arena, table, true);
    put_data(&arena, page);
    assert_eq!(alloc_data(&arena, FrameKind::Anon, true, Priority::User), Ok(page));
    assert_eq!(crate::table::alloc_table(&arena, ptshare_paging::Level::Pmd), Ok(table));
}
