//! When the guest asks its host to verify.

use crate::answers::{self, Given};
use crate::config;
use ptshare_machine::hyper;
use ptshare_wire::answers::ANSWER_FRAMES;
use ptshare_wire::hypercall::CheckpointReason;

/// After a process has ended and its address space is gone. No lock is held.
pub fn at_exit(_pid: u32) {
    if config::verify_exit() {
        hyper::checkpoint(CheckpointReason::ProcessExit, b"");
    }
}

/// Frames whose reverse maps are checked each time a program asks for a verification.
const SAMPLE: usize = 2;

/// When a program asks, whatever the boot options say.
pub fn on_request(label: &[u8]) {
    let given = answers::sample(SAMPLE);
    on_request_given(label, &given);
}

/// The same, with as many answers as there is room for: reverse maps, and /proc's numbers of processes.
pub fn on_request_with_answers(label: &[u8]) {
    let given = answers::sample(ANSWER_FRAMES);
    answers::usages(&given);
    on_request_given(label, &given);
}

/// While answers stand for the host to look at.
pub fn on_request_given(label: &[u8], _given: &Given) {
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
