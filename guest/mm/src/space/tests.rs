//! Calls on one or two address spaces, checked against what Linux answers. (`tests/model.rs` plays them at random.)

use super::*;
use crate::error::MmError;
use crate::testing::Arena;
use crate::vma::{Layout, Limits, MAX_MAP_COUNT, STACK_GUARD_BYTES};
use crate::{Object, ObjectInfo, ObjectKind};
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_paging::{PAGE_BYTES, USER_END};

const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
const READ: u64 = abi::PROT_READ as u64;
const AT: u64 = 0x5000_0000_0000;

fn machine() -> (Arena, Arc<Mm<Arena>>) {
    let arena = Arena::new(2048);
    let mm = Mm::new(arena.clone()).unwrap();
    (arena, mm)
}

fn fixed(addr: u64, pages: u64, prot: u64) -> MapRequest<Arena> {
    let mut request = MapRequest::anonymous(pages * PAGE_BYTES, prot);
    request.addr = addr;
    request.flags |= u64::from(abi::MAP_FIXED);
    request
}

fn map(mm: &Mm<Arena>, addr: u64, pages: u64) {
    assert_eq!(mm.mmap(fixed(addr, pages, RW)), Ok(addr));
}

fn ranges(mm: &Mm<Arena>) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    mm.for_each_vma(&mut |vma| out.push((vma.start, vma.end)));
    out
}

fn heap(mm: &Mm<Arena>, start: u64) {
    mm.set_layout(Layout { start_brk: start, brk: start, ..mm.layout() });
}

#[test]
fn mmap_refuses_as_linux_does() {
    let (_arena, mm) = machine();
    let errno = |request: MapRequest<Arena>| mm.mmap(request).map_err(Errno::from);
    let changed = |f: fn(&mut MapRequest<Arena>)| {
        let mut request = fixed(AT, 1, RW);
        f(&mut request);
        request
    };
    assert_eq!(errno(changed(|r| r.len = 0)), Err(Errno::EINVAL));
    assert_eq!(errno(changed(|r| r.addr += 1)), Err(Errno::EINVAL));
    assert_eq!(errno(changed(|r| r.len = u64::MAX)), Err(Errno::ENOMEM));
    assert_eq!(errno(changed(|r| r.addr = USER_END)), Err(Errno::ENOMEM));
    assert_eq!(errno(changed(|r| r.flags &= !0xf)), Err(Errno::EINVAL));
    assert_eq!(errno(changed(|r| r.flags |= u64::from(abi::MAP_HUGETLB))), Err(Errno::ENOMEM));
    assert_eq!(errno(changed(|r| r.flags |= u64::from(abi::MAP_SHARED_VALIDATE))), Err(Errno::EINVAL));
    map(&mm, AT, 1);
    assert_eq!(errno(changed(|r| r.flags |= u64::from(abi::MAP_FIXED_NOREPLACE))), Err(Errno::EEXIST));
    // Root may map page 0; others may not.
    assert_eq!(mm.mmap(fixed(0, 1, RW)), Ok(0));
    mm.set_limits(Limits { privileged: false, ..mm.limits() });
    assert_eq!(errno(fixed(0, 1, RW)), Err(Errno::EPERM));
}

#[test]
fn a_file_opened_for_reading_is_never_mapped_writable_and_shared() {
    let (arena, mm) = machine();
    let object = Object::new(arena.clone(), ObjectKind::Tmpfs, ObjectInfo::new(1, 2, "/f".into()));
    object.truncate(PAGE_BYTES).unwrap();
    let request = |prot, kind: u32, file_readable, file_writable| MapRequest {
        addr: 0,
        len: PAGE_BYTES,
        prot,
        flags: kind.into(),
        object: Some((object.clone(), 0)),
        file_readable,
        file_writable,
    };
    assert_eq!(mm.mmap(request(RW, abi::MAP_SHARED, true, false)), Err(MmError::AccessDenied));
    assert_eq!(mm.mmap(request(READ, abi::MAP_PRIVATE, false, true)), Err(MmError::AccessDenied));
    let addr = mm.mmap(request(READ, abi::MAP_SHARED, true, false)).unwrap();
    assert_eq!(mm.mprotect(addr, PAGE_BYTES, RW), Err(MmError::AccessDenied));
    let private = mm.mmap(request(RW, abi::MAP_PRIVATE, true, false)).unwrap();
    arena.user_store(&mm, private, 5).unwrap();
    assert_eq!(arena.user_load(&mm, addr), Ok(0));
    let mut bad = request(READ, abi::MAP_SHARED_VALIDATE, true, true);
    bad.flags |= u64::from(abi::MAP_SYNC);
    assert_eq!(mm.mmap(bad), Err(MmError::NotSupported));
    let mut far = request(READ, abi::MAP_SHARED, true, true);
    far.object = Some((object.clone(), u64::MAX >> 12));
    assert_eq!(mm.mmap(far), Err(MmError::Overflow));
    arena.audit(&[&mm]);
}

