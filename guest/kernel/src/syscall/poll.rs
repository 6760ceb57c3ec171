//! Waiting for files: poll, ppoll, select, pselect6, epoll: argument decoding; the work is in `fs::poll`.

use super::file::files;
use super::time::{Timespec, deadline_after};
use super::{Args, Restart, SysErr, SysResult};
use crate::fs::File;
use crate::fs::file::Ops;
use crate::fs::poll::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM, wait_files,
};
use crate::task::WaitError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{time, uaccess};

/// When a relative time ends; `None` for never. Negative or over-long parts are refused.
fn deadline(seconds: i64, ns: i64) -> Result<Option<u64>, Errno> {
    if seconds < 0 || !(0..1_000_000_000).contains(&ns) {
        return Err(Errno::EINVAL);
    }
    let total = (seconds as u64).saturating_mul(1_000_000_000).saturating_add(ns as u64);
    Ok(Some(time::now_ns().saturating_add(total)))
}

/// A `struct timespec` argument that may be absent.
fn timespec(va: u64) -> Result<Option<u64>, SysErr> {
    if va == 0 {
        return Ok(None);
    }
    let [seconds, ns] = uaccess::read::<[i64; 2]>(va)?;
    Ok(deadline(seconds, ns)?)
}

/// What is left until a deadline, written back as Linux does.
fn write_rest(va: u64, deadline_ns: Option<u64>, unit_ns: u64) {
    if let (Some(deadline_ns), true) = (deadline_ns, va != 0) {
        let left = deadline_ns.saturating_sub(time::now_ns());
        // The call has succeeded already: a bad address here is not reported (fs/select.c, poll_select_finish).
        let _ = uaccess::write(va, &[left / 1_000_000_000, left % 1_000_000_000 / unit_ns]);
    }
}

/// Applies a signal mask for the length of `f`. On an interruption the mask stays until a handler has run.
fn with_mask(mask: Option<u64>, f: impl FnOnce() -> SysResult) -> SysResult {
    let Some(mask) = mask else { return f() };
    crate::signal::set_temporary_mask(mask);
    let result = f();
    if !matches!(result, Err(SysErr::Restart(_)) | Err(SysErr::Errno(Errno::EINTR))) {
        crate::signal::restore_temporary_mask();
    }
    result
}

fn sigmask(va: u64, size: u64) -> Result<Option<u64>, SysErr> {
    if va == 0 {
        return Ok(None);
    }
    if size != 8 {
        return Err(Errno::EINVAL.into());
    }
    Ok(Some(uaccess::read::<u64>(va)?))
}

struct Polled {
    file: Option<Arc<File>>,
    fd: i32,
    events: u32,
}

fn poll_files(fds: u64, n: u64, deadline_ns: Option<u64>, restart: SysErr) -> SysResult {
    let n = n & 0xffff_ffff;
    if n > crate::fs::caller::nofile() {
        return Err(Errno::EINVAL.into());
    }
    let table = files();
    let mut all: Vec<Polled> = Vec::new();
    all.try_reserve_exact(n as usize).map_err(|_| Errno::ENOMEM)?;
    for i in 0..n {
        let word = uaccess::read::<u64>(fds.wrapping_add(8 * i))?;
        let fd = word as u32 as i32;
        let file = if fd < 0 { None } else { table.get(fd).ok() };
        all.push(Polled { file, fd, events: (word >> 32) as u32 & 0xffff });
    }
    let look = |p: &Polled| match &p.file {
        Some(file) => file.poll() & (p.events | POLLERR | POLLHUP | POLLNVAL),
        None if p.fd < 0 => 0,
        None => POLLNVAL,
    };
    let any = || all.iter().any(|p| look(p) != 0).then_some(());
    let files: Vec<Option<Arc<File>>> = all.iter().map(|p| p.file.clone()).collect();
    let waited = match (any(), deadline_ns) {
        (Some(()), _) => Ok(()),
        (None, Some(at)) if at <= time::now_ns() => Err(WaitError::TimedOut),
        (None, _) => wait_files(&files, deadline_ns, any),
    };
    let mut ready = 0;
    for (i, polled) in all.iter().enumerate() {
        let events = look(polled);
        ready += u64::from(events != 0);
        uaccess::write(fds.wrapping_add(8 * i as u64 + 6), &(events as u16))?;
    }
    match waited {
        Err(WaitError::Interrupted) if ready == 0 => Err(restart),
        _ => Ok(ready),
    }
}

