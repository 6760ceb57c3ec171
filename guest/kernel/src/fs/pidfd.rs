//! Descriptors of processes (pidfd_open(2)): readable once the process has ended.

use super::file::{File, O_NONBLOCK, O_RDWR, Ops};
use super::inode::Kind;
use super::memfd::nameless;
use super::poll::{POLLHUP, POLLIN, POLLRDNORM};
use crate::task::{Process, WaitQueue};
use alloc::sync::Arc;

/// A process, named for good.
pub struct Pidfd(Arc<Process>);

impl Pidfd {
    /// The process, whatever has become of it.
    pub fn process(&self) -> &Arc<Process> {
        &self.0
    }

    /// Readiness.
    pub fn poll(&self) -> u32 {
        match (self.0.is_dead(), self.0.is_reaped()) {
            (_, true) => POLLIN | POLLRDNORM | POLLHUP,
            (true, false) => POLLIN | POLLRDNORM,
            _ => 0,
        }
    }

    /// Woken when the process has ended.
    pub fn queue(&self) -> &WaitQueue {
        &self.0.exit_wait
    }
}

/// An open file that names a process.
pub fn open(process: Arc<Process>, nonblock: bool) -> Arc<File> {
    let path = nameless(b"anon_inode:[pidfd]", 0o600, Kind::Anonymous);
    let flags = O_RDWR | if nonblock { O_NONBLOCK } else { 0 };
    File::new(path, Ops::Pidfd(Pidfd(process)), flags)
}
