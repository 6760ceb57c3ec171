//! One direction of a connection: a pipe's bytes, and the descriptors that travel with them.

use super::rights::{self, Rights};
use crate::fs::caller;
use crate::fs::io::{Sink, Source};
use crate::fs::pipe::{Pipe, interrupted};
use crate::syscall::SysResult;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// Pages that a direction holds at most: Linux's default of /proc/sys/net/core/wmem_default, 208 KiB.
const PAGES: usize = 52;

/// One direction.
pub struct Channel {
    /// The bytes.
    pub pipe: Pipe,
    reader_gone: AtomicBool,
    writer_gone: AtomicBool,
    /// The writer went without having read what was sent to it, which the reader has not been told yet.
    reset: AtomicBool,
    /// Descriptors, with the numbers of the bytes of their message: they come with the first.
    rights: Lock<VecDeque<(Range<u64>, Rights)>>,
    /// Is `rights` not empty? Spares every read a look.
    any_rights: AtomicBool,
    sent: AtomicU64,
    taken: AtomicU64,
}

impl Channel {
    /// Empty, with nobody at either end.
    pub fn new() -> Channel {
        Channel {
            pipe: Pipe::with_pages(PAGES),
            reader_gone: AtomicBool::new(false),
            writer_gone: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            rights: Lock::new(Rank::Files, VecDeque::new()),
            any_rights: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    /// A reader and a writer have come.
    pub fn open(&self) {
        self.pipe.open_both();
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> u64 {
        self.pipe.waiting()
    }

    /// Will nothing more be written?
    pub fn write_closed(&self) -> bool {
        self.writer_gone.load(SeqCst)
    }

    /// Nothing more will be read: who writes gets EPIPE.
    pub fn close_read(&self) {
        if !self.reader_gone.swap(true, SeqCst) {
            self.pipe.close(true, false);
        }
    }

    /// Nothing more will be written: who reads sees the end.
    pub fn close_write(&self) {
        if !self.writer_gone.swap(true, SeqCst) {
            self.pipe.close(false, true);
        }
    }

    /// The writer is about to go, with bytes to it unread.
    pub fn set_reset(&self) {
        self.reset.store(true, SeqCst);
    }

    /// Is the reader to be told ECONNRESET?
    pub fn is_reset(&self) -> bool {
        self.reset.load(SeqCst)
    }

    /// Has it to be told now? Only once.
    pub fn take_reset(&self) -> bool {
        self.is_reset() && self.reset.swap(false, SeqCst)
    }

    /// Lets go of descriptors that nobody will receive.
    pub fn drop_rights(&self) {
        let all = core::mem::take(&mut *self.rights.lock());
        self.any_rights.store(false, SeqCst);
        for (_, rights) in all {
            rights::bury(rights);
        }
    }

    /// See [`super::Socket::send`].
    pub fn send(
        &self,
        source: &mut Source,
        nonblock: bool,
        quiet: bool,
        rights: Option<Rights>,
    ) -> SysResult {
        let broken = if quiet { || Errno::EPIPE } else { caller::sigpipe };
        if self.write_closed() {
            return Err(broken().into());
        }
        let carries = rights.is_some();
        let at = self.sent.load(SeqCst);
        if let Some(rights) = rights {
            let mut queue = self.rights.lock();
            if queue.try_reserve(1).is_err() {
                return Err(Errno::ENOMEM.into());
            }
            queue.push_back((at..at + source.left(), rights));
            self.any_rights.store(true, SeqCst);
        }
        match self.pipe.write_or(source, nonblock, broken) {
            Ok(wrote) => {
                self.sent.fetch_add(wrote, SeqCst);
                Ok(wrote)
            }
            Err(error) => {
                if carries {
                    // Nothing went out: neither do they.
                    let mine = {
                        let mut queue = self.rights.lock();
                        let found = queue.iter().rposition(|(bytes, _)| bytes.start == at);
                        found.and_then(|found| queue.remove(found))
                    };
                    drop(mine);
                }
                Err(error)
            }
        }
    }

    /// See [`super::Socket::receive`]. A read ends with a message that has descriptors, and
    /// before one.
    pub fn receive(&self, sink: &mut Sink, nonblock: bool, rights: Option<&mut Vec<Rights>>) -> SysResult {
        if !self.any_rights.load(SeqCst) {
            let got = self.pipe.read(sink, nonblock)?;
            self.taken.fetch_add(got, SeqCst);
            if got == 0 && sink.left() > 0 && self.take_reset() {
                return Err(Errno::ECONNRESET.into());
            }
            return Ok(got);
        }
        let ready = || (self.pipe.waiting() > 0 || self.pipe.no_writers()).then_some(());
        if ready().is_none() {
            if nonblock {
                return Err(Errno::EAGAIN.into());
            }
            self.pipe.readable.wait(None, ready).map_err(interrupted)?;
        }
        let (came, most) = self.due();
        if let Some(came) = came {
            match rights {
                Some(rights) => rights.push(came),
                None => rights::bury(came),
            }
        }
        let later = sink.hold_back(most);
        let got = self.pipe.read(sink, nonblock);
        sink.give_back(later);
        let got = got?;
        self.taken.fetch_add(got, SeqCst);
        Ok(got)
    }

    /// The descriptors that come with the next byte, and how many bytes may be read up to the next ones.
    fn due(&self) -> (Option<Rights>, u64) {
        let mut queue = self.rights.lock();
        let taken = self.taken.load(SeqCst);
        let came = match queue.front() {
            Some((bytes, _)) if bytes.start <= taken => queue.pop_front(),
            _ => None,
        };
        let next = queue.front().map_or(u64::MAX, |(bytes, _)| bytes.start);
        let end = came.as_ref().map_or(next, |(bytes, _)| bytes.end.min(next));
        let (came, most) = (came.map(|(_, rights)| rights), end.saturating_sub(taken).max(1));
        self.any_rights.store(!queue.is_empty(), Relaxed);
        (came, most)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.drop_rights();
    }
}