#[test]
fn limits_on_size_are_obeyed() {
    let (_arena, mm) = machine();
    mm.set_limits(Limits { as_bytes: 8 * PAGE_BYTES, ..mm.limits() });
    map(&mm, AT, 8);
    assert_eq!(mm.mmap(MapRequest::anonymous(1, RW)), Err(MmError::Limit));
    // What is mapped over does not count twice.
    map(&mm, AT, 8);
    mm.set_limits(Limits { as_bytes: u64::MAX, data_bytes: 9 * PAGE_BYTES, ..mm.limits() });
    assert_eq!(mm.mmap(fixed(AT + 0x10_0000, 2, RW)), Err(MmError::Limit));
    assert_eq!(mm.mmap(fixed(AT + 0x10_0000, 2, READ)), Ok(AT + 0x10_0000));
    mm.set_limits(Limits { data_bytes: u64::MAX, commit_pages: 100, ..mm.limits() });
    assert_eq!(mm.mmap(fixed(AT + 0x100_0000, 101, RW)), Err(MmError::Limit));
    let mut lazy = fixed(AT + 0x100_0000, 101, RW);
    lazy.flags |= u64::from(abi::MAP_NORESERVE);
    assert_eq!(mm.mmap(lazy), Ok(AT + 0x100_0000));
}

#[test]
fn the_number_of_vmas_is_limited() {
    let (_arena, mm) = machine();
    for n in 0..=MAX_MAP_COUNT as u64 {
        map(&mm, AT + 2 * n * PAGE_BYTES, 1);
    }
    let next = AT - 2 * PAGE_BYTES;
    assert_eq!(mm.mmap(fixed(next, 3, RW)), Err(MmError::Limit));
    mm.munmap(AT, 4 * PAGE_BYTES).unwrap();
    map(&mm, next - 0x10_0000, 3);
    // In the middle of a VMA there is no room for one more.
    assert_eq!(mm.munmap(next - 0x10_0000 + PAGE_BYTES, PAGE_BYTES), Err(MmError::Limit));
    assert_eq!(mm.vma_count(), MAX_MAP_COUNT);
}

#[test]
fn the_heap_grows_shrinks_and_stops_at_a_neighbour() {
    let (arena, mm) = machine();
    heap(&mm, AT + 0x123);
    assert_eq!(mm.brk(0), AT + 0x123);
    assert_eq!(mm.brk(AT + 0x2005), AT + 0x2005);
    assert_eq!(ranges(&mm), [(AT + 0x1000, AT + 0x3000)]);
    arena.user_store(&mm, AT + 0x2000, 7).unwrap();
    // Within the page nothing happens but the number.
    assert_eq!(mm.brk(AT + 0x2fff), AT + 0x2fff);
    assert_eq!(arena.user_load(&mm, AT + 0x2000), Ok(7));
    assert_eq!(mm.brk(AT + 0x1800), AT + 0x1800);
    assert_eq!(arena.user_load(&mm, AT + 0x2000), Err(FaultOutcome::SegvMapErr));
    map(&mm, AT + 0x8000, 1);
    // One page stays free below the neighbour.
    assert_eq!(mm.brk(AT + 0x7001), AT + 0x1800);
    assert_eq!(mm.brk(AT + 0x7000), AT + 0x7000);
    assert_eq!(mm.brk(AT), AT + 0x7000);
    mm.set_limits(Limits { data_bytes: 0x7000, ..mm.limits() });
    assert_eq!(mm.brk(AT + 0x7000 + 0x124), AT + 0x7000);
    let mut names = Vec::new();
    mm.for_each_vma(&mut |vma| names.push(vma.name));
    assert_eq!(names, ["[heap]", ""]);
    arena.audit(&[&mm]);
}

