//! Timers: what happens at a given nanosecond of the monotonic clock.

use super::posix_timer;
use super::process::Process;
use super::sched;
use super::thread::Task;
use crate::fs::timerfd::Timerfd;
use crate::signal::{self, SIGALRM, SigInfo};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_machine::time::now_ns;
use ptshare_sync::{Lock, Rank};

/// A repeating timer leaves the program at least this long, ns: a timer that is always due would stop everything.
pub const SHORTEST_INTERVAL_NS: u64 = 1_000_000;

/// Names a timer until it has fired or been cancelled.
pub type TimerId = u64;

enum Event {
    Wake(Arc<Task>),
    RealTimer(Arc<Process>),
    Posix(Arc<Process>, u32),
    File(Arc<Timerfd>),
}

struct Entry {
    deadline: u64,
    id: TimerId,
    event: Event,
}

struct Timers {
    /// Latest first, so that the earliest is popped from the end.
    entries: Vec<Entry>,
    next_id: TimerId,
}

static TIMERS: Lock<Timers> = Lock::new(Rank::Timer, Timers { entries: Vec::new(), next_id: 1 });
static EARLIEST: AtomicU64 = AtomicU64::new(u64::MAX);

/// The earliest deadline, `u64::MAX` for none.
#[inline]
pub(super) fn earliest() -> u64 {
    EARLIEST.load(Relaxed)
}

impl Timers {
    fn publish(&self) {
        EARLIEST.store(self.entries.last().map_or(u64::MAX, |e| e.deadline), Relaxed);
    }
}

fn arm(deadline: u64, event: Event) -> TimerId {
    let id = {
        let mut timers = TIMERS.lock();
        let id = timers.next_id;
        timers.next_id += 1;
        let at = timers.entries.partition_point(|e| e.deadline > deadline);
        timers.entries.insert(at, Entry { deadline, id, event });
        timers.publish();
        id
    };
    sched::rearm();
    id
}

/// Wakes `task` at `deadline` (monotonic ns).
pub(super) fn arm_wake(deadline: u64, task: &Arc<Task>) -> TimerId {
    arm(deadline, Event::Wake(task.clone()))
}

/// Calls [`posix_timer::fired`] for a timer of the process's at `deadline` (monotonic ns).
pub(super) fn arm_posix(deadline: u64, process: &Arc<Process>, number: u32) -> TimerId {
    arm(deadline, Event::Posix(process.clone(), number))
}

/// Calls [`Timerfd::fired`] at `deadline` (monotonic ns), or a little later if that is very soon.
pub fn arm_file(deadline: u64, timer: &Arc<Timerfd>) -> TimerId {
    arm(deadline, Event::File(timer.clone()))
}

/// Takes a timer back. Nothing happens when it has fired already.
pub fn cancel(id: TimerId) {
    let entry = {
        let mut timers = TIMERS.lock();
        let at = timers.entries.iter().rposition(|e| e.id == id);
        let entry = at.map(|at| timers.entries.remove(at));
        timers.publish();
        entry
    };
    drop(entry);
}

/// Runs every timer that is due at `now`.
pub(super) fn run_expired(now: u64) {
    loop {
        let event = {
            let mut timers = TIMERS.lock();
            match timers.entries.last() {
                Some(entry) if entry.deadline <= now => {}
                _ => break,
            }
            let entry = timers.entries.pop();
            timers.publish();
            entry.map(|e| e.event)
        };
        match event {
            Some(Event::Wake(task)) => {
                sched::wake(&task);
            }
            Some(Event::RealTimer(process)) => real_timer_fired(&process, now),
            Some(Event::Posix(process, number)) => posix_timer::fired(&process, number, now),
            Some(Event::File(timer)) => timer.fired(now),
            None => break,
        }
    }
}

/// ITIMER_REAL of a process.
pub struct IntervalTimer {
    id: Option<TimerId>,
    /// Monotonic ns of the next expiry, 0 when off.
    deadline: u64,
    /// ns between expiries, 0 for once.
    interval: u64,
}

impl IntervalTimer {
    /// Off.
    pub const fn new() -> Self {
        IntervalTimer { id: None, deadline: 0, interval: 0 }
    }
}

impl Default for IntervalTimer {
    fn default() -> Self {
        IntervalTimer::new()
    }
}

/// Sets ITIMER_REAL: first expiry after `value` ns (0: off), then each `interval` ns. Gives (rest, interval) before.
pub fn set_real_timer(process: &Arc<Process>, value: u64, interval: u64) -> (u64, u64) {
    let before = real_timer(process);
    let deadline = if value == 0 { 0 } else { now_ns().saturating_add(value) };
    let old_id = {
        let mut timer = process.real_timer.lock();
        timer.deadline = deadline;
        timer.interval = if value == 0 { 0 } else { interval };
        timer.id.take()
    };
    if let Some(id) = old_id {
        cancel(id);
    }
    if deadline != 0 {
        let id = arm(deadline, Event::RealTimer(process.clone()));
        process.real_timer.lock().id = Some(id);
    }
    before
}

/// ITIMER_REAL now: (ns until the next expiry, 0 when off; interval).
pub fn real_timer(process: &Process) -> (u64, u64) {
    let timer = process.real_timer.lock();
    if timer.deadline == 0 {
        return (0, timer.interval);
    }
    // A timer that is due but has not fired yet still counts as on.
    (timer.deadline.saturating_sub(now_ns()).max(1), timer.interval)
}

fn real_timer_fired(process: &Arc<Process>, now: u64) {
    let next = {
        let mut timer = process.real_timer.lock();
        timer.id = None;
        if timer.deadline == 0 {
            return;
        }
        timer.deadline = match now.saturating_sub(timer.deadline).checked_div(timer.interval) {
            None => 0,
            Some(missed) => {
                let next = timer.deadline.saturating_add((missed + 1).saturating_mul(timer.interval));
                next.max(now_ns() + SHORTEST_INTERVAL_NS)
            }
        };
        timer.deadline
    };
    signal::send_to_process(process, SigInfo::kernel(SIGALRM));
    if next != 0 && !process.is_dead() {
        let id = arm(next, Event::RealTimer(process.clone()));
        process.real_timer.lock().id = Some(id);
    }
}
