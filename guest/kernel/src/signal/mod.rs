//! Signals.
//!
//! ```text
//!   kill, faults, timers, children
//!        |  send.rs: ignored? queue it, choose a thread, wake it (SIGKILL and fatal signals end the group at once)
//!        v
//!   queues (state.rs, under the process's signal lock)  --mirror-->  pending sets (atomics)
//!        |  return to user mode with WORK_SIGNAL (deliver.rs): exit, stop (stop.rs), or build a frame (frame.rs)
//!        v
//!   handler in user mode --rt_sigreturn--> the interrupted program, or the restarted system call
//! ```
//!
//! `Task::work & WORK_SIGNAL` is set whenever the task has something to look at; it is recomputed from the pending sets
//! by [`recalc`] whenever those or the blocked set change.

mod deliver;
mod frame;
mod handlers;
mod send;
mod state;
mod stop;
pub mod types;

pub use deliver::{deliver, note_restart, set_action, sigaltstack_call, sigreturn};
pub use frame::SS_DISABLE;
pub use handlers::SignalHandlers;
pub(crate) use send::wake_for_exit;
pub use send::{
    force, force_fault, force_kill, kill_process, may_signal, queue_to_process, send_to_current,
    send_to_group, send_to_process, send_to_task, start_group_exit,
};
pub use state::SignalState;
pub use stop::{report as report_stop, thread_left};
pub use types::*;

use crate::task::thread::{WORK_MASK, WORK_SIGNAL};
use crate::task::{Task, current};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Brings `WORK_SIGNAL` up to date after a change of what is pending or blocked.
pub(crate) fn recalc(task: &Task) {
    let process = &task.process;
    task.clear_work(WORK_SIGNAL);
    let pending = task.pending.load(SeqCst) | process.shared_pending.load(SeqCst);
    if pending & !task.blocked.load(Relaxed) != 0 || task.must_exit() || process.stopping.load(SeqCst) {
        task.add_work(WORK_SIGNAL);
    }
}

/// Sets the current task's blocked signals.
pub fn set_blocked(task: &Task, mask: u64) {
    task.blocked.store(mask & !UNBLOCKABLE, Relaxed);
    recalc(task);
}

/// Replaces the current task's mask until it next returns to user mode, or until a handler that runs there returns:
/// for sigsuspend, ppoll and pselect. Follow it by a wait, and answer an interruption with `Restart::NoHandler`.
pub fn set_temporary_mask(mask: u64) {
    let task = current();
    task.saved_mask.store(task.blocked.load(Relaxed), Relaxed);
    task.add_work(WORK_MASK);
    set_blocked(&task, mask);
}

/// Puts the mask back that [`set_temporary_mask`] replaced, if a call ends without having been interrupted.
pub fn restore_temporary_mask() {
    let task = current();
    if task.work.load(Relaxed) & WORK_MASK != 0 {
        task.clear_work(WORK_MASK);
        set_blocked(&task, task.saved_mask.load(Relaxed));
    }
}
