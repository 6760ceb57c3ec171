//! A task: one thread of execution.

use super::process::Process;
use super::rseq::Rseq;
use super::transfers::Transfers;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_machine::context::TaskContext;
use ptshare_paging::Pfn;
use ptshare_sync::{Lock, Rank};

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum TaskState {
    /// Runs, or waits for a CPU.
    Running = 0,
    /// Sleeps; a signal wakes it.
    Interruptible = 1,
    /// Sleeps; only SIGKILL, or what it waits for, wakes it.
    Killable = 2,
    /// Sleeps; only what it waits for wakes it.
    Uninterruptible = 3,
    /// Stopped by job control; SIGCONT or SIGKILL wakes it.
    Stopped = 4,
    /// Never runs again.
    Dead = 5,
}

/// Before user mode: give the CPU to somebody else.
pub const WORK_RESCHED: u32 = 1;
/// Before user mode: look at signals, stops and group exit.
pub const WORK_SIGNAL: u32 = 2;
/// Before user mode: an interrupted system call waits for its verdict.
pub const WORK_RESTART: u32 = 4;
/// Before user mode: put back the signal mask that a call replaced for its duration.
pub const WORK_MASK: u32 = 8;
/// Before user mode: see to the thread's restartable sequence.
pub const WORK_RSEQ: u32 = 16;

/// One thread. Fields without a note are written by the task itself alone.
pub struct Task {
    tid: AtomicU32,
    /// What it shares with its siblings.
    pub process: Arc<Process>,
    /// Kernel stack, FPU state, segment bases.
    pub context: TaskContext,

    /// [`TaskState`]. Sleeps are entered by the task; `Running` is set under the run-queue lock.
    state: AtomicU32,
    /// On a run queue, or running. Under the run-queue lock.
    pub(super) on_queue: AtomicBool,
    /// CPU on whose queue it belongs. Changed under that queue's lock.
    pub(super) cpu: AtomicU32,
    /// A CPU is on its stack: its registers are not all in `context`.
    pub(super) on_cpu: AtomicBool,
    /// CPUs on which it may run, a bit each.
    pub(crate) affinity: AtomicU64,
    /// `WORK_*` bits; anybody sets them.
    pub(crate) work: AtomicU32,

    /// mm slot plus 1 and root frame of the address space to load; 0 for none.
    pub(super) mm_slot: AtomicU64,
    pub(super) mm_root: AtomicU64,

    /// Blocked signals.
    pub(crate) blocked: AtomicU64,
    /// Mask to put back (with [`WORK_MASK`]).
    pub(crate) saved_mask: AtomicU64,
    /// Pending signals of this thread alone: mirror of its queue in the process's signal state.
    pub(crate) pending: AtomicU64,
    /// Mask as it was before sigtimedwait unblocked what it waits for; 0 otherwise.
    pub(crate) real_blocked: AtomicU64,
    /// Vector, error code and address of the last fault that became a signal.
    pub(crate) fault: [AtomicU64; 3],
    /// Alternate signal stack: base, size in bytes, flags.
    pub(crate) altstack: [AtomicU64; 3],

    /// Interrupted call: its number, and how it goes on.
    pub(crate) restart_nr: AtomicU64,
    pub(crate) restart_kind: AtomicU32,
    /// A sleep to resume: clock id plus 1 (0: none), absolute deadline in that clock, address for the rest.
    pub(crate) sleep: [AtomicU64; 3],

    /// set_tid_address, CLONE_CHILD_CLEARTID.
    pub(super) clear_child_tid: AtomicU64,
    /// Head of the robust futex list.
    pub(crate) robust_list: AtomicU64,
    /// Its area for restartable sequences.
    pub(crate) rseq: Rseq,
    /// PR_SET_PDEATHSIG.
    pub(crate) parent_death_signal: AtomicU32,
    /// Has begun to exit: takes no more signals.
    pub(super) exiting: AtomicBool,

    /// CLONE_CHILD_SETTID: where to write the tid before the first instruction; 0 for nowhere.
    pub(super) set_child_tid: AtomicU64,

    /// CPU time used up to the last switch away, ns.
    pub(super) run_ns: AtomicU64,
    /// When it was last switched in, ns.
    pub(super) run_since: AtomicU64,
    /// When it entered the kernel by a system call or page fault, or took up the CPU again in one, in ticks of the
    /// time-stamp counter; 0 outside.
    pub(super) kernel_since: AtomicU64,
    /// Ticks spent there, up to [`Task::kernel_since`].
    pub(super) kernel_ticks: AtomicU64,
    /// Bytes read and written by calls, and how many calls that were (/proc/PID/io).
    pub(crate) transfers: Transfers,
    /// Times it gave up the CPU by itself, and lost it.
    pub(super) voluntary_switches: AtomicU64,
    pub(super) involuntary_switches: AtomicU64,
    /// Page faults resolved; counted by the fault handler.
    pub minor_faults: AtomicU64,
    /// Nice value, -20..=19.
    pub(crate) nice: AtomicI32,
    /// Scheduling policy and real-time priority, kept and reported only.
    pub(crate) policy: AtomicU32,
    pub(crate) rt_priority: AtomicU32,
    /// Timer slack, ns; kept and reported only.
    pub(crate) timer_slack: AtomicU64,

    comm: Lock<[u8; 16]>,
}

