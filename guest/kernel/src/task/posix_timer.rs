//! POSIX timers (timer_create(2); kernel/time/posix-timers.c in Linux): a process's list of timers that send a signal each
//! time they expire.
//!
//! A timer has one signal in a queue at most. What expires while that one waits is counted, and told when it is taken
//! (`si_overrun`, timer_getoverrun).

use super::process::Process;
use super::timer::{self, SHORTEST_INTERVAL_NS, TimerId};
use super::{find_task, limits};
use crate::signal::{self, SIGALRM, SIGNALS, SigInfo};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::time::now_ns;

/// Most that an overrun count says (`timer_overrun_to_int`).
const OVERRUN_MAX: u64 = i32::MAX as u64;

/// Whom an expiry is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Notify {
    Nobody,
    Process,
    /// One thread, by its tid.
    Thread(u32),
}

/// What a timer does when it expires: `struct sigevent`, checked.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    notify: Notify,
    signal: u32,
    /// `sigev_value`; `None` for the timer's number.
    value: Option<u64>,
}

impl Event {
    /// What a timer does that is made without a `struct sigevent`.
    pub const USUAL: Event = Event { notify: Notify::Process, signal: SIGALRM, value: None };

    /// From the first three words of a user's `struct sigevent` (`good_sigevent`).
    ///
    /// # Errors
    /// EINVAL for an unknown way, no such signal, or a thread of somebody else's.
    pub fn from_words(words: [u64; 3], process: &Arc<Process>) -> Result<Event, Errno> {
        let [value, signal_and_way, thread] = words;
        let (signal, way) = (signal_and_way as u32, (signal_and_way >> 32) as u32);
        let notify = match way {
            raw::SIGEV_NONE => Notify::Nobody,
            raw::SIGEV_SIGNAL | raw::SIGEV_THREAD => Notify::Process,
            // Linux knows SIGEV_THREAD_ID together with SIGEV_SIGNAL, which is 0.
            raw::SIGEV_THREAD_ID => {
                let task = find_task(thread as u32).ok_or(Errno::EINVAL)?;
                if !Arc::ptr_eq(&task.process, process) {
                    return Err(Errno::EINVAL);
                }
                Notify::Thread(thread as u32)
            }
            _ => return Err(Errno::EINVAL),
        };
        if notify != Notify::Nobody && !(1..=SIGNALS).contains(&signal) {
            return Err(Errno::EINVAL);
        }
        Ok(Event { notify, signal, value: Some(value) })
    }
}

struct PosixTimer {
    number: u32,
    /// Does it follow the wall clock?
    realtime: bool,
    event: Event,
    /// Monotonic ns of the next expiry, 0 when off.
    next: u64,
    /// ns between expiries, 0 for once.
    interval: u64,
    /// Expiries since the signal that waits in a queue.
    overrun: u64,
    /// What the last signal that was taken said.
    last_overrun: u64,
    armed: Option<TimerId>,
}

impl PosixTimer {
    /// Passes over the expiries up to `now`. Gives how many there were.
    fn expire(&mut self, now: u64) -> u64 {
        if self.next == 0 || self.next > now {
            return 0;
        }
        match (now - self.next).checked_div(self.interval) {
            None => {
                self.next = 0;
                1
            }
            Some(more) => {
                self.next = self.next.saturating_add((more + 1).saturating_mul(self.interval));
                more + 1
            }
        }
    }

    /// What is left until the next expiry (0 when off) and the interval, ns.
    fn rest(&self) -> (u64, u64) {
        let now = now_ns();
        let left = match self.next {
            0 => 0,
            // A timer that nobody is told about is not seen to.
            next if next <= now && self.event.notify == Notify::Nobody => match self.interval {
                0 => 0,
                interval => interval - (now - next) % interval,
            },
            // One that is due, and has not fired yet, still counts as on.
            next => next.saturating_sub(now).max(1),
        };
        (left, self.interval)
    }
}

/// A process's timers.
#[derive(Default)]
pub struct PosixTimers {
    timers: Vec<PosixTimer>,
    /// Number of the next one.
    next: u32,
}

impl PosixTimers {
    /// None.
    pub const fn new() -> PosixTimers {
        PosixTimers { timers: Vec::new(), next: 0 }
    }

    fn find(&mut self, number: u32) -> Result<&mut PosixTimer, Errno> {
        self.timers.iter_mut().find(|timer| timer.number == number).ok_or(Errno::EINVAL)
    }

    /// A timer's signal leaves its queue: it says how often the timer has expired since it entered.
    pub fn signal_taken(&mut self, number: u32, info: &mut SigInfo) {
        if let Ok(timer) = self.find(number) {
            let overrun = core::mem::take(&mut timer.overrun).min(OVERRUN_MAX);
            timer.last_overrun = overrun;
            info.words[0] = u64::from(number) | overrun << 32;
        }
    }
}

