//! eventfd(2): a counter that can be waited for.

use super::io::{Sink, Source};
use super::pipe::interrupted;
use super::poll::{POLLERR, POLLIN, POLLOUT};
use super::text::Text;
use crate::syscall::SysResult;
use crate::task::WaitQueue;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use ptshare_abi::Errno;

/// The counter of an eventfd.
pub struct EventCounter {
    value: AtomicU64,
    semaphore: bool,
    changed: WaitQueue,
}

impl EventCounter {
    /// A counter; `semaphore`: a read takes 1 instead of all (EFD_SEMAPHORE).
    pub fn new(value: u64, semaphore: bool) -> Self {
        EventCounter { value: AtomicU64::new(value), semaphore, changed: WaitQueue::new() }
    }

    fn take(&self) -> Option<u64> {
        let left = |n: u64| (n > 0).then(|| if self.semaphore { n - 1 } else { 0 });
        let before = self.value.fetch_update(SeqCst, SeqCst, left).ok()?;
        Some(if self.semaphore { 1 } else { before })
    }

    /// Takes the value (or 1), waiting for one above 0.
    ///
    /// # Errors
    /// EINVAL for less than 8 bytes; EAGAIN, EFAULT, a signal.
    pub fn read(&self, sink: &mut Sink, nonblock: bool) -> SysResult {
        if sink.left() < 8 {
            return Err(Errno::EINVAL.into());
        }
        let value = match self.take() {
            Some(value) => value,
            None if nonblock => return Err(Errno::EAGAIN.into()),
            None => self.changed.wait(None, || self.take()).map_err(interrupted)?,
        };
        self.changed.wake_all();
        sink.put(&value.to_le_bytes())?;
        Ok(8)
    }

    /// Adds a value, waiting until it fits.
    ///
    /// # Errors
    /// EINVAL for less than 8 bytes or the largest number; EAGAIN, EFAULT, a signal.
    pub fn write(&self, source: &mut Source, nonblock: bool) -> SysResult {
        if source.left() < 8 {
            return Err(Errno::EINVAL.into());
        }
        let mut bytes = [0u8; 8];
        source.get(&mut bytes)?;
        let add = u64::from_le_bytes(bytes);
        if add == u64::MAX {
            return Err(Errno::EINVAL.into());
        }
        let fits = |n: u64| n.checked_add(add).filter(|sum| *sum < u64::MAX);
        let attempt = || self.value.fetch_update(SeqCst, SeqCst, fits).ok();
        if attempt().is_none() {
            if nonblock {
                return Err(Errno::EAGAIN.into());
            }
            self.changed.wait(None, attempt).map_err(interrupted)?;
        }
        self.changed.wake_all();
        Ok(8)
    }

    /// Readiness.
    pub fn poll(&self) -> u32 {
        match self.value.load(SeqCst) {
            0 => POLLOUT,
            u64::MAX => POLLIN | POLLERR,
            n if n == u64::MAX - 1 => POLLIN,
            _ => POLLIN | POLLOUT,
        }
    }

    /// Its lines in /proc/PID/fdinfo.
    pub fn fd_info(&self, t: &mut Text) {
        let value = self.value.load(SeqCst);
        t.s("eventfd-count: ");
        // As "%16llx".
        for _ in (64 - value.leading_zeros()).div_ceil(4).max(1)..16 {
            t.c(b' ');
        }
        t.hex(value, 1);
        t.s("\neventfd-semaphore: ").dec(u64::from(self.semaphore)).c(b'\n');
    }

    /// See [`super::file::File::poll_queues`].
    pub fn queues<'a>(&'a self, f: &mut dyn FnMut(&'a WaitQueue)) {
        f(&self.changed);
    }
}
