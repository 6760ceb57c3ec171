//! The scheduler: a first-in, first-out run queue a CPU, with time slices.
//!
//! Kernel code is never preempted. A timer interrupt that ends a slice only asks the task to give way on its return to
//! user mode. The timer is one-shot and armed for the earlier of the slice's end (while somebody else waits for the
//! CPU) and the earliest timer of timer.rs; with neither, no interrupt comes, unless the console has to be polled.
//!
//! The idle task of a CPU runs on the boot stack, is never queued, and leaves the last address space loaded.

use super::current::{current, replace_current};
use super::process::Process;
use super::thread::{Task, TaskState, WORK_MASK, WORK_RESCHED, WORK_RESTART, WORK_SIGNAL};
use super::timer;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_machine::{context, cpu, time, trap::TrapFrame};
use ptshare_mm::Env;
use ptshare_paging::Pfn;
use ptshare_sync::{Lock, Rank};
use ptshare_wire::census::CPUS_MAX;

/// Length of a time slice, ns.
pub const SLICE_NS: u64 = 20_000_000;

/// What the scheduler keeps for a CPU.
struct Cpu {
    queue: Lock<VecDeque<Arc<Task>>>,
    /// End of the running task's slice; `u64::MAX` while nobody else waits.
    slice_end: AtomicU64,
    /// What the hardware timer is set to; `u64::MAX` for nothing.
    armed: AtomicU64,
    /// The idle task.
    idle: Lock<Option<Arc<Task>>>,
    /// A task that died on this CPU: dropped once the CPU has left its stack.
    dead: Lock<Option<Arc<Task>>>,
}

static CPUS: [Cpu; CPUS_MAX] = [const {
    Cpu {
        queue: Lock::new(Rank::RunQueue, VecDeque::new()),
        slice_end: AtomicU64::new(u64::MAX),
        armed: AtomicU64::new(u64::MAX),
        idle: Lock::new(Rank::Registry, None),
        dead: Lock::new(Rank::Registry, None),
    }
}; CPUS_MAX];

#[inline]
fn this_cpu() -> &'static Cpu {
    &CPUS[cpu::id() % CPUS_MAX]
}

/// Makes room in the run queues for `tasks` tasks, so that waking never allocates.
///
/// # Errors
/// ENOMEM.
pub(super) fn reserve(tasks: usize) -> Result<(), Errno> {
    let mut queue = this_cpu().queue.lock();
    let missing = tasks.saturating_sub(queue.len());
    if queue.capacity() < tasks {
        queue.try_reserve(missing).map_err(|_| Errno::ENOMEM)?;
    }
    Ok(())
}

/// Gives up the CPU. A task in state `Running` goes to the end of the queue; any other sleeps until it is woken.
///
/// Hold no lock. Returns when the task runs again; for a dead task, never.
pub fn schedule() {
    ptshare_sync::assert_none_held();
    let cpu = this_cpu();
    let prev = current();
    let now = time::now_ns();
    let (next, others_wait) = {
        let mut queue = cpu.queue.lock();
        let runnable = prev.state() == TaskState::Running;
        let next = match queue.pop_front() {
            Some(next) => next,
            None if runnable => {
                // Nobody else: go on, without a slice.
                cpu.slice_end.store(u64::MAX, Relaxed);
                return;
            }
            None => match cpu.idle.lock().clone() {
                Some(idle) => idle,
                None => return,
            },
        };
        if runnable && prev.tid() != 0 {
            queue.push_back(prev.arc());
        } else {
            prev.on_queue.store(false, Relaxed);
        }
        (next, !queue.is_empty())
    };
    ptshare_machine::Machine.stats().switches.fetch_add(1, Relaxed);
    prev.run_ns.fetch_add(now.saturating_sub(prev.run_since.load(Relaxed)), Relaxed);
    let dead = match prev.state() {
        TaskState::Running => {
            prev.involuntary_switches.fetch_add(1, Relaxed);
            false
        }
        TaskState::Dead => true,
        _ => {
            prev.voluntary_switches.fetch_add(1, Relaxed);
            false
        }
    };
    next.run_since.store(now, Relaxed);
    cpu.slice_end.store(if others_wait { now + SLICE_NS } else { u64::MAX }, Relaxed);
    arm(cpu);
    // From here on no counted reference may stay on this stack: it may never be resumed.
    let old = replace_current(next);
    if dead {
        let before = core::mem::replace(&mut *cpu.dead.lock(), old);
        drop(before);
    } else {
        // The table holds another reference.
        drop(old);
    }
    let next = current();
    load_address_space(&next);
    context::switch(&prev.context, &next.context);
}

/// Loads the task's address space, if it has one; otherwise the last one stays.
fn load_address_space(task: &Task) {
    let slot = task.mm_slot.load(Relaxed);
    if slot != 0 {
        let root = Pfn(task.mm_root.load(Relaxed));
        cpu::load_mm(Some((slot as u32 - 1, root)), u64::from(task.process.pid));
    }
}

/// Makes the address space of `task` (the current one) the loaded one, after exec or at the end.
pub(super) fn use_mm(task: &Task, mm: Option<&crate::KMm>) {
    match mm {
        Some(mm) => {
            task.set_address_space(mm.slot(), mm.root());
            load_address_space(task);
        }
        None => {
            task.mm_slot.store(0, Relaxed);
            cpu::load_mm(None, u64::from(task.process.pid));
        }
    }
}

