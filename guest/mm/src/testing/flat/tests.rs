//! The flat kernel answers as Linux does, and its snapshots see what they must.

use super::*;
use crate::FaultOutcome;
use ptshare_abi::sys::general as abi;
use ptshare_paging::PAGE_BYTES;

const AT: u64 = 0x4000_0000;
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
const PRIVATE: u64 = (abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_FIXED) as u64;
const SHARED: u64 = (abi::MAP_SHARED | abi::MAP_FIXED) as u64;

fn mapped() -> FlatKernel {
    let mut kernel = FlatKernel::new(FlatConfig { frames: 2048, ..FlatConfig::default() });
    let file = kernel.memfd(2 * PAGE_BYTES);
    kernel.pwrite(file, PAGE_BYTES, 77).unwrap();
    assert_eq!(kernel.mmap(1, AT, 4 * PAGE_BYTES, RW, PRIVATE, None), Ok(AT));
    let at = AT + 4 * PAGE_BYTES;
    assert_eq!(kernel.mmap(1, at, 4 * PAGE_BYTES, RW, SHARED, Some((file, 0))), Ok(at));
    kernel
}

#[test]
fn operations_answer_as_their_methods_do() {
    let mut kernel = mapped();
    let file_at = AT + 4 * PAGE_BYTES;
    assert_eq!(kernel.apply(1, &Op::Store { addr: AT, value: 5 }), Answer::Value(0));
    assert_eq!(kernel.apply(1, &Op::Fork), Answer::Value(2));
    assert_eq!(kernel.apply(2, &Op::Load { addr: AT }), Answer::Value(5));
    assert_eq!(kernel.apply(2, &Op::Load { addr: file_at + PAGE_BYTES }), Answer::Value(77));
    let beyond = Op::Load { addr: file_at + 2 * PAGE_BYTES };
    assert_eq!(kernel.apply(2, &beyond), Answer::Fault(FaultOutcome::BusAdrErr));
    assert_eq!(kernel.apply(2, &Op::Peek { addr: AT - 8 }), Answer::Error(Errno::EFAULT));
    assert_eq!(kernel.apply(2, &Op::Munmap { addr: AT + 1, len: 1 }), Answer::Error(Errno::EINVAL));
    kernel.apply(1, &Op::Exit);
    assert_eq!(kernel.pids(), [2]);
    kernel.audit();
}

#[test]
fn snapshots_tell_content_from_how_it_is_kept() {
    let mut kernel = mapped();
    let before = kernel.snapshot();
    // Faults bring pages in and change nothing that is to be seen.
    for page in 0..6 {
        kernel.load(1, AT + page * PAGE_BYTES).unwrap();
    }
    assert_eq!(kernel.snapshot().difference(&before), None);
    let child = kernel.fork(1).unwrap();
    kernel.store(child, AT + 8, 1).unwrap();
    kernel.exit(child);
    assert_eq!(kernel.snapshot().difference(&before), None);
    kernel.store(1, AT + 8, 1).unwrap();
    let difference = kernel.snapshot().difference(&before).unwrap();
    assert!(difference.contains("0x40000000"), "{difference}");
    kernel.store(1, AT + 8, 0).unwrap();
    kernel.pwrite(0, 0, 1).unwrap();
    assert!(kernel.snapshot().difference(&before).unwrap().contains("0x40004000"));
    kernel.pwrite(0, 0, 0).unwrap();
    kernel.mprotect(1, AT, PAGE_BYTES, 0).unwrap();
    assert!(kernel.snapshot().difference(&before).unwrap().contains("VMAs of process 1"));
}

#[test]
fn the_allocation_that_is_to_fail_does() {
    let mut kernel = mapped();
    // A PUD page, a PMD page, a PTE page, the page.
    for k in 1..=4 {
        kernel.arena().fail_at(k);
        assert_eq!(kernel.store(1, AT, 1), Err(FaultOutcome::OutOfMemory));
        assert_eq!(kernel.arena().allocations_refused(), 1);
        kernel = mapped();
    }
    kernel.arena().fail_at(5);
    assert_eq!(kernel.store(1, AT, 1), Ok(()));
    assert_eq!((kernel.arena().allocations_asked(), kernel.arena().allocations_refused()), (4, 0));
    kernel.arena().fail_at(0);
    kernel.audit();
}

#[test]
fn a_shortage_lasts_until_it_is_lifted() {
    let kernel = mapped();
    kernel.arena().fail_from(2);
    for _ in 0..3 {
        assert_eq!(kernel.store(1, AT, 1), Err(FaultOutcome::OutOfMemory));
    }
    assert_eq!((kernel.arena().allocations_asked(), kernel.arena().allocations_refused()), (4, 3));
    kernel.arena().fail_at(0);
    assert_eq!(kernel.store(1, AT, 1), Ok(()));
    kernel.audit();
}
