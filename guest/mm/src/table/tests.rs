//! Walks, fills and zaps of one mm.

use crate::testing::Arena;
use crate::{Access, Env, FaultOutcome, MapRequest, Mm, Object, ObjectInfo, ObjectKind};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::{Entry, Level, PAGE_BYTES, Pte};
use std::sync::Arc;

const BASE: u64 = 0x20_0000_0000;
const SPAN: u64 = Level::Pte.span_bytes();
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED: u64 = 1;
const MAP_FIXED: u64 = 0x10;

fn process(arena: &Arena, len: u64, prot: u64) -> Arc<Mm<Arena>> {
    let mm = Mm::new(arena.clone()).unwrap();
    let mut request = MapRequest::anonymous(len, prot);
    request.addr = BASE;
    request.flags |= MAP_FIXED;
    assert_eq!(mm.mmap(request), Ok(BASE));
    mm
}

#[test]
fn a_read_maps_the_zero_page_and_a_write_replaces_it() {
    let arena = Arena::new(512);
    let mm = process(&arena, SPAN, 3);
    assert_eq!(arena.access(&mm, BASE, Access::READ), Ok(arena.zero_page()));
    arena.audit(&[&mm]);
    arena.user_store(&mm, BASE + 8, 5).unwrap();
    assert_eq!(arena.user_load(&mm, BASE + 8), Ok(5));
    assert_eq!(arena.user_load(&mm, BASE), Ok(0));
    arena.audit(&[&mm]);
    assert_eq!(arena.stats().anon_fills.load(Relaxed), 1);
    assert_eq!(arena.stats().cow_copies.load(Relaxed), 0, "zeroes are not copied");
}

#[test]
fn accesses_that_the_mapping_forbids_are_refused() {
    let arena = Arena::new(512);
    let mm = process(&arena, SPAN, 1);
    assert_eq!(arena.access(&mm, BASE, Access::WRITE), Err(FaultOutcome::SegvAccErr));
    assert_eq!(arena.access(&mm, BASE, Access::EXEC), Err(FaultOutcome::SegvAccErr));
    assert!(arena.access(&mm, BASE, Access::READ).is_ok());
    assert_eq!(arena.access(&mm, BASE, Access::EXEC), Err(FaultOutcome::SegvAccErr));
    assert_eq!(arena.access(&mm, BASE - 1, Access::READ), Err(FaultOutcome::SegvMapErr));
    assert_eq!(mm.fault(u64::MAX, Access::READ), FaultOutcome::SegvMapErr);
    assert_eq!(mm.fault(1 << 47, Access::WRITE), FaultOutcome::SegvMapErr);
    arena.audit(&[&mm]);
}

#[test]
fn a_spurious_fault_changes_nothing() {
    let arena = Arena::new(512);
    let mm = process(&arena, SPAN, 3);
    arena.user_store(&mm, BASE, 1).unwrap();
    let before = arena.digest(&mm);
    assert_eq!(mm.fault(BASE, Access::WRITE), FaultOutcome::Resolved);
    assert_eq!(mm.fault(BASE, Access::READ), FaultOutcome::Resolved);
    assert_eq!(arena.digest(&mm), before);
    arena.audit(&[&mm]);
}

#[test]
fn unmapping_the_last_page_frees_the_tables() {
    let arena = Arena::new(512);
    let mm = process(&arena, 4 * PAGE_BYTES, 3);
    let free = arena.free_frames();
    arena.user_store(&mm, BASE, 1).unwrap();
    arena.user_store(&mm, BASE + PAGE_BYTES, 2).unwrap();
    assert_eq!(arena.free_frames(), free - 5, "two pages and three tables");
    mm.munmap(BASE, PAGE_BYTES).unwrap();
    assert_eq!(arena.free_frames(), free - 4);
    mm.munmap(BASE + PAGE_BYTES, PAGE_BYTES).unwrap();
    assert_eq!(arena.free_frames(), free);
    assert_eq!(mm.rec().table_pages.load(Relaxed), 1);
    arena.audit(&[&mm]);
}

#[test]
fn prot_none_keeps_the_page_and_its_content() {
    let arena = Arena::new(512);
    let mm = process(&arena, 4 * PAGE_BYTES, 3);
    arena.user_store(&mm, BASE, 77).unwrap();
    mm.mprotect(BASE, PAGE_BYTES, 0).unwrap();
    let mut found = Vec::new();
    mm.present_in(BASE, BASE + SPAN, &mut |va, pte| found.push((va, pte.decode(Level::Pte))));
    assert!(matches!(found[..], [(BASE, Entry::NoAccess(_))]));
    assert_eq!(arena.user_load(&mm, BASE), Err(FaultOutcome::SegvAccErr));
    arena.audit(&[&mm]);
    mm.mprotect(BASE, PAGE_BYTES, 1).unwrap();
    assert_eq!(arena.user_load(&mm, BASE), Ok(77));
    mm.mprotect(BASE, PAGE_BYTES, 0).unwrap();
    mm.munmap(BASE, PAGE_BYTES).unwrap();
    arena.audit(&[&mm]);
}

#[test]
fn rights_that_mprotect_takes_are_gone_from_the_tlb() {
    let arena = Arena::new(512);
    let mm = process(&arena, SPAN, 7);
    arena.user_store(&mm, BASE, 1).unwrap();
    assert!(arena.access(&mm, BASE, Access::EXEC).is_ok());
    mm.mprotect(BASE, SPAN, 1).unwrap();
    arena.audit(&[&mm]);
    assert_eq!(arena.access(&mm, BASE, Access::EXEC), Err(FaultOutcome::SegvAccErr));
    assert_eq!(arena.access(&mm, BASE, Access::WRITE), Err(FaultOutcome::SegvAccErr));
    mm.mprotect(BASE, SPAN, 7).unwrap();
    assert!(arena.access(&mm, BASE, Access::EXEC).is_ok());
    arena.user_store(&mm, BASE, 2).unwrap();
    arena.audit(&[&mm]);
}

