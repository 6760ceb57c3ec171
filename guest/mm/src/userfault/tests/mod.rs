//! Registration, messages, fills and write protection on the arena; every step audited.

mod huge;
mod sharing;

use super::*;
use crate::hugetlb::{HUGE_BYTES, HugeSize, resize};
use crate::testing::Arena;
use crate::vma::{VM_UFFD, VM_UFFD_MINOR, VM_UFFD_MISSING, VM_UFFD_WP};
use crate::{Access, MapRequest, Object, ObjectInfo, ObjectKind, Sharing};
use ptshare_paging::{Level, PAGE_BYTES};
use std::sync::Arc;

const BASE: u64 = 0x4000_0000;
const GIB: u64 = 1 << 30;
const SPAN: u64 = Level::Pte.span_bytes();
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
const MODES: [Sharing; 3] = [Sharing::None, Sharing::Pte, Sharing::Tree];

struct World {
    arena: Arena,
    mm: Arc<Mm<Arena>>,
    uffd: Arc<Userfault<Arena>>,
}

impl World {
    fn new(features: u64) -> World {
        let arena = Arena::new(4096);
        Self::on(arena, features)
    }

    fn on(arena: Arena, features: u64) -> World {
        let mm = Mm::new(arena.clone()).unwrap();
        let uffd = Userfault::new(&mm, false);
        uffd.enable(features).unwrap();
        World { arena, mm, uffd }
    }

    fn map(&self, addr: u64, len: u64, flags: u32, object: Option<&Arc<Object<Arena>>>) {
        map(&self.mm, addr, len, flags, object);
    }

    fn page_with(&self, word: u64) -> Source<'static, Arena> {
        let page = HeldPage::new(&self.arena).unwrap();
        for i in 0..512 {
            self.arena.write_phys(page.pa() + 8 * i, &(if i == 0 { word } else { 0 }).to_le_bytes());
        }
        Source::Page(page)
    }

    fn copy(&self, addr: u64, word: u64) -> Result<(), MmError> {
        self.uffd.fill(addr, self.page_with(word), false)
    }

    /// The message of the fault that an access ends in, its wait ended at once.
    fn message(&self, addr: u64, access: Access) -> Message {
        let Err(FaultOutcome::Userfault(ticket)) = self.arena.access(&self.mm, addr, access) else {
            panic!("no message for {access:?} at {addr:#x}");
        };
        assert_eq!(ticket.context, self.uffd.id());
        assert_eq!(self.uffd.read(), None, "not before its thread is known");
        self.uffd.announce(ticket.number, 77);
        assert!(self.uffd.is_readable() && self.uffd.is_waiting(ticket.number));
        let message = self.uffd.read().unwrap();
        assert!(!self.uffd.is_readable() && self.uffd.is_waiting(ticket.number));
        self.uffd.wake(addr & !(PAGE_BYTES - 1), PAGE_BYTES);
        assert!(!self.uffd.is_waiting(ticket.number));
        message
    }

    fn audit(&self) {
        self.arena.audit(&[&self.mm]);
    }
}

fn map(mm: &Mm<Arena>, addr: u64, len: u64, flags: u32, object: Option<&Arc<Object<Arena>>>) {
    let mut request = MapRequest::anonymous(len, RW);
    request.addr = addr;
    let anonymous = if object.is_none() { abi::MAP_ANONYMOUS } else { 0 };
    request.flags = u64::from(flags | abi::MAP_FIXED | anonymous);
    request.object = object.map(|object| (object.clone(), 0));
    assert_eq!(mm.mmap(request), Ok(addr));
}

fn memfd(arena: &Arena, bytes: u64) -> Arc<Object<Arena>> {
    let info = ObjectInfo::new(7, 1, "/memfd:test".into());
    let object = Object::new(arena.clone(), ObjectKind::Memfd, info);
    object.truncate(bytes).unwrap();
    object
}

fn huge_memfd(arena: &Arena, bytes: u64) -> Arc<Object<Arena>> {
    Object::hugetlb(arena.clone(), HugeSize::Mib2, ObjectInfo::new(7, 1, "/memfd:huge".into()), bytes, None)
}

