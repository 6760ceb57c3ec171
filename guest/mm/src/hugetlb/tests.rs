//! Huge mappings on the arena: the machine of these tests, private pages, files, and what is refused.

mod pool;
mod shared;

use super::{HUGE_BYTES, HugeSize, Quota, set_sharing};
use crate::error::MmError;
use crate::testing::Arena;
use crate::{Access, Env, FaultOutcome, MapRequest, Mm, Object, ObjectInfo, Sharing};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::sys::general as abi;
use ptshare_paging::PAGE_BYTES;
use std::sync::Arc;

const GIB: u64 = 1 << 30;
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
const READ: u64 = abi::PROT_READ as u64;
const BASE: u64 = 0x10_0000_0000;
const MODES: [Sharing; 3] = [Sharing::None, Sharing::Pte, Sharing::Tree];

fn counts(arena: &Arena) -> [u64; 4] {
    super::counts(arena, HugeSize::Mib2)
}

fn resize(arena: &Arena, pages: u64) {
    super::resize(arena, HugeSize::Mib2, pages);
}

/// A machine with this many huge pages in its pool, and about as much ordinary memory again.
fn machine(huge: u64) -> Arena {
    let arena = Arena::new(4096 + 512 * (huge as usize + 8));
    resize(&arena, huge);
    assert_eq!(counts(&arena), [huge, huge, 0, 0]);
    arena
}

fn mm(arena: &Arena) -> Arc<Mm<Arena>> {
    Mm::new(arena.clone()).unwrap()
}

fn memfd(arena: &Arena, huge: u64) -> Arc<Object<Arena>> {
    let info = ObjectInfo::new(7, 1, "/memfd:huge".into());
    Object::hugetlb(arena.clone(), HugeSize::Mib2, info, huge * HUGE_BYTES, None)
}

fn of_object(addr: u64, huge: u64, prot: u64, flags: u32, object: &Arc<Object<Arena>>) -> MapRequest<Arena> {
    let mut request = MapRequest::anonymous(huge * HUGE_BYTES, prot);
    request.addr = addr;
    request.flags = u64::from(flags | abi::MAP_FIXED);
    request.object = Some((object.clone(), 0));
    request
}

fn share(mm: &Mm<Arena>, addr: u64, huge: u64, object: &Arc<Object<Arena>>) {
    assert_eq!(mm.mmap(of_object(addr, huge, RW, abi::MAP_SHARED, object)), Ok(addr));
}

fn anonymous(mm: &Mm<Arena>, addr: u64, huge: u64, flags: u32) -> Result<u64, MmError> {
    let mut request = MapRequest::anonymous(huge * HUGE_BYTES, RW);
    request.addr = addr;
    request.flags = u64::from(flags | abi::MAP_FIXED | abi::MAP_ANONYMOUS | abi::MAP_HUGETLB);
    mm.mmap(request)
}

fn stat(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn page(n: u64) -> u64 {
    BASE + n * HUGE_BYTES
}

#[test]
fn private_huge_pages_are_copied_on_write_in_every_mode() {
    for mode in MODES {
        let arena = machine(4);
        let parent = mm(&arena);
        anonymous(&parent, BASE, 2, abi::MAP_PRIVATE).unwrap();
        arena.user_store(&parent, page(0) + 8 * PAGE_BYTES, 11).unwrap();
        arena.user_store(&parent, page(1), 12).unwrap();
        let child = parent.fork(mode, 0).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(0) + 8 * PAGE_BYTES), Ok(11));
        arena.user_store(&child, page(0) + 16, 21).unwrap();
        arena.audit(&[&parent, &child]);
        assert_eq!(arena.user_load(&child, page(0) + 8 * PAGE_BYTES), Ok(11), "{mode:?}");
        assert_eq!(arena.user_load(&parent, page(0) + 16), Ok(0));
        arena.user_store(&parent, page(0) + 8 * PAGE_BYTES, 31).unwrap();
        assert_eq!(arena.user_load(&child, page(0) + 8 * PAGE_BYTES), Ok(11));
        arena.user_store(&parent, page(1), 32).unwrap();
        assert_eq!(arena.user_load(&child, page(1)), Ok(12));
        arena.audit(&[&parent, &child]);
        drop(parent);
        arena.user_store(&child, page(1), 22).unwrap();
        arena.audit(&[&child]);
        drop(child);
        arena.audit(&[]);
        assert_eq!(counts(&arena), [4, 4, 0, 0]);
    }
}

#[test]
fn a_child_that_finds_the_pool_empty_gets_sigbus_and_the_parent_nothing() {
    let arena = machine(1);
    let parent = mm(&arena);
    anonymous(&parent, BASE, 1, abi::MAP_PRIVATE).unwrap();
    arena.user_store(&parent, BASE, 1).unwrap();
    let child = parent.fork(Sharing::Pte, 0).unwrap();
    assert_eq!(arena.user_store(&child, BASE, 2), Err(FaultOutcome::BusAdrErr));
    drop(child);
    arena.user_store(&parent, BASE, 3).unwrap();
    arena.audit(&[&parent]);
}

