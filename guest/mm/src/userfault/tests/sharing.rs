//! Registered ranges and tables that others use; shortage; remap_file_pages.

use super::*;

#[test]
fn registering_takes_cow_shared_tables_out_of_the_sharing() {
    for mode in [Sharing::Pte, Sharing::Tree] {
        for modes in [VM_UFFD_MISSING, VM_UFFD_WP] {
            let w = World::new(0);
            w.map(BASE, 4 * SPAN, abi::MAP_PRIVATE, None);
            for table in 0..4 {
                w.arena.user_store(&w.mm, BASE + table * SPAN, 10 + table).unwrap();
            }
            let child = w.mm.fork(mode, 0).unwrap();
            w.uffd.register(BASE + SPAN, BASE + 2 * SPAN, modes).unwrap();
            w.arena.audit(&[&w.mm, &child]);
            if modes == VM_UFFD_WP {
                w.uffd.write_protect(BASE + SPAN, BASE + 2 * SPAN, true).unwrap();
                assert_eq!(w.message(BASE + SPAN, Access::WRITE).flags, 3);
            } else {
                // The child's reads fill nothing in for the parent.
                assert_eq!(w.arena.user_load(&child, BASE + SPAN + PAGE_BYTES), Ok(0));
                assert_eq!(w.message(BASE + SPAN + PAGE_BYTES, Access::READ).flags, 0);
            }
            for table in 0..4 {
                w.arena.user_store(&child, BASE + table * SPAN, table).unwrap();
                assert_eq!(w.arena.user_load(&w.mm, BASE + table * SPAN), Ok(10 + table));
            }
            w.arena.audit(&[&w.mm, &child]);
        }
    }
}

#[test]
fn a_child_is_not_registered_and_shares_no_marked_table() {
    for mode in MODES {
        for small in [0, 100] {
            for modes in [VM_UFFD_MISSING, VM_UFFD_WP, VM_UFFD_WP | VM_UFFD_MISSING] {
                let w = World::new(u64::from(abi::UFFD_FEATURE_WP_UNPOPULATED));
                let object = memfd(&w.arena, SPAN);
                w.map(BASE, 3 * SPAN, abi::MAP_PRIVATE, None);
                w.map(BASE + GIB, SPAN, abi::MAP_SHARED, Some(&object));
                for table in 0..3 {
                    w.arena.user_store(&w.mm, BASE + table * SPAN, 10 + table).unwrap();
                }
                w.arena.user_store(&w.mm, BASE + GIB, 20).unwrap();
                let range = (BASE + SPAN / 2, BASE + 2 * SPAN);
                w.uffd.register(range.0, range.1, modes).unwrap();
                w.uffd.register(BASE + GIB, BASE + GIB + SPAN, modes).unwrap();
                if modes & VM_UFFD_WP != 0 {
                    w.uffd.write_protect(range.0, range.1, true).unwrap();
                    w.uffd.write_protect(BASE + GIB, BASE + GIB + SPAN, true).unwrap();
                }
                let child = w.mm.fork(mode, small).unwrap();
                w.arena.audit(&[&w.mm, &child]);
                assert!(
                    child.vmas.read().iter().all(|vma| vma.uffd.is_none() && vma.rec.flags & VM_UFFD == 0)
                );
                for table in 0..3 {
                    assert_eq!(w.arena.user_load(&child, BASE + table * SPAN), Ok(10 + table));
                    w.arena.user_store(&child, BASE + table * SPAN, table).unwrap();
                    w.arena.user_store(&child, BASE + table * SPAN + PAGE_BYTES, 1).unwrap();
                }
                assert_eq!(w.arena.user_load(&child, BASE + GIB), Ok(20));
                w.arena.user_store(&child, BASE + GIB, 21).unwrap();
                assert_eq!(w.arena.user_load(&w.mm, BASE + GIB), Ok(21));
                if modes & VM_UFFD_WP != 0 {
                    assert_eq!(w.message(BASE + SPAN, Access::WRITE).flags, 3);
                    assert_eq!(w.message(BASE + GIB, Access::WRITE).flags, 3);
                } else {
                    assert_eq!(w.arena.user_load(&w.mm, BASE + SPAN), Ok(11));
                    assert_eq!(w.message(BASE + SPAN + PAGE_BYTES, Access::READ).flags, 0);
                }
                w.arena.audit(&[&w.mm, &child]);
            }
        }
    }
}