#[test]
fn the_handshake_is_done_once_and_knows_its_features() {
    let arena = Arena::new(64);
    let mm = Mm::new(arena).unwrap();
    let uffd = Userfault::new(&mm, false);
    assert!(!uffd.is_ready());
    assert_eq!(uffd.enable(u64::from(abi::UFFD_FEATURE_EVENT_FORK)), Err(MmError::Invalid));
    assert_eq!(uffd.enable(0), Ok(()));
    assert_eq!(uffd.enable(0), Err(MmError::Invalid));
    drop(mm);
    assert_eq!(uffd.register(BASE, BASE + PAGE_BYTES, VM_UFFD_MISSING), Err(MmError::NoMemory));
    assert_eq!(uffd.write_protect(BASE, BASE + PAGE_BYTES, true), Err(MmError::Gone));
}

#[test]
fn a_missing_page_is_reported_until_it_is_filled_in() {
    let w = World::new(0);
    w.map(BASE, 8 * PAGE_BYTES, abi::MAP_PRIVATE, None);
    w.arena.user_store(&w.mm, BASE, 1).unwrap();
    assert_eq!(w.copy(BASE + PAGE_BYTES, 1), Err(MmError::NotRegistered));
    let registered = w.uffd.register(BASE, BASE + 4 * PAGE_BYTES, VM_UFFD_MISSING);
    assert_eq!(registered, Ok(Registered { huge: false }));
    w.audit();
    // What was there stays, and beyond the range nothing is reported.
    assert_eq!(w.arena.user_load(&w.mm, BASE), Ok(1));
    assert_eq!(w.arena.user_load(&w.mm, BASE + 4 * PAGE_BYTES), Ok(0));
    let at = BASE + PAGE_BYTES;
    assert_eq!(w.message(at + 24, Access::READ), Message { flags: 0, address: at, thread: 0 });
    assert_eq!(w.message(at, Access::WRITE), Message { flags: 1, address: at, thread: 0 });
    assert_eq!(w.copy(at, 0x55), Ok(()));
    assert_eq!(w.copy(at, 0x66), Err(MmError::Exists));
    w.audit();
    assert_eq!(w.arena.user_load(&w.mm, at), Ok(0x55));
    w.arena.user_store(&w.mm, at, 2).unwrap();
    assert_eq!(w.uffd.fill(at + PAGE_BYTES, Source::Zero, false), Ok(()));
    assert_eq!(w.arena.user_load(&w.mm, at + PAGE_BYTES), Ok(0));
    assert_eq!(w.uffd.fill(at + PAGE_BYTES, Source::Object, false), Err(MmError::Invalid));
    w.audit();
    // Discarded pages are missing again.
    w.mm.madvise(BASE, 4 * PAGE_BYTES, u64::from(abi::MADV_DONTNEED)).unwrap();
    assert_eq!(w.message(BASE, Access::READ).address, BASE);
    assert_eq!(w.uffd.unregister(BASE, BASE + 8 * PAGE_BYTES), Ok(()));
    assert_eq!(w.arena.user_load(&w.mm, BASE), Ok(0));
    assert_eq!(w.mm.vmas.read().len(), 1, "merged again");
    w.audit();
}

