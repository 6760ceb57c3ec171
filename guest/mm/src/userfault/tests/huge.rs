//! Registered ranges of huge pages.

use super::*;

#[test]
fn huge_pages_are_filled_in_and_protected() {
    let arena = Arena::new(4096 + 512 * 24);
    resize(&arena, HugeSize::Mib2, 8);
    let w = World::on(arena, 0);
    for flags in [abi::MAP_SHARED, abi::MAP_PRIVATE] {
        let object = huge_memfd(&w.arena, 2 * HUGE_BYTES);
        let at = BASE + if flags == abi::MAP_SHARED { 0 } else { GIB };
        w.map(at, 2 * HUGE_BYTES, flags, Some(&object));
        let end = at + 2 * HUGE_BYTES;
        assert_eq!(w.uffd.register(at, end - PAGE_BYTES, VM_UFFD_MISSING), Err(MmError::Invalid));
        let modes = VM_UFFD_MISSING | VM_UFFD_WP;
        assert_eq!(w.uffd.register(at, end, modes), Ok(Registered { huge: true }));
        let staging = Staging::new(&w.arena).unwrap();
        w.arena.write_phys(staging.pa(), &[0; 4096]);
        w.arena.write_phys(staging.pa() + 8, &7u64.to_le_bytes());
        assert_eq!(w.uffd.fill(at, Source::Huge(&staging), false), Ok(()));
        assert_eq!(w.uffd.fill(at, Source::Huge(&staging), false), Err(MmError::Exists));
        assert_eq!(object.pages() > 0, flags == abi::MAP_SHARED, "a private mapping has pages of its own");
        assert_eq!(w.arena.user_load(&w.mm, at + 8), Ok(7));
        assert_eq!(w.message(at + HUGE_BYTES, Access::WRITE).flags, 1);
        assert_eq!(w.uffd.page_bytes(at, HUGE_BYTES, Call::Zero, false), Err(MmError::Invalid));
        assert_eq!(w.uffd.page_bytes(at, PAGE_BYTES, Call::Copy, false), Err(MmError::Invalid));
        w.uffd.write_protect(at, end, true).unwrap();
        drop(staging);
        w.audit();
        assert_eq!(w.message(at, Access::WRITE).flags, 3);
        w.uffd.register(at, end, VM_UFFD_WP).unwrap();
        assert_eq!(w.message(at + HUGE_BYTES, Access::WRITE).flags, 3, "by a marker");
        w.audit();
        w.uffd.write_protect(at, end, false).unwrap();
        w.arena.user_store(&w.mm, at, 1).unwrap();
        w.uffd.write_protect(at, end, true).unwrap();
        let child = w.mm.fork(Sharing::Pte, 0).unwrap();
        w.arena.audit(&[&w.mm, &child]);
        drop(child);
        w.mm.munmap(at, 2 * HUGE_BYTES).unwrap();
        w.audit();
    }
}

#[test]
fn huge_minor_and_protected_mappings_share_no_pmd_page() {
    let arena = Arena::new(4096 + 512 * 8);
    resize(&arena, HugeSize::Mib2, 4);
    let w = World::on(arena, 0);
    let object = huge_memfd(&w.arena, GIB);
    // Reservations would need 512 pages.
    let share = |mm: &Mm<Arena>, at: u64| {
        let mut request = MapRequest::anonymous(GIB, RW);
        (request.addr, request.object) = (at, Some((object.clone(), 0)));
        request.flags = u64::from(abi::MAP_SHARED | abi::MAP_FIXED | abi::MAP_NORESERVE);
        assert_eq!(mm.mmap(request), Ok(at));
    };
    let other = Mm::new(w.arena.clone()).unwrap();
    share(&other, GIB);
    w.arena.user_store(&other, GIB, 3).unwrap();
    for modes in [VM_UFFD_MINOR, VM_UFFD_WP, VM_UFFD_MISSING] {
        let at = 4 * GIB;
        share(&w.mm, at);
        assert_eq!(w.arena.user_load(&w.mm, at), Ok(3));
        let shared = || w.arena.stats().tables_shared_now.load(Relaxed);
        assert_eq!(shared(), 1);
        w.uffd.register(at, at + GIB, modes).unwrap();
        assert_eq!(shared(), 0);
        w.arena.audit(&[&w.mm, &other]);
        match modes {
            VM_UFFD_MINOR => {
                assert_eq!(w.message(at, Access::READ).flags, 4);
                assert_eq!(w.uffd.fill(at, Source::Object, false), Ok(()));
                assert_eq!(w.uffd.fill(at + HUGE_BYTES, Source::Object, false), Err(MmError::Fault));
                assert_eq!(w.arena.user_load(&w.mm, at), Ok(3));
                assert_eq!(shared(), 0);
            }
            VM_UFFD_WP => {
                w.uffd.write_protect(at, at + 2 * HUGE_BYTES, true).unwrap();
                assert_eq!(w.message(at, Access::WRITE).flags, 3);
                assert_eq!(shared(), 0);
            }
            _ => {
                // Registered for missing pages only, it shares: what is there is there for all.
                assert_eq!(w.arena.user_load(&w.mm, at), Ok(3));
                assert_eq!(shared(), 1);
                assert_eq!(w.message(at + HUGE_BYTES, Access::READ).flags, 0);
            }
        }
        assert_eq!(w.arena.user_load(&other, GIB), Ok(3));
        w.arena.audit(&[&w.mm, &other]);
        w.mm.munmap(at, GIB).unwrap();
    }
}
