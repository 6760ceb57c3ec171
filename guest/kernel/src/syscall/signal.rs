//! System calls: signals.

use super::time::{Timespec, deadline_after};
use super::{Args, Restart, SysErr, SysResult};
use crate::signal::{self, Action, SigInfo, UNBLOCKABLE, is_signal};
use crate::task::wait::sleep_until;
use crate::task::{Process, Task, current, find_process_of, find_task, table};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;

/// Bytes of a signal set.
const SET_BYTES: u64 = 8;

fn check_set_size(bytes: u64) -> Result<(), SysErr> {
    if bytes == SET_BYTES { Ok(()) } else { Err(Errno::EINVAL.into()) }
}

/// rt_sigaction(2).
pub fn rt_sigaction(a: &Args, _: &mut TrapFrame) -> SysResult {
    check_set_size(a[3])?;
    let sig = u64::from(a[0] as u32);
    if !is_signal(sig) {
        return Err(Errno::EINVAL.into());
    }
    let new = match a[1] {
        0 => None,
        at => Some(Action::from_words(uaccess::read(at)?)),
    };
    let old = signal::set_action(sig as u32, new)?;
    if a[2] != 0 {
        uaccess::write(a[2], &old.to_words())?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(a: &Args, _: &mut TrapFrame) -> SysResult {
    check_set_size(a[3])?;
    let task = current();
    let old = task.blocked.load(Relaxed);
    if a[1] != 0 {
        let set: u64 = uaccess::read(a[1])?;
        let new = match a[0] as u32 {
            raw::SIG_BLOCK => old | set,
            raw::SIG_UNBLOCK => old & !set,
            raw::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        signal::set_blocked(&task, new);
    }
    if a[2] != 0 {
        uaccess::write(a[2], &old)?;
    }
    Ok(0)
}

/// rt_sigreturn(2).
pub fn rt_sigreturn(_: &Args, frame: &mut TrapFrame) -> SysResult {
    signal::sigreturn(frame)
}

/// rt_sigpending(2).
pub fn rt_sigpending(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[1] > SET_BYTES {
        return Err(Errno::EINVAL.into());
    }
    let task = current();
    let pending = task.pending.load(Relaxed) | task.process.shared_pending.load(Relaxed);
    let bytes = (pending & task.blocked.load(Relaxed)).to_le_bytes();
    uaccess::copy_out(a[0], bytes.get(..a[1] as usize).unwrap_or(&bytes))?;
    Ok(0)
}

/// rt_sigsuspend(2).
pub fn rt_sigsuspend(a: &Args, _: &mut TrapFrame) -> SysResult {
    check_set_size(a[1])?;
    signal::set_temporary_mask(uaccess::read(a[0])?);
    sleep_until(None);
    Err(SysErr::Restart(Restart::NoHandler))
}

/// pause(2).
pub fn pause(_: &Args, _: &mut TrapFrame) -> SysResult {
    sleep_until(None);
    Err(SysErr::Restart(Restart::NoHandler))
}

/// rt_sigtimedwait(2).
pub fn rt_sigtimedwait(a: &Args, _: &mut TrapFrame) -> SysResult {
    check_set_size(a[3])?;
    let set = uaccess::read::<u64>(a[0])? & !UNBLOCKABLE;
    let deadline = match a[2] {
        0 => None,
        at => Some(deadline_after(Timespec::read(at)?.to_ns()?)),
    };
    let task = current();
    let take = || {
        let process = &task.process;
        process.signals.lock().take(&task, set, &process.shared_pending)
    };
    let mut info = take();
    if info.is_none() {
        let mask = task.blocked.load(Relaxed);
        task.real_blocked.store(mask, Relaxed);
        signal::set_blocked(&task, mask & !set);
        if !task.signal_pending() {
            sleep_until(deadline);
        }
        info = take();
        task.real_blocked.store(0, Relaxed);
        let interrupted = task.signal_pending();
        signal::set_blocked(&task, mask);
        if info.is_none() {
            return Err(if interrupted { Errno::EINTR.into() } else { Errno::EAGAIN.into() });
        }
    }
    signal::recalc(&task);
    let Some(info) = info else { return Err(Errno::EAGAIN.into()) };
    if a[1] != 0 {
        uaccess::write(a[1], &info.to_words())?;
    }
    Ok(u64::from(info.signo))
}

/// sigaltstack(2).
pub fn sigaltstack(a: &Args, frame: &mut TrapFrame) -> SysResult {
    signal::sigaltstack_call(a[0], a[1], frame.rsp)
}

pub(super) fn signal_number(value: u64) -> Result<u32, Errno> {
    let sig = value as u32;
    if sig == 0 || is_signal(u64::from(sig)) { Ok(sig) } else { Err(Errno::EINVAL) }
}

pub(super) fn from_me(sig: u32) -> SigInfo {
    let process = &current().process;
    SigInfo::user(sig, process.pid, process.creds().uid)
}

fn kill_one(process: &Arc<Process>, sig: u32) -> Result<(), Errno> {
    signal::may_signal(process, sig)?;
    if sig != 0 {
        signal::send_to_process(process, from_me(sig));
    }
    Ok(())
}

/// kill(2).
pub fn kill(a: &Args, _: &mut TrapFrame) -> SysResult {
    let sig = signal_number(a[1])?;
    let me = current();
    let own = me.process.pid;
    let group = match a[0] as i32 {
        i32::MIN => return Err(Errno::ESRCH.into()),
        pid if pid > 0 => {
            let process = find_process_of(pid as u32).ok_or(Errno::ESRCH)?;
            kill_one(&process, sig)?;
            return Ok(0);
        }
        -1 => {
            let others: Vec<Arc<Process>> =
                table::all_processes().into_iter().filter(|p| p.pid > 1 && p.pid != own).collect();
            if others.is_empty() {
                return Err(Errno::ESRCH.into());
            }
            let mut result = Ok(0);
            for process in &others {
                if let Err(errno) = kill_one(process, sig) {
                    // Those who may not be signalled are passed over.
                    if errno != Errno::EPERM {
                        result = Err(errno.into());
                    }
                }
            }
            return result;
        }
        0 => me.process.pgid(),
        pgid => pgid.unsigned_abs(),
    };
    let mut result = Err(Errno::ESRCH);
    for process in &table::group_processes(group) {
        match kill_one(process, sig) {
            Ok(()) => result = Ok(()),
            Err(errno) if result == Err(Errno::ESRCH) => result = Err(errno),
            Err(_) => {}
        }
    }
    result?;
    Ok(0)
}

fn find_thread(tgid: Option<i32>, tid: i32) -> Result<Arc<Task>, Errno> {
    if tid <= 0 || tgid.is_some_and(|tgid| tgid <= 0) {
        return Err(Errno::EINVAL);
    }
    let task = find_task(tid as u32).ok_or(Errno::ESRCH)?;
    match tgid {
        Some(tgid) if task.process.pid != tgid as u32 => Err(Errno::ESRCH),
        _ => Ok(task),
    }
}

fn kill_thread(tgid: Option<i32>, tid: i32, sig: u64) -> SysResult {
    let sig = signal_number(sig)?;
    let task = find_thread(tgid, tid)?;
    signal::may_signal(&task.process, sig)?;
    if sig != 0 {
        let process = &current().process;
        signal::send_to_task(&task, SigInfo::tkill(sig, process.pid, process.creds().uid))?;
    }
    Ok(0)
}

/// tgkill(2).
pub fn tgkill(a: &Args, _: &mut TrapFrame) -> SysResult {
    kill_thread(Some(a[0] as i32), a[1] as i32, a[2])
}

/// tkill(2).
pub fn tkill(a: &Args, _: &mut TrapFrame) -> SysResult {
    kill_thread(None, a[0] as i32, a[1])
}

/// The information that a program sends along; it may not pass for the kernel's, except to itself.
pub(super) fn user_info(sig: u32, at: u64, to_pid: u32) -> Result<SigInfo, SysErr> {
    let info = SigInfo::from_words(sig, uaccess::read(at)?);
    if (info.code >= 0 || info.code == raw::SI_TKILL) && to_pid != current().process.pid {
        return Err(Errno::EPERM.into());
    }
    Ok(info)
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo(a: &Args, _: &mut TrapFrame) -> SysResult {
    let sig = signal_number(a[1])?;
    let info = user_info(sig, a[2], a[0] as u32)?;
    let process = find_process_of(a[0] as u32).ok_or(Errno::ESRCH)?;
    signal::may_signal(&process, sig)?;
    if sig != 0 {
        signal::queue_to_process(&process, info)?;
    }
    Ok(0)
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(a: &Args, _: &mut TrapFrame) -> SysResult {
    let sig = signal_number(a[2])?;
    let info = user_info(sig, a[3], a[0] as u32)?;
    let task = find_thread(Some(a[0] as i32), a[1] as i32)?;
    signal::may_signal(&task.process, sig)?;
    if sig != 0 {
        signal::send_to_task(&task, info)?;
    }
    Ok(0)
}
