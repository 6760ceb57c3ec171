//! Fork and unshare, seen by processes on the arena's processor.

use crate::testing::Arena;
use crate::vma::{VM_MAY, VM_READ, VM_WRITE};
use crate::{Env, FaultOutcome, MapRequest, Mm, Sharing};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_paging::{Level, PAGE_BYTES};
use std::sync::Arc;

const SPAN: u64 = Level::Pte.span_bytes();
/// Where the tests map: a PTE page boundary.
const BASE: u64 = 0x10_0000_0000;
const PROT_RW: u64 = 3;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MADV_DONTNEED: u64 = 4;
const MADV_DONTFORK: u64 = 10;
const MADV_WIPEONFORK: u64 = 18;

const MODES: [Sharing; 3] = [Sharing::None, Sharing::Pte, Sharing::Tree];

fn map(mm: &Mm<Arena>, addr: u64, len: u64, flags: u64) {
    let mut request = MapRequest::anonymous(len, PROT_RW);
    request.addr = addr;
    request.flags = flags | MAP_FIXED | MAP_ANONYMOUS;
    assert_eq!(mm.mmap(request), Ok(addr));
}

/// A process with `tables` PTE pages of private memory at BASE; the first word of page 1 of each is its number + 100.
fn parent(arena: &Arena, tables: u64) -> Arc<Mm<Arena>> {
    let mm = Mm::new(arena.clone()).unwrap();
    map(&mm, BASE, tables * SPAN, MAP_PRIVATE);
    for i in 0..tables {
        arena.user_store(&mm, page(i), 100 + i).unwrap();
    }
    mm
}

fn page(table: u64) -> u64 {
    BASE + table * SPAN + PAGE_BYTES
}

fn stat(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[test]
fn parent_and_child_see_only_their_own_stores() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 4);
        let child = parent.fork(mode, 0).unwrap();
        arena.audit(&[&parent, &child]);
        arena.user_store(&parent, page(0), 1).unwrap();
        arena.audit(&[&parent, &child]);
        arena.user_store(&child, page(1), 2).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(0)), Ok(100), "{mode:?}");
        assert_eq!(arena.user_load(&parent, page(0)), Ok(1));
        assert_eq!(arena.user_load(&parent, page(1)), Ok(101));
        assert_eq!(arena.user_load(&child, page(1)), Ok(2));
        // Both write to the same page, one after the other.
        arena.user_store(&child, page(2), 3).unwrap();
        arena.user_store(&parent, page(2), 4).unwrap();
        assert_eq!(arena.user_load(&child, page(2)), Ok(3));
        assert_eq!(arena.user_load(&parent, page(2)), Ok(4));
        // A page that nobody touched before the fork.
        arena.user_store(&child, page(3) + PAGE_BYTES, 5).unwrap();
        assert_eq!(arena.user_load(&parent, page(3) + PAGE_BYTES), Ok(0));
        assert_eq!(arena.user_load(&parent, page(3)), Ok(103));
        arena.audit(&[&parent, &child]);
    }
}

#[test]
fn fork_shares_pte_pages_or_copies_them() {
    let arena = Arena::new(4096);
    let parent = parent(&arena, 8);
    let stats = arena.stats();
    let before = stat(&stats.tables_now);
    let copied = parent.fork(Sharing::None, 0).unwrap();
    assert_eq!(stat(&stats.tables_now), before + 3 + 8);
    assert_eq!((stat(&stats.fork_tables_copied), stat(&stats.fork_tables_shared)), (8, 0));
    let shared = parent.fork(Sharing::Pte, 0).unwrap();
    assert_eq!(stat(&stats.tables_now), before + 3 + 8 + 3);
    assert_eq!(stat(&stats.fork_tables_shared), 8);
    assert_eq!(stat(&stats.tables_shared_now), 8);
    let tree = parent.fork(Sharing::Tree, 0).unwrap();
    assert_eq!(stat(&stats.tables_now), before + 3 + 8 + 3 + 1);
    arena.audit(&[&parent, &copied, &shared, &tree]);
    let few = parent.fork(Sharing::Pte, 8).unwrap();
    assert_eq!(stat(&stats.fork_tables_copied), 16, "at most 8 PTE pages: copied");
    arena.audit(&[&parent, &copied, &shared, &tree, &few]);
}

