//! System calls: clocks, sleeping, timers, resource usage.

use super::{Args, Restart, SysErr, SysResult};
use crate::task::cpu_timer::{self, Clock};
use crate::task::exit::TICK_NS;
use crate::task::wait::{WaitError, sleep_until};
use crate::task::{creds, current, find_process, find_task, timer, usage};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{time as clock, uaccess};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// `struct timespec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: i64,
}

impl Timespec {
    /// Reads one from user memory.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read(at: u64) -> Result<Timespec, SysErr> {
        let [sec, nsec]: [i64; 2] = uaccess::read(at)?;
        Ok(Timespec { sec, nsec })
    }

    /// In nanoseconds, saturating.
    ///
    /// # Errors
    /// EINVAL for negative seconds, or nanoseconds outside a second.
    pub fn to_ns(self) -> Result<u64, SysErr> {
        if self.sec < 0 || !(0..SECOND as i64).contains(&self.nsec) {
            return Err(Errno::EINVAL.into());
        }
        Ok((self.sec as u64).saturating_mul(SECOND).saturating_add(self.nsec as u64))
    }
}

/// The monotonic time `ns` from now, saturating.
pub fn deadline_after(ns: u64) -> u64 {
    clock::now_ns().saturating_add(ns)
}

pub(super) fn write_timespec(at: u64, ns: u64) -> Result<(), SysErr> {
    uaccess::write(at, &[ns / SECOND, ns % SECOND])?;
    Ok(())
}

fn read_timeval(words: [i64; 2]) -> Result<u64, SysErr> {
    let [sec, usec] = words;
    if sec < 0 || !(0..1_000_000).contains(&usec) {
        return Err(Errno::EINVAL.into());
    }
    Ok((sec as u64).saturating_mul(SECOND).saturating_add(usec as u64 * 1000))
}

fn timeval(ns: u64) -> [u64; 2] {
    [ns / SECOND, ns % SECOND / 1000]
}

