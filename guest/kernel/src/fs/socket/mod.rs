//! Unix stream sockets (unix(7); Linux: net/unix/af_unix.c).
//!
//! A socket has both its channels from the beginning: the one that it reads from and the one that it writes to. Who
//! connects hands them to the socket that accept will give, the other way round, so that neither ever changes, and a
//! connection costs no copying between queues. Connections that wait to be accepted lie with the listener.

mod channel;
mod connect;
pub mod name;
mod rights;

pub use channel::Channel;
pub use name::Place;
pub use rights::Rights;

use super::caller;
use super::file::File;
use super::io::{Sink, Source};
use super::memfd::nameless;
use super::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use crate::fs::file::{O_RDWR, Ops};
use crate::fs::inode::{Kind, S_IFSOCK};
use crate::syscall::{SysErr, SysResult};
use crate::task::{WaitQueue, current};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// POLLRDHUP: the other side writes no more.
const POLLRDHUP: u32 = 0x2000;
/// POLLWRBAND, which Linux reports of writable Unix sockets.
const POLLWRBAND: u32 = 0x200;
/// How far a socket has come.
mod phase {
    /// Neither connected nor listening.
    pub const FRESH: u32 = 0;
    /// connect is under way.
    pub const CONNECTING: u32 = 1;
    /// Connected.
    pub const CONNECTED: u32 = 2;
    /// Takes connections.
    pub const LISTENING: u32 = 3;
    /// Closed, or a listener that was shut down.
    pub const CLOSED: u32 = 4;
}

/// Who is at the other end (`struct ucred`).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Process.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Peer {
    /// The caller.
    pub fn caller() -> Peer {
        let cred = caller::creds();
        Peer { pid: current().process.pid, uid: cred.euid, gid: cred.egid }
    }

    /// What SO_PEERCRED says of nobody.
    const NOBODY: Peer = Peer { pid: 0, uid: u32::MAX, gid: u32::MAX };
}

/// What changes in a socket's life.
struct State {
    /// Its own address: the bytes of `sun_path`, empty without a name.
    name: Vec<u8>,
    /// The other side's.
    peer_name: Vec<u8>,
    /// Who connected, or whoever called listen.
    peer: Peer,
    /// How many connections may wait beyond the first.
    backlog: usize,
    /// Connections that wait to be accepted.
    queue: VecDeque<Arc<Socket>>,
}

/// A socket.
pub struct Socket {
    rx: Arc<Channel>,
    tx: Arc<Channel>,
    phase: AtomicU32,
    state: Lock<State>,
}

impl Socket {
    fn with(
        rx: Arc<Channel>,
        tx: Arc<Channel>,
        phase: u32,
        names: (Vec<u8>, Vec<u8>),
        peer: Peer,
    ) -> Arc<Socket> {
        let (name, peer_name) = names;
        let state = State { name, peer_name, peer, backlog: 0, queue: VecDeque::new() };
        Arc::new(Socket { rx, tx, phase: AtomicU32::new(phase), state: Lock::new(Rank::Files, state) })
    }

    /// A socket that is neither bound nor connected.
    pub fn new() -> Arc<Socket> {
        let (rx, tx) = (Arc::new(Channel::new()), Arc::new(Channel::new()));
        Socket::with(rx, tx, phase::FRESH, Default::default(), Peer::NOBODY)
    }

    /// Two sockets that are connected to each other (socketpair).
    pub fn pair() -> (Arc<Socket>, Arc<Socket>) {
        let (there, back) = (Arc::new(Channel::new()), Arc::new(Channel::new()));
        there.open();
        back.open();
        let end = |rx: &Arc<Channel>, tx: &Arc<Channel>| {
            Socket::with(rx.clone(), tx.clone(), phase::CONNECTED, Default::default(), Peer::caller())
        };
        (end(&there, &back), end(&back, &there))
    }

    /// An open file for it.
    pub fn into_file(self: Arc<Socket>, flags: u32) -> Arc<File> {
        let path = nameless(b"socket:", S_IFSOCK | 0o777, Kind::Socket(Place::default()));
        File::new(path, Ops::Socket(self), O_RDWR | flags)
    }

    /// Bytes that wait to be read (FIONREAD).
    ///
    /// # Errors
    /// EINVAL for a listener.
    pub fn waiting(&self) -> Result<u64, Errno> {
        if self.is_listening() { Err(Errno::EINVAL) } else { Ok(self.rx.waiting()) }
    }

    /// Does it take connections?
    pub fn is_listening(&self) -> bool {
        self.phase.load(SeqCst) == phase::LISTENING
    }

    /// Is it connected?
    pub fn is_connected(&self) -> bool {
        self.phase.load(SeqCst) == phase::CONNECTED
    }

    /// Its own address, as the bytes of `sun_path`.
    pub fn name(&self) -> Vec<u8> {
        self.state.lock().name.clone()
    }

