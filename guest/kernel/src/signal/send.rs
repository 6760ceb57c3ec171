//! Sending signals.
//!
//! A sender holds no lock, or the table's. It takes the target's signal lock and, inside it, run queues.

use super::stop;
use super::types::*;
use crate::task::thread::WORK_SIGNAL;
use crate::task::{CurrentTask, Process, Task, TaskState, current, limits, sched, table};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use ptshare_abi::Errno;
use ptshare_machine::time::now_ns;
use ptshare_machine::trap::TrapFrame;
use ptshare_mutants::mutant;

/// How long a deliberate bug holds a lock before it takes another, ns.
const DAWDLE_NS: u64 = 500_000;

/// May the current process send `sig` to `target` (kill(2))?
///
/// # Errors
/// EPERM.
pub fn may_signal(target: &Process, sig: u32) -> Result<(), Errno> {
    let me = &current().process;
    if me.pid == target.pid || sig == SIGCONT && me.sid() == target.sid() {
        return Ok(());
    }
    if me.creds().may_signal(&target.creds()) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Sends a signal to a process, whatever the sender may do.
pub fn send_to_process(process: &Arc<Process>, info: SigInfo) {
    let _ = send(process, None, info);
}

/// Sends a signal to one task.
///
/// # Errors
/// EAGAIN when a real-time signal cannot be queued any more.
pub fn send_to_task(task: &Arc<Task>, info: SigInfo) -> Result<(), Errno> {
    send(&task.process, Some(task), info)
}

/// Sends a signal to a process, with the queue limit's error.
///
/// # Errors
/// EAGAIN when a real-time signal cannot be queued any more.
pub fn queue_to_process(process: &Arc<Process>, info: SigInfo) -> Result<(), Errno> {
    send(process, None, info)
}

/// Sends a signal from the kernel to the current task (SIGPIPE, SIGXFSZ).
pub fn send_to_current(sig: u32) {
    let _ = send_to_task(&current().arc(), SigInfo::kernel(sig));
}

/// Sends a signal from the kernel to every process of a group.
pub fn send_to_group(pgid: u32, sig: u32) {
    let group: Vec<Arc<Process>> = table::group_processes(pgid);
    for process in &group {
        send_to_process(process, SigInfo::kernel(sig));
    }
}

fn send(process: &Arc<Process>, target: Option<&Arc<Task>>, info: SigInfo) -> Result<(), Errno> {
    let sig = info.signo;
    if !is_signal(u64::from(sig)) || process.is_dead() {
        return Ok(());
    }
    let bit = bit(sig);
    let handlers = process.handlers.get();
    let ignores = handlers.as_ref().is_some_and(|h| h.ignores(sig));
    let is_default = handlers.as_ref().is_none_or(|h| h.is_default(sig));
    // Init is deaf to what it does not handle.
    if process.is_init() && is_default {
        return Ok(());
    }
    let limit = process.rlimit(limits::SIGPENDING);
    let mut report_continue = false;
    let result = {
        let mut state = process.signals.lock();
        if mutant!(LOCKS_IN_BOTH_ORDERS) && target.is_some() {
            let until = now_ns() + DAWDLE_NS;
            while now_ns() < until {}
            table::process_count();
        }
        if bit & STOP_SET != 0 {
            state.discard(super::bit(SIGCONT), &process.shared_pending);
        } else if sig == SIGCONT {
            state.discard(STOP_SET, &process.shared_pending);
            report_continue = stop::resume(&mut state, process);
        }
        let chosen = match target {
            Some(task) => Some(task.clone()),
            None => choose(state.threads(), sig),
        };
        let blocked = chosen.as_ref().is_some_and(|task| task.is_blocked(bit));
        let traced = process.trace.tracer() != 0;
        if ignores && !blocked && !traced {
            Ok(())
        } else {
            let queued = match target {
                Some(task) => state.add_private(info, limit, task),
                None => state.add_shared(info, limit, &process.shared_pending),
            };
            // One that sigtimedwait waits for is taken by that (`complete_signal` looks at `real_blocked`).
            let fatal = is_default && !blocked && default_action(sig) == DefaultAction::Terminate;
            if let Some(task) = chosen.filter(|task| wants(task, sig)) {
                // Who waits in rt_sigtimedwait takes it, whatever its action (`complete_signal`).
                let awaited = task.real_blocked.load(Relaxed) & bit != 0;
                if sig == SIGKILL || fatal && !process.is_init() && !traced && !awaited {
                    exit_group_locked(&mut state, process, status_killed(sig));
                } else {
                    poke(&task);
                }
            }
            if queued { Ok(()) } else { Err(Errno::EAGAIN) }
        }
    };
    if report_continue {
        stop::report(process, STATUS_CONTINUED);
    }
    crate::fs::signalfd::signal_queued();
    result
}

/// Would the task act on the signal now? One that is stopped keeps all but SIGKILL for later.
fn wants(task: &Task, sig: u32) -> bool {
    task.blocked.load(Relaxed) & bit(sig) == 0 && (sig == SIGKILL || task.state() != TaskState::Stopped)
}

/// Which thread gets a signal for the process: the first that wants it; else it stays with the process.
fn choose<'a>(threads: impl Iterator<Item = &'a Arc<Task>>, sig: u32) -> Option<Arc<Task>> {
    let mut first = None;
    for task in threads {
        if wants(task, sig) {
            return Some(task.clone());
        }
        first = first.or(Some(task));
    }
    first.cloned()
}

