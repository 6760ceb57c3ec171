//! The end of threads and processes.
//!
//! ```text
//!   thread: robust futexes, clear_child_tid, leave the group --not the last--> dead
//!      | the last
//!      v
//!   process: timers, files, address space --> zombie: children to the reaper, the parent told --> dead
//! ```
//!
//! A dying stack is never resumed, so no counted reference may live on it when the last [`sched::schedule`] is called.

use super::process::{Life, Process};
use super::table::{self, Table};
use super::thread::{Task, TaskState};
use super::wait::wait_on;
use super::{CurrentTask, current, futex, jobs, posix_timer, robust, rseq, sched, timer, usage};
use crate::signal::{self, SIG_IGN, SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SigInfo, child_code, status_killed};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use ptshare_machine::{smp, time, uaccess};

/// Nanoseconds in a clock tick (USER_HZ 100).
pub const TICK_NS: u64 = 10_000_000;
/// How long init's end waits for the other processes'.
const SHUTDOWN_NS: u64 = 20_000_000_000;

/// Ends the current thread with a wait status.
pub fn exit_thread(status: u32) -> ! {
    finish(status);
    loop {
        // The state is Dead: this does not come back.
        sched::schedule();
    }
}

/// Ends the current thread because its group ends, or because a sibling calls exec.
pub fn exit_current() -> ! {
    exit_thread(0)
}

/// Ends the current process with a wait status.
pub fn exit_group(status: u32) -> ! {
    signal::start_group_exit(&current().process, status);
    exit_thread(status)
}

fn finish(status: u32) {
    let task = current();
    let process = &task.process;
    task.exiting.store(true, Relaxed);
    release_user_memory(&task);
    rseq::forget(&task);
    if smp::several() {
        // Another thread may be the last to leave the group, and free the root.
        sched::use_mm(&task, None);
    }

    let tid = task.tid();
    let (left, last, status) = {
        let mut state = process.signals.lock();
        let left = state.remove_thread(tid);
        let last = state.thread_count() == 0;
        process.live_threads.store(state.thread_count() as u32, Relaxed);
        if task.is_leader() {
            process.exit_status.store(status, Relaxed);
        }
        (left, last, state.group_exit.unwrap_or(process.exit_status.load(Relaxed)))
    };
    drop(left);
    process.usage.add_thread(usage::of_task(&task));
    process.transfers.add(&task.transfers);
    if last {
        end_process(&task, status);
    } else {
        let removed = table::lock().remove_task(tid, process.pid);
        drop(removed);
        process.thread_wait.wake_all();
        signal::thread_left(process);
    }
    task.set_state(TaskState::Dead);
}

/// What a thread does to user memory before it leaves it, at exit and at exec.
pub(super) fn release_user_memory(task: &CurrentTask) {
    robust::release(task);
    let at = task.clear_child_tid.swap(0, Relaxed);
    if at != 0 {
        let mm = task.process.mm();
        // Only where somebody else can see it (kernel/fork.c, mm_release): itself, the slot, and others.
        if task.process.threads() > 1 || Arc::strong_count(&mm) > 2 {
            drop(mm);
            let _ = uaccess::write(at, &0_u32);
            let _ = futex::wake(at, 1, u32::MAX, false);
        }
    }
}

/// Lets the parent of a vfork go on.
pub(super) fn release_vfork_parent(process: &Process) {
    if process.vfork_pending.swap(false, SeqCst) {
        process.vfork_wait.wake_all();
    }
}

fn end_process(task: &CurrentTask, status: u32) {
    let process = &task.process;
    if process.is_init() {
        kill_everybody_else(process);
    }
    timer::set_real_timer(process, 0, 0);
    posix_timer::delete_all(process);
    crate::ipc::sem::process_ends(process.pid);
    super::trace::tracer_ends(process.pid);
    drop(process.files.replace(None));
    drop(process.fs.replace(None));
    drop(process.exe.replace(None));
    sched::use_mm(task, None);
    if let Some(mm) = process.mm.replace(None) {
        process.usage.see_rss(&mm);
    }
    release_vfork_parent(process);
    if process.is_init() {
        let code = if status & 0x7f == 0 { status >> 8 } else { 128 + (status & 0x7f) };
        crate::shutdown(code as u8);
    }
    become_zombie(task, status);
    crate::verify::at_exit(process.pid);
}

/// Init ends: everybody else is killed, and waited for, so that the last look at memory finds it empty.
fn kill_everybody_else(init: &Arc<Process>) {
    table::for_each_process(|process| {
        if !process.is_init() && !process.is_dead() {
            signal::start_group_exit(process, status_killed(SIGKILL));
        }
    });
    let alone = || {
        let zombies: Vec<u32> =
            table::lock().children(init.pid).filter(|child| child.is_dead()).map(|child| child.pid).collect();
        for pid in zombies {
            let reaped = table::lock().reap(pid);
            drop(reaped);
        }
        (table::process_count() <= 1).then_some(())
    };
    let deadline = time::now_ns() + SHUTDOWN_NS;
    if wait_on(&[&init.child_wait], TaskState::Uninterruptible, Some(deadline), alone).is_err() {
        klog!(2, "{} processes did not end", table::process_count() - 1);
    }
}

