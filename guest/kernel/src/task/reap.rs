//! Waiting for children: wait4 and waitid.

use super::current;
use super::process::{Life, Process};
use super::table::{self, Table};
use super::usage::{self, Used};
use super::wait::WaitError;
use crate::signal::{SIGCHLD, STATUS_CONTINUED};
use crate::syscall::{Restart, SysErr};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;

/// Which children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// All.
    Any,
    /// The one with this pid.
    Pid(u32),
    /// Those in this group.
    Group(u32),
}

/// A child that has changed state.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// Its pid.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// The wait status.
    pub status: u32,
    /// What it used, its own children included.
    pub used: Used,
}

/// Waits for a child. `None` with WNOHANG when none has changed.
///
/// # Errors
/// ECHILD when there is no such child; a restart when a signal came.
pub fn wait_for_child(which: Which, options: u32) -> Result<Option<Waited>, SysErr> {
    let me = current();
    let process = &me.process;
    if options & raw::WNOHANG != 0 {
        return look(process, which, options).unwrap_or(Ok(None));
    }
    match process.child_wait.wait(None, || look(process, which, options)) {
        Ok(result) => result,
        Err(WaitError::Interrupted | WaitError::TimedOut) => Err(SysErr::Restart(Restart::Sys)),
    }
}

type Look = Option<Result<Option<Waited>, SysErr>>;

/// `None`: there are children, but none has changed.
fn look(parent: &Process, which: Which, options: u32) -> Look {
    let (result, reaped) = {
        let mut table = table::lock();
        match choose(&table, parent, which, options) {
            Err(errno) => (Some(Err(errno.into())), None),
            Ok(None) => (None, None),
            Ok(Some(child)) => {
                let (waited, reaped) = collect(&mut table, &child, options);
                (Some(Ok(Some(waited))), reaped)
            }
        }
    };
    if let Some(child) = &reaped {
        parent.usage.add_child(usage::of_process(child).plus(usage::of_children(child)));
    }
    drop(reaped);
    result
}

/// The oldest child that has changed as `options` ask.
fn choose(
    table: &Table,
    parent: &Process,
    which: Which,
    options: u32,
) -> Result<Option<Arc<Process>>, Errno> {
    let mut any = false;
    let mut chosen = None;
    // A shell with thousands of children waits for one of them: no walk for that.
    let (one, all) = match which {
        Which::Pid(pid) => {
            (table.process(pid).filter(|child| child.parent.load(Relaxed) == parent.pid), None)
        }
        Which::Any | Which::Group(_) => (None, Some(table.children(parent.pid))),
    };
    for child in one.into_iter().chain(all.into_iter().flatten()) {
        let wanted = match which {
            Which::Any | Which::Pid(_) => true,
            Which::Group(pgid) => child.pgid() == pgid,
        };
        // "Clone children" are those that end with another signal than SIGCHLD.
        let is_clone = child.exit_signal.load(Relaxed) != SIGCHLD;
        let kind = options & raw::__WALL != 0 || is_clone == (options & raw::__WCLONE != 0);
        if !wanted || !kind {
            continue;
        }
        any = true;
        if has_changed(child, options) {
            chosen = Some(child);
        }
    }
    match chosen {
        Some(child) => Ok(Some(child.clone())),
        None if any => Ok(None),
        None => Err(Errno::ECHILD),
    }
}

/// Do the child's stops count? Those of a traced one always do.
fn shows_stops(child: &Process, options: u32) -> bool {
    options & raw::WUNTRACED != 0 || child.trace.tracer() != 0
}

fn has_changed(child: &Process, options: u32) -> bool {
    let life = child.life.load(Relaxed);
    life == Life::Zombie as u32 && options & raw::WEXITED != 0
        || life == Life::Alive as u32
            && (shows_stops(child, options) && child.stop_report.load(Relaxed) != 0
                || options & raw::WCONTINUED != 0 && child.continue_report.load(Relaxed))
}

fn collect(table: &mut Table, child: &Process, options: u32) -> (Waited, Option<Arc<Process>>) {
    let keep = options & raw::WNOWAIT != 0;
    let mut waited = Waited { pid: child.pid, uid: child.creds().uid, status: 0, used: Used::default() };
    waited.used = usage::of_process(child).plus(usage::of_children(child));
    if child.is_dead() {
        waited.status = child.exit_status();
        let reaped = if keep { None } else { table.reap(child.pid) };
        return (waited, reaped);
    }
    let stop = child.stop_report.load(Relaxed);
    if shows_stops(child, options) && stop != 0 {
        waited.status = stop;
        if !keep {
            child.stop_report.store(0, Relaxed);
        }
    } else {
        waited.status = STATUS_CONTINUED;
        if !keep {
            child.continue_report.store(false, Relaxed);
        }
    }
    (waited, None)
}