/// Gives the CPU to the next task in the queue, if there is one.
pub fn yield_now() {
    schedule();
}

/// Wakes a task that sleeps in one of the waiting states. Says whether it did.
pub fn wake(task: &Arc<Task>) -> bool {
    wake_from(task, |state| {
        matches!(state, TaskState::Interruptible | TaskState::Killable | TaskState::Uninterruptible)
    })
}

/// Wakes a task if it sleeps in a state that `from` accepts.
pub(crate) fn wake_from(task: &Arc<Task>, from: impl Fn(TaskState) -> bool) -> bool {
    let cpu = &CPUS[task.cpu.load(Relaxed) as usize % CPUS_MAX];
    {
        let mut queue = cpu.queue.lock();
        let state = task.state();
        if state == TaskState::Running || state == TaskState::Dead || !from(state) {
            return false;
        }
        task.set_state(TaskState::Running);
        if task.on_queue.swap(true, SeqCst) {
            // It has not given up its CPU yet, and now will not.
            return true;
        }
        queue.push_back(task.clone());
    }
    start_slice(cpu);
    true
}

/// Puts a new task on the queue of this CPU.
pub(super) fn start(task: Arc<Task>) {
    let cpu = this_cpu();
    task.cpu.store(cpu::id() as u32, Relaxed);
    task.on_queue.store(true, Relaxed);
    cpu.queue.lock().push_back(task);
    start_slice(cpu);
}

/// Somebody waits now: the running task's slice begins, unless it has one.
fn start_slice(cpu: &Cpu) {
    if cpu.slice_end.load(Relaxed) == u64::MAX && current().tid() != 0 {
        cpu.slice_end.store(time::now_ns() + SLICE_NS, Relaxed);
        arm(cpu);
    }
}

/// Sets the hardware timer, if something is due before what it is set to.
fn arm(cpu: &Cpu) {
    let mut want = cpu.slice_end.load(Relaxed).min(timer::earliest());
    let armed = cpu.armed.load(Relaxed);
    let poll = crate::config::input_poll_ns();
    if poll != 0 && armed == u64::MAX {
        want = want.min(time::now_ns() + poll);
    }
    if want < armed {
        cpu.armed.store(want, Relaxed);
        time::set_timer(Some(want));
    }
}

/// A timer was added: sets the hardware timer if need be.
pub(super) fn rearm() {
    arm(this_cpu());
}

/// The timer interrupt: runs what is due, ends the slice, sets the timer anew.
pub fn on_timer_interrupt() {
    let cpu = this_cpu();
    cpu.armed.store(u64::MAX, Relaxed);
    if ptshare_machine::hyper::take_input_notice() {
        crate::fs::console_input();
    }
    let now = time::now_ns();
    if timer::earliest() <= now {
        timer::run_expired(now);
    }
    if cpu.slice_end.load(Relaxed) <= now {
        cpu.slice_end.store(u64::MAX, Relaxed);
        if !cpu.queue.lock().is_empty() {
            current().add_work(WORK_RESCHED);
        }
    }
    arm(cpu);
}

/// Runs before every return to user mode.
#[inline]
pub fn return_to_user(frame: &mut TrapFrame) {
    let task = current();
    while task.work.load(Relaxed) != 0 {
        do_work(&task, frame);
    }
}

#[cold]
fn do_work(task: &Task, frame: &mut TrapFrame) {
    let work = task.work.load(SeqCst);
    if work & WORK_RESCHED != 0 {
        task.clear_work(WORK_RESCHED);
        schedule();
    }
    if work & (WORK_SIGNAL | WORK_RESTART | WORK_MASK) != 0 {
        crate::signal::deliver(frame);
    }
}

/// CPU time that a task has used so far, ns.
pub fn cpu_time_ns(task: &Task) -> u64 {
    let used = task.run_ns.load(Relaxed);
    if task.tid() == current().tid() {
        used + time::now_ns().saturating_sub(task.run_since.load(Relaxed))
    } else {
        used
    }
}

/// The `new_task` hook: a task's first step, on its own stack, before it returns to user mode.
pub fn finish_first_switch() {
    let task = current();
    let at = task.set_child_tid.swap(0, Relaxed);
    if at != 0 {
        // As on Linux, an address that cannot be written is the program's own business.
        let _ = ptshare_machine::uaccess::write(at, &task.tid());
    }
}

/// Makes the calling context this CPU's idle task. Used once a CPU, before any other task.
pub(super) fn adopt_idle(process: Arc<Process>, context: context::TaskContext) {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"idle");
    let idle = Arc::new(Task::new(0, process, context, comm));
    idle.cpu.store(cpu::id() as u32, Relaxed);
    idle.run_since.store(time::now_ns(), Relaxed);
    *this_cpu().idle.lock() = Some(idle.clone());
    drop(replace_current(idle));
}

/// The idle loop: runs tasks, and halts while there are none.
pub fn run_idle() -> ! {
    loop {
        schedule();
        // Back here only when no task can run.
        if this_cpu().queue.lock().is_empty() {
            arm(this_cpu());
            cpu::halt_until_interrupt();
        }
    }
}