#[test]
fn a_stack_grows_to_its_limit_and_keeps_its_guard_gap() {
    let (arena, mm) = machine();
    mm.map_stack(USER_END, 0x21000, false).unwrap();
    mm.set_layout(Layout { start_stack: USER_END - 0x100, ..mm.layout() });
    let bottom = USER_END - 0x21000;
    arena.user_store(&mm, bottom - 0x5008, 3).unwrap();
    assert_eq!(ranges(&mm), [(bottom - 0x6000, USER_END)]);
    assert_eq!(arena.user_load(&mm, USER_END - (8 << 20)), Ok(0));
    assert_eq!(arena.user_load(&mm, USER_END - (8 << 20) - 8), Err(FaultOutcome::SegvMapErr));
    mm.for_each_vma(&mut |vma| assert_eq!((vma.name, vma.rights()), ("[stack]", *b"rw-p")));
    assert_eq!(mm.usage().stack_pages, (8 << 20) / PAGE_BYTES);

    // A mapping nearer than the gap stops the growth of another one.
    let mut request = fixed(AT, 1, RW);
    request.flags |= u64::from(abi::MAP_GROWSDOWN);
    mm.mmap(request).unwrap();
    map(&mm, AT - STACK_GUARD_BYTES - 4 * PAGE_BYTES, 2);
    assert_eq!(arena.user_load(&mm, AT - PAGE_BYTES), Ok(0));
    assert_eq!(arena.user_load(&mm, AT - 2 * PAGE_BYTES), Ok(0));
    assert_eq!(arena.user_load(&mm, AT - 3 * PAGE_BYTES), Err(FaultOutcome::SegvMapErr));
    arena.audit(&[&mm]);
}

#[test]
fn whatever_grows_leaves_the_sharing_first() {
    // The heap, a stack and an mremap each grow inside a PTE page that a child shares.
    let (arena, mm) = machine();
    heap(&mm, AT);
    mm.brk(AT + 0x1000);
    let mut request = fixed(AT + 0x18_0000, 1, RW);
    request.flags |= u64::from(abi::MAP_GROWSDOWN);
    mm.mmap(request).unwrap();
    map(&mm, AT + 0x19_0000, 1);
    for page in [AT, AT + 0x18_0000, AT + 0x19_0000] {
        arena.user_store(&mm, page, 1).unwrap();
    }
    for step in 0..3 {
        let child = mm.fork(Sharing::Pte, 0).unwrap();
        let grown = match step {
            0 => {
                mm.brk(AT + 0x2000);
                AT + 0x1000
            }
            1 => AT + 0x17_f000,
            _ => {
                mm.mremap(AT + 0x19_0000, 0x1000, 0x2000, 0, 0).unwrap();
                AT + 0x19_1000
            }
        };
        assert_eq!(arena.user_load(&mm, grown), Ok(0));
        arena.audit(&[&mm, &child]);
        assert_eq!(child.translate(grown, false), None, "step {step}");
        assert_eq!(arena.user_load(&child, AT), Ok(1));
    }
}

#[test]
fn a_shortage_leaves_everything_as_it_was() {
    let (arena, mm) = machine();
    map(&mm, AT, 1024);
    for page in (0..1024).step_by(100) {
        arena.user_store(&mm, AT + page * PAGE_BYTES, page + 1).unwrap();
    }
    let child = mm.fork(Sharing::Pte, 0).unwrap();
    let (digest, vmas) = (arena.digest(&mm), ranges(&mm));
    let calls: [&dyn Fn() -> Result<(), MmError>; 6] = [
        &|| mm.munmap(AT + PAGE_BYTES, 700 * PAGE_BYTES),
        &|| mm.mprotect(AT + PAGE_BYTES, 700 * PAGE_BYTES, READ),
        &|| mm.mmap(fixed(AT + PAGE_BYTES, 700, RW)).map(|_| ()),
        &|| mm.madvise(AT + PAGE_BYTES, 700 * PAGE_BYTES, abi::MADV_DONTNEED.into()),
        &|| mm.madvise(AT + PAGE_BYTES, 700 * PAGE_BYTES, abi::MADV_DONTFORK.into()),
        &|| {
            let size = 1024 * PAGE_BYTES;
            let flags = u64::from(abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED);
            mm.mremap(AT, size, size, flags, AT + 0x1_0000_0000).map(|_| ())
        },
    ];
    for (n, call) in calls.iter().enumerate() {
        arena.budget(0);
        assert_eq!(call(), Err(MmError::NoMemory), "call {n}");
        arena.unlimited();
        assert_eq!(ranges(&mm), vmas, "call {n}");
        assert_eq!(arena.digest(&mm), digest, "call {n}");
        arena.audit(&[&mm, &child]);
    }
    // The last one succeeds with memory, and moves the content.
    arena.unlimited();
    calls[5]().unwrap();
    assert_eq!(arena.user_load(&mm, AT + 0x1_0000_0000 + 300 * PAGE_BYTES), Ok(301));
    assert_eq!(arena.user_load(&child, AT + 300 * PAGE_BYTES), Ok(301));
    arena.audit(&[&mm, &child]);
}