/// poll(2).
pub fn poll(a: &Args, _: &mut TrapFrame) -> SysResult {
    let timeout = a[2] as i32;
    let deadline_ns = match timeout {
        ..0 => None,
        ms => Some(time::now_ns() + ms as u64 * 1_000_000),
    };
    // Restarted without a handler (after a stop), a finite wait begins anew.
    poll_files(a[0], a[1], deadline_ns, SysErr::Restart(Restart::NoHandler))
}

/// ppoll(2).
pub fn ppoll(a: &Args, _: &mut TrapFrame) -> SysResult {
    let deadline_ns = timespec(a[2])?;
    let mask = sigmask(a[3], a[4])?;
    let result = with_mask(mask, || poll_files(a[0], a[1], deadline_ns, SysErr::Restart(Restart::NoHandler)));
    write_rest(a[2], deadline_ns, 1);
    result
}

/// Descriptors that select looks at, at most: the size of the sets is the caller's, the bound is the table's.
const SELECT_MAX: u64 = 1 << 16;

/// Events that each of select's three sets stands for (fs/select.c).
const SETS: [u32; 3] = [POLLRDNORM | POLLIN | POLLHUP | POLLERR, POLLWRNORM | POLLOUT | POLLERR, POLLPRI];

fn select_files(n: u64, sets: [u64; 3], deadline_ns: Option<u64>) -> SysResult {
    let n = n as i32;
    if n < 0 {
        return Err(Errno::EINVAL.into());
    }
    let n = (n as u64).min(SELECT_MAX).min(crate::fs::caller::nofile());
    let words = n.div_ceil(64) as usize;
    let mut wanted: [Vec<u64>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for (set, va) in wanted.iter_mut().zip(sets) {
        set.try_reserve_exact(words).map_err(|_| Errno::ENOMEM)?;
        for i in 0..words as u64 {
            set.push(if va == 0 { 0 } else { uaccess::read::<u64>(va.wrapping_add(8 * i))? });
        }
    }
    let bit = |set: &Vec<u64>, fd: u64| set.get((fd / 64) as usize).is_some_and(|w| w >> (fd % 64) & 1 != 0);
    let table = files();
    let mut all: Vec<(u64, Option<Arc<File>>)> = Vec::new();
    for fd in 0..n {
        if wanted.iter().any(|set| bit(set, fd)) {
            all.push((fd, Some(table.get(fd as i32)?)));
        }
    }
    // Which sets a descriptor is ready in, as bits.
    let look = |fd: u64, file: &File| {
        let events = file.poll();
        let mut hits = 0u32;
        for (i, (set, mask)) in wanted.iter().zip(SETS).enumerate() {
            if bit(set, fd) && events & mask != 0 {
                hits |= 1 << i;
            }
        }
        hits
    };
    let any =
        || all.iter().any(|(fd, file)| file.as_ref().is_some_and(|file| look(*fd, file) != 0)).then_some(());
    let files: Vec<Option<Arc<File>>> = all.iter().map(|(_, file)| file.clone()).collect();
    let waited = match (any(), deadline_ns) {
        (Some(()), _) => Ok(()),
        (None, Some(at)) if at <= time::now_ns() => Err(WaitError::TimedOut),
        (None, _) => wait_files(&files, deadline_ns, any),
    };
    let mut results: [Vec<u64>; 3] = [alloc::vec![0; words], alloc::vec![0; words], alloc::vec![0; words]];
    let mut ready = 0;
    for (fd, file) in &all {
        let hits = file.as_ref().map_or(0, |file| look(*fd, file));
        for (i, set) in results.iter_mut().enumerate() {
            if hits >> i & 1 != 0 {
                ready += 1;
                if let Some(word) = set.get_mut((*fd / 64) as usize) {
                    *word |= 1 << (*fd % 64);
                }
            }
        }
    }
    if ready == 0 && waited == Err(WaitError::Interrupted) {
        return Err(SysErr::Restart(Restart::NoHandler));
    }
    for (set, va) in results.iter().zip(sets) {
        if va != 0 {
            for (i, word) in set.iter().enumerate() {
                uaccess::write(va.wrapping_add(8 * i as u64), word)?;
            }
        }
    }
    Ok(ready)
}

/// select(2).
pub fn select(a: &Args, _: &mut TrapFrame) -> SysResult {
    let mut deadline_ns = None;
    if a[4] != 0 {
        let [seconds, us] = uaccess::read::<[i64; 2]>(a[4])?;
        // More than a million microseconds are carried over (fs/select.c, kern_select).
        let seconds = seconds.saturating_add(us / 1_000_000);
        deadline_ns = deadline(seconds, us % 1_000_000 * 1000)?;
    }
    let result = select_files(a[0], [a[1], a[2], a[3]], deadline_ns);
    write_rest(a[4], deadline_ns, 1000);
    result
}

/// pselect6(2).
pub fn pselect6(a: &Args, _: &mut TrapFrame) -> SysResult {
    let deadline_ns = timespec(a[4])?;
    let mut mask = None;
    if a[5] != 0 {
        let [va, size] = uaccess::read::<[u64; 2]>(a[5])?;
        mask = sigmask(va, size)?;
    }
    let result = with_mask(mask, || select_files(a[0], [a[1], a[2], a[3]], deadline_ns));
    write_rest(a[4], deadline_ns, 1);
    result
}

/// epoll_ctl(2).
pub fn epoll_ctl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let table = files();
    let set = table.get(a[0] as i32)?;
    let file = table.get(a[2] as i32)?;
    let op = a[1] as u32;
    let (mut events, mut data) = (0, 0);
    if op != 2 {
        // struct epoll_event is packed on x86-64: 4 bytes of events, 8 of data.
        events = uaccess::read::<u32>(a[3])?;
        data = uaccess::read::<u64>(a[3].wrapping_add(4))?;
    }
    let Ops::Epoll(epoll) = &set.ops else { return Err(Errno::EINVAL.into()) };
    if Arc::ptr_eq(&set, &file) {
        return Err(Errno::EINVAL.into());
    }
    // Files, directories and most devices are always ready: there is nothing to wait for.
    if matches!(file.ops, Ops::Regular | Ops::Dir | Ops::Device(_)) {
        return Err(Errno::EPERM.into());
    }
    crate::heap_room()?;
    epoll.control(op, a[2] as i32, &file, events, data)?;
    Ok(0)
}

