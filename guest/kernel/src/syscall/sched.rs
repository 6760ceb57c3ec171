//! System calls: scheduling, futexes, limits.

use super::time::{Timespec, deadline_after};
use super::{Args, SysErr, SysResult};
use crate::task::creds::{CAP_SYS_NICE, CAP_SYS_RESOURCE};
use crate::task::thread::WORK_RESCHED;
use crate::task::{Process, Task, current, find_process_of, find_task, futex, limits, sched, table};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{boot, cpu, time as clock, uaccess};

/// Highest real-time priority.
const RT_PRIORITY_MAX: u32 = 99;

/// sched_yield(2).
pub fn sched_yield(_: &Args, _: &mut TrapFrame) -> SysResult {
    sched::yield_now();
    Ok(0)
}

/// futex(2).
pub fn futex(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [addr, op, value, timeout, second, value3] = *a;
    let op = op as u32;
    let private = op & raw::FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & raw::FUTEX_CLOCK_REALTIME != 0;
    let command = op & !(raw::FUTEX_PRIVATE_FLAG | raw::FUTEX_CLOCK_REALTIME);
    if realtime && command != raw::FUTEX_WAIT_BITSET && command != raw::FUTEX_WAIT {
        return Err(Errno::ENOSYS.into());
    }
    let (value, value3) = (value as u32, value3 as u32);
    let count = match command {
        raw::FUTEX_WAIT | raw::FUTEX_WAIT_BITSET => {
            let deadline = match timeout {
                0 => None,
                at => {
                    let ns = Timespec::read(at)?.to_ns()?;
                    Some(match command {
                        raw::FUTEX_WAIT => deadline_after(ns),
                        _ if realtime => deadline_after(ns.saturating_sub(clock::realtime_ns())),
                        _ => ns,
                    })
                }
            };
            let bitset = if command == raw::FUTEX_WAIT { u32::MAX } else { value3 };
            return futex::wait(addr, value, bitset, deadline, private);
        }
        raw::FUTEX_WAKE => futex::wake(addr, value.max(1), u32::MAX, private)?,
        raw::FUTEX_WAKE_BITSET => futex::wake(addr, value.max(1), value3, private)?,
        // For these the timeout is a number.
        raw::FUTEX_REQUEUE | raw::FUTEX_CMP_REQUEUE => {
            let (wake, requeue) = (value as i32, timeout as i32);
            if wake < 0 || requeue < 0 {
                return Err(Errno::EINVAL.into());
            }
            let expected = (command == raw::FUTEX_CMP_REQUEUE).then_some(value3);
            futex::requeue(addr, second, wake as u32, requeue as u32, expected, private)?
        }
        raw::FUTEX_WAKE_OP => {
            futex::wake_op(addr, second, value.max(1), (timeout as u32).max(1), value3, private)?
        }
        _ => return Err(Errno::ENOSYS.into()),
    };
    Ok(u64::from(count))
}

/// Most words of one futex_waitv (FUTEX_WAITV_MAX).
const WAITV_MAX: u64 = 128;

/// futex_waitv(2).
pub fn futex_waitv(a: &Args, _: &mut TrapFrame) -> SysResult {
    const SIZE_U32: u32 = 2;
    let [at, count, flags, timeout, clock_id, _] = *a;
    let count = u64::from(count as u32);
    if flags as u32 != 0 || count == 0 || count > WAITV_MAX || at == 0 {
        return Err(Errno::EINVAL.into());
    }
    let deadline = match timeout {
        0 => None,
        timeout => {
            let ns = Timespec::read(timeout)?.to_ns()?;
            Some(match clock_id as u32 {
                raw::CLOCK_MONOTONIC => ns,
                raw::CLOCK_REALTIME => deadline_after(ns.saturating_sub(clock::realtime_ns())),
                _ => return Err(Errno::EINVAL.into()),
            })
        }
    };
    let mut words = Vec::new();
    words.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    for i in 0..count {
        let [value, addr, flags] = uaccess::read::<[u64; 3]>(at.wrapping_add(24 * i))?;
        let (flags, reserved) = (flags as u32, (flags >> 32) as u32);
        if flags & !raw::FUTEX_PRIVATE_FLAG != SIZE_U32 || reserved != 0 || value > u64::from(u32::MAX) {
            return Err(Errno::EINVAL.into());
        }
        let private = flags & raw::FUTEX_PRIVATE_FLAG != 0;
        words.push(futex::Wanted { addr, expected: value as u32, private });
    }
    futex::wait_many(&words, deadline)
}

