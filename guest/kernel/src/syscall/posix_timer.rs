//! System calls: POSIX timers.

use super::time::{Timespec, deadline_after, write_timespec};
use super::{Args, SysErr, SysResult};
use crate::task::current;
use crate::task::posix_timer::{self as timers, Event};
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{time as clock, uaccess};

/// timer_create(2).
pub fn timer_create(a: &Args, _: &mut TrapFrame) -> SysResult {
    let process = &current().process;
    let realtime = match a[0] as u32 {
        raw::CLOCK_REALTIME | raw::CLOCK_TAI => true,
        raw::CLOCK_MONOTONIC | raw::CLOCK_BOOTTIME => false,
        // Clocks that there are, but that time nothing here (on Linux those that wake the machine up need a real-time clock).
        raw::CLOCK_PROCESS_CPUTIME_ID..=raw::CLOCK_MONOTONIC_COARSE
        | raw::CLOCK_REALTIME_ALARM
        | raw::CLOCK_BOOTTIME_ALARM => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    let event = match a[1] {
        0 => Event::USUAL,
        at => Event::from_words(uaccess::read(at)?, process)?,
    };
    crate::heap_room()?;
    let number = timers::create(process, realtime, event)?;
    if let Err(fault) = uaccess::write(a[2], &number) {
        timers::delete(process, number)?;
        return Err(fault.into());
    }
    Ok(0)
}

/// Writes a `struct itimerspec`.
fn write_value(at: u64, (value, interval): (u64, u64)) -> Result<(), SysErr> {
    write_timespec(at, interval)?;
    write_timespec(at.wrapping_add(16), value)
}

/// timer_settime(2).
pub fn timer_settime(a: &Args, _: &mut TrapFrame) -> SysResult {
    let process = &current().process;
    let number = a[0] as u32;
    if a[2] == 0 {
        return Err(Errno::EINVAL.into());
    }
    let interval = Timespec::read(a[2])?;
    let value = Timespec::read(a[2].wrapping_add(16))?;
    let (interval, value) = (interval.to_ns()?, value.to_ns()?);
    let realtime = timers::is_realtime(process, number)?;
    crate::heap_room()?;
    let next = match value {
        0 => 0,
        at if a[1] as u32 & raw::TIMER_ABSTIME == 0 => deadline_after(at),
        at if realtime => deadline_after(at.saturating_sub(clock::realtime_ns())),
        at => at,
    };
    let before = timers::set(process, number, next, interval)?;
    if a[3] != 0 {
        write_value(a[3], before)?;
    }
    Ok(0)
}

/// timer_gettime(2).
pub fn timer_gettime(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_value(a[1], timers::get(&current().process, a[0] as u32)?)?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(a: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(timers::overrun(&current().process, a[0] as u32)?)
}

/// timer_delete(2).
pub fn timer_delete(a: &Args, _: &mut TrapFrame) -> SysResult {
    timers::delete(&current().process, a[0] as u32)?;
    Ok(0)
}