/// Makes a timer that is off. Gives its number.
///
/// # Errors
/// EAGAIN for more than RLIMIT_SIGPENDING, ENOMEM.
pub fn create(process: &Process, realtime: bool, event: Event) -> Result<u32, Errno> {
    let limit = process.rlimit(limits::SIGPENDING);
    let mut list = process.posix_timers.lock();
    if list.timers.len() as u64 >= limit {
        return Err(Errno::EAGAIN);
    }
    list.timers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    // Numbers wrap after 2^31; none is given twice.
    while list.timers.iter().any(|timer| timer.number == list.next) {
        list.next = (list.next + 1) & i32::MAX as u32;
    }
    let number = list.next;
    list.next = (list.next + 1) & i32::MAX as u32;
    list.timers.push(PosixTimer {
        number,
        realtime,
        event,
        next: 0,
        interval: 0,
        overrun: 0,
        last_overrun: 0,
        armed: None,
    });
    Ok(number)
}

/// Does the timer follow the wall clock?
///
/// # Errors
/// EINVAL for an unknown number.
pub fn is_realtime(process: &Process, number: u32) -> Result<bool, Errno> {
    Ok(process.posix_timers.lock().find(number)?.realtime)
}

/// Sets a timer: first expiry at `next` (monotonic ns, 0: off), then each `interval` ns. Gives (rest, interval) before.
///
/// # Errors
/// EINVAL for an unknown number.
pub fn set(process: &Arc<Process>, number: u32, next: u64, interval: u64) -> Result<(u64, u64), Errno> {
    let (before, armed, told) = {
        let mut list = process.posix_timers.lock();
        let timer = list.find(number)?;
        let before = timer.rest();
        (timer.next, timer.interval) = (next, if next == 0 { 0 } else { interval });
        (timer.overrun, timer.last_overrun) = (0, 0);
        (before, timer.armed.take(), timer.event.notify != Notify::Nobody)
    };
    armed.into_iter().for_each(timer::cancel);
    // What the timer had sent before means nothing now.
    process.signals.lock().discard_timer(number, &process.shared_pending);
    if next != 0 && told {
        arm(process, number, next);
    }
    Ok(before)
}

fn arm(process: &Arc<Process>, number: u32, at: u64) {
    let id = timer::arm_posix(at, process, number);
    let other = match process.posix_timers.lock().find(number) {
        // One that fired meanwhile may have armed another.
        Ok(timer) => timer.armed.replace(id),
        Err(_) => Some(id),
    };
    other.into_iter().for_each(timer::cancel);
}

/// What is left until a timer's next expiry (0 when off) and the interval, ns.
///
/// # Errors
/// EINVAL for an unknown number.
pub fn get(process: &Process, number: u32) -> Result<(u64, u64), Errno> {
    Ok(process.posix_timers.lock().find(number)?.rest())
}

/// What the last signal of a timer said of expiries that had none of their own.
///
/// # Errors
/// EINVAL for an unknown number.
pub fn overrun(process: &Process, number: u32) -> Result<u64, Errno> {
    Ok(process.posix_timers.lock().find(number)?.last_overrun)
}

/// Ends a timer.
///
/// # Errors
/// EINVAL for an unknown number.
pub fn delete(process: &Process, number: u32) -> Result<(), Errno> {
    let timer = {
        let mut list = process.posix_timers.lock();
        let at = list.timers.iter().position(|timer| timer.number == number).ok_or(Errno::EINVAL)?;
        list.timers.swap_remove(at)
    };
    timer.armed.into_iter().for_each(timer::cancel);
    process.signals.lock().discard_timer(number, &process.shared_pending);
    Ok(())
}

/// Ends all timers, at exec and at the process's end.
pub(super) fn delete_all(process: &Process) {
    let list = core::mem::take(&mut *process.posix_timers.lock());
    for timer in list.timers {
        timer.armed.into_iter().for_each(timer::cancel);
        process.signals.lock().discard_timer(timer.number, &process.shared_pending);
    }
}

/// The kernel's timer has fired.
pub(super) fn fired(process: &Arc<Process>, number: u32, now: u64) {
    let (expired, next, event) = {
        let mut list = process.posix_timers.lock();
        let Ok(timer) = list.find(number) else { return };
        timer.armed = None;
        (timer.expire(now), timer.next, timer.event)
    };
    if expired != 0 {
        let waits = process.signals.lock().has_timer(number);
        // The first expiry is the signal itself.
        let more = if waits { expired } else { expired - 1 };
        if let Ok(timer) = process.posix_timers.lock().find(number) {
            timer.overrun = timer.overrun.saturating_add(more);
        }
        if !waits {
            tell(process, number, event);
        }
    }
    if next != 0 && !process.is_dead() {
        arm(process, number, next.max(now.saturating_add(SHORTEST_INTERVAL_NS)));
    }
}

fn tell(process: &Arc<Process>, number: u32, event: Event) {
    let info = SigInfo::timer(event.signal, number, event.value.unwrap_or(u64::from(number)));
    match event.notify {
        Notify::Nobody => {}
        Notify::Process => signal::send_to_process(process, info),
        Notify::Thread(tid) => {
            if let Some(task) = find_task(tid).filter(|task| Arc::ptr_eq(&task.process, process)) {
                // A queue that is full loses it, as on Linux.
                let _ = signal::send_to_task(&task, info);
            }
        }
    }
}
