//! System calls on descriptors of processes.

use super::file::files;
use super::remote::{may_reach, process_of, process_to_signal};
use super::signal::{from_me, signal_number, user_info};
use super::{Args, SysErr, SysResult};
use crate::fs::file::O_NONBLOCK;
use crate::fs::pidfd;
use crate::heap_room;
use crate::signal;
use crate::task::{find_process, find_task};
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;

/// pidfd_open(2).
pub fn pidfd_open(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (pid, flags) = (a[0] as i32, a[1] as u32);
    if flags & !O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    heap_room()?;
    let Some(process) = find_process(pid as u32) else {
        // A thread that is no leader is there, and is not a process.
        let thread = find_task(pid as u32).is_some();
        return Err(if thread { Errno::EINVAL } else { Errno::ESRCH }.into());
    };
    Ok(files().install(pidfd::open(process, flags & O_NONBLOCK != 0), true)?)
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [fd, sig, info, flags, ..] = *a;
    if flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = process_to_signal(fd)?;
    let sig = signal_number(sig)?;
    let info = match info {
        0 => from_me(sig),
        at => {
            let info = user_info(sig, at, process.pid)?;
            if info.signo != sig {
                return Err(Errno::EINVAL.into());
            }
            info
        }
    };
    if process.is_reaped() {
        return Err(Errno::ESRCH.into());
    }
    signal::may_signal(&process, sig)?;
    if sig != 0 {
        signal::queue_to_process(&process, info)?;
    }
    Ok(0)
}

/// pidfd_getfd(2).
pub fn pidfd_getfd(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[2] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = process_of(a[0])?;
    may_reach(&process)?;
    let theirs = process.try_files().ok_or(SysErr::Errno(Errno::ESRCH))?;
    Ok(files().install(theirs.get(a[1] as i32)?, true)?)
}