#[test]
fn a_write_copies_one_table_and_write_protects_both() {
    let arena = Arena::new(4096);
    let parent = parent(&arena, 4);
    let child = parent.fork(Sharing::Pte, 0).unwrap();
    let stats = arena.stats();
    let tables = stat(&stats.tables_now);
    arena.user_store(&child, page(2), 7).unwrap();
    assert_eq!(stat(&stats.tables_now), tables + 1);
    assert_eq!(stat(&stats.unshares), 1);
    assert_eq!(stat(&stats.cow_copies), 1);
    // The parent is the last user of the original: it takes it back, but its page was counted for the copy too. The
    // child has its own by now, so that only R/W is missing.
    arena.user_store(&parent, page(2), 8).unwrap();
    assert_eq!((stat(&stats.unshares), stat(&stats.reclaims)), (1, 1));
    assert_eq!((stat(&stats.cow_copies), stat(&stats.cow_reuses)), (1, 1));
    assert_eq!(arena.user_load(&child, page(2)), Ok(7));
    assert_eq!(arena.user_load(&parent, page(2)), Ok(8));
    arena.audit(&[&parent, &child]);
}

#[test]
fn the_original_loses_write_when_it_is_copied() {
    let arena = Arena::new(4096);
    let parent = parent(&arena, 1);
    arena.user_store(&parent, page(0) + PAGE_BYTES, 50).unwrap();
    let child = parent.fork(Sharing::Pte, 0).unwrap();
    // The child copies the table for one page; the parent then reclaims the original and writes to the other page,
    // which both still map.
    arena.user_store(&child, page(0), 1).unwrap();
    arena.user_store(&parent, page(0) + PAGE_BYTES, 51).unwrap();
    assert_eq!(arena.user_load(&child, page(0) + PAGE_BYTES), Ok(50));
    assert_eq!(stat(&arena.stats().reclaims), 1);
    assert_eq!(stat(&arena.stats().cow_copies), 2);
    arena.audit(&[&parent, &child]);
}

#[test]
fn the_last_sharer_takes_the_table_back_without_a_copy() {
    for mode in [Sharing::Pte, Sharing::Tree] {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 4);
        let tables = stat(&arena.stats().tables_now);
        let child = parent.fork(mode, 0).unwrap();
        drop(child);
        assert_eq!(stat(&arena.stats().tables_now), tables);
        arena.user_store(&parent, page(0), 9).unwrap();
        assert_eq!(stat(&arena.stats().unshares), 0);
        assert_eq!(stat(&arena.stats().cow_copies), 0);
        assert!(stat(&arena.stats().reclaims) >= 1);
        arena.audit(&[&parent]);
    }
}

#[test]
fn exit_of_a_sharer_detaches_without_a_look_at_entries() {
    let arena = Arena::new(4096);
    let parent = parent(&arena, 16);
    let child = parent.fork(Sharing::Pte, 0).unwrap();
    let free = arena.free_frames();
    drop(child);
    assert_eq!(stat(&arena.stats().detaches), 16);
    assert_eq!(arena.free_frames(), free + 3, "root, PUD and PMD page and nothing else");
    arena.audit(&[&parent]);
}

#[test]
fn a_read_fault_in_a_shared_table_serves_all_sharers() {
    let arena = Arena::new(4096);
    let parent = parent(&arena, 1);
    let child = parent.fork(Sharing::Pte, 0).unwrap();
    let faults = stat(&arena.stats().page_faults);
    assert_eq!(arena.user_load(&child, page(0) + 5 * PAGE_BYTES), Ok(0));
    assert_eq!(arena.user_load(&parent, page(0) + 5 * PAGE_BYTES), Ok(0));
    assert_eq!(stat(&arena.stats().page_faults), faults + 1);
    assert_eq!(stat(&arena.stats().tables_shared_now), 1, "still shared");
    arena.audit(&[&parent, &child]);
    // The zero page under a shared table, written by one.
    arena.user_store(&child, page(0) + 5 * PAGE_BYTES, 6).unwrap();
    assert_eq!(arena.user_load(&parent, page(0) + 5 * PAGE_BYTES), Ok(0));
    arena.audit(&[&parent, &child]);
}

#[test]
fn munmap_of_part_of_a_shared_table_copies_it_and_of_all_detaches_it() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 5);
        let before = arena.digest(&parent);
        let child = parent.fork(mode, 0).unwrap();
        // From inside table 0 to inside table 3: 1 and 2 go whole.
        child.munmap(BASE + 3 * PAGE_BYTES, 3 * SPAN).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.digest(&parent), before);
        assert_eq!(arena.user_load(&child, page(0)), Ok(100));
        assert_eq!(arena.user_load(&child, page(1)), Err(FaultOutcome::SegvMapErr));
        assert_eq!(arena.user_load(&child, page(4)), Ok(104));
        drop(parent);
        assert_eq!(arena.user_load(&child, page(4)), Ok(104));
        arena.audit(&[&child]);
    }
}

