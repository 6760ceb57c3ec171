//! How two sockets come to be connected: listen, connect and accept.

use super::{Peer, Socket, phase};
use crate::fs::pipe::interrupted;
use crate::syscall::SysErr;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use ptshare_abi::Errno;

/// Most connections that wait for one listener (/proc/sys/net/core/somaxconn).
const SOMAXCONN: usize = 4096;

impl Socket {
    /// listen(2).
    ///
    /// # Errors
    /// EINVAL for a socket that has no address, or is connected.
    pub fn listen(&self, backlog: u32) -> Result<(), Errno> {
        let peer = Peer::caller();
        {
            let mut state = self.state.lock();
            if state.name.is_empty() {
                return Err(Errno::EINVAL);
            }
            let now = self.phase.load(SeqCst);
            if now != phase::LISTENING
                && self.phase.compare_exchange(phase::FRESH, phase::LISTENING, SeqCst, SeqCst).is_err()
            {
                return Err(Errno::EINVAL);
            }
            state.backlog = (backlog as usize).min(SOMAXCONN);
            state.peer = peer;
        }
        self.rx.pipe.writable.wake_all();
        Ok(())
    }

    /// Takes a waiting connection, or waits for one.
    ///
    /// # Errors
    /// EINVAL for a socket that does not listen; EAGAIN; a signal.
    pub fn accept(&self, nonblock: bool) -> Result<Arc<Socket>, SysErr> {
        let attempt = || {
            if !self.is_listening() {
                return Some(Err(Errno::EINVAL));
            }
            self.state.lock().queue.pop_front().map(Ok)
        };
        let taken = match attempt() {
            Some(taken) => taken?,
            None if nonblock => return Err(Errno::EAGAIN.into()),
            None => self.rx.pipe.readable.wait(None, attempt).map_err(interrupted)??,
        };
        self.rx.pipe.writable.wake_all();
        Ok(taken)
    }

    /// connect(2) to a listener.
    ///
    /// # Errors
    /// EISCONN, EALREADY, EINVAL (it listens itself), ECONNREFUSED, EAGAIN (too many wait already), a signal.
    pub fn connect(&self, listener: &Arc<Socket>, nonblock: bool) -> Result<(), SysErr> {
        self.phase.compare_exchange(phase::FRESH, phase::CONNECTING, SeqCst, SeqCst).map_err(
            |now| match now {
                phase::CONNECTED => Errno::EISCONN,
                phase::CONNECTING => Errno::EALREADY,
                _ => Errno::EINVAL,
            },
        )?;
        let result = self.connect_to(listener, nonblock);
        self.phase.store(if result.is_ok() { phase::CONNECTED } else { phase::FRESH }, SeqCst);
        result
    }

    fn connect_to(&self, listener: &Arc<Socket>, nonblock: bool) -> Result<(), SysErr> {
        let own = self.name();
        let mut other = Some(Socket::with(
            self.tx.clone(),
            self.rx.clone(),
            phase::CLOSED,
            (listener.name(), own),
            Peer::caller(),
        ));
        let mut attempt = || {
            let mut state = listener.state.lock();
            if !listener.is_listening() {
                return Some(Err(Errno::ECONNREFUSED));
            }
            if state.queue.len() > state.backlog {
                return None;
            }
            if state.queue.try_reserve(1).is_err() {
                return Some(Err(Errno::ENOMEM));
            }
            let peer = (state.name.clone(), state.peer);
            if let Some(other) = other.take() {
                self.rx.open();
                self.tx.open();
                other.phase.store(phase::CONNECTED, SeqCst);
                state.queue.push_back(other);
            }
            Some(Ok(peer))
        };
        let (name, peer) = match attempt() {
            Some(done) => done?,
            None if nonblock => return Err(Errno::EAGAIN.into()),
            None => listener.rx.pipe.writable.wait(None, attempt).map_err(interrupted)??,
        };
        {
            let mut state = self.state.lock();
            (state.peer_name, state.peer) = (name, peer);
        }
        listener.rx.pipe.readable.wake_all();
        Ok(())
    }
}
