//! The scheduler: a first-in, first-out run queue a CPU, with time slices.
//!
//! A task that wakes goes to the CPU on which it last ran, or to one that has nothing to do; a CPU with nothing to do
//! looks into the queues of the others before it halts. Who puts a task on another CPU's queue interrupts that CPU.
//! A task may be on a queue while the CPU that it leaves has not saved its registers yet (`on_cpu`): who takes it waits.
//!
//! Kernel code is never preempted. A timer interrupt that ends a slice only asks the task to give way on its return to
//! user mode. The timer is one-shot and armed for the earlier of the slice's end (while somebody else waits for the
//! CPU) and the earliest timer of timer.rs; with neither, no interrupt comes, unless the console has to be polled.
//!
//! The idle task of a CPU runs on the boot stack, is never queued, and leaves the last address space loaded.

use super::current::{current, replace_current};
use super::process::Process;
use super::thread::{Task, TaskState, WORK_MASK, WORK_RESCHED, WORK_RESTART, WORK_RSEQ, WORK_SIGNAL};
use super::{cpu_timer, rseq, timer, usage};
use crate::signal::{SIGSEGV, SigInfo};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};
use ptshare_abi::Errno;
use ptshare_machine::{context, cpu, smp, time, trap::TrapFrame};
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
    /// Time for which tasks other than the idle one have run, up to the last switch, ns.
    busy_ns: AtomicU64,
    /// When the one that runs began; `u64::MAX` for the idle task. ns.
    busy_since: AtomicU64,
    /// The idle task.
    idle: Lock<Option<Arc<Task>>>,
    /// The task whose stack this CPU is leaving, kept until it has.
    leaving: Lock<Option<Arc<Task>>>,
}

static CPUS: [Cpu; CPUS_MAX] = [const {
    Cpu {
        queue: Lock::new(Rank::RunQueue, VecDeque::new()),
        slice_end: AtomicU64::new(u64::MAX),
        armed: AtomicU64::new(u64::MAX),
        busy_ns: AtomicU64::new(0),
        busy_since: AtomicU64::new(u64::MAX),
        idle: Lock::new(Rank::Registry, None),
        leaving: Lock::new(Rank::Registry, None),
    }
}; CPUS_MAX];

/// CPUs that halt, or are about to, because there is nothing to do.
static IDLE: AtomicU64 = AtomicU64::new(0);

#[inline]
fn this_cpu() -> &'static Cpu {
    &CPUS[cpu::id() % CPUS_MAX]
}

/// Makes room in the run queues for `tasks` tasks, so that waking never allocates.
///
/// # Errors
/// ENOMEM.
pub(super) fn reserve(tasks: usize) -> Result<(), Errno> {
    for cpu in online_cpus() {
        let mut queue = CPUS[cpu].queue.lock();
        let missing = tasks.saturating_sub(queue.len());
        if queue.capacity() < tasks {
            queue.try_reserve(missing).map_err(|_| Errno::ENOMEM)?;
        }
    }
    Ok(())
}

/// Numbers of the CPUs that run.
fn online_cpus() -> impl Iterator<Item = usize> {
    let online = smp::online();
    (0..CPUS_MAX).take_while(move |cpu| online >> cpu != 0).filter(move |cpu| online >> cpu & 1 != 0)
}

