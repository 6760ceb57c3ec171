//! System calls: timers with a descriptor.

use super::file::{file, files};
use super::time::{Timespec, deadline_after, write_timespec};
use super::{Args, SysErr, SysResult};
use crate::fs::file::{File, O_CLOEXEC, O_NONBLOCK, O_RDWR, Ops};
use crate::fs::inode::Kind;
use crate::fs::memfd::nameless;
use crate::fs::timerfd::Timerfd;
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::time as clock;
use ptshare_machine::trap::TrapFrame;

/// TFD_TIMER_ABSTIME.
const ABSTIME: u32 = 1;

/// timerfd_create(2).
pub fn timerfd_create(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[1] as u32;
    let realtime = match a[0] as u32 {
        raw::CLOCK_REALTIME | raw::CLOCK_REALTIME_ALARM => true,
        raw::CLOCK_MONOTONIC | raw::CLOCK_BOOTTIME | raw::CLOCK_BOOTTIME_ALARM => false,
        _ => return Err(Errno::EINVAL.into()),
    };
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    crate::heap_room()?;
    let path = nameless(b"anon_inode:[timerfd]", 0o600, Kind::Anonymous);
    let file = File::new(path, Ops::Timer(Timerfd::new(realtime)), O_RDWR | flags & O_NONBLOCK);
    Ok(files().install(file, flags & O_CLOEXEC != 0)?)
}

fn timer_of(fd: u64) -> Result<Arc<Timerfd>, Errno> {
    match &file(fd)?.ops {
        Ops::Timer(timer) => Ok(timer.clone()),
        _ => Err(Errno::EINVAL),
    }
}

/// Writes a `struct itimerspec`.
fn write_value(at: u64, (value, interval): (u64, u64)) -> Result<(), SysErr> {
    write_timespec(at, interval)?;
    write_timespec(at.wrapping_add(16), value)
}

/// timerfd_settime(2).
pub fn timerfd_settime(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[1] as u32;
    let interval = Timespec::read(a[2])?.to_ns()?;
    let value = Timespec::read(a[2].wrapping_add(16))?.to_ns()?;
    if flags & !ABSTIME != 0 {
        return Err(Errno::EINVAL.into());
    }
    let timer = timer_of(a[0])?;
    crate::heap_room()?;
    let next = match value {
        0 => 0,
        at if flags & ABSTIME == 0 => deadline_after(at),
        at if timer.realtime => deadline_after(at.saturating_sub(clock::realtime_ns())),
        at => at,
    };
    let before = timer.set(next, interval);
    if a[3] != 0 {
        write_value(a[3], before)?;
    }
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_value(a[1], timer_of(a[0])?.get())?;
    Ok(0)
}