    /// The other side's address.
    ///
    /// # Errors
    /// ENOTCONN.
    pub fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        if self.is_connected() { Ok(self.state.lock().peer_name.clone()) } else { Err(Errno::ENOTCONN) }
    }

    /// The error that waits to be told (SO_ERROR), which is told once.
    pub fn take_error(&self) -> Option<Errno> {
        (self.is_connected() && self.rx.take_reset()).then_some(Errno::ECONNRESET)
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.state.lock().peer
    }

    /// Notes the address that it has been bound to.
    ///
    /// # Errors
    /// EINVAL where it has one.
    fn set_name(&self, name: Vec<u8>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if !state.name.is_empty() {
            return Err(Errno::EINVAL);
        }
        state.name = name;
        Ok(())
    }

    /// Reads, waiting for the first byte. `rights`: where descriptors that come with it go; without it they are lost.
    ///
    /// # Errors
    /// EINVAL for a socket that is not connected; EAGAIN, EFAULT, a signal.
    pub fn receive(&self, sink: &mut Sink, nonblock: bool, rights: Option<&mut Vec<Rights>>) -> SysResult {
        if !self.is_connected() {
            return Err(Errno::EINVAL.into());
        }
        self.rx.receive(sink, nonblock, rights)
    }

    /// A copy of what waits, up to a page; it stays.
    ///
    /// # Errors
    /// As [`Socket::receive`].
    pub fn peek(&self, len: u64, nonblock: bool) -> Result<Vec<u8>, SysErr> {
        if !self.is_connected() {
            return Err(Errno::EINVAL.into());
        }
        self.rx.pipe.peek(len, nonblock)
    }

    /// Writes everything, waiting for room. `quiet`: without SIGPIPE (MSG_NOSIGNAL).
    ///
    /// # Errors
    /// ENOTCONN; EPIPE when either side has been shut down for it; EAGAIN, EFAULT, ENOMEM, a signal.
    pub fn send(
        &self,
        source: &mut Source,
        nonblock: bool,
        quiet: bool,
        rights: Option<Rights>,
    ) -> SysResult {
        if !self.is_connected() {
            return Err(Errno::ENOTCONN.into());
        }
        self.tx.send(source, nonblock, quiet, rights)
    }

    /// shutdown(2): no more reading, no more writing.
    pub fn shutdown(&self, read: bool, write: bool) {
        match self.phase.load(SeqCst) {
            phase::CONNECTED => {
                if read {
                    self.rx.close_read();
                    self.rx.close_write();
                }
                if write {
                    self.tx.close_write();
                }
            }
            phase::LISTENING if read => self.close(),
            _ => {}
        }
    }

    /// The last descriptor is gone: the other side sees the end, and who waits to connect is refused.
    pub fn close(&self) {
        self.close_with(self.rx.waiting() > 0);
    }

    /// As [`Socket::close`]; `reset`: the other side learns that not all was read (ECONNRESET).
    fn close_with(&self, reset: bool) {
        let before = self.phase.swap(phase::CLOSED, SeqCst);
        if before == phase::CONNECTED {
            if reset {
                self.tx.set_reset();
            }
            self.tx.close_write();
            self.rx.close_read();
            self.rx.drop_rights();
        }
        let waiting = core::mem::take(&mut self.state.lock().queue);
        drop(waiting);
        self.rx.pipe.readable.wake_all();
        self.rx.pipe.writable.wake_all();
    }

    /// Readiness.
    pub fn poll(&self) -> u32 {
        const WRITABLE: u32 = POLLOUT | POLLWRNORM | POLLWRBAND;
        match self.phase.load(SeqCst) {
            phase::CONNECTED => {
                let mut events = 0;
                if self.rx.waiting() > 0 || self.rx.pipe.no_writers() {
                    events |= POLLIN | POLLRDNORM;
                }
                if self.rx.pipe.no_writers() {
                    events |= POLLRDHUP;
                    if self.tx.write_closed() || self.tx.pipe.no_readers() {
                        events |= POLLHUP;
                    }
                }
                if self.rx.is_reset() {
                    events |= POLLERR;
                }
                if self.tx.pipe.no_readers() || self.tx.pipe.poll(false, true) & POLLOUT != 0 {
                    events |= WRITABLE;
                }
                events
            }
            phase::LISTENING if self.state.lock().queue.is_empty() => 0,
            phase::LISTENING => POLLIN | POLLRDNORM,
            _ => WRITABLE | POLLHUP,
        }
    }

    /// See [`File::poll_queues`].
    pub fn queues<'a>(&'a self, f: &mut dyn FnMut(&'a WaitQueue)) {
        f(&self.rx.pipe.readable);
        f(&self.tx.pipe.writable);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One that was never accepted has no file that closes it.
        if self.phase.load(Relaxed) != phase::CLOSED {
            self.close_with(true);
        }
    }
}
