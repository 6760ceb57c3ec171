//! Job control: stopping and continuing processes, and telling their parents.

use super::send::poke;
use super::state::SignalState;
use super::types::*;
use crate::task::{Process, TaskState, current, sched, table};
use core::sync::atomic::Ordering::SeqCst;
use ptshare_abi::sys::general as raw;

/// Stops the current process by `sig`: asks every thread, then stops this one.
pub(super) fn stop_group(sig: u32) {
    let task = current();
    let process = &task.process;
    {
        let mut state = process.signals.lock();
        if state.group_exit.is_some() {
            return;
        }
        if state.stop_signal == 0 {
            state.stop_signal = sig;
            state.stopped = 0;
            state.stop_epoch += 1;
            process.stopping.store(true, SeqCst);
            for other in state.threads() {
                if other.tid() != task.tid() {
                    poke(other);
                }
            }
        }
    }
    park();
}

/// Stays stopped for as long as the process is. Returns at once when it is not.
pub(super) fn park() {
    let task = current();
    let process = &task.process;
    let mut counted_in = 0;
    loop {
        let report = {
            let mut state = process.signals.lock();
            if state.stop_signal == 0 || task.must_exit() {
                break;
            }
            let mut report = None;
            if counted_in != state.stop_epoch {
                counted_in = state.stop_epoch;
                state.stopped += 1;
                if state.is_stopped() {
                    report = Some(status_stopped(state.stop_signal));
                }
            }
            task.set_state(TaskState::Stopped);
            report
        };
        if let Some(status) = report {
            self::report(process, status);
        }
        sched::schedule();
    }
    task.set_state(TaskState::Running);
}

/// SIGCONT has come: threads run again. Says whether the parent is to be told.
pub(super) fn resume(state: &mut SignalState, process: &Process) -> bool {
    if state.stop_signal == 0 {
        return false;
    }
    let was_stopped = state.is_stopped();
    state.stop_signal = 0;
    state.stopped = 0;
    process.stopping.store(false, SeqCst);
    for task in state.threads() {
        sched::wake_from(task, |s| s == TaskState::Stopped);
    }
    was_stopped
}

/// A thread has ended: perhaps the others are all stopped now.
pub fn thread_left(process: &Process) {
    let status = {
        let state = process.signals.lock();
        if state.thread_count() == 0 || !state.is_stopped() {
            return;
        }
        status_stopped(state.stop_signal)
    };
    report(process, status);
}

/// Tells the parent that the process has stopped or been continued.
pub fn report(process: &Process, status: u32) {
    if status == STATUS_CONTINUED {
        process.set_stop_report(0);
        process.set_continue_report(true);
    } else {
        process.set_continue_report(false);
        process.set_stop_report(status);
    }
    let Some(parent) = table::find_process(process.parent()) else { return };
    let wants = parent
        .handlers
        .get()
        .is_some_and(|h| !h.get(SIGCHLD).has(raw::SA_NOCLDSTOP) && h.get(SIGCHLD).handler != SIG_IGN);
    if wants {
        let (code, value) = child_code(status);
        let uid = process.creds().uid;
        super::send_to_process(&parent, SigInfo::child(SIGCHLD, code, process.pid, uid, value, 0, 0));
    }
    parent.child_wait.wake_all();
}