#[test]
fn minor_and_protected_mappings_share_no_tables_of_objects() {
    let w = World::new(0);
    let object = memfd(&w.arena, 4 * SPAN);
    let other = Mm::new(w.arena.clone()).unwrap();
    map(&other, BASE, 4 * SPAN, abi::MAP_SHARED, Some(&object));
    w.map(BASE + GIB, 4 * SPAN, abi::MAP_SHARED, Some(&object));
    for table in 0..4 {
        w.arena.user_store(&other, BASE + table * SPAN, table).unwrap();
        assert_eq!(w.arena.user_load(&w.mm, BASE + GIB + table * SPAN), Ok(table));
    }
    let shared = || w.arena.stats().tables_shared_now.load(Relaxed);
    assert_eq!(shared(), 4);
    let at = BASE + GIB;
    w.uffd.register(at, at + SPAN, VM_UFFD_MISSING).unwrap();
    w.uffd.register(at + SPAN, at + 2 * SPAN, VM_UFFD_MINOR).unwrap();
    w.uffd.register(at + 2 * SPAN, at + 3 * SPAN, VM_UFFD_WP).unwrap();
    assert_eq!(shared(), 1);
    w.arena.audit(&[&w.mm, &other]);
    // The pages are there, so nothing is missing; the table is shared again.
    assert_eq!(w.arena.user_load(&w.mm, at), Ok(0));
    assert_eq!(shared(), 2);
    assert_eq!(w.message(at + SPAN, Access::READ).flags, 4);
    assert_eq!(w.uffd.fill(at + SPAN, Source::Object, false), Ok(()));
    assert_eq!(w.arena.user_load(&w.mm, at + SPAN), Ok(1));
    assert_eq!(w.arena.user_load(&w.mm, at + 2 * SPAN), Ok(2));
    assert_eq!(shared(), 2);
    // Others fault nothing in for a mapping that wants to hear of it.
    w.arena.user_store(&other, BASE + SPAN + PAGE_BYTES, 9).unwrap();
    assert_eq!(w.message(at + SPAN + PAGE_BYTES, Access::READ).flags, 4);
    w.arena.audit(&[&w.mm, &other]);
    w.uffd.close();
    for table in 0..4 {
        assert_eq!(w.arena.user_load(&w.mm, at + table * SPAN), Ok(table));
    }
    assert_eq!(w.mm.vmas.read().len(), 1);
    w.arena.audit(&[&w.mm, &other]);
}

#[test]
fn without_memory_nothing_changes() {
    let w = World::new(0);
    w.map(BASE, 2 * SPAN, abi::MAP_PRIVATE, None);
    w.arena.user_store(&w.mm, BASE, 1).unwrap();
    w.arena.user_store(&w.mm, BASE + SPAN, 2).unwrap();
    let child = w.mm.fork(Sharing::Tree, 0).unwrap();
    for budget in 0.. {
        w.arena.budget(budget);
        let before = w.arena.digest(&w.mm);
        let result = w.uffd.register(BASE, BASE + 2 * SPAN, VM_UFFD_WP);
        w.arena.unlimited();
        w.arena.audit(&[&w.mm, &child]);
        if result.is_ok() {
            assert!(budget > 2, "tables were copied");
            break;
        }
        assert_eq!(result, Err(MmError::NoMemory));
        assert_eq!(w.arena.digest(&w.mm), before);
    }
    // A fork that fails leaves the parent's marks.
    w.uffd.write_protect(BASE, BASE + 2 * SPAN, true).unwrap();
    for mode in MODES {
        for budget in 0.. {
            w.arena.budget(budget);
            let forked = w.mm.fork(mode, 0);
            w.arena.unlimited();
            match forked {
                Ok(other) => {
                    w.arena.audit(&[&w.mm, &child, &other]);
                    break;
                }
                Err(_) => w.arena.audit(&[&w.mm, &child]),
            }
        }
        assert_eq!(w.message(BASE, Access::WRITE).flags, 3);
    }
    // The end of the userfaultfd cannot fail: memory for which there are no tables behaves as if it had succeeded.
    w.arena.budget(0);
    w.uffd.close();
    w.arena.unlimited();
    w.arena.user_store(&w.mm, BASE, 7).unwrap();
    w.arena.audit(&[&w.mm, &child]);
}

#[test]
fn remap_file_pages_maps_another_part_of_the_object() {
    let w = World::new(0);
    let object = memfd(&w.arena, 8 * PAGE_BYTES);
    w.map(BASE, 4 * PAGE_BYTES, abi::MAP_SHARED, Some(&object));
    for page in 0..8 {
        object
            .write_chunks(page * PAGE_BYTES, 8, &mut |pa, len| {
                w.arena.write_phys(pa, &page.to_le_bytes()[..len as usize]);
                len
            })
            .unwrap();
    }
    let remap = |start, size, prot, pgoff| w.mm.remap_file_pages(start, size, prot, pgoff, 0);
    assert_eq!(remap(BASE + PAGE_BYTES, 2 * PAGE_BYTES + 5, 0, 6), Ok(()));
    let seen: Vec<_> =
        (0..4).map(|page| w.arena.user_load(&w.mm, BASE + page * PAGE_BYTES).unwrap()).collect();
    assert_eq!(seen, [0, 6, 7, 3]);
    assert_eq!(remap(BASE, 4 * PAGE_BYTES, 0, 0), Ok(()), "over three mappings of one object");
    assert_eq!(w.mm.vmas.read().len(), 1);
    assert_eq!(remap(BASE, PAGE_BYTES, 1, 0), Err(MmError::Invalid));
    assert_eq!(remap(BASE, 0, 0, 0), Err(MmError::Invalid));
    assert_eq!(remap(BASE, 5 * PAGE_BYTES, 0, 0), Err(MmError::Invalid));
    assert_eq!(remap(BASE, PAGE_BYTES, 0, u64::MAX), Err(MmError::Invalid));
    w.map(BASE + GIB, PAGE_BYTES, abi::MAP_PRIVATE, Some(&object));
    assert_eq!(remap(BASE + GIB, PAGE_BYTES, 0, 0), Err(MmError::Invalid));
    w.audit();
}
