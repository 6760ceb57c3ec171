//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! The bytes lie in kernel frames, taken one by one as the pipe fills, addressed by two counters that only grow: byte
//! `n` is in page `n / 4096` modulo the number of pages. Only a writer that has the write hold moves `head`, only a
//! reader that has the read hold moves `tail`; each copies between user memory and the frames first. The list of frames
//! is under its own lock (`Rank::Pipe`), held for one look.

use super::caller;
use super::hold::Hold;
use super::io::{Sink, Source, total};
use crate::syscall::{Restart, SysErr};
use crate::task::{WaitError, WaitQueue};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::Env;
use ptshare_mm::frame::{alloc_kernel, free_kernel};
use ptshare_paging::Pfn;
use ptshare_sync::{Lock, Rank};

/// Writes up to this many bytes are never split (PIPE_BUF).
pub const PIPE_BUF: u64 = 4096;
/// Pages of a new pipe.
const DEFAULT_PAGES: usize = 16;
/// Largest pipe without CAP_SYS_RESOURCE, bytes (/proc/sys/fs/pipe-max-size).
pub const PIPE_MAX: u64 = 1 << 20;
/// Largest pipe at all, bytes.
const PIPE_LIMIT: u64 = 1 << 30;

/// A pipe.
pub struct Pipe {
    pages: Lock<Vec<Option<Pfn>>>,
    capacity: AtomicU64,
    head: AtomicU64,
    tail: AtomicU64,
    readers: AtomicU32,
    writers: AtomicU32,
    /// Times that it was opened for reading and for writing: what an opener of a FIFO waits for.
    read_opens: AtomicU32,
    write_opens: AtomicU32,
    read_hold: Hold,
    write_hold: Hold,
    /// Woken when there is something to read, or no writer any more.
    pub readable: WaitQueue,
    /// Woken when there is room, or no reader any more.
    pub writable: WaitQueue,
}

impl Default for Pipe {
    fn default() -> Self {
        Self::new()
    }
}

/// How a wait of ours ended, as a system call says it.
pub fn interrupted(_: WaitError) -> SysErr {
    SysErr::Restart(Restart::Sys)
}

impl Pipe {
    /// An empty pipe that nobody has open.
    pub fn new() -> Pipe {
        Pipe::with_pages(DEFAULT_PAGES)
    }

    /// As [`Pipe::new`], with room for so many pages.
    pub fn with_pages(pages: usize) -> Pipe {
        Pipe {
            pages: Lock::new(Rank::Pipe, Vec::new()),
            capacity: AtomicU64::new(pages as u64 * 4096),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            readers: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            read_opens: AtomicU32::new(0),
            write_opens: AtomicU32::new(0),
            read_hold: Hold::new(),
            write_hold: Hold::new(),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        }
    }

    /// Bytes waiting.
    pub fn waiting(&self) -> u64 {
        self.head.load(SeqCst).saturating_sub(self.tail.load(SeqCst))
    }

    /// Bytes that fit now.
    fn room(&self) -> u64 {
        self.capacity.load(Relaxed).saturating_sub(self.waiting())
    }