/// What is to be done once the table is unlocked.
#[derive(Default)]
struct Aftermath {
    /// Processes to signal.
    signals: Vec<(Arc<Process>, SigInfo)>,
    /// Groups to send SIGHUP and SIGCONT to.
    hang_up: Vec<u32>,
    /// To drop.
    reaped: Vec<Arc<Process>>,
    /// To wake, for they wait for children.
    parents: Vec<Arc<Process>>,
    removed: Option<Arc<Task>>,
}

fn become_zombie(task: &CurrentTask, status: u32) {
    let process = &task.process;
    let mut after = Aftermath::default();
    {
        let mut table = table::lock();
        let reaper = table.reaper_of(process.pid);
        note_orphans(&table, process, &mut after);
        adopt_children(&mut table, process, reaper, &mut after);
        after.removed = table.remove_task(task.tid(), process.pid);
        process.exit_status.store(status, Relaxed);
        process.life.store(Life::Zombie as u32, SeqCst);
        tell_parent(&mut table, process, &mut after);
    }
    process.exit_wait.wake_all();
    if process.sid() == process.pid {
        crate::fs::session_ended(process.sid());
    }
    for (target, info) in after.signals.drain(..) {
        signal::send_to_process(&target, info);
    }
    for parent in after.parents.drain(..) {
        parent.child_wait.wake_all();
    }
    for pgid in after.hang_up.drain(..) {
        signal::send_to_group(pgid, SIGHUP);
        signal::send_to_group(pgid, SIGCONT);
    }
}

/// Groups that the end of `process` orphans while a member is stopped: its own, and its children's.
fn note_orphans(table: &Table, process: &Process, after: &mut Aftermath) {
    let orphans =
        |pgid: u32| jobs::will_be_orphaned(table, pgid, process.pid) && jobs::has_stopped(table, pgid);
    let linked = table
        .process(process.parent())
        .is_some_and(|parent| parent.pgid() != process.pgid() && parent.sid() == process.sid());
    if linked && orphans(process.pgid()) {
        after.hang_up.push(process.pgid());
    }
    for child in table.children(process.pid) {
        let pgid = child.pgid();
        let links = pgid != process.pgid() && child.sid() == process.sid();
        if links && !after.hang_up.contains(&pgid) && jobs::has_stopped(table, pgid) {
            // This process was a link of that group to the session; is there another?
            let others = table.group(pgid).any(|member| {
                !member.is_dead()
                    && member.parent() > 1
                    && member.parent() != process.pid
                    && table
                        .process(member.parent())
                        .is_some_and(|parent| parent.pgid() != pgid && parent.sid() == member.sid())
            });
            if !others {
                after.hang_up.push(pgid);
            }
        }
    }
}

fn adopt_children(table: &mut Table, process: &Process, reaper: u32, after: &mut Aftermath) {
    let children: Vec<Arc<Process>> = table.children(process.pid).cloned().collect();
    if children.is_empty() {
        return;
    }
    table.reparent_children(process.pid, reaper);
    for child in children {
        child.exit_signal.store(SIGCHLD, Relaxed);
        if let Some(task) = table.task(child.pid) {
            let sig = task.parent_death_signal.load(Relaxed);
            if sig != 0 {
                after.signals.push((child.clone(), SigInfo::user(sig, process.pid, process.creds().uid)));
            }
        }
        if child.is_dead() {
            tell_parent(table, &child, after);
        }
    }
}

/// Tells the parent of a zombie; reaps it where the parent wants no zombies.
fn tell_parent(table: &mut Table, process: &Process, after: &mut Aftermath) {
    let Some(parent) = table.process(process.parent()).cloned() else { return };
    let mut sig = process.exit_signal.load(Relaxed);
    let handlers = parent.handlers.get();
    let unwanted = sig == SIGCHLD && handlers.as_ref().is_some_and(|h| h.reaps_children());
    if unwanted && handlers.as_ref().is_some_and(|h| h.get(SIGCHLD).handler == SIG_IGN) {
        sig = 0;
    }
    if sig != 0 {
        let (code, value) = child_code(process.exit_status());
        let used = usage::of_process(process);
        let (utime, stime) = (used.user_ns / TICK_NS, used.system_ns / TICK_NS);
        let info = SigInfo::child(sig, code, process.pid, process.creds().uid, value, utime, stime);
        after.signals.push((parent.clone(), info));
    }
    if unwanted {
        after.reaped.extend(table.reap(process.pid));
    }
    after.parents.push(parent);
}