fn clock_ns(id: i32) -> Result<u64, SysErr> {
    let ns = match id as u32 {
        raw::CLOCK_REALTIME | raw::CLOCK_REALTIME_COARSE | raw::CLOCK_REALTIME_ALARM | raw::CLOCK_TAI => {
            clock::realtime_ns()
        }
        raw::CLOCK_MONOTONIC
        | raw::CLOCK_MONOTONIC_RAW
        | raw::CLOCK_MONOTONIC_COARSE
        | raw::CLOCK_BOOTTIME
        | raw::CLOCK_BOOTTIME_ALARM => clock::now_ns(),
        raw::CLOCK_PROCESS_CPUTIME_ID => {
            let used = usage::of_process(&current().process);
            used.user_ns + used.system_ns
        }
        raw::CLOCK_THREAD_CPUTIME_ID => {
            let used = usage::of_task(&current());
            used.user_ns + used.system_ns
        }
        _ if id < 0 => return cpu_clock_ns(id),
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(ns)
}

/// The CPU-time clock of another process or thread (include/linux/posix-timers.h: the pid, inverted, over three bits).
fn cpu_clock_ns(id: i32) -> Result<u64, SysErr> {
    let pid = !(id >> 3) as u32;
    let used = if id & 4 != 0 {
        let task = if pid == 0 { current().arc() } else { find_task(pid).ok_or(Errno::EINVAL)? };
        usage::of_task(&task)
    } else {
        let process =
            if pid == 0 { current().process.clone() } else { find_process(pid).ok_or(Errno::EINVAL)? };
        usage::of_process(&process)
    };
    if id & 3 == 3 {
        // A clock of a file descriptor.
        return Err(Errno::EINVAL.into());
    }
    Ok(used.user_ns + used.system_ns)
}

/// clock_gettime(2).
pub fn clock_gettime(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_timespec(a[1], clock_ns(a[0] as i32)?)?;
    Ok(0)
}

/// clock_settime(2).
pub fn clock_settime(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[0] as u32 != raw::CLOCK_REALTIME {
        return Err(Errno::EINVAL.into());
    }
    let ns = Timespec::read(a[1])?.to_ns()?;
    if !current().process.capable(creds::CAP_SYS_TIME) {
        return Err(Errno::EPERM.into());
    }
    clock::set_realtime_ns(ns);
    Ok(0)
}

/// clock_getres(2).
pub fn clock_getres(a: &Args, _: &mut TrapFrame) -> SysResult {
    clock_ns(a[0] as i32)?;
    let coarse = matches!(a[0] as u32, raw::CLOCK_REALTIME_COARSE | raw::CLOCK_MONOTONIC_COARSE);
    if a[1] != 0 {
        write_timespec(a[1], if coarse { 4_000_000 } else { 1 })?;
    }
    Ok(0)
}

/// gettimeofday(2).
pub fn gettimeofday(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[0] != 0 {
        uaccess::write(a[0], &timeval(clock::realtime_ns()))?;
    }
    if a[1] != 0 {
        uaccess::write(a[1], &[0_u32; 2])?;
    }
    Ok(0)
}

/// time(2).
pub fn time(a: &Args, _: &mut TrapFrame) -> SysResult {
    let seconds = clock::realtime_ns() / SECOND;
    if a[0] != 0 {
        uaccess::write(a[0], &seconds)?;
    }
    Ok(seconds)
}

/// times(2).
pub fn times(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[0] != 0 {
        let process = &current().process;
        let (own, children) = (usage::of_process(process), usage::of_children(process));
        let ticks = [own.user_ns, own.system_ns, children.user_ns, children.system_ns].map(|ns| ns / TICK_NS);
        uaccess::write(a[0], &ticks)?;
    }
    Ok(clock::now_ns() / TICK_NS)
}

/// getrusage(2).
pub fn getrusage(a: &Args, _: &mut TrapFrame) -> SysResult {
    let task = current();
    let used = match a[0] as i32 {
        raw::RUSAGE_CHILDREN => usage::of_children(&task.process),
        0 => {
            task.process.usage.see_rss(&task.process.mm());
            usage::of_process(&task.process)
        }
        1 => usage::of_task(&task),
        _ => return Err(Errno::EINVAL.into()),
    };
    uaccess::write(a[1], &used.to_rusage())?;
    Ok(0)
}

/// nanosleep(2).
pub fn nanosleep(a: &Args, _: &mut TrapFrame) -> SysResult {
    let ns = Timespec::read(a[0])?.to_ns()?;
    sleep(deadline_after(ns), Some(a[1]))
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(a: &Args, _: &mut TrapFrame) -> SysResult {
    let id = a[0] as u32;
    let realtime = match id {
        raw::CLOCK_REALTIME | raw::CLOCK_TAI | raw::CLOCK_REALTIME_ALARM => true,
        raw::CLOCK_MONOTONIC | raw::CLOCK_BOOTTIME | raw::CLOCK_BOOTTIME_ALARM => false,
        raw::CLOCK_PROCESS_CPUTIME_ID
        | raw::CLOCK_MONOTONIC_RAW
        | raw::CLOCK_REALTIME_COARSE
        | raw::CLOCK_MONOTONIC_COARSE => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    let ns = Timespec::read(a[2])?.to_ns()?;
    if a[1] as u32 & raw::TIMER_ABSTIME == 0 {
        return sleep(deadline_after(ns), Some(a[3]));
    }
    let deadline = if realtime { deadline_after(ns.saturating_sub(clock::realtime_ns())) } else { ns };
    sleep(deadline, None)
}

/// Sleeps until a monotonic time. `rest`: a relative sleep, with the user address for what is left (or 0).
fn sleep(deadline: u64, rest: Option<u64>) -> SysResult {
    match sleep_until(Some(deadline)) {
        WaitError::TimedOut => Ok(0),
        WaitError::Interrupted => {
            let Some(rest) = rest else { return Err(SysErr::Restart(Restart::NoHandler)) };
            let left = deadline.saturating_sub(clock::now_ns());
            if left == 0 {
                return Ok(0);
            }
            if rest != 0 {
                write_timespec(rest, left)?;
            }
            let task = current();
            for (cell, value) in task.sleep.iter().zip([1, deadline, rest]) {
                cell.store(value, Relaxed);
            }
            Err(SysErr::Restart(Restart::Block))
        }
    }
}

/// restart_syscall(2): goes on with an interrupted relative sleep.
pub fn restart_syscall(_: &Args, _: &mut TrapFrame) -> SysResult {
    let task = current();
    if task.sleep[0].swap(0, Relaxed) == 0 {
        return Err(Errno::EINTR.into());
    }
    sleep(task.sleep[1].load(Relaxed), Some(task.sleep[2].load(Relaxed)))
}

/// alarm(2).
pub fn alarm(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (left, _) = timer::set_real_timer(&current().process, (a[0] as u32 as u64) * SECOND, 0);
    let seconds = left / SECOND;
    // Never 0 for an alarm that is pending; rounded from half a second up (kernel/time/itimer.c).
    let up = left % SECOND >= SECOND / 2 || seconds == 0 && left > 0;
    Ok(seconds + u64::from(up))
}

/// The clock of an interval timer; `None` for real time.
///
/// # Errors
/// EINVAL.
fn itimer_clock(which: u64) -> Result<Option<Clock>, SysErr> {
    match which as u32 {
        raw::ITIMER_REAL => Ok(None),
        raw::ITIMER_VIRTUAL => Ok(Some(Clock::Virtual)),
        raw::ITIMER_PROF => Ok(Some(Clock::Prof)),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn write_itimer(at: u64, (value, interval): (u64, u64)) -> Result<(), SysErr> {
    let ([interval_sec, interval_usec], [sec, usec]) = (timeval(interval), timeval(value));
    uaccess::write(at, &[interval_sec, interval_usec, sec, usec])?;
    Ok(())
}

/// getitimer(2).
pub fn getitimer(a: &Args, _: &mut TrapFrame) -> SysResult {
    let process = &current().process;
    let now = match itimer_clock(a[0])? {
        None => timer::real_timer(process),
        Some(clock) => cpu_timer::interval_timer(process, clock),
    };
    write_itimer(a[1], now)?;
    Ok(0)
}

/// setitimer(2).
pub fn setitimer(a: &Args, _: &mut TrapFrame) -> SysResult {
    let clock = itimer_clock(a[0])?;
    let (value, interval) = if a[1] == 0 {
        (0, 0)
    } else {
        let [interval_sec, interval_usec, sec, usec]: [i64; 4] = uaccess::read(a[1])?;
        (read_timeval([sec, usec])?, read_timeval([interval_sec, interval_usec])?)
    };
    let process = &current().process;
    let old = match clock {
        None => timer::set_real_timer(process, value, interval),
        Some(clock) => cpu_timer::set_interval_timer(process, clock, value, interval),
    };
    if a[2] != 0 {
        write_itimer(a[2], old)?;
    }
    Ok(0)
}
