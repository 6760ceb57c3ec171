//! System calls: the life of processes, their groups and sessions.

use super::{Args, SysErr, SysResult};
use crate::fs::file::{O_NONBLOCK, Ops};
use crate::signal::{SIGCHLD, SigInfo, child_code, status_exited};
use crate::task::exec::{self, strings::Strings};
use crate::task::fork::{self, CloneArgs};
use crate::task::reap::{self, Which};
use crate::task::{current, exit, find_process_of, jobs, limits};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::{self, CStrError};

/// Longest path, its NUL not included.
const PATH_MAX: usize = 4095;
// arch/x86/include/uapi/asm/prctl.h.
const ARCH_SET_GS: u32 = 0x1001;
const ARCH_SET_FS: u32 = 0x1002;
const ARCH_GET_FS: u32 = 0x1003;
const ARCH_GET_GS: u32 = 0x1004;
/// The exit signal in clone's flags.
const CSIGNAL: u64 = 0xff;

/// getpid(2).
pub fn getpid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.pid))
}

/// gettid(2).
pub fn gettid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().tid()))
}

/// getppid(2).
pub fn getppid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.parent()))
}

/// fork(2).
pub fn fork(_: &Args, frame: &mut TrapFrame) -> SysResult {
    fork::clone(&fork::fork_args(), frame)
}

/// vfork(2).
pub fn vfork(_: &Args, frame: &mut TrapFrame) -> SysResult {
    fork::clone(&fork::vfork_args(), frame)
}

/// clone(2), with the argument order of x86-64.
pub fn clone(a: &Args, frame: &mut TrapFrame) -> SysResult {
    let args = CloneArgs {
        flags: a[0] & 0xffff_ffff & !CSIGNAL,
        exit_signal: (a[0] & CSIGNAL) as u32,
        stack: a[1],
        parent_tid: a[2],
        child_tid: a[3],
        tls: a[4],
        // The pidfd takes the place of the tid.
        pidfd: a[2],
    };
    let both = u64::from(raw::CLONE_PIDFD | raw::CLONE_PARENT_SETTID);
    if args.flags & both == both
        || args.flags & u64::from(raw::CLONE_PIDFD) != 0 && args.flags & u64::from(raw::CLONE_DETACHED) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    fork::clone(&args, frame)
}

/// clone3(2).
pub fn clone3(a: &Args, frame: &mut TrapFrame) -> SysResult {
    const WORDS: usize = (raw::CLONE_ARGS_SIZE_VER2 / 8) as usize;
    const SIZE: u64 = raw::CLONE_ARGS_SIZE_VER2 as u64;
    let (at, size) = (a[0], a[1]);
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    if size < u64::from(raw::CLONE_ARGS_SIZE_VER0) {
        return Err(Errno::EINVAL.into());
    }
    let mut words = [0; WORDS];
    for (word, offset) in words.iter_mut().zip((0..size / 8).map(|i| 8 * i)) {
        *word = uaccess::read(at + offset)?;
    }
    for offset in SIZE..size {
        if uaccess::read::<u8>(at + offset)? != 0 {
            return Err(Errno::E2BIG.into());
        }
    }
    let [
        flags,
        pidfd,
        child_tid,
        parent_tid,
        exit_signal,
        stack,
        stack_size,
        tls,
        _set_tid,
        set_tids,
        _cgroup,
    ] = words;
    let known = 0xffff_ffff | raw::CLONE_CLEAR_SIGHAND | raw::CLONE_INTO_CGROUP;
    let bad = flags & (CSIGNAL | u64::from(raw::CLONE_DETACHED) | !known) != 0
        || exit_signal & !CSIGNAL != 0
        || flags & u64::from(raw::CLONE_THREAD | raw::CLONE_PARENT) != 0 && exit_signal != 0
        || (stack == 0) != (stack_size == 0)
        || set_tids != 0;
    if bad {
        return Err(Errno::EINVAL.into());
    }
    let stack = stack.wrapping_add(stack_size);
    fork::clone(
        &CloneArgs { flags, exit_signal: exit_signal as u32, stack, parent_tid, child_tid, tls, pidfd },
        frame,
    )
}

/// unshare(2).
pub fn unshare(a: &Args, _: &mut TrapFrame) -> SysResult {
    fork::unshare(a[0])?;
    Ok(0)
}

