//! System calls on another process's memory: process_vm_readv, process_vm_writev, process_madvise, process_mrelease.

use super::file::{file, vectors};
use super::{Args, SysErr, SysResult};
use crate::fs::file::Ops;
use crate::fs::virt::Node;
use crate::task::creds::{CAP_SYS_NICE, CAP_SYS_PTRACE};
use crate::task::{Process, current, find_process_of};
use crate::{KMm, heap_room};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;
use ptshare_paging::PAGE_BYTES;

/// May the caller reach into this process (`ptrace_may_access` with PTRACE_MODE_ATTACH_REALCREDS)?
///
/// # Errors
/// EPERM.
pub(super) fn may_reach(process: &Process) -> Result<(), Errno> {
    let (me, it) = (current().process.creds(), process.creds());
    let same = [it.uid, it.euid, it.suid].iter().all(|&uid| uid == me.uid)
        && [it.gid, it.egid, it.sgid].iter().all(|&gid| gid == me.gid);
    let own = process.pid == current().process.pid;
    let open = same && process.dumpable() == 1;
    if own || open || me.capable(CAP_SYS_PTRACE) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Where a copy has come to in a list of ranges.
struct Cursor {
    ranges: Vec<(u64, u64)>,
    at: usize,
    inside: u64,
}

impl Cursor {
    fn new(ranges: Vec<(u64, u64)>) -> Cursor {
        Cursor { ranges, at: 0, inside: 0 }
    }

    /// Address and length of what is left of the range that it stands in.
    fn rest(&mut self) -> Option<(u64, u64)> {
        loop {
            let &(base, len) = self.ranges.get(self.at)?;
            if self.inside < len {
                return Some((base.wrapping_add(self.inside), len - self.inside));
            }
            self.at += 1;
            self.inside = 0;
        }
    }
}

/// Copies between the caller's ranges and another process's, as far as both go. A range of the other's that breaks off
/// ends it, with what was copied as the answer.
fn copy(a: &Args, write: bool) -> SysResult {
    let [pid, local, local_count, remote, remote_count, flags] = *a;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    heap_room()?;
    let mut mine = Cursor::new(vectors(local, local_count)?);
    if mine.ranges.iter().all(|range| range.1 == 0) {
        return Ok(0);
    }
    // What the other's addresses are worth only its own tables say.
    let mut its = Cursor::new(remote_vectors(remote, remote_count)?);
    let process = find_process_of(pid as u32).ok_or(Errno::ESRCH)?;
    may_reach(&process)?;
    let mm = process.try_mm().ok_or(Errno::ESRCH)?;
    let mut done = 0;
    while let (Some((here, room)), Some((there, left))) = (mine.rest(), its.rest()) {
        // Not over a page's end, on either side: what lies before a bad page is copied.
        let until = |addr: u64| PAGE_BYTES - addr % PAGE_BYTES;
        let len = room.min(left).min(until(there)).min(until(here));
        if let Err(error) = copy_part(&mm, write, here, there, len) {
            return if done == 0 { Err(error) } else { Ok(done) };
        }
        done += len;
        mine.inside += len;
        its.inside += len;
    }
    Ok(done)
}

/// Copies inside one page on each side.
fn copy_part(mm: &KMm, write: bool, here: u64, there: u64, len: u64) -> Result<(), SysErr> {
    let copied = mm.with_page(there, write, |pa| match write {
        true => uaccess::copy_user_to_phys(pa, here, len),
        false => uaccess::copy_phys_to_user(here, pa, len),
    })?;
    Ok(copied?)
}

fn remote_vectors(va: u64, count: u64) -> Result<Vec<(u64, u64)>, SysErr> {
    const MOST: u64 = 1024;
    if count > MOST {
        return Err(Errno::EINVAL.into());
    }
    let mut ranges = Vec::new();
    ranges.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    for i in 0..count {
        let [base, len] = uaccess::read::<[u64; 2]>(va.wrapping_add(16 * i))?;
        if (len as i64) < 0 {
            return Err(Errno::EINVAL.into());
        }
        ranges.push((base, len));
    }
    Ok(ranges)
}

/// process_vm_readv(2).
pub fn process_vm_readv(a: &Args, _: &mut TrapFrame) -> SysResult {
    copy(a, false)
}

/// process_vm_writev(2).
pub fn process_vm_writev(a: &Args, _: &mut TrapFrame) -> SysResult {
    copy(a, true)
}

/// The process behind a pidfd argument.
///
/// # Errors
/// EBADF for another descriptor; ESRCH when it has been waited for.
pub(super) fn process_of(fd: u64) -> Result<Arc<Process>, Errno> {
    match &file(fd)?.ops {
        Ops::Pidfd(pidfd) => Ok(pidfd.process().clone()),
        _ => Err(Errno::EBADF),
    }
}

/// The same for pidfd_send_signal, which takes a process's directory in /proc too.
///
/// # Errors
/// As [`process_of`].
pub(super) fn process_to_signal(fd: u64) -> Result<Arc<Process>, Errno> {
    match &file(fd)?.ops {
        Ops::Virtual(Node::Pid(node), _) => node.of_directory().ok_or(Errno::EBADF),
        _ => process_of(fd),
    }
}

/// process_madvise(2).
pub fn process_madvise(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [fd, at, count, advice, flags, _] = *a;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let ranges = vectors(at, count)?;
    let process = process_of(fd)?;
    may_reach(&process)?;
    let own = process.pid == current().process.pid;
    let known = [abi::MADV_COLD, abi::MADV_PAGEOUT, abi::MADV_WILLNEED];
    if !own {
        if !known.contains(&(advice as u32)) {
            return Err(Errno::EINVAL.into());
        }
        if !current().process.capable(CAP_SYS_NICE) {
            return Err(Errno::EPERM.into());
        }
    }
    let mm = process.try_mm().ok_or(Errno::ESRCH)?;
    let mut done = 0;
    for (base, len) in ranges {
        if let Err(error) = mm.madvise(base, len, advice & 0xffff_ffff) {
            return if done == 0 { Err(error.into()) } else { Ok(done) };
        }
        done += len;
    }
    Ok(done)
}

/// process_mrelease(2): frees a dying process's memory. It goes with the process here, at once.
pub fn process_mrelease(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[1] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = process_of(a[0])?;
    if process.is_dead() {
        return Err(Errno::ESRCH.into());
    }
    if process.exiting.load(core::sync::atomic::Ordering::Relaxed) != u32::MAX {
        // Not dying: its memory is in use.
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}
