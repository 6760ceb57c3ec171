//! timerfd(2): a timer that is read from. How often it has expired is worked out when somebody asks; the kernel's timer
//! only wakes whoever waits.

use super::io::Sink;
use super::pipe::interrupted;
use super::poll::{POLLIN, POLLRDNORM};
use crate::syscall::SysResult;
use crate::task::WaitQueue;
use crate::task::timer::{self, SHORTEST_INTERVAL_NS, TimerId};
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_machine::time::now_ns;
use ptshare_sync::{Lock, Rank};

#[derive(Default)]
struct State {
    /// Monotonic ns of the next expiry that has not been counted, 0 when off.
    next: u64,
    /// ns between expiries, 0 for once.
    interval: u64,
    /// Expiries counted and not read yet.
    ticks: u64,
    id: Option<TimerId>,
}

impl State {
    /// Counts what has expired by `now`.
    fn count(&mut self, now: u64) {
        if self.next == 0 || self.next > now {
            return;
        }
        match (now - self.next).checked_div(self.interval) {
            None => {
                self.ticks += 1;
                self.next = 0;
            }
            Some(more) => {
                self.ticks = self.ticks.saturating_add(more).saturating_add(1);
                self.next = self.next.saturating_add((more + 1).saturating_mul(self.interval));
            }
        }
    }
}

/// A timer with a descriptor.
pub struct Timerfd {
    /// Does it follow the wall clock (CLOCK_REALTIME)?
    pub realtime: bool,
    state: Lock<State>,
    expired: WaitQueue,
}

impl Timerfd {
    /// Off.
    pub fn new(realtime: bool) -> Arc<Timerfd> {
        let state = Lock::new(Rank::Files, State::default());
        Arc::new(Timerfd { realtime, state, expired: WaitQueue::new() })
    }

    /// What is left until the next expiry (0 when off) and the interval, ns.
    pub fn get(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        let now = now_ns();
        state.count(now);
        (if state.next == 0 { 0 } else { state.next - now }, state.interval)
    }

    /// Sets it: first expiry at `next` (monotonic ns, 0: off), then each `interval` ns. Gives what [`Timerfd::get`] gave
    /// before.
    pub fn set(self: &Arc<Self>, next: u64, interval: u64) -> (u64, u64) {
        let before = self.get();
        let old = {
            let mut state = self.state.lock();
            (state.next, state.interval, state.ticks) = (next, interval, 0);
            state.id.take()
        };
        if let Some(id) = old {
            timer::cancel(id);
        }
        self.arm(next);
        before
    }

    fn arm(self: &Arc<Self>, at: u64) {
        if at != 0 {
            let id = timer::arm_file(at, self);
            // One that fired meanwhile may have armed another.
            let other = self.state.lock().id.replace(id);
            if let Some(other) = other {
                timer::cancel(other);
            }
        }
    }

    /// The kernel's timer has fired.
    pub fn fired(self: &Arc<Self>, now: u64) {
        let next = {
            let mut state = self.state.lock();
            state.id = None;
            state.count(now);
            state.next
        };
        self.expired.wake_all();
        if next != 0 {
            self.arm(next.max(now.saturating_add(SHORTEST_INTERVAL_NS)));
        }
    }

    /// Its last descriptor is gone.
    pub fn close(&self) {
        let id = {
            let mut state = self.state.lock();
            state.next = 0;
            state.id.take()
        };
        if let Some(id) = id {
            timer::cancel(id);
        }
    }

    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.count(now_ns());
        let ticks = core::mem::take(&mut state.ticks);
        (ticks != 0).then_some(ticks)
    }

    /// Takes the number of expiries since the last read, waiting for the first.
    ///
    /// # Errors
    /// EINVAL for less than 8 bytes; EAGAIN, EFAULT, a signal.
    pub fn read(&self, sink: &mut Sink, nonblock: bool) -> SysResult {
        if sink.left() < 8 {
            return Err(Errno::EINVAL.into());
        }
        let ticks = match self.take() {
            Some(ticks) => ticks,
            None if nonblock => return Err(Errno::EAGAIN.into()),
            None => self.expired.wait(None, || self.take()).map_err(interrupted)?,
        };
        sink.put(&ticks.to_le_bytes())?;
        Ok(8)
    }

    /// Readiness.
    pub fn poll(&self) -> u32 {
        let mut state = self.state.lock();
        state.count(now_ns());
        if state.ticks != 0 { POLLIN | POLLRDNORM } else { 0 }
    }

    /// Woken when it expires.
    pub fn queue(&self) -> &WaitQueue {
        &self.expired
    }
}