impl Task {
    /// A task that is not in any list yet.
    pub(super) fn new(tid: u32, process: Arc<Process>, context: TaskContext, comm: [u8; 16]) -> Task {
        Task {
            tid: AtomicU32::new(tid),
            process,
            context,
            state: AtomicU32::new(TaskState::Running as u32),
            on_queue: AtomicBool::new(false),
            cpu: AtomicU32::new(0),
            on_cpu: AtomicBool::new(false),
            affinity: AtomicU64::new(u64::MAX),
            work: AtomicU32::new(0),
            mm_slot: AtomicU64::new(0),
            mm_root: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            saved_mask: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            real_blocked: AtomicU64::new(0),
            fault: [const { AtomicU64::new(0) }; 3],
            altstack: [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(crate::signal::SS_DISABLE)],
            restart_nr: AtomicU64::new(0),
            restart_kind: AtomicU32::new(0),
            sleep: [const { AtomicU64::new(0) }; 3],
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            rseq: Rseq::new(),
            parent_death_signal: AtomicU32::new(0),
            exiting: AtomicBool::new(false),
            set_child_tid: AtomicU64::new(0),
            run_ns: AtomicU64::new(0),
            run_since: AtomicU64::new(0),
            transfers: Transfers::default(),
            kernel_since: AtomicU64::new(0),
            kernel_ticks: AtomicU64::new(0),
            voluntary_switches: AtomicU64::new(0),
            involuntary_switches: AtomicU64::new(0),
            minor_faults: AtomicU64::new(0),
            nice: AtomicI32::new(0),
            policy: AtomicU32::new(0),
            rt_priority: AtomicU32::new(0),
            timer_slack: AtomicU64::new(50_000),
            comm: Lock::new(Rank::Registry, comm),
        }
    }

    /// Thread id. Changes once at most: exec gives the leader's to the thread that calls it.
    #[inline]
    pub fn tid(&self) -> u32 {
        self.tid.load(Relaxed)
    }

    /// Says which address space to load with the task.
    pub(super) fn set_address_space(&self, slot: u32, root: Pfn) {
        self.mm_slot.store(u64::from(slot) + 1, Relaxed);
        self.mm_root.store(root.0, Relaxed);
    }

    /// Where a 0 is to be written, and a futex woken, at the thread's end; 0 for nowhere.
    pub(crate) fn set_clear_child_tid(&self, at: u64) {
        self.clear_child_tid.store(at, Relaxed);
    }

    /// Takes the leader's number, after exec.
    pub(super) fn become_leader(&self) {
        self.tid.store(self.process.pid, Relaxed);
    }

    /// Must it end: because its group ends, or because a sibling calls exec?
    #[inline]
    pub fn must_exit(&self) -> bool {
        let exiting = self.process.exiting.load(SeqCst);
        exiting != 0 && exiting != self.tid()
    }

    /// Does it block a signal of the set, apart from what sigtimedwait unblocks for a while?
    pub(crate) fn is_blocked(&self, set: u64) -> bool {
        (self.blocked.load(Relaxed) | self.real_blocked.load(Relaxed)) & set != 0
    }

    /// What it does now.
    #[inline]
    pub fn state(&self) -> TaskState {
        match self.state.load(SeqCst) {
            0 => TaskState::Running,
            1 => TaskState::Interruptible,
            2 => TaskState::Killable,
            3 => TaskState::Uninterruptible,
            4 => TaskState::Stopped,
            _ => TaskState::Dead,
        }
    }

    /// Says what it does; a full barrier, so that what is read afterwards is read after others can see this.
    #[inline]
    pub(crate) fn set_state(&self, state: TaskState) {
        self.state.store(state as u32, SeqCst);
    }

    /// State letter for /proc.
    pub fn state_char(&self) -> char {
        match self.state() {
            TaskState::Running => 'R',
            TaskState::Interruptible => 'S',
            TaskState::Killable | TaskState::Uninterruptible => 'D',
            TaskState::Stopped => 'T',
            TaskState::Dead => 'Z',
        }
    }

    /// Asks for something to be done before the task's next instruction in user mode.
    #[inline]
    pub(crate) fn add_work(&self, bits: u32) {
        self.work.fetch_or(bits, SeqCst);
    }

    /// Takes a request back.
    #[inline]
    pub(crate) fn clear_work(&self, bits: u32) {
        self.work.fetch_and(!bits, Relaxed);
    }

    /// Is a signal (or a stop, or the end of the group) waiting for this task?
    #[inline]
    pub fn signal_pending(&self) -> bool {
        self.work.load(SeqCst) & WORK_SIGNAL != 0
    }

    /// Is the end of the task certain?
    #[inline]
    pub fn fatal_signal_pending(&self) -> bool {
        self.signal_pending() && self.must_exit()
    }

    /// Name, up to 15 bytes and a NUL.
    pub fn comm(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    /// Sets the name: what follows the last slash of a path, or a name; cut to 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        let comm = comm_of(name);
        *self.comm.lock() = comm;
        if self.is_leader() {
            self.process.set_comm(comm);
        }
    }

    /// Is it its process's first thread?
    #[inline]
    pub fn is_leader(&self) -> bool {
        self.tid() == self.process.pid
    }
}

/// A task name: cut to 15 bytes, filled with NULs.
pub fn comm_of(name: &[u8]) -> [u8; 16] {
    let mut comm = [0; 16];
    for (to, from) in comm.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    comm
}