/// Makes a task look at its signals soon.
pub(super) fn poke(task: &Arc<Task>) {
    task.add_work(WORK_SIGNAL);
    if !sched::wake_from(task, |state| state == TaskState::Interruptible) {
        sched::kick(task);
    }
}

/// Ends the whole process with this wait status: every thread leaves on its next step to user mode.
pub fn start_group_exit(process: &Process, status: u32) {
    exit_group_locked(&mut process.signals.lock(), process, status);
}

fn exit_group_locked(state: &mut super::SignalState, process: &Process, status: u32) {
    if state.group_exit.is_none() {
        state.group_exit = Some(status);
    }
    state.stop_signal = 0;
    state.stopped = 0;
    process.stopping.store(false, SeqCst);
    process.exiting.store(u32::MAX, SeqCst);
    wake_for_exit(state);
}

/// Wakes every thread that must leave.
pub(crate) fn wake_for_exit(state: &super::SignalState) {
    for task in state.threads() {
        if task.must_exit() {
            task.add_work(WORK_SIGNAL);
            let sleeps =
                |state| matches!(state, TaskState::Interruptible | TaskState::Killable | TaskState::Stopped);
            if !sched::wake_from(task, sleeps) {
                sched::kick(task);
            }
        }
    }
}

/// A signal that the current task cannot escape: one that is blocked or ignored gets the default action.
pub fn force(info: SigInfo) {
    let task = current();
    let process = &task.process;
    let sig = info.signo;
    // A tracer sees it first.
    let fatal = make_deliverable(&task, sig) && process.trace.tracer() == 0;
    if fatal && default_action(sig) != DefaultAction::Ignore {
        // The default action of every forced signal ends the process: init too.
        note_death(sig, &info);
        start_group_exit(process, status_killed(sig));
        return;
    }
    queue(&task, info);
}

/// As [`force`], for a task whose handler's frame is about to be built: that handler begins, and what it does not block
/// comes after it.
pub(super) fn force_beside_handler(task: &CurrentTask, info: SigInfo) {
    make_deliverable(task, info.signo);
    queue(task, info);
}

/// A signal that is blocked or ignored gets the default action. Says whether the default action is what it has.
fn make_deliverable(task: &CurrentTask, sig: u32) -> bool {
    let Some(handlers) = task.process.handlers.get() else { return false };
    let mut action = handlers.get(sig);
    if task.blocked.load(Relaxed) & bit(sig) != 0 || action.handler == SIG_IGN {
        action.handler = SIG_DFL;
        handlers.set(sig, action);
        task.blocked.fetch_and(!bit(sig), Relaxed);
    }
    action.handler == SIG_DFL
}

fn queue(task: &CurrentTask, info: SigInfo) {
    let mut state = task.process.signals.lock();
    state.add_private(info, u64::MAX, task);
    drop(state);
    task.add_work(WORK_SIGNAL);
}

/// Says in the log what ended a process by its own fault.
#[cold]
fn note_death(sig: u32, info: &SigInfo) {
    let task = current();
    let addr = info.words[0];
    klog!(4, "process {} ends by signal {sig}, code {}, address {addr:#x}", task.process.pid, info.code);
}

/// A fault of the current task at `addr` (`si_addr`), with the vector and error code of `frame`.
pub fn force_fault(sig: u32, code: i32, addr: u64, frame: &TrapFrame) {
    let task = current();
    for (cell, value) in task.fault.iter().zip([frame.vector, frame.error, addr]) {
        cell.store(value, Relaxed);
    }
    force(SigInfo::fault(sig, code, addr));
}

/// Ends a process at once, as the out-of-memory killer does.
pub fn kill_process(process: &Process) {
    start_group_exit(process, status_killed(SIGKILL));
}

/// Ends the current process at once, as the out-of-memory killer does.
pub fn force_kill() {
    let task = current();
    start_group_exit(&task.process, status_killed(SIGKILL));
}