    /// Capacity in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Relaxed)
    }

    /// Has nobody it open for reading (any more)?
    pub fn no_readers(&self) -> bool {
        self.readers.load(SeqCst) == 0
    }

    /// Has nobody it open for writing (any more)?
    pub fn no_writers(&self) -> bool {
        self.writers.load(SeqCst) == 0
    }

    /// Opens both ends of a fresh pipe: one reader, one writer.
    pub fn open_both(&self) {
        self.readers.store(1, SeqCst);
        self.writers.store(1, SeqCst);
    }

    /// Opens a FIFO.
    ///
    /// # Errors
    /// ENXIO for writing without waiting where nobody reads; a signal while it waits for the other side.
    pub fn open_fifo(&self, read: bool, write: bool, nonblock: bool) -> Result<(), SysErr> {
        if write && !read && nonblock && self.no_readers() {
            return Err(Errno::ENXIO.into());
        }
        if read {
            self.readers.fetch_add(1, SeqCst);
            self.read_opens.fetch_add(1, SeqCst);
            self.writable.wake_all();
        }
        if write {
            self.writers.fetch_add(1, SeqCst);
            self.write_opens.fetch_add(1, SeqCst);
            self.readable.wake_all();
        }
        if read && write || nonblock {
            return Ok(());
        }
        let (queue, others, opens) = if read {
            (&self.readable, &self.writers, &self.write_opens)
        } else {
            (&self.writable, &self.readers, &self.read_opens)
        };
        if others.load(SeqCst) != 0 {
            return Ok(());
        }
        let before = opens.load(SeqCst);
        let waited = queue.wait(None, || (opens.load(SeqCst) != before).then_some(()));
        waited.map_err(|error| {
            self.close(read, write);
            interrupted(error)
        })
    }

    /// Opens an end, or both, once more.
    pub fn open_again(&self, read: bool, write: bool) {
        if read {
            self.readers.fetch_add(1, SeqCst);
        }
        if write {
            self.writers.fetch_add(1, SeqCst);
        }
    }

    /// Closes one opening.
    pub fn close(&self, read: bool, write: bool) {
        if read && self.readers.fetch_sub(1, SeqCst) == 1 {
            self.writable.wake_all();
        }
        if write && self.writers.fetch_sub(1, SeqCst) == 1 {
            self.readable.wake_all();
        }
    }

    /// The frame of the page that holds byte `n`, taken now if there is none.
    fn frame(&self, n: u64) -> Option<Pfn> {
        let mut pages = self.pages.lock();
        let count = (self.capacity.load(Relaxed) / 4096) as usize;
        if pages.len() < count {
            let more = count - pages.len();
            pages.try_reserve(more).ok()?;
            pages.resize(count, None);
        }
        let slot = pages.get_mut((n / 4096) as usize % count)?;
        if slot.is_none() {
            crate::heap_room().ok()?;
            *slot = Some(alloc_kernel(&Machine, 0, false).ok()?);
        }
        *slot
    }

    /// Reads what is there, waiting for the first byte.
    ///
    /// # Errors
    /// EAGAIN, EFAULT, a signal.
    pub fn read(&self, sink: &mut Sink, nonblock: bool) -> Result<u64, SysErr> {
        if sink.left() == 0 {
            return Ok(0);
        }
        loop {
            if self.waiting() > 0 {
                let got = self.take(sink)?;
                if got > 0 {
                    self.writable.wake_all();
                    return Ok(got);
                }
                continue;
            }
            if self.no_writers() {
                // A last write may have come between the two looks.
                if self.waiting() > 0 {
                    continue;
                }
                return Ok(0);
            }
            if nonblock {
                return Err(Errno::EAGAIN.into());
            }
            let ready = || (self.waiting() > 0 || self.no_writers()).then_some(());
            self.readable.wait(None, ready).map_err(interrupted)?;
        }
    }

    /// A copy of what is there, up to `len` bytes and to one page, waiting for the first byte; it stays in the pipe.
    ///
    /// # Errors
    /// EAGAIN, ENOMEM, a signal.
    pub fn peek(&self, len: u64, nonblock: bool) -> Result<Vec<u8>, SysErr> {
        let ready = || (self.waiting() > 0 || self.no_writers()).then_some(());
        if ready().is_none() {
            if nonblock {
                return Err(Errno::EAGAIN.into());
            }
            self.readable.wait(None, ready).map_err(interrupted)?;
        }
        let _held = self.read_hold.take();
        let tail = self.tail.load(Relaxed);
        let mut bytes = Vec::new();
        let part = (4096 - tail % 4096).min(self.waiting()).min(len) as usize;
        bytes.try_reserve_exact(part).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(part, 0);
        if let Some(frame) = self.frame(tail) {
            Machine.read_phys(frame.pa().0 + tail % 4096, &mut bytes);
        }
        Ok(bytes)
    }

    fn take(&self, sink: &mut Sink) -> Result<u64, SysErr> {
        let _held = self.read_hold.take();
        let before = sink.done();
        let mut result = Ok(());
        let mut tail = self.tail.load(Relaxed);
        let head = self.head.load(SeqCst);
        while tail < head && sink.left() > 0 && result.is_ok() {
            let Some(frame) = self.frame(tail) else { break };
            let part = (4096 - tail % 4096).min(head - tail);
            let at = sink.done();
            result = sink.put_phys(frame.pa().0 + tail % 4096, part).map(|_| ());
            tail += sink.done() - at;
        }
        self.tail.store(tail, SeqCst);
        total(sink.done() - before, result)
    }

    /// Writes everything, waiting for room; atomically up to PIPE_BUF bytes.
    ///
    /// # Errors
    /// EPIPE (with SIGPIPE) when nobody reads; EAGAIN, EFAULT, ENOMEM, a signal: only if nothing was written.
    pub fn write(&self, source: &mut Source, nonblock: bool) -> Result<u64, SysErr> {
        self.write_or(source, nonblock, caller::sigpipe)
    }

    /// As [`Pipe::write`]; `broken` says what it means that nobody reads.
    ///
    /// # Errors
    /// As [`Pipe::write`], with what `broken` gives for EPIPE.
    pub fn write_or(
        &self,
        source: &mut Source,
        nonblock: bool,
        broken: fn() -> Errno,
    ) -> Result<u64, SysErr> {
        let before = source.done();
        let fail = |source: &Source, error: SysErr| match source.done() - before {
            0 => Err(error),
            done => Ok(done),
        };
        if self.no_readers() && source.left() > 0 {
            return Err(broken().into());
        }
        while source.left() > 0 {
            let need = if source.left() <= PIPE_BUF && source.done() == before { source.left() } else { 1 };
            if self.no_readers() {
                return fail(source, broken().into());
            }
            if self.room() >= need {
                match self.give(source, need) {
                    Ok(0) => {}
                    Ok(_) => self.readable.wake_all(),
                    Err(error) => return fail(source, error),
                }
                continue;
            }
            if nonblock {
                return fail(source, Errno::EAGAIN.into());
            }
            let ready = || (self.room() >= need || self.no_readers()).then_some(());
            if let Err(error) = self.writable.wait(None, ready) {
                return fail(source, interrupted(error));
            }
        }
        Ok(source.done() - before)
    }

    fn give(&self, source: &mut Source, need: u64) -> Result<u64, SysErr> {
        let _held = self.write_hold.take();
        if self.waiting() == 0 {
            // Empty: start again at the first byte, so that light use stays in one frame.
            let _reader = self.read_hold.take();
            if self.head.load(Relaxed) == self.tail.load(Relaxed) {
                self.tail.store(0, SeqCst);
                self.head.store(0, SeqCst);
            }
        }
        let mut room = self.room();
        if room < need {
            return Ok(0);
        }
        let before = source.done();
        let mut result = Ok(());
        let mut head = self.head.load(Relaxed);
        while room > 0 && source.left() > 0 && result.is_ok() {
            let Some(frame) = self.frame(head) else {
                if source.done() == before {
                    return Err(Errno::ENOMEM.into());
                }
                break;
            };
            let part = (4096 - head % 4096).min(room);
            let at = source.done();
            result = source.get_phys(frame.pa().0 + head % 4096, part).map(|_| ());
            let got = source.done() - at;
            head += got;
            room -= got;
        }
        self.head.store(head, SeqCst);
        total(source.done() - before, result)
    }

    /// POLLIN and the like for one side.
    pub fn poll(&self, read: bool, write: bool) -> u32 {
        use super::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
        let mut events = 0;
        if read {
            if self.waiting() > 0 {
                events |= POLLIN | POLLRDNORM;
            }
            if self.no_writers() && self.write_opens_or_pipe() {
                events |= POLLHUP;
            }
        }
        if write {
            if self.room() >= PIPE_BUF.min(self.capacity()) {
                events |= POLLOUT | POLLWRNORM;
            }
            if self.no_readers() {
                events |= POLLERR;
            }
        }
        events
    }

    /// A FIFO that no writer has opened yet is not hung up.
    fn write_opens_or_pipe(&self) -> bool {
        self.read_opens.load(Relaxed) == 0 || self.write_opens.load(Relaxed) != 0
    }

    /// F_SETPIPE_SZ.
    ///
    /// # Errors
    /// EPERM above the limit, EBUSY when the content would not fit, EINVAL, ENOMEM.
    pub fn resize(&self, bytes: u64) -> Result<u64, Errno> {
        if bytes > PIPE_LIMIT {
            return Err(Errno::EINVAL);
        }
        let size = bytes.max(4096).next_power_of_two();
        if size > PIPE_MAX {
            caller::need(caller::CAP_SYS_RESOURCE)?;
        }
        let _writer = self.write_hold.take();
        let _reader = self.read_hold.take();
        let (head, tail) = (self.head.load(Relaxed), self.tail.load(Relaxed));
        let first = tail / 4096;
        let used = if head == tail { 0 } else { (head - 1) / 4096 + 1 - first };
        let count = (size / 4096) as usize;
        if used > count as u64 {
            return Err(Errno::EBUSY);
        }
        let mut fresh: Vec<Option<Pfn>> = Vec::new();
        fresh.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        fresh.resize(count, None);
        let mut pages = self.pages.lock();
        let old_count = pages.len();
        for page in first..first + used {
            if old_count > 0 {
                fresh[page as usize % count] = pages[page as usize % old_count].take();
            }
        }
        let old = core::mem::replace(&mut *pages, fresh);
        self.capacity.store(size, Relaxed);
        drop(pages);
        free_all(old);
        self.writable.wake_all();
        Ok(size)
    }
}

fn free_all(pages: Vec<Option<Pfn>>) {
    for pfn in pages.into_iter().flatten() {
        free_kernel(&Machine, pfn, 0);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        free_all(core::mem::take(self.pages.get_mut()));
    }
}
