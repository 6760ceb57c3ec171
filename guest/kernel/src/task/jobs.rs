//! Process groups and sessions (setpgid(2), setsid(2)), and orphaned groups.

use super::current;
use super::process::Process;
use super::table::{self, Table};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;

/// setpgid: 0 stands for the caller, or for `pid`.
///
/// # Errors
/// ESRCH, EPERM, EACCES as setpgid(2) says.
pub fn set_group(pid: u32, pgid: u32) -> Result<(), Errno> {
    let me = &current().process;
    let pid = if pid == 0 { me.pid } else { pid };
    let pgid = if pgid == 0 { pid } else { pgid };
    let mut table = table::lock();
    let target = table.process(pid).cloned();
    let result = change_group(&mut table, me, target.as_deref(), pgid);
    drop(table);
    result
}

fn change_group(table: &mut Table, me: &Process, target: Option<&Process>, pgid: u32) -> Result<(), Errno> {
    let target = target.ok_or(Errno::ESRCH)?;
    if target.parent() == me.pid && target.pid != me.pid {
        if target.sid() != me.sid() {
            return Err(Errno::EPERM);
        }
        if target.did_exec.load(Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if target.pid != me.pid {
        return Err(Errno::ESRCH);
    }
    if target.sid() == target.pid {
        return Err(Errno::EPERM);
    }
    if pgid != target.pid && !table.group(pgid).any(|process| process.sid() == me.sid()) {
        return Err(Errno::EPERM);
    }
    if target.pgid() != pgid {
        table.set_group(target, pgid);
    }
    Ok(())
}

/// setsid: the caller becomes the leader of a session and of a group. Gives the session.
///
/// # Errors
/// EPERM when a group has its number already.
pub fn new_session() -> Result<u32, Errno> {
    let me = &current().process;
    let mut table = table::lock();
    if table.group(me.pid).next().is_some() {
        return Err(Errno::EPERM);
    }
    table.set_session(me, me.pid);
    table.set_group(me, me.pid);
    Ok(me.pid)
}

/// The session of a group; `None` when there is no such group (TIOCSPGRP).
pub fn session_of_group(pgid: u32) -> Option<u32> {
    table::lock().group(pgid).next().map(|process| process.sid())
}

/// Does no member of the group have a parent in another group of the same session, who could continue it?
pub fn is_orphaned(pgid: u32) -> bool {
    will_be_orphaned(&table::lock(), pgid, 0)
}

/// As [`is_orphaned`], without counting the process `without`.
pub(super) fn will_be_orphaned(table: &Table, pgid: u32, without: u32) -> bool {
    !table.group(pgid).any(|member| {
        member.pid != without
            && !member.is_dead()
            && member.parent() > 1
            && table
                .process(member.parent())
                .is_some_and(|parent| parent.pgid() != pgid && parent.sid() == member.sid())
    })
}

/// Is a member of the group stopped?
pub(super) fn has_stopped(table: &Table, pgid: u32) -> bool {
    table.group(pgid).any(|member| !member.is_dead() && member.signals.lock().is_stopped())
}