#[test]
fn dropping_whole_tables_copies_nothing() {
    let (arena, mm) = machine();
    // 4 MiB that fill two PTE pages exactly, with nothing else in their spans.
    map(&mm, AT + PAGE_BYTES, 1022);
    arena.user_store(&mm, AT + PAGE_BYTES, 1).unwrap();
    arena.user_store(&mm, AT + 600 * PAGE_BYTES, 1).unwrap();
    let child = mm.fork(Sharing::Pte, 0).unwrap();
    arena.budget(0);
    mm.munmap(AT + PAGE_BYTES, 1022 * PAGE_BYTES).unwrap();
    arena.unlimited();
    assert_eq!(mm.usage().rss_pages(), 0);
    assert_eq!(arena.user_load(&child, AT + PAGE_BYTES), Ok(1));
    arena.audit(&[&mm, &child]);
}

#[test]
fn mincore_tells_pages_apart() {
    let (arena, mm) = machine();
    map(&mm, AT, 600);
    arena.user_store(&mm, AT + 300 * PAGE_BYTES, 1).unwrap();
    let mut seen: Vec<u8> = Vec::new();
    mm.mincore(AT, 600 * PAGE_BYTES - 5, &mut |run| {
        seen.extend_from_slice(run);
        Ok(())
    })
    .unwrap();
    assert_eq!(seen.len(), 600);
    assert_eq!(seen.iter().positions(), [300]);
    let refuse = &mut |_: &[u8]| Err(Errno::EFAULT);
    assert_eq!(mm.mincore(AT, PAGE_BYTES, refuse), Err(MmError::Caller(Errno::EFAULT)));
    assert_eq!(mm.mincore(AT + 1, 1, refuse), Err(MmError::Invalid));
    assert_eq!(mm.mincore(AT - PAGE_BYTES, 1, refuse), Err(MmError::NotMapped));
}

trait Positions {
    fn positions(self) -> Vec<usize>;
}

impl<'a, I: Iterator<Item = &'a u8>> Positions for I {
    fn positions(self) -> Vec<usize> {
        self.enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect()
    }
}

#[test]
fn sizes_and_smaps_add_up() {
    let (arena, mm) = machine();
    map(&mm, AT, 10);
    mm.mlock(AT, 3 * PAGE_BYTES, 0).unwrap();
    let mut shared = fixed(AT + 0x10_0000, 4, RW);
    shared.flags = u64::from(abi::MAP_SHARED | abi::MAP_ANONYMOUS | abi::MAP_FIXED | abi::MAP_POPULATE);
    mm.mmap(shared).unwrap();
    let usage = mm.usage();
    assert_eq!((usage.vm_pages, usage.data_pages, usage.locked_pages), (14, 10, 3));
    assert_eq!((usage.rss_anon, usage.rss_shmem, usage.rss_file), (3, 4, 0));
    let child = mm.fork(Sharing::Pte, 0).unwrap();
    assert_eq!(child.usage().locked_pages, 0);
    assert_eq!(child.usage().rss_anon, 3);
    let (mut rss, mut pss, mut tables) = (0, 0, 0);
    mm.for_each_smap(&mut |_, entry| {
        rss += entry.rss;
        pss += entry.pss;
        tables += entry.shared_tables;
    });
    // One PTE page, which both VMAs use.
    assert_eq!((rss, pss, tables), (7 * PAGE_BYTES, 7 * PAGE_BYTES / 2, 2 * PAGE_BYTES));
    arena.audit(&[&mm, &child]);
}

