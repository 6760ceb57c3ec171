//! Timers that count CPU time: ITIMER_VIRTUAL, ITIMER_PROF, RLIMIT_CPU (Linux: kernel/time/posix-cpu-timers.c).
//!
//! They are looked at by a tick, which a CPU has only while it runs a process with such a timer. A process that sleeps
//! costs nothing.

use super::limits::{self, INFINITY};
use super::process::Process;
use super::usage::Used;
use super::{sched, usage};
use crate::signal::{self, SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU, SigInfo};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use ptshare_sync::{Lock, Rank};

/// How often they are looked at, ns (Linux with HZ=250).
pub(super) const TICK_NS: u64 = 4_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Which time an interval timer counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// ITIMER_VIRTUAL: in user mode; SIGVTALRM.
    Virtual,
    /// ITIMER_PROF: in user mode and in the kernel; SIGPROF.
    Prof,
}

impl Clock {
    fn of(self, used: Used) -> u64 {
        match self {
            Clock::Virtual => used.user_ns,
            Clock::Prof => used.user_ns + used.system_ns,
        }
    }

    fn signal(self) -> u32 {
        match self {
            Clock::Virtual => SIGVTALRM,
            Clock::Prof => SIGPROF,
        }
    }
}

#[derive(Clone, Copy)]
struct Timer {
    /// The clock's ns at the next expiry, 0 when off.
    at: u64,
    /// ns between expiries, 0 for once.
    interval: u64,
}

impl Timer {
    const OFF: Timer = Timer { at: 0, interval: 0 };

    /// What setitimer and getitimer say of it when its clock shows `now`: ns left (0 when off), and the interval.
    fn show(self, now: u64) -> (u64, u64) {
        let left = if self.at == 0 { 0 } else { self.at.saturating_sub(now).max(1000) };
        (left, self.interval)
    }

    /// Has it expired when its clock shows `now`? It is set anew then.
    fn expire(&mut self, now: u64) -> bool {
        if self.at == 0 || now < self.at {
            return false;
        }
        self.at = match (now - self.at).checked_div(self.interval) {
            None => 0,
            Some(missed) => self.at.saturating_add((missed + 1).saturating_mul(self.interval)),
        };
        true
    }
}

/// A process's timers of CPU time. Fork starts with none, but for the limit; exec keeps them.
pub struct CpuTimers {
    /// There is something to look at.
    armed: AtomicBool,
    timers: Lock<[Timer; 2]>,
}

impl CpuTimers {
    /// None, but for what `limits` says.
    pub(super) fn new(limits: &limits::Limits) -> Self {
        CpuTimers {
            armed: AtomicBool::new(is_limited(limits)),
            timers: Lock::new(Rank::Signals, [Timer::OFF; 2]),
        }
    }

    /// Does the process need the tick?
    #[inline]
    pub(super) fn armed(&self) -> bool {
        self.armed.load(Relaxed)
    }
}

fn is_limited(limits: &limits::Limits) -> bool {
    limits.soft(limits::CPU) != INFINITY
}

/// Sets a timer of the process: first expiry after `value` ns (0: off), then each `interval` ns. Gives what
/// [`interval_timer`] gave before.
pub fn set_interval_timer(process: &Process, clock: Clock, value: u64, interval: u64) -> (u64, u64) {
    let now = clock.of(usage::of_process(process));
    let new = if value == 0 { Timer::OFF } else { Timer { at: now.saturating_add(value), interval } };
    let old = core::mem::replace(&mut process.cpu_timers.timers.lock()[clock as usize], new);
    rearm(process);
    old.show(now)
}

/// A timer of the process: (ns until the next expiry, 0 when off; interval).
pub fn interval_timer(process: &Process, clock: Clock) -> (u64, u64) {
    let now = clock.of(usage::of_process(process));
    let timer = process.cpu_timers.timers.lock()[clock as usize];
    timer.show(now)
}

/// Starts or ends the tick, after a change of the timers or of the limit.
pub(super) fn rearm(process: &Process) {
    let on = process.cpu_timers.timers.lock().iter().any(|timer| timer.at != 0);
    let armed = on || is_limited(&process.limits());
    if armed && !process.cpu_timers.armed.swap(armed, Relaxed) {
        sched::start_ticks(process);
    } else {
        process.cpu_timers.armed.store(armed, Relaxed);
    }
}

/// A tick while the process runs: sends what is due.
#[cold]
pub(super) fn tick(process: &Process) {
    let Some(process) = super::find_process(process.pid) else { return };
    let used = usage::of_process(&process);
    for clock in [Clock::Virtual, Clock::Prof] {
        let due = process.cpu_timers.timers.lock()[clock as usize].expire(clock.of(used));
        if due {
            signal::send_to_process(&process, SigInfo::kernel(clock.signal()));
        }
    }
    let Some([soft, hard]) = process.limits().get(limits::CPU) else { return };
    let seconds = (used.user_ns + used.system_ns) / SECOND_NS;
    if seconds >= hard {
        signal::send_to_process(&process, SigInfo::kernel(SIGKILL));
    } else if seconds >= soft {
        signal::send_to_process(&process, SigInfo::kernel(SIGXCPU));
        // Once a second from now on, until the hard limit ends it (`check_process_timers`).
        let mut limits = (*process.limits()).clone();
        limits.set(limits::CPU, [seconds + 1, hard]);
        process.set_limits(limits);
    }
    rearm(&process);
}
