//! PMD pages that several mms share.

use super::*;

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