#[test]
fn more_shared_pages_than_a_batch_holds_are_unmapped() {
    let arena = Arena::new(2048);
    let mm = process(&arena, SPAN, 3);
    for page in 0..100 {
        arena.user_load(&mm, BASE + page * PAGE_BYTES).unwrap();
        if page % 3 == 0 {
            arena.user_store(&mm, BASE + page * PAGE_BYTES, page).unwrap();
        }
    }
    let child = mm.fork(crate::Sharing::None, 0).unwrap();
    mm.munmap(BASE + PAGE_BYTES, 80 * PAGE_BYTES).unwrap();
    arena.audit(&[&mm, &child]);
    assert_eq!(arena.user_load(&child, BASE + 33 * PAGE_BYTES), Ok(33));
    assert_eq!(arena.user_load(&mm, BASE + 99 * PAGE_BYTES), Ok(99));
}

fn file(arena: &Arena, pages: u64) -> Arc<Object<Arena>> {
    let object = Object::new(arena.clone(), ObjectKind::Tmpfs, ObjectInfo::new(1, 1, "/f".into()));
    object.truncate(pages * PAGE_BYTES).unwrap();
    object
}

fn map_file(mm: &Mm<Arena>, object: &Arc<Object<Arena>>, pages: u64, flags: u64) {
    let mut request = MapRequest::anonymous(pages * PAGE_BYTES, 3);
    request.addr = BASE;
    request.flags = flags | MAP_FIXED;
    request.object = Some((object.clone(), 0));
    assert_eq!(mm.mmap(request), Ok(BASE));
}

#[test]
fn a_read_of_a_file_page_maps_its_neighbours_that_are_in_memory() {
    let arena = Arena::new(512);
    let object = file(&arena, 64);
    for index in [1, 2, 15, 16] {
        object.write_at(index * PAGE_BYTES, &[index as u8]).unwrap();
    }
    let mm = Mm::new(arena.clone()).unwrap();
    map_file(&mm, &object, 64, MAP_PRIVATE);
    assert_eq!(arena.user_load(&mm, BASE + PAGE_BYTES), Ok(1));
    assert_eq!(arena.stats().page_faults.load(Relaxed), 1);
    assert_eq!(arena.user_load(&mm, BASE + 15 * PAGE_BYTES), Ok(15));
    assert_eq!(arena.stats().page_faults.load(Relaxed), 1);
    assert_eq!(arena.user_load(&mm, BASE + 16 * PAGE_BYTES), Ok(16));
    assert_eq!(arena.stats().page_faults.load(Relaxed), 2);
    arena.audit(&[&mm]);
}

#[test]
fn private_stores_to_a_file_stay_private_and_shared_ones_do_not() {
    let arena = Arena::new(512);
    let object = file(&arena, 4);
    let (private, shared) = (Mm::new(arena.clone()).unwrap(), Mm::new(arena.clone()).unwrap());
    map_file(&private, &object, 4, MAP_PRIVATE);
    map_file(&shared, &object, 4, MAP_SHARED);
    assert_eq!(arena.user_load(&private, BASE), Ok(0));
    arena.user_store(&shared, BASE, 5).unwrap();
    assert_eq!(arena.user_load(&private, BASE), Ok(5));
    arena.user_store(&private, BASE, 6).unwrap();
    arena.user_store(&private, BASE + PAGE_BYTES, 7).unwrap();
    assert_eq!(arena.user_load(&shared, BASE), Ok(5));
    assert_eq!(arena.user_load(&shared, BASE + PAGE_BYTES), Ok(0));
    arena.audit(&[&private, &shared]);
    object.truncate(PAGE_BYTES).unwrap();
    arena.audit(&[&private, &shared]);
    assert_eq!(arena.user_load(&private, BASE), Ok(6));
    assert_eq!(arena.user_load(&private, BASE + PAGE_BYTES), Err(FaultOutcome::BusAdrErr));
    arena.audit(&[&private, &shared]);
}

#[test]
fn translate_says_what_an_access_without_a_fault_would_reach() {
    let arena = Arena::new(512);
    let mm = process(&arena, SPAN, 3);
    assert_eq!(mm.translate(BASE, false), None);
    arena.user_load(&mm, BASE).unwrap();
    assert_eq!(mm.translate(BASE, false), Some(arena.zero_page()));
    assert_eq!(mm.translate(BASE, true), None);
    arena.user_store(&mm, BASE, 1).unwrap();
    let own = mm.translate(BASE, true);
    assert!(own.is_some() && own == mm.translate(BASE, false));
    let child = mm.fork(crate::Sharing::Pte, 0).unwrap();
    assert_eq!(child.translate(BASE, false), own);
    assert_eq!((mm.translate(BASE, true), child.translate(BASE, true)), (None, None));
    assert_eq!(mm.translate(u64::MAX, false), None);
}

#[test]
fn every_right_that_can_be_lost_is_noticed() {
    use super::protect::takes_rights;
    let full = Pte(Pte::PRESENT | Pte::WRITE | Pte::USER);
    assert!(takes_rights(full, full.without(Pte::WRITE)));
    assert!(takes_rights(full, full.without(Pte::PRESENT)));
    assert!(takes_rights(full, full.with(Pte::NO_EXEC)));
    assert!(!takes_rights(full.with(Pte::NO_EXEC).without(Pte::WRITE), full));
    assert!(!takes_rights(Pte(Pte::PROT_NONE), full));
}