#[test]
fn features_change_what_a_fault_comes_to() {
    let w = World::new(u64::from(abi::UFFD_FEATURE_EXACT_ADDRESS | abi::UFFD_FEATURE_THREAD_ID));
    w.map(BASE, PAGE_BYTES, abi::MAP_PRIVATE, None);
    w.uffd.register(BASE, BASE + PAGE_BYTES, VM_UFFD_MISSING).unwrap();
    assert_eq!(w.message(BASE + 8, Access::READ), Message { flags: 0, address: BASE + 8, thread: 77 });

    let w = World::new(u64::from(abi::UFFD_FEATURE_SIGBUS));
    w.map(BASE, PAGE_BYTES, abi::MAP_PRIVATE, None);
    w.uffd.register(BASE, BASE + PAGE_BYTES, VM_UFFD_MISSING).unwrap();
    assert_eq!(w.arena.user_load(&w.mm, BASE), Err(FaultOutcome::BusAdrErr));

    let w = World::new(0);
    let user_only = Userfault::new(&w.mm, true);
    user_only.enable(0).unwrap();
    w.map(BASE, PAGE_BYTES, abi::MAP_PRIVATE, None);
    user_only.register(BASE, BASE + PAGE_BYTES, VM_UFFD_MISSING).unwrap();
    let kernel = Access { user: false, ..Access::READ };
    assert_eq!(w.arena.access(&w.mm, BASE, kernel), Err(FaultOutcome::BusAdrErr));
    assert!(matches!(w.arena.user_load(&w.mm, BASE), Err(FaultOutcome::Userfault(_))));
    // Another process's memory is not waited for, and leaves no message behind.
    let before = user_only.counts();
    assert_eq!(w.mm.read_user(BASE, &mut [0]), Err(MmError::Fault));
    assert_eq!(w.mm.populate(BASE, PAGE_BYTES), Err(MmError::Fault));
    assert_eq!(user_only.counts(), before);
}

#[test]
fn registration_refuses_what_linux_refuses() {
    let w = World::new(0);
    w.map(BASE, 4 * PAGE_BYTES, abi::MAP_PRIVATE, None);
    let (page, end) = (BASE + PAGE_BYTES, BASE + 4 * PAGE_BYTES);
    assert_eq!(w.uffd.register(end, end + SPAN, VM_UFFD_MISSING), Err(MmError::Invalid), "nothing there");
    assert_eq!(w.uffd.register(BASE, end, VM_UFFD_MINOR), Err(MmError::Invalid), "no object");
    w.uffd.register(BASE, page, VM_UFFD_MISSING).unwrap();
    let other = Userfault::new(&w.mm, false);
    other.enable(0).unwrap();
    assert_eq!(other.register(BASE, end, VM_UFFD_MISSING), Err(MmError::Busy));
    assert_eq!(other.register(page, end, VM_UFFD_MISSING), Ok(Registered { huge: false }));
    assert_eq!(w.mm.vmas.read().len(), 2, "equal flags, but not one mapping");
    // A fill across both, or with a mode that was not asked for.
    assert_eq!(w.uffd.page_bytes(BASE, 2 * PAGE_BYTES, Call::Copy, false), Err(MmError::NotRegistered));
    assert_eq!(w.uffd.page_bytes(BASE, PAGE_BYTES, Call::Copy, true), Err(MmError::Invalid));
    assert_eq!(w.uffd.page_bytes(BASE, PAGE_BYTES, Call::Copy, false), Ok(PAGE_BYTES));
    assert_eq!(w.uffd.write_protect(BASE, page, true), Err(MmError::NotRegistered));
    w.uffd.close();
    assert_eq!(other.register(BASE, end, VM_UFFD_MISSING), Ok(Registered { huge: false }));
    assert_eq!(w.mm.vmas.read().len(), 1);
    // A file opened for reading only.
    let object = memfd(&w.arena, SPAN);
    let mut request = MapRequest::anonymous(PAGE_BYTES, u64::from(abi::PROT_READ));
    (request.addr, request.flags) = (BASE + GIB, u64::from(abi::MAP_SHARED | abi::MAP_FIXED));
    (request.object, request.file_writable) = (Some((object, 0)), false);
    let at = w.mm.mmap(request).unwrap();
    assert_eq!(other.register(at, at + PAGE_BYTES, VM_UFFD_MISSING), Err(MmError::NotPermitted));
    w.audit();
}

