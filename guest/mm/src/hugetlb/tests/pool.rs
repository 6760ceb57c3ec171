//! The pool: what it promises, what it adds, and what comes back to it.

use super::*;

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
    crate::hugetlb::set_overcommit(&arena, HugeSize::Mib2, 2).unwrap();
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
    crate::hugetlb::set_overcommit(&arena, HugeSize::Mib2, 1).unwrap();
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
