//! What a process's threads have in common about signals, under one lock (`Rank::Signals`).

use super::types::{SIGRTMIN, SYNCHRONOUS, SigInfo, bit};
use crate::task::Task;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Signals that are pending: a set, and what is known of each. Standard signals are pending once; real-time signals
/// queue up.
#[derive(Default)]
pub struct Queue {
    set: u64,
    infos: Vec<SigInfo>,
}

impl Queue {
    /// Nothing.
    pub const fn new() -> Queue {
        Queue { set: 0, infos: Vec::new() }
    }

    /// The set.
    pub fn set(&self) -> u64 {
        self.set
    }

    /// Adds a signal. Gives `false` when a real-time signal finds `limit` entries already, and its details are lost.
    pub fn add(&mut self, info: SigInfo, limit: u64) -> bool {
        let bit = bit(info.signo);
        // Each timer's signal has a place of its own (`posixtimer_send_sigqueue`).
        if info.signo < SIGRTMIN && self.set & bit != 0 && info.timer.is_none() {
            return true;
        }
        self.set |= bit;
        let room = (self.infos.len() as u64) < limit.max(32) && self.infos.try_reserve(1).is_ok();
        if room {
            self.infos.push(info);
        }
        room || info.signo < SIGRTMIN
    }

    /// Takes the first entry of a signal out.
    fn take(&mut self, sig: u32) -> SigInfo {
        let at = self.infos.iter().position(|info| info.signo == sig);
        let info = match at {
            Some(at) => self.infos.remove(at),
            None => SigInfo::user(sig, 0, 0),
        };
        if at.is_none() || !self.infos.iter().any(|info| info.signo == sig) {
            self.set &= !bit(sig);
        }
        info
    }

    /// Drops every entry of the signals in `set`.
    pub fn remove(&mut self, set: u64) {
        if self.set & set != 0 {
            self.set &= !set;
            self.infos.retain(|info| bit(info.signo) & set == 0);
        }
    }

    /// Does it hold a signal of this timer?
    fn has_timer(&self, number: u32) -> bool {
        self.infos.iter().any(|info| info.timer == Some(number))
    }

    /// Drops the signal of a timer.
    fn discard_timer(&mut self, number: u32) {
        if let Some(at) = self.infos.iter().position(|info| info.timer == Some(number)) {
            let sig = self.infos.remove(at).signo;
            if !self.infos.iter().any(|info| info.signo == sig) {
                self.set &= !bit(sig);
            }
        }
    }

    /// Takes the signal out that comes first among those in `allowed`.
    fn take_first(&mut self, allowed: u64) -> Option<SigInfo> {
        let ready = self.set & allowed;
        if ready == 0 {
            return None;
        }
        let first = if ready & SYNCHRONOUS != 0 { ready & SYNCHRONOUS } else { ready };
        Some(self.take(first.trailing_zeros() + 1))
    }
}

struct Thread {
    task: Arc<Task>,
    queue: Queue,
}

/// See the module.
pub struct SignalState {
    threads: Vec<Thread>,
    shared: Queue,
    /// The whole group is to end with this wait status.
    pub group_exit: Option<u32>,
    /// The group is stopped, or stopping, by this signal; 0 when not.
    pub stop_signal: u32,
    /// Threads that have stopped.
    pub stopped: u32,
    /// Counts the stops, so that a thread knows whether it has been counted in this one.
    pub stop_epoch: u64,
}

impl SignalState {
    /// No threads, nothing pending.
    pub const fn new() -> SignalState {
        SignalState {
            threads: Vec::new(),
            shared: Queue::new(),
            group_exit: None,
            stop_signal: 0,
            stopped: 0,
            stop_epoch: 0,
        }
    }

    /// The live threads.
    pub fn threads(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.threads.iter().map(|thread| &thread.task)
    }

    /// Number of live threads.
    pub fn thread_count(&self) -> usize {
        self.threads.len()
    }

    /// Makes room for one more thread.
    ///
    /// # Errors
    /// When the heap has none.
    pub fn reserve(&mut self) -> Result<(), alloc::collections::TryReserveError> {
        self.threads.try_reserve(1)
    }

    /// A thread joins.
    pub fn add_thread(&mut self, task: Arc<Task>) {
        self.threads.push(Thread { task, queue: Queue::new() });
    }

    /// A thread leaves; the caller drops it unlocked.
    pub fn remove_thread(&mut self, tid: u32) -> Option<Arc<Task>> {
        let at = self.threads.iter().position(|thread| thread.task.tid() == tid)?;
        Some(self.threads.swap_remove(at).task)
    }

    /// Are all threads stopped by job control?
    pub fn is_stopped(&self) -> bool {
        self.stop_signal != 0 && self.stopped as usize >= self.threads.len()
    }

    /// Queues a signal for the process. See [`Queue::add`].
    pub fn add_shared(&mut self, info: SigInfo, limit: u64, mirror: &AtomicU64) -> bool {
        let queued = self.shared.add(info, limit);
        mirror.store(self.shared.set(), SeqCst);
        queued
    }

    /// Queues a signal for one thread. See [`Queue::add`].
    pub fn add_private(&mut self, info: SigInfo, limit: u64, task: &Task) -> bool {
        let Some(thread) = self.threads.iter_mut().find(|thread| thread.task.tid() == task.tid()) else {
            return true;
        };
        let queued = thread.queue.add(info, limit);
        task.pending.store(thread.queue.set(), SeqCst);
        queued
    }

    /// Drops pending signals of the process and of all its threads.
    pub fn discard(&mut self, set: u64, mirror: &AtomicU64) {
        self.shared.remove(set);
        mirror.store(self.shared.set(), SeqCst);
        for thread in &mut self.threads {
            thread.queue.remove(set);
            thread.task.pending.store(thread.queue.set(), SeqCst);
        }
    }

    /// Does a signal of this timer wait?
    pub fn has_timer(&self, number: u32) -> bool {
        self.shared.has_timer(number) || self.threads.iter().any(|thread| thread.queue.has_timer(number))
    }

    /// Drops the signal of a timer that has been set anew, or has gone.
    pub fn discard_timer(&mut self, number: u32, mirror: &AtomicU64) {
        self.shared.discard_timer(number);
        mirror.store(self.shared.set(), SeqCst);
        for thread in &mut self.threads {
            thread.queue.discard_timer(number);
            thread.task.pending.store(thread.queue.set(), SeqCst);
        }
    }

    /// Takes the next signal out that `task` may have: its own first, then the process's.
    pub fn take(&mut self, task: &Task, allowed: u64, mirror: &AtomicU64) -> Option<SigInfo> {
        let mut info = self.take_any(task, allowed, mirror)?;
        if let Some(number) = info.timer {
            task.process.posix_timers.lock().signal_taken(number, &mut info);
        }
        Some(info)
    }

    fn take_any(&mut self, task: &Task, allowed: u64, mirror: &AtomicU64) -> Option<SigInfo> {
        if let Some(thread) = self.threads.iter_mut().find(|thread| thread.task.tid() == task.tid())
            && let Some(info) = thread.queue.take_first(allowed)
        {
            task.pending.store(thread.queue.set(), SeqCst);
            return Some(info);
        }
        let info = self.shared.take_first(allowed)?;
        mirror.store(self.shared.set(), SeqCst);
        Some(info)
    }
}

impl Default for SignalState {
    fn default() -> Self {
        SignalState::new()
    }
}