fn epoll_wait_until(fd: u64, events: u64, max: u64, deadline_ns: Option<u64>) -> SysResult {
    let max = max as i32;
    if max <= 0 || max > (i32::MAX / 12) {
        return Err(Errno::EINVAL.into());
    }
    let set = files().get(fd as i32)?;
    let Ops::Epoll(epoll) = &set.ops else { return Err(Errno::EINVAL.into()) };
    match epoll.wait(max as usize, deadline_ns) {
        Ok(found) => {
            for (i, (hit, data)) in found.iter().enumerate() {
                let at = events.wrapping_add(12 * i as u64);
                uaccess::write(at, hit)?;
                uaccess::write(at.wrapping_add(4), data)?;
            }
            Ok(found.len() as u64)
        }
        Err(WaitError::TimedOut) => Ok(0),
        Err(WaitError::Interrupted) => Err(Errno::EINTR.into()),
    }
}

/// epoll_pwait2(2).
pub fn epoll_pwait2(a: &Args, _: &mut TrapFrame) -> SysResult {
    let deadline_ns = match a[3] {
        0 => None,
        at => Some(deadline_after(Timespec::read(at)?.to_ns()?)),
    };
    let mask = sigmask(a[4], a[5])?;
    with_mask(mask, || epoll_wait_until(a[0], a[1], a[2], deadline_ns))
}

fn milliseconds(timeout: u64) -> Option<u64> {
    match timeout as i32 {
        ..0 => None,
        ms => Some(time::now_ns() + ms as u64 * 1_000_000),
    }
}

/// epoll_wait(2).
pub fn epoll_wait(a: &Args, _: &mut TrapFrame) -> SysResult {
    epoll_wait_until(a[0], a[1], a[2], milliseconds(a[3]))
}

/// epoll_pwait(2).
pub fn epoll_pwait(a: &Args, _: &mut TrapFrame) -> SysResult {
    let mask = sigmask(a[4], a[5])?;
    with_mask(mask, || epoll_wait_until(a[0], a[1], a[2], milliseconds(a[3])))
}