/// setns(2): there is one namespace of each kind, and no descriptor of any.
pub fn setns(a: &Args, _: &mut TrapFrame) -> SysResult {
    current().process.files().get(a[0] as i32)?;
    Err(Errno::EINVAL.into())
}

fn path_argument(at: u64) -> Result<Vec<u8>, Errno> {
    uaccess::read_cstr(at, PATH_MAX).map_err(|error| match error {
        CStrError::Fault => Errno::EFAULT,
        CStrError::TooLong => Errno::ENAMETOOLONG,
        CStrError::NoMemory => Errno::ENOMEM,
    })
}

fn exec_strings(argv: u64, envp: u64) -> Result<(Strings, Strings), Errno> {
    let room = exec::strings::room(current().process.rlimit(limits::STACK));
    let argv = Strings::read(argv, room)?;
    let envp = Strings::read(envp, room - argv.cost().min(room))?;
    Ok((argv, envp))
}

/// execve(2).
pub fn execve(a: &Args, frame: &mut TrapFrame) -> SysResult {
    let path = path_argument(a[0])?;
    let (argv, envp) = exec_strings(a[1], a[2])?;
    exec::exec(&path, argv, envp, frame)
}

/// execveat(2). A program that is named relative to a descriptor is opened through /proc.
pub fn execveat(a: &Args, frame: &mut TrapFrame) -> SysResult {
    let path = path_argument(a[1])?;
    let flags = a[4] as u32;
    if flags & !(raw::AT_EMPTY_PATH | raw::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (argv, envp) = exec_strings(a[2], a[3])?;
    let fd = a[0] as i32;
    if path.first() == Some(&b'/') || fd == raw::AT_FDCWD && !path.is_empty() {
        return exec::exec(&path, argv, envp, frame);
    }
    if path.is_empty() && flags & raw::AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT.into());
    }
    // Fails with EBADF here rather than with ENOENT there.
    drop(current().process.files().get(fd)?);
    let mut through: Vec<u8> = b"/proc/self/fd/".to_vec();
    push_decimal(&mut through, fd as u32);
    if !path.is_empty() {
        through.push(b'/');
        through.extend_from_slice(&path);
    }
    exec::exec(&through, argv, envp, frame)
}

fn push_decimal(out: &mut Vec<u8>, number: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        if rest == 0 || at == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or(&[]));
}

/// exit(2): the calling thread.
pub fn exit(a: &Args, _: &mut TrapFrame) -> SysResult {
    exit::exit_thread(status_exited(a[0] as u32))
}

/// exit_group(2).
pub fn exit_group(a: &Args, _: &mut TrapFrame) -> SysResult {
    exit::exit_group(status_exited(a[0] as u32))
}

/// wait4(2).
pub fn wait4(a: &Args, _: &mut TrapFrame) -> SysResult {
    let options = a[2] as u32;
    let known =
        raw::WNOHANG | raw::WUNTRACED | raw::WCONTINUED | raw::__WNOTHREAD | raw::__WCLONE | raw::__WALL;
    if options & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let which = match a[0] as i32 {
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => Which::Any,
        0 => Which::Group(current().process.pgid()),
        pid if pid > 0 => Which::Pid(pid as u32),
        group => Which::Group(group.unsigned_abs()),
    };
    let Some(child) = reap::wait_for_child(which, options | raw::WEXITED)? else { return Ok(0) };
    if a[1] != 0 {
        uaccess::write(a[1], &child.status)?;
    }
    if a[3] != 0 {
        uaccess::write(a[3], &child.used.to_rusage())?;
    }
    Ok(u64::from(child.pid))
}