#[test]
fn shared_tables_are_divided_and_add_up() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        let (arena, mm) = machine();
        map(&mm, AT, 2048);
        for page in [0, 512, 1024, 1536] {
            arena.user_store(&mm, AT + page * PAGE_BYTES, 1).unwrap();
        }
        assert_eq!(mm.usage().shares.shared_pages, 0);
        assert_eq!(mm.usage().shares.proportional, mm.usage().table_pages * PAGE_BYTES);
        let child = mm.fork(mode, 0).unwrap();
        let third = child.fork(mode, 0).unwrap();
        // Below the root: a PUD page, a PMD page and four PTE pages.
        let shared = [0, 4, 6][mode as usize];
        assert_eq!(child.usage().shares.shared_pages, shared, "{mode:?}");
        arena.user_store(&child, AT, 2).unwrap();
        arena.user_store(&third, AT + 512 * PAGE_BYTES, 2).unwrap();
        let now = arena.stats().tables_now.load(core::sync::atomic::Ordering::Relaxed);
        let sum: u64 = [&mm, &child, &third].iter().map(|mm| mm.usage().shares.proportional).sum();
        let all = now * PAGE_BYTES;
        assert!((all - 3..=all).contains(&sum), "{mode:?}: {sum} of {all} bytes");
        arena.audit(&[&mm, &child, &third]);
    }
}

#[test]
fn pagemap_tells_whose_a_page_is() {
    let (arena, mm) = machine();
    map(&mm, AT, 10);
    let mut shared = fixed(AT + 0x10_0000, 4, RW);
    shared.flags = u64::from(abi::MAP_SHARED | abi::MAP_ANONYMOUS | abi::MAP_FIXED);
    mm.mmap(shared).unwrap();
    arena.user_store(&mm, AT, 1).unwrap();
    arena.user_load(&mm, AT + PAGE_BYTES).unwrap();
    arena.user_store(&mm, AT + 0x10_0000, 1).unwrap();
    let view = |mm: &Mm<Arena>, va| mm.page_view(va).map(|page| (page.of_object, page.exclusive));
    assert_eq!(view(&mm, AT), Some((false, true)));
    assert_eq!(view(&mm, AT + PAGE_BYTES), Some((false, false)));
    assert_eq!(view(&mm, AT + 2 * PAGE_BYTES), None);
    assert_eq!(view(&mm, AT + 0x10_0000), Some((true, true)));
    mm.mprotect(AT, PAGE_BYTES, 0).unwrap();
    assert_eq!(view(&mm, AT), Some((false, true)));
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        let child = mm.fork(mode, 0).unwrap();
        assert_eq!(view(&child, AT), Some((false, false)), "{mode:?}");
        assert_eq!(view(&mm, AT), Some((false, false)), "{mode:?}");
    }
    assert_eq!(view(&mm, u64::MAX), None);
}

#[test]
fn memory_locks_obey_their_limit() {
    let (_arena, mm) = machine();
    map(&mm, AT, 10);
    mm.set_limits(Limits { memlock_bytes: 4 * PAGE_BYTES, privileged: false, ..mm.limits() });
    assert_eq!(mm.mlock(AT, 5 * PAGE_BYTES, 0), Err(MmError::Limit));
    mm.mlock(AT, 4 * PAGE_BYTES, 0).unwrap();
    mm.mlock(AT, 4 * PAGE_BYTES, 0).unwrap();
    assert_eq!(mm.mlockall(abi::MCL_CURRENT.into()), Err(MmError::Limit));
    let mut locked = fixed(AT + 0x10_0000, 1, RW);
    locked.flags |= u64::from(abi::MAP_LOCKED);
    assert_eq!(mm.mmap(locked), Err(MmError::LockLimit));
    assert_eq!(mm.madvise(AT, PAGE_BYTES, abi::MADV_DONTNEED.into()), Err(MmError::Invalid));
    mm.munlockall();
    assert_eq!(mm.vma_count(), 1);
    mm.set_limits(Limits { memlock_bytes: 0, ..mm.limits() });
    assert_eq!(mm.mlock(AT, 1, 0), Err(MmError::NotPermitted));
}

#[test]
fn clearing_gives_everything_back() {
    let (arena, mm) = machine();
    let free = arena.free_frames();
    map(&mm, AT, 100);
    mm.populate(AT, 100 * PAGE_BYTES).unwrap();
    mm.clear();
    assert_eq!(arena.free_frames(), free);
    assert_eq!((mm.vma_count(), mm.usage().vm_pages), (0, 0));
    arena.audit(&[&mm]);
}