/// Gives up the CPU. A task in state `Running` goes to the end of the queue; any other sleeps until it is woken.
///
/// Hold no lock. Returns when the task runs again; for a dead task, never.
pub fn schedule() {
    ptshare_sync::assert_none_held();
    let cpu = this_cpu();
    let prev = current();
    let now = time::now_ns();
    let (next, others_wait, moves) = {
        let mut queue = cpu.queue.lock();
        let runnable = prev.state() == TaskState::Running && prev.tid() != 0;
        let moves = runnable && prev.affinity.load(Relaxed) >> cpu::id() & 1 == 0;
        let next = match queue.pop_front() {
            Some(next) => next,
            None if runnable && !moves || prev.tid() == 0 => {
                // Nobody else: go on, without a slice.
                let tick = first_tick(&prev, now);
                cpu.slice_end.store(tick, Relaxed);
                if tick != u64::MAX {
                    arm(cpu);
                }
                return;
            }
            None => match cpu.idle.lock().clone() {
                Some(idle) => idle,
                None => return,
            },
        };
        if !runnable {
            prev.on_queue.store(false, Relaxed);
        } else if !moves {
            queue.push_back(prev.arc());
        }
        (next, !queue.is_empty(), moves)
    };
    if moves {
        enqueue(&prev.arc(), cpu::id());
    }
    // The CPU that it left may still be storing its registers.
    while next.on_cpu.load(Acquire) {
        ptshare_sync::spin_wait();
    }
    next.on_cpu.store(true, Relaxed);
    ptshare_machine::Machine.stats().switches.fetch_add(1, Relaxed);
    if prev.rseq.is_registered() {
        rseq::leaves_cpu(&prev);
    }
    usage::leave_cpu(&prev);
    usage::take_cpu(&next);
    prev.run_ns.fetch_add(now.saturating_sub(prev.run_since.load(Relaxed)), Relaxed);
    match prev.state() {
        TaskState::Running => prev.involuntary_switches.fetch_add(1, Relaxed),
        TaskState::Dead => 0,
        _ => prev.voluntary_switches.fetch_add(1, Relaxed),
    };
    next.run_since.store(now, Relaxed);
    let since = cpu.busy_since.load(Relaxed);
    cpu.busy_ns.store(cpu.busy_ns.load(Relaxed) + now.saturating_sub(since), Relaxed);
    cpu.busy_since.store(if next.tid() == 0 { u64::MAX } else { now }, Relaxed);
    let slice_end = if others_wait { now + SLICE_NS } else { u64::MAX };
    cpu.slice_end.store(slice_end.min(first_tick(&next, now)), Relaxed);
    arm(cpu);
    // From here on no counted reference may stay on this stack: it may never be resumed.
    *cpu.leaving.lock() = replace_current(next);
    let next = current();
    load_address_space(&next);
    context::switch(&prev.context, &next.context);
    finish_switch();
}

/// The first step on a task's stack after a switch: the task before it is off the CPU now, and gone if it was dead.
fn finish_switch() {
    let left = this_cpu().leaving.lock().take();
    if let Some(task) = left {
        task.on_cpu.store(false, Release);
        drop(task);
    }
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
    loop {
        let home = task.cpu.load(Relaxed) as usize % CPUS_MAX;
        let mut queue = CPUS[home].queue.lock();
        if task.cpu.load(Relaxed) as usize != home {
            continue;
        }
        let state = task.state();
        if state == TaskState::Running || state == TaskState::Dead || !from(state) {
            return false;
        }
        task.set_state(TaskState::Running);
        if task.on_queue.swap(true, SeqCst) {
            // It has not given up its CPU yet, and now will not.
            return true;
        }
        let target = choose_cpu(task, home);
        if target == home {
            queue.push_back(task.clone());
            drop(queue);
            announce(home);
        } else {
            task.cpu.store(target as u32, Relaxed);
            drop(queue);
            put_on(task.clone(), target);
        }
        return true;
    }
}

/// A CPU for a task that is to run: `home`, unless that is busy and another has nothing to do, or it may not run there.
fn choose_cpu(task: &Task, home: usize) -> usize {
    if !smp::several() {
        return home;
    }
    let allowed = task.affinity.load(Relaxed) & smp::online();
    let allowed = if allowed == 0 { smp::online() } else { allowed };
    let may_stay = allowed >> home & 1 != 0;
    let idle = IDLE.load(Relaxed) & allowed;
    let chosen = if may_stay && (idle >> home & 1 != 0 || idle == 0) {
        home
    } else if idle != 0 {
        idle.trailing_zeros() as usize
    } else {
        allowed.trailing_zeros() as usize
    };
    // The next task goes elsewhere.
    IDLE.fetch_and(!(1 << chosen), Relaxed);
    chosen
}

/// Puts a task that is to run, and is on no queue, on the queue of a CPU of its choice.
fn enqueue(task: &Arc<Task>, home: usize) {
    let target = choose_cpu(task, home);
    task.cpu.store(target as u32, Relaxed);
    task.on_queue.store(true, Relaxed);
    put_on(task.clone(), target);
}