#[test]
fn mprotect_in_a_sharer_leaves_the_other_alone() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 3);
        let child = parent.fork(mode, 0).unwrap();
        child.mprotect(BASE + SPAN, SPAN, 1).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_store(&child, page(1), 1), Err(FaultOutcome::SegvAccErr));
        arena.user_store(&parent, page(1), 1).unwrap();
        child.mprotect(BASE, 3 * SPAN, 0).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(2)), Err(FaultOutcome::SegvAccErr));
        child.mprotect(BASE, 3 * SPAN, PROT_RW).unwrap();
        for table in 0..3 {
            assert_eq!(arena.user_load(&child, page(table)), Ok(100 + table));
            arena.user_store(&child, page(table), 1).unwrap();
        }
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&parent, page(2)), Ok(102));
    }
}

#[test]
fn dontneed_in_a_sharer_drops_only_its_own_pages() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 3);
        let child = parent.fork(mode, 0).unwrap();
        child.madvise(BASE + SPAN / 2, 2 * SPAN, MADV_DONTNEED).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(1)), Ok(0));
        assert_eq!(arena.user_load(&child, page(0)), Ok(100));
        assert_eq!(arena.user_load(&parent, page(1)), Ok(101));
        arena.audit(&[&parent, &child]);
    }
}

#[test]
fn a_child_gets_nothing_of_dontfork_and_zeroes_of_wipeonfork() {
    for (mode, small) in MODES.into_iter().flat_map(|mode| [(mode, 0), (mode, 100)]) {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 3);
        // Part of table 0, all of table 1.
        parent.madvise(page(0), PAGE_BYTES, MADV_DONTFORK).unwrap();
        parent.madvise(BASE + SPAN, SPAN, MADV_WIPEONFORK).unwrap();
        arena.user_store(&parent, BASE, 1).unwrap();
        let child = parent.fork(mode, small).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(0)), Err(FaultOutcome::SegvMapErr));
        assert_eq!(arena.user_load(&child, BASE), Ok(1));
        assert_eq!(arena.user_load(&child, page(1)), Ok(0));
        assert_eq!(arena.user_load(&child, page(2)), Ok(102));
        assert_eq!(arena.user_load(&parent, page(0)), Ok(100));
        arena.user_store(&child, BASE, 2).unwrap();
        assert_eq!(arena.user_load(&parent, BASE), Ok(1));
        arena.audit(&[&parent, &child]);
    }
}

#[test]
fn shared_mappings_stay_shared_across_fork() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 1);
        map(&parent, BASE + SPAN, SPAN, MAP_SHARED);
        arena.user_store(&parent, page(1), 5).unwrap();
        let child = parent.fork(mode, 0).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(1)), Ok(5));
        arena.user_store(&child, page(1), 6).unwrap();
        assert_eq!(arena.user_load(&parent, page(1)), Ok(6));
        arena.user_store(&parent, page(1) + PAGE_BYTES, 7).unwrap();
        assert_eq!(arena.user_load(&child, page(1) + PAGE_BYTES), Ok(7));
        arena.audit(&[&parent, &child]);
    }
}

#[test]
fn a_new_mapping_is_not_reachable_through_a_shared_table() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = Mm::new(arena.clone()).unwrap();
        map(&parent, BASE, 16 * PAGE_BYTES, MAP_PRIVATE);
        arena.user_store(&parent, BASE, 1).unwrap();
        let child = parent.fork(mode, 0).unwrap();
        map(&child, BASE + 32 * PAGE_BYTES, 16 * PAGE_BYTES, MAP_PRIVATE);
        assert_eq!(arena.user_load(&child, BASE + 32 * PAGE_BYTES), Ok(0));
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&parent, BASE + 32 * PAGE_BYTES), Err(FaultOutcome::SegvMapErr));
    }
}

#[test]
fn a_chain_of_forks_ends_with_every_frame_free() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let free = arena.free_frames();
        let mut family = vec![parent(&arena, 4)];
        for i in 0..10 {
            let child = family[i / 2].fork(mode, 0).unwrap();
            arena.user_store(&child, page(i as u64 % 4), 1000 + i as u64).unwrap();
            family.push(child);
            let all: Vec<&Mm<Arena>> = family.iter().map(|mm| &**mm).collect();
            arena.audit(&all);
        }
        for i in [3, 0, 5, 1] {
            family.remove(i);
            for mm in &family {
                arena.user_store(mm, page(1), 1).unwrap();
            }
            let all: Vec<&Mm<Arena>> = family.iter().map(|mm| &**mm).collect();
            arena.audit(&all);
        }
        drop(family);
        arena.audit(&[]);
        assert_eq!(arena.free_frames(), free, "{mode:?}");
    }
}