fn task_of(pid: u64) -> Result<Arc<Task>, SysErr> {
    match pid as i32 {
        0 => Ok(current().arc()),
        pid if pid > 0 => find_task(pid as u32).ok_or(Errno::ESRCH.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// [`task_of`] for the calls about affinity, to which a negative number is just nobody's.
fn task_or_none(pid: u64) -> Result<Arc<Task>, SysErr> {
    if (pid as i32) < 0 { Err(Errno::ESRCH.into()) } else { task_of(pid) }
}

/// May the caller change the scheduling of `target`?
fn may_schedule(target: &Process) -> Result<(), SysErr> {
    let (me, it) = (current().process.creds(), target.creds());
    if me.euid == it.euid || me.euid == it.uid || me.capable(CAP_SYS_NICE) {
        Ok(())
    } else {
        Err(Errno::EPERM.into())
    }
}

fn online_mask() -> u64 {
    let cpus = boot::census().cpus.load(Relaxed).clamp(1, 64);
    u64::MAX >> (64 - cpus)
}

/// sched_getaffinity(2).
pub fn sched_getaffinity(a: &Args, _: &mut TrapFrame) -> SysResult {
    let len = a[1] as u32;
    if len < 8 || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let task = task_or_none(a[0])?;
    uaccess::write(a[2], &(task.affinity.load(Relaxed) & online_mask()))?;
    Ok(8)
}

/// sched_setaffinity(2).
pub fn sched_setaffinity(a: &Args, _: &mut TrapFrame) -> SysResult {
    let mut bytes = [0; 8];
    let len = (a[1] as u32 as usize).min(8);
    uaccess::copy_in(bytes.get_mut(..len).unwrap_or(&mut []), a[2])?;
    let task = task_or_none(a[0])?;
    may_schedule(&task.process)?;
    let mask = u64::from_le_bytes(bytes);
    if mask & online_mask() == 0 {
        return Err(Errno::EINVAL.into());
    }
    task.affinity.store(mask, SeqCst);
    // Where it runs now it may have to leave.
    task.add_work(WORK_RESCHED);
    sched::kick(&task);
    Ok(0)
}

fn check_policy(policy: u32, priority: u32) -> Result<(), SysErr> {
    let good = match policy & !raw::SCHED_RESET_ON_FORK {
        raw::SCHED_FIFO | raw::SCHED_RR => (1..=RT_PRIORITY_MAX).contains(&priority),
        raw::SCHED_NORMAL | raw::SCHED_BATCH | raw::SCHED_IDLE => priority == 0,
        _ => false,
    };
    if good { Ok(()) } else { Err(Errno::EINVAL.into()) }
}

fn set_policy(task: &Task, policy: u32, priority: u32) -> SysResult {
    check_policy(policy, priority)?;
    may_schedule(&task.process)?;
    let process = &current().process;
    if u64::from(priority) > process.rlimit(limits::RTPRIO) && !process.capable(CAP_SYS_NICE) {
        return Err(Errno::EPERM.into());
    }
    task.policy.store(policy, Relaxed);
    task.rt_priority.store(priority, Relaxed);
    Ok(0)
}

/// sched_setscheduler(2): kept and reported; all tasks share the CPU alike.
pub fn sched_setscheduler(a: &Args, _: &mut TrapFrame) -> SysResult {
    if (a[1] as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = uaccess::read::<u32>(a[2])?;
    set_policy(&*task_of(a[0])?, a[1] as u32, priority)
}

/// sched_setparam(2).
pub fn sched_setparam(a: &Args, _: &mut TrapFrame) -> SysResult {
    let priority = uaccess::read::<u32>(a[1])?;
    let task = task_of(a[0])?;
    let policy = task.policy.load(Relaxed);
    set_policy(&task, policy, priority)
}

/// sched_getscheduler(2).
pub fn sched_getscheduler(a: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(task_of(a[0])?.policy.load(Relaxed)))
}

/// sched_getparam(2).
pub fn sched_getparam(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = task_of(a[0])?.rt_priority.load(Relaxed);
    uaccess::write(a[1], &priority)?;
    Ok(0)
}

/// sched_get_priority_max(2).
pub fn sched_get_priority_max(a: &Args, _: &mut TrapFrame) -> SysResult {
    match a[0] as u32 {
        raw::SCHED_FIFO | raw::SCHED_RR => Ok(u64::from(RT_PRIORITY_MAX)),
        raw::SCHED_NORMAL | raw::SCHED_BATCH | raw::SCHED_IDLE | raw::SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// sched_get_priority_min(2).
pub fn sched_get_priority_min(a: &Args, _: &mut TrapFrame) -> SysResult {
    match a[0] as u32 {
        raw::SCHED_FIFO | raw::SCHED_RR => Ok(1),
        raw::SCHED_NORMAL | raw::SCHED_BATCH | raw::SCHED_IDLE | raw::SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// sched_rr_get_interval(2).
pub fn sched_rr_get_interval(a: &Args, _: &mut TrapFrame) -> SysResult {
    task_of(a[0])?;
    uaccess::write(a[1], &[0, sched::SLICE_NS])?;
    Ok(0)
}

/// getcpu(2).
pub fn getcpu(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[0] != 0 {
        uaccess::write(a[0], &(cpu::id() as u32))?;
    }
    if a[1] != 0 {
        uaccess::write(a[1], &0_u32)?;
    }
    Ok(0)
}

/// The tasks that getpriority and setpriority mean.
fn priority_targets(which: u64, who: u64) -> Result<Vec<Arc<Task>>, SysErr> {
    let me = current();
    let who = who as u32;
    let leaders =
        |pids: Vec<Arc<Process>>| pids.iter().filter_map(|process| find_task(process.pid)).collect();
    let tasks: Vec<Arc<Task>> = match which as u32 {
        raw::PRIO_PROCESS if who == 0 => Vec::from([me.arc()]),
        raw::PRIO_PROCESS => find_task(who).into_iter().collect(),
        raw::PRIO_PGRP => leaders(table::group_processes(if who == 0 { me.process.pgid() } else { who })),
        raw::PRIO_USER => {
            let uid = if who == 0 { me.process.creds().uid } else { who };
            leaders(table::all_processes().into_iter().filter(|p| p.creds().uid == uid).collect())
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    if tasks.is_empty() { Err(Errno::ESRCH.into()) } else { Ok(tasks) }
}

/// getpriority(2): 20 minus the lowest nice value.
pub fn getpriority(a: &Args, _: &mut TrapFrame) -> SysResult {
    let tasks = priority_targets(a[0], a[1])?;
    let nice = tasks.iter().map(|task| task.nice.load(Relaxed)).min().unwrap_or(0);
    Ok((20 - nice) as u64)
}

/// setpriority(2).
pub fn setpriority(a: &Args, _: &mut TrapFrame) -> SysResult {
    let nice = (a[2] as i32).clamp(-20, 19);
    let process = &current().process;
    for task in priority_targets(a[0], a[1])? {
        may_schedule(&task.process)?;
        // RLIMIT_NICE counts from 20 down.
        let lowest = 20 - process.rlimit(limits::NICE).min(40) as i32;
        if nice < task.nice.load(Relaxed) && nice < lowest && !process.capable(CAP_SYS_NICE) {
            return Err(Errno::EACCES.into());
        }
        task.nice.store(nice, Relaxed);
    }
    Ok(0)
}

/// getrlimit(2).
pub fn getrlimit(a: &Args, _: &mut TrapFrame) -> SysResult {
    let limit = current().process.limits().get(a[0] as u32 as usize).ok_or(Errno::EINVAL)?;
    uaccess::write(a[1], &limit)?;
    Ok(0)
}

/// setrlimit(2).
pub fn setrlimit(a: &Args, _: &mut TrapFrame) -> SysResult {
    let new: [u64; 2] = uaccess::read(a[1])?;
    set_limit(&current().process, a[0] as u32 as usize, new)?;
    Ok(0)
}

/// prlimit64(2).
pub fn prlimit64(a: &Args, _: &mut TrapFrame) -> SysResult {
    let me = &current().process;
    let resource = a[1] as u32 as usize;
    let target = match a[0] as u32 {
        0 => me.clone(),
        pid => find_process_of(pid).ok_or(Errno::ESRCH)?,
    };
    if target.pid != me.pid && !me.capable(CAP_SYS_RESOURCE) {
        let (mine, its) = (me.creds(), target.creds());
        let same = mine.uid == its.uid
            && mine.uid == its.euid
            && mine.uid == its.suid
            && mine.gid == its.gid
            && mine.gid == its.egid
            && mine.gid == its.sgid;
        if !same {
            return Err(Errno::EPERM.into());
        }
    }
    let new = match a[2] {
        0 => None,
        at => Some(uaccess::read::<[u64; 2]>(at)?),
    };
    let old = target.limits().get(resource).ok_or(Errno::EINVAL)?;
    if let Some(new) = new {
        set_limit(&target, resource, new)?;
    }
    if a[3] != 0 {
        uaccess::write(a[3], &old)?;
    }
    Ok(0)
}

fn set_limit(target: &Process, resource: usize, new: [u64; 2]) -> Result<(), SysErr> {
    let [soft, hard] = new;
    let mut limits = (*target.limits()).clone();
    let old = limits.get(resource).ok_or(Errno::EINVAL)?;
    if soft > hard {
        return Err(Errno::EINVAL.into());
    }
    if resource == limits::NOFILE && hard > limits::NOFILE_MAX {
        return Err(Errno::EPERM.into());
    }
    if hard > old[1] && !current().process.capable(CAP_SYS_RESOURCE) {
        return Err(Errno::EPERM.into());
    }
    limits.set(resource, new);
    target.set_limits(limits);
    Ok(())
}