#[test]
fn an_object_says_what_is_missing_and_what_is_minor() {
    let w = World::new(0);
    let object = memfd(&w.arena, 4 * PAGE_BYTES);
    object.allocate(0, PAGE_BYTES, false).unwrap();
    w.map(BASE, 5 * PAGE_BYTES, abi::MAP_SHARED, Some(&object));
    w.uffd.register(BASE, BASE + 5 * PAGE_BYTES, VM_UFFD_MISSING | VM_UFFD_MINOR).unwrap();
    assert_eq!(w.message(BASE, Access::WRITE).flags, 5);
    assert_eq!(w.message(BASE + PAGE_BYTES, Access::READ).flags, 0);
    let end = BASE + 4 * PAGE_BYTES;
    assert_eq!(w.arena.user_load(&w.mm, end), Err(FaultOutcome::BusAdrErr));
    assert_eq!(w.copy(end, 1), Err(MmError::Fault));
    // A page of the object that is not mapped here: only UFFDIO_CONTINUE maps it.
    assert_eq!(w.copy(BASE, 1), Err(MmError::Exists));
    assert_eq!(w.uffd.fill(BASE + PAGE_BYTES, Source::Object, false), Err(MmError::Fault));
    assert_eq!(w.uffd.fill(BASE, Source::Object, false), Ok(()));
    assert_eq!(w.copy(BASE + PAGE_BYTES, 9), Ok(()));
    assert_eq!(w.uffd.fill(BASE + 2 * PAGE_BYTES, Source::Zero, false), Ok(()));
    assert_eq!(w.arena.user_load(&w.mm, BASE), Ok(0));
    assert_eq!(w.arena.user_load(&w.mm, BASE + PAGE_BYTES), Ok(9));
    assert_eq!(object.pages(), 3);
    w.audit();
    // A private mapping gets pages of its own.
    let private = BASE + GIB;
    w.map(private, 4 * PAGE_BYTES, abi::MAP_PRIVATE, Some(&object));
    w.uffd.register(private, private + 4 * PAGE_BYTES, VM_UFFD_MISSING | VM_UFFD_MINOR).unwrap();
    assert_eq!(w.message(private, Access::READ).flags, 4);
    assert_eq!(w.message(private + 3 * PAGE_BYTES, Access::READ).flags, 0);
    assert_eq!(w.copy(private + 3 * PAGE_BYTES, 8), Ok(()));
    assert_eq!(w.uffd.fill(private + PAGE_BYTES, Source::Object, false), Ok(()));
    w.arena.user_store(&w.mm, private + PAGE_BYTES, 10).unwrap();
    assert_eq!(w.arena.user_load(&w.mm, BASE + PAGE_BYTES), Ok(9));
    assert_eq!(object.pages(), 3);
    w.audit();
}

#[test]
fn write_protection_reports_each_write_once() {
    let w = World::new(0);
    w.map(BASE, 4 * PAGE_BYTES, abi::MAP_PRIVATE, None);
    for page in 0..2 {
        w.arena.user_store(&w.mm, BASE + page * PAGE_BYTES, page + 1).unwrap();
    }
    assert_eq!(w.arena.user_load(&w.mm, BASE + 2 * PAGE_BYTES), Ok(0));
    let end = BASE + 4 * PAGE_BYTES;
    w.uffd.register(BASE, end, VM_UFFD_WP).unwrap();
    w.arena.user_store(&w.mm, BASE, 5).unwrap();
    w.uffd.write_protect(BASE, end, true).unwrap();
    w.audit();
    assert_eq!(w.arena.user_load(&w.mm, BASE), Ok(5), "reads are free");
    for page in 0..3 {
        assert_eq!(w.message(BASE + page * PAGE_BYTES, Access::WRITE).flags, 3);
    }
    // Nothing was there to protect, and anonymous memory has no markers without the feature.
    w.arena.user_store(&w.mm, BASE + 3 * PAGE_BYTES, 4).unwrap();
    // Other rights and back do not take the protection off.
    w.mm.mprotect(BASE, PAGE_BYTES, 0).unwrap();
    w.audit();
    w.mm.mprotect(BASE, PAGE_BYTES, RW).unwrap();
    assert_eq!(w.arena.user_load(&w.mm, BASE), Ok(5));
    assert_eq!(w.message(BASE, Access::WRITE).flags, 3);
    w.uffd.write_protect(BASE, BASE + PAGE_BYTES, false).unwrap();
    w.arena.user_store(&w.mm, BASE, 6).unwrap();
    assert_eq!(w.message(BASE + PAGE_BYTES, Access::WRITE).flags, 3);
    // A page copied in under protection.
    w.uffd.register(BASE, end, VM_UFFD_WP | VM_UFFD_MISSING).unwrap();
    w.mm.madvise(BASE, PAGE_BYTES, u64::from(abi::MADV_DONTNEED)).unwrap();
    w.uffd.fill(BASE, w.page_with(7), true).unwrap();
    w.audit();
    assert_eq!(w.message(BASE, Access::WRITE).flags, 3);
    // With the mode goes the protection.
    w.uffd.register(BASE, end, VM_UFFD_MISSING).unwrap();
    for page in 0..4 {
        w.arena.user_store(&w.mm, BASE + page * PAGE_BYTES, page).unwrap();
    }
    w.audit();
}