/// For each budget from none on, until it is enough: the operation fails and the process sees no change, or works.
fn with_every_budget(arena: &Arena, mms: &[&Mm<Arena>], mut run: impl FnMut() -> bool) -> u64 {
    let before: Vec<_> = mms.iter().map(|mm| arena.digest(mm)).collect();
    for budget in 0..200 {
        let free = arena.free_frames();
        arena.budget(budget);
        let done = run();
        arena.unlimited();
        if done {
            return budget;
        }
        arena.audit(mms);
        let after: Vec<_> = mms.iter().map(|mm| arena.digest(mm)).collect();
        assert!(before == after, "a failure with a budget of {budget} was seen");
        assert!(arena.free_frames() + budget >= free);
    }
    panic!("200 frames were not enough");
}

#[test]
fn a_fork_without_memory_changes_nothing() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 6);
        let mut child = None;
        let needed = with_every_budget(&arena, &[&parent], || {
            child = parent.fork(mode, 0).ok();
            child.is_some()
        });
        let expected = match mode {
            Sharing::None => 9,
            Sharing::Pte => 3,
            Sharing::Tree => 1,
        };
        assert_eq!(needed, expected, "{mode:?}");
        drop(child);
        arena.audit(&[&parent]);
    }
}

#[test]
fn a_write_without_memory_changes_nothing() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 2);
        let child = parent.fork(mode, 0).unwrap();
        let mms = [&*parent, &*child];
        let needed = with_every_budget(&arena, &mms, || arena.user_store(&child, page(0), 1).is_ok());
        // Tables left by a failed try stay: the last try needs only the page.
        assert!((1..=4).contains(&needed), "{mode:?}: {needed}");
        arena.audit(&mms);
        assert_eq!(arena.user_load(&parent, page(0)), Ok(100));
    }
}

#[test]
fn calls_without_memory_change_nothing() {
    type Call = fn(&Mm<Arena>) -> bool;
    let calls: [Call; 3] = [
        |mm| mm.munmap(BASE + 3 * PAGE_BYTES, 3 * SPAN).is_ok(),
        |mm| mm.mprotect(BASE + 3 * PAGE_BYTES, 3 * SPAN, 1).is_ok(),
        |mm| mm.madvise(BASE + 3 * PAGE_BYTES, 3 * SPAN, MADV_DONTNEED).is_ok(),
    ];
    for (call, mode) in calls.into_iter().flat_map(|call| MODES.map(|mode| (call, mode))) {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 5);
        let child = parent.fork(mode, 0).unwrap();
        let mms = [&*parent, &*child];
        with_every_budget(&arena, &mms, || call(&child));
        arena.audit(&mms);
        for table in 0..5 {
            assert_eq!(arena.user_load(&parent, page(table)), Ok(100 + table));
        }
    }
}

#[test]
fn mremap_of_shared_tables_moves_the_callers_pages_only() {
    const MAYMOVE_FIXED: u64 = 3;
    for (mode, shift) in MODES.into_iter().flat_map(|mode| [(mode, 0), (mode, 7 * PAGE_BYTES)]) {
        let arena = Arena::new(4096);
        let parent = parent(&arena, 4);
        let child = parent.fork(mode, 0).unwrap();
        let to = BASE + 100 * SPAN + shift;
        let moved = child.mremap(BASE, 4 * SPAN, 4 * SPAN, MAYMOVE_FIXED, to);
        assert_eq!(moved, Ok(to));
        arena.audit(&[&parent, &child]);
        for table in 0..4 {
            assert_eq!(arena.user_load(&child, page(table) - BASE + to), Ok(100 + table));
            assert_eq!(arena.user_load(&child, page(table)), Err(FaultOutcome::SegvMapErr));
            arena.user_store(&child, page(table) - BASE + to, 1).unwrap();
            assert_eq!(arena.user_load(&parent, page(table)), Ok(100 + table));
        }
        arena.audit(&[&parent, &child]);
    }
}

#[test]
fn the_image_holds_what_the_census_says() {
    let arena = Arena::new(1024);
    let parent = parent(&arena, 2);
    let child = parent.fork(Sharing::Pte, 0).unwrap();
    let image = arena.image(&[&parent, &child]);
    let header = crate::testing::Image::HEADER_PA;
    assert_eq!(image.read_u64(header), ptshare_wire::census::CENSUS_MAGIC);
    let root = parent.root();
    assert_eq!(image.read_u64(root.pa().0 + 8 * Level::Pgd.slot(BASE).index() as u64), {
        arena.load(root, Level::Pgd.slot(BASE)).0
    });
    let vma_flags = parent.vmas.read().find(BASE).map(|vma| vma.rec.flags);
    assert_eq!(vma_flags, Some(VM_READ | VM_WRITE | VM_MAY));
}
