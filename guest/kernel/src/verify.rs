//! When the guest asks its host to verify.

use crate::config;
use ptshare_machine::hyper;
use ptshare_wire::hypercall::CheckpointReason;

/// After a process has ended and its address space is gone. No lock is held.
pub fn at_exit(_pid: u32) {
    if config::verify_exit() {
        hyper::checkpoint(CheckpointReason::ProcessExit, b"");
    }
}

/// When a program asks, whatever the boot options say.
pub fn on_request(label: &[u8]) {
    hyper::checkpoint(CheckpointReason::Request, label);
}

/// Before the run ends.
pub fn at_shutdown() {
    if config::verify_exit() {
        hyper::checkpoint(CheckpointReason::Shutdown, b"");
    }
}

/// After a fault, every `verify_faults` of them.
#[inline]
pub fn after_fault(faults: u64) {
    let every = config::verify_faults();
    if every != 0 && faults.is_multiple_of(every) {
        hyper::checkpoint(CheckpointReason::Faults, b"");
    }
}
