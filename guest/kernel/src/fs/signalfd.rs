//! Descriptors that signals are read from (signalfd(2)): those that are pending for the reader.

use super::io::Sink;
use super::pipe::interrupted;
use super::poll::{POLLIN, POLLRDNORM};
use crate::signal::{SigInfo, UNBLOCKABLE};
use crate::syscall::SysResult;
use crate::task::{WaitQueue, current};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;

/// Bytes of `struct signalfd_siginfo`.
const INFO_BYTES: u64 = 128;
/// Everybody who waits for a signal by descriptor: each looks for its own.
static ARRIVALS: WaitQueue = WaitQueue::new();

/// A signal has been queued for somebody.
pub fn signal_queued() {
    ARRIVALS.wake_all();
}

/// A set of signals to read.
pub struct SignalSet(AtomicU64);

impl SignalSet {
    /// The set; SIGKILL and SIGSTOP are never in it.
    pub fn new(mask: u64) -> SignalSet {
        SignalSet(AtomicU64::new(mask & !UNBLOCKABLE))
    }

    /// Replaces the set.
    pub fn set(&self, mask: u64) {
        self.0.store(mask & !UNBLOCKABLE, Relaxed);
        ARRIVALS.wake_all();
    }

    fn take(&self) -> Option<SigInfo> {
        let task = current();
        let process = &task.process;
        let info = process.signals.lock().take(&task, self.0.load(Relaxed), &process.shared_pending);
        if info.is_some() {
            crate::signal::recalc(&task);
        }
        info
    }

    /// Reads what is pending, as many records as fit, waiting for the first.
    ///
    /// # Errors
    /// EINVAL for less than a record; EAGAIN, EFAULT, a signal that is not in the set.
    pub fn read(&self, sink: &mut Sink, nonblock: bool) -> SysResult {
        if sink.left() < INFO_BYTES {
            return Err(Errno::EINVAL.into());
        }
        let mut info = match self.take() {
            Some(info) => info,
            None if nonblock => return Err(Errno::EAGAIN.into()),
            None => ARRIVALS.wait(None, || self.take()).map_err(interrupted)?,
        };
        loop {
            sink.put(&record(&info))?;
            if sink.left() < INFO_BYTES {
                break;
            }
            match self.take() {
                Some(next) => info = next,
                None => break,
            }
        }
        Ok(sink.done())
    }

    /// Readiness for the caller.
    pub fn poll(&self) -> u32 {
        let task = current();
        let pending = task.pending.load(Relaxed) | task.process.shared_pending.load(Relaxed);
        if pending & self.0.load(Relaxed) != 0 { POLLIN | POLLRDNORM } else { 0 }
    }

    /// Woken when a signal arrives anywhere.
    pub fn queue(&self) -> &WaitQueue {
        &ARRIVALS
    }
}

/// `struct signalfd_siginfo` (include/uapi/linux/signalfd.h), as far as the signal's sort has the fields.
fn record(info: &SigInfo) -> [u8; INFO_BYTES as usize] {
    let mut bytes = [0; INFO_BYTES as usize];
    let mut put = |at: usize, word: &[u8]| {
        if let Some(field) = bytes.get_mut(at..at + word.len()) {
            field.copy_from_slice(word);
        }
    };
    let [first, second, utime, stime] = info.words;
    put(0, &info.signo.to_le_bytes());
    put(4, &info.errno.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    // ssi_pid and ssi_uid.
    put(12, &first.to_le_bytes());
    // ssi_status and ssi_int; ssi_ptr.
    put(40, &(second as u32).to_le_bytes());
    put(44, &(second as u32).to_le_bytes());
    put(48, &second.to_le_bytes());
    put(56, &utime.to_le_bytes());
    put(64, &stime.to_le_bytes());
    // ssi_addr.
    put(72, &first.to_le_bytes());
    bytes
}