fn put_on(task: Arc<Task>, target: usize) {
    CPUS[target].queue.lock().push_back(task);
    announce(target);
}

/// There is a new task on a CPU's queue.
fn announce(target: usize) {
    if target == cpu::id() {
        start_slice(&CPUS[target]);
    } else {
        smp::interrupt(target);
    }
}

/// A task that runs on another CPU is to look at its [`Task::work`] soon.
pub(crate) fn kick(task: &Task) {
    let target = task.cpu.load(Relaxed) as usize;
    if target != cpu::id() && task.on_cpu.load(SeqCst) {
        smp::interrupt(target);
    }
}

/// Another CPU has interrupted this one: perhaps there is a task to run.
pub fn on_ipi() {
    rseq::on_ipi(&current());
    let cpu = this_cpu();
    if !cpu.queue.lock().is_empty() {
        start_slice(cpu);
    }
}

/// Takes a task from another CPU's queue, for this CPU, which has nothing to do.
fn steal() -> Option<Arc<Task>> {
    let me = cpu::id();
    online_cpus().filter(|&cpu| cpu != me).find_map(|victim| {
        let mut queue = CPUS[victim].queue.lock();
        let at = queue.iter().rposition(|task| task.affinity.load(Relaxed) >> me & 1 != 0)?;
        let task = queue.remove(at)?;
        task.cpu.store(me as u32, Relaxed);
        Some(task)
    })
}

/// Puts a new task on a queue.
pub(super) fn start(task: Arc<Task>) {
    enqueue(&task, cpu::id());
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

/// When the CPU has to look at the task's timers of CPU time, `u64::MAX` for never. Its slice ends there.
#[inline]
fn first_tick(task: &Task, now: u64) -> u64 {
    if task.process.cpu_timers.armed() { now + cpu_timer::TICK_NS } else { u64::MAX }
}

/// Every CPU that runs a thread of the process begins to tick.
pub(super) fn start_ticks(process: &Process) {
    for task in process.signals.lock().threads() {
        if task.tid() == current().tid() {
            let cpu = this_cpu();
            cpu.slice_end.fetch_min(time::now_ns() + cpu_timer::TICK_NS, Relaxed);
            arm(cpu);
        } else {
            task.add_work(WORK_RESCHED);
            kick(task);
        }
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
        let task = current();
        cpu.slice_end.store(first_tick(&task, now), Relaxed);
        if !cpu.queue.lock().is_empty() {
            task.add_work(WORK_RESCHED);
        }
        if task.process.cpu_timers.armed() {
            task.run_ns.fetch_add(now.saturating_sub(task.run_since.swap(now, Relaxed)), Relaxed);
            cpu_timer::tick(&task.process);
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
    if work & WORK_RSEQ != 0 {
        // What its memory needs may give up the CPU again, which asks anew.
        task.clear_work(WORK_RSEQ);
        if rseq::resume(task, frame).is_err() {
            crate::signal::force(SigInfo::kernel(SIGSEGV));
        }
    }
}

/// Time for which a CPU has run tasks, ns.
pub fn busy_ns(number: usize) -> u64 {
    let cpu = &CPUS[number % CPUS_MAX];
    let since = cpu.busy_since.load(Relaxed);
    cpu.busy_ns.load(Relaxed) + time::now_ns().saturating_sub(since)
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
    finish_switch();
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
    idle.on_cpu.store(true, Relaxed);
    *this_cpu().idle.lock() = Some(idle.clone());
    drop(replace_current(idle));
}

/// The idle loop: runs tasks, and halts while there are none.
pub fn run_idle() -> ! {
    let me = 1 << cpu::id();
    loop {
        schedule();
        // Back here only when no task can run.
        if smp::several() {
            // Nobody has to wait for this CPU's answer, and no root must stay for its sake.
            cpu::load_mm(None, 0);
            IDLE.fetch_or(me, SeqCst);
            if let Some(task) = steal() {
                IDLE.fetch_and(!me, SeqCst);
                this_cpu().queue.lock().push_back(task);
                continue;
            }
        }
        if this_cpu().queue.lock().is_empty() {
            arm(this_cpu());
            cpu::halt_until_interrupt();
        }
        if smp::several() {
            IDLE.fetch_and(!me, SeqCst);
        }
    }
}
