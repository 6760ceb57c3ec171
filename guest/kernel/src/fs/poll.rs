//! Readiness (poll(2)): the bits, and waiting on many files.

use super::file::File;
use crate::task::wait::{WaitError, wait_many};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// There is something to read.
pub const POLLIN: u32 = 1;
/// There is something urgent.
pub const POLLPRI: u32 = 2;
/// Writing would not wait.
pub const POLLOUT: u32 = 4;
/// An error; always reported.
pub const POLLERR: u32 = 8;
/// Hung up; always reported.
pub const POLLHUP: u32 = 0x10;
/// Not an open descriptor; always reported.
pub const POLLNVAL: u32 = 0x20;
/// As POLLIN.
pub const POLLRDNORM: u32 = 0x40;
/// As POLLOUT.
pub const POLLWRNORM: u32 = 0x100;
/// Waits until `ready` gives a value, looking again whenever one of the files may have changed. Hold no lock.
///
/// # Errors
/// A signal, or the deadline (monotonic, ns).
pub fn wait_files<T>(
    files: &[Option<Arc<File>>],
    deadline_ns: Option<u64>,
    ready: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    let mut queues = Vec::new();
    for file in files.iter().flatten() {
        file.poll_queues(&mut |queue| queues.push(queue));
    }
    wait_many(&queues, deadline_ns, ready)
}