#[test]
fn files_allocate_and_a_mount_limits_them() {
    let arena = machine(8);
    let quota = Arc::new(Quota::new());
    quota.max.store(3, Relaxed);
    let info = ObjectInfo::new(7, 2, "/huge/file".into());
    let object = Object::hugetlb(arena.clone(), HugeSize::Mib2, info, 0, Some(quota.clone()));
    object.allocate(0, 2 * HUGE_BYTES, true).unwrap();
    assert_eq!((object.size_bytes(), object.pages(), stat(&quota.used)), (2 * HUGE_BYTES, 1024, 2));
    let mm = mm(&arena);
    assert_eq!(mm.mmap(of_object(BASE, 4, RW, abi::MAP_SHARED, &object)), Err(MmError::NoMemory));
    share(&mm, BASE, 3, &object);
    assert_eq!((object.size_bytes(), stat(&quota.used), counts(&arena)), (3 * HUGE_BYTES, 3, [8, 6, 1, 0]));
    object.truncate(0).unwrap();
    assert_eq!((stat(&quota.used), counts(&arena)), (0, [8, 8, 0, 0]));
    arena.audit(&[&mm]);
}

#[test]
fn requests_are_refused_as_on_linux() {
    let arena = machine(4);
    let mm = mm(&arena);
    let mut odd = MapRequest::anonymous(4096, RW);
    odd.flags |= u64::from(abi::MAP_HUGETLB) | 22 << abi::MAP_HUGE_SHIFT;
    assert_eq!(mm.mmap(odd), Err(MmError::Invalid));
    assert_eq!(anonymous(&mm, BASE + 4096, 1, abi::MAP_PRIVATE), Err(MmError::Invalid));
    let mut small = MapRequest::anonymous(4096, RW);
    small.flags |= u64::from(abi::MAP_HUGETLB);
    let at = mm.mmap(small).unwrap();
    assert!(HugeSize::Mib2.is_aligned(at));
    assert_eq!(mm.munmap(at, 4096), Err(MmError::Invalid));
    assert_eq!(mm.munmap(at + 4096, HUGE_BYTES - 4096), Err(MmError::Invalid));
    assert_eq!(mm.mprotect(at, 4096, READ), Err(MmError::Invalid));
    assert_eq!(mm.mremap(at, HUGE_BYTES, 2 * HUGE_BYTES, 1, 0), Err(MmError::Invalid));
    assert_eq!(mm.madvise(at + 4096, 4096, abi::MADV_DONTNEED.into()), Err(MmError::Invalid));
    assert_eq!(mm.madvise(at, 4096, abi::MADV_DONTNEED.into()), Ok(()));
    assert_eq!(mm.madvise(at, HUGE_BYTES, abi::MADV_FREE.into()), Err(MmError::Invalid));
    assert_eq!(arena.access(&mm, at, Access::EXEC), Err(FaultOutcome::SegvAccErr));
    assert_eq!(mm.mlock(at, 4096, 0), Ok(()));
    let mut seen = 0;
    mm.mincore(at, HUGE_BYTES, &mut |run| {
        seen += run.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 512);
    let object = memfd(&arena, 2);
    let mut off = of_object(BASE, 1, RW, abi::MAP_SHARED, &object);
    off.object = Some((object.clone(), 1));
    assert_eq!(mm.mmap(off), Err(MmError::Invalid));
    mm.munmap(at, HUGE_BYTES).unwrap();
    arena.audit(&[&mm]);
    assert_eq!(counts(&arena), [4, 4, 0, 0]);
}

/// Forks in every mode, with huge pages of all sorts in one GiB, and no frame for a table at each point in turn.
#[test]
fn failures_of_allocation_change_nothing() {
    for mode in MODES {
        for budget in 0..12 {
            let arena = machine(16);
            let object = memfd(&arena, 4);
            let a = mm(&arena);
            anonymous(&a, BASE, 2, abi::MAP_PRIVATE).unwrap();
            share(&a, BASE + 4 * HUGE_BYTES, 4, &object);
            arena.user_store(&a, BASE, 1).unwrap();
            arena.user_store(&a, page(4), 2).unwrap();
            let before = arena.digest(&a);
            arena.budget(budget);
            let child = a.fork(mode, 0);
            arena.unlimited();
            if let Ok(child) = &child {
                arena.audit(&[&a, child]);
                assert_eq!(arena.user_load(child, BASE), Ok(1));
                assert_eq!(arena.user_load(child, page(4)), Ok(2));
            } else {
                arena.audit(&[&a]);
                assert_eq!(arena.digest(&a), before);
            }
            drop(child);
            arena.budget(budget % 3);
            let to = BASE + 3 * GIB;
            let moved = a.mremap(BASE, 2 * HUGE_BYTES, 2 * HUGE_BYTES, 3, to);
            arena.unlimited();
            arena.audit(&[&a]);
            let at = if moved.is_ok() { to } else { BASE };
            assert_eq!(arena.user_load(&a, at), Ok(1));
            arena.user_store(&a, at + HUGE_BYTES, 1).unwrap();
            a.clear();
            arena.audit(&[&a]);
            drop((a, object));
            assert_eq!(counts(&arena), [16, 16, 0, 0]);
        }
    }
}