#[test]
fn markers_protect_pages_that_are_not_there_yet() {
    for (features, object) in [(u64::from(abi::UFFD_FEATURE_WP_UNPOPULATED), false), (0, true)] {
        let w = World::new(features);
        let object = object.then(|| memfd(&w.arena, SPAN));
        for flags in [abi::MAP_PRIVATE, abi::MAP_SHARED] {
            if object.is_none() && flags == abi::MAP_SHARED {
                continue;
            }
            w.map(BASE, 600 * PAGE_BYTES, flags, object.as_ref());
            let end = BASE + 600 * PAGE_BYTES;
            w.uffd.register(BASE, end, VM_UFFD_WP).unwrap();
            w.uffd.write_protect(BASE, end, true).unwrap();
            w.audit();
            // A write brings the page in, and is reported.
            assert_eq!(w.message(BASE, Access::WRITE).flags, 3);
            assert_eq!(w.arena.user_load(&w.mm, BASE + PAGE_BYTES), Ok(0));
            assert_eq!(w.message(BASE + PAGE_BYTES, Access::WRITE).flags, 3);
            w.audit();
            w.uffd.write_protect(BASE, BASE + 3 * PAGE_BYTES, false).unwrap();
            for page in 0..3 {
                w.arena.user_store(&w.mm, BASE + page * PAGE_BYTES, page).unwrap();
            }
            w.audit();
            // Moved memory is registered no more; what stays keeps its marks.
            let to = BASE + GIB;
            w.mm.mremap(
                BASE + 4 * PAGE_BYTES,
                SPAN,
                SPAN,
                u64::from(abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED),
                to,
            )
            .map(|at| assert_eq!(at, to))
            .unwrap();
            w.audit();
            if flags == abi::MAP_PRIVATE && object.is_none() {
                w.arena.user_store(&w.mm, to, 1).unwrap();
            }
            assert_eq!(w.message(BASE + 3 * PAGE_BYTES, Access::WRITE).flags, 3);
            if let Some(object) = &object {
                // Whatever drops the pages leaves the marks, for those that come after.
                assert_eq!(w.arena.user_load(&w.mm, BASE + 3 * PAGE_BYTES), Ok(0));
                w.mm.madvise(BASE, 4 * PAGE_BYTES, u64::from(abi::MADV_DONTNEED)).unwrap();
                w.audit();
                w.arena.user_store(&w.mm, BASE + PAGE_BYTES, 1).unwrap();
                assert_eq!(w.message(BASE + 3 * PAGE_BYTES, Access::WRITE).flags, 3);
                object.punch_hole(0, 4 * PAGE_BYTES).unwrap();
                w.audit();
                assert_eq!(w.message(BASE + 3 * PAGE_BYTES, Access::WRITE).flags, 3);
            }
            w.uffd.unregister(BASE, end).unwrap();
            w.arena.user_store(&w.mm, BASE + 3 * PAGE_BYTES, 1).unwrap();
            w.mm.munmap(to, SPAN).unwrap();
            w.audit();
        }
        w.mm.clear();
        w.audit();
    }
}