/// waitid(2).
pub fn waitid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let mut options = a[3] as u32;
    let mut nonblock = false;
    let events = raw::WEXITED | raw::WSTOPPED | raw::WCONTINUED;
    let known = events | raw::WNOHANG | raw::WNOWAIT | raw::__WNOTHREAD | raw::__WCLONE | raw::__WALL;
    if options & !known != 0 || options & events == 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = a[1] as i32;
    let which = match a[0] as u32 {
        raw::P_ALL => Which::Any,
        raw::P_PID if id > 0 => Which::Pid(id as u32),
        raw::P_PIDFD if id >= 0 => {
            let file = current().process.files().get(id)?;
            let Ops::Pidfd(pidfd) = &file.ops else { return Err(Errno::EBADF.into()) };
            if file.flags() & O_NONBLOCK != 0 {
                nonblock = true;
                options |= raw::WNOHANG;
            }
            Which::Pid(pidfd.process().pid)
        }
        raw::P_PGID if id > 0 => Which::Group(id as u32),
        raw::P_PGID if id == 0 => Which::Group(current().process.pgid()),
        _ => return Err(Errno::EINVAL.into()),
    };
    let asked_not_to_wait = a[3] as u32 & raw::WNOHANG != 0;
    let child = reap::wait_for_child(which, options)?;
    if child.is_none() && nonblock && !asked_not_to_wait {
        return Err(Errno::EAGAIN.into());
    }
    if let Some(child) = &child
        && a[4] != 0
    {
        uaccess::write(a[4], &child.used.to_rusage())?;
    }
    if a[2] != 0 {
        let words = match child {
            Some(child) => {
                let (code, status) = child_code(child.status);
                SigInfo::child(SIGCHLD, code, child.pid, child.uid, status, 0, 0).to_words()
            }
            None => [0; 16],
        };
        // The fields up to si_status: what Linux writes.
        for (i, word) in words.iter().take(4).enumerate() {
            uaccess::write(a[2] + 8 * i as u64, word)?;
        }
    }
    Ok(0)
}

/// setpgid(2).
pub fn setpgid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (pid, pgid) = (a[0] as i32, a[1] as i32);
    if pgid < 0 {
        return Err(Errno::EINVAL.into());
    }
    if pid < 0 {
        return Err(Errno::ESRCH.into());
    }
    jobs::set_group(pid as u32, pgid as u32)?;
    Ok(0)
}

/// getpgid(2).
pub fn getpgid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pid = a[0] as u32;
    if pid == 0 {
        return Ok(u64::from(current().process.pgid()));
    }
    Ok(u64::from(find_process_of(pid).ok_or(Errno::ESRCH)?.pgid()))
}

/// getpgrp(2).
pub fn getpgrp(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.pgid()))
}

/// setsid(2).
pub fn setsid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(jobs::new_session()?))
}

/// getsid(2).
pub fn getsid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pid = a[0] as u32;
    if pid == 0 {
        return Ok(u64::from(current().process.sid()));
    }
    Ok(u64::from(find_process_of(pid).ok_or(Errno::ESRCH)?.sid()))
}

/// set_tid_address(2).
pub fn set_tid_address(a: &Args, _: &mut TrapFrame) -> SysResult {
    let task = current();
    task.set_clear_child_tid(a[0]);
    Ok(u64::from(task.tid()))
}

/// set_robust_list(2).
pub fn set_robust_list(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[1] != crate::task::robust::HEAD_BYTES {
        return Err(Errno::EINVAL.into());
    }
    current().robust_list.store(a[0], Relaxed);
    Ok(0)
}

/// get_robust_list(2).
pub fn get_robust_list(a: &Args, _: &mut TrapFrame) -> SysResult {
    let me = current();
    let head = match a[0] as u32 {
        0 => me.robust_list.load(Relaxed),
        tid => {
            let task = crate::task::find_task(tid).ok_or(Errno::ESRCH)?;
            if task.process.pid != me.process.pid && !me.process.capable(crate::task::creds::CAP_SYS_ADMIN) {
                return Err(Errno::EPERM.into());
            }
            task.robust_list.load(Relaxed)
        }
    };
    uaccess::write(a[2], &crate::task::robust::HEAD_BYTES)?;
    uaccess::write(a[1], &head)?;
    Ok(0)
}

/// arch_prctl(2).
pub fn arch_prctl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let context = &current().context;
    let check =
        |addr: u64| if addr < ptshare_paging::USER_END { Ok(addr) } else { Err(SysErr::from(Errno::EPERM)) };
    match a[0] as u32 {
        ARCH_SET_FS => context.set_fs_base(check(a[1])?),
        ARCH_SET_GS => context.set_gs_base(check(a[1])?),
        ARCH_GET_FS => uaccess::write(a[1], &context.fs_base())?,
        ARCH_GET_GS => uaccess::write(a[1], &context.gs_base())?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}
