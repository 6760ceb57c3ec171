//! A process: what its threads have in common.

use super::cpu_timer::{self, CpuTimers};
use super::creds::Creds;
use super::limits::Limits;
use super::posix_timer::PosixTimers;
use super::timer::IntervalTimer;
use super::trace::Trace;
use super::transfers::Transfers;
use super::usage::Usage;
use super::wait::WaitQueue;
use crate::KMm;
use crate::fs::{File, FileTable, FsContext};
use crate::signal::{SignalHandlers, SignalState};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use ptshare_sync::{Lock, Rank};

/// A shared thing that may be replaced: readers take a reference of their own.
pub struct Slot<T>(Lock<Option<Arc<T>>>);

impl<T> Slot<T> {
    /// A slot that holds `value`.
    pub const fn new(value: Option<Arc<T>>) -> Self {
        Slot(Lock::new(Rank::Registry, value))
    }

    /// What it holds.
    #[inline]
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.lock().clone()
    }

    /// Replaces what it holds; the old value is for the caller to drop, outside every lock.
    #[must_use]
    pub fn replace(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        core::mem::replace(&mut *self.0.lock(), value)
    }
}

/// Life of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Life {
    /// At least one thread lives.
    Alive = 0,
    /// All threads have ended; the parent has not waited for it yet.
    Zombie = 1,
    /// Waited for; its pid is free.
    Reaped = 2,
}

/// A process. Threads share it; the table refers to it until it has been waited for.
pub struct Process {
    /// Process id: the first thread's tid.
    pub pid: u32,
    /// Boot-relative time of its creation, ns.
    pub start_ns: u64,
    /// Parent's pid, 0 for init. Written under the table lock.
    pub(super) parent: AtomicU32,
    /// Process group. Written under the table lock.
    pub(super) pgid: AtomicU32,
    /// Session. Written under the table lock.
    pub(super) sid: AtomicU32,
    /// Signal sent to the parent at the end; 0 for none.
    pub(super) exit_signal: AtomicU32,
    /// [`Life`]. Written under the table lock.
    pub(super) life: AtomicU32,
    /// Wait status, once a zombie.
    pub(super) exit_status: AtomicU32,
    /// A stop (low half: the status, 0 none) that the parent has not collected yet. Under the signal lock.
    pub(super) stop_report: AtomicU32,
    /// A continuation that the parent has not collected yet.
    pub(super) continue_report: AtomicBool,

    /// The address space; `None` once exited.
    pub(super) mm: Slot<KMm>,
    /// Open files; `None` once exited.
    pub(super) files: Slot<FileTable>,
    /// Root, working directory, umask; `None` once exited.
    pub(super) fs: Slot<FsContext>,
    /// The program file, for /proc/PID/exe.
    pub(super) exe: Slot<File>,
    creds: Slot<Creds>,
    limits: Slot<Limits>,
    /// Signal actions.
    pub(crate) handlers: Slot<SignalHandlers>,

    /// Threads, pending signals, stop and exit of the group.
    pub(crate) signals: Lock<SignalState>,
    /// Set of shared pending signals: a mirror of the queue in `signals`.
    pub(crate) shared_pending: AtomicU64,
    /// Live threads.
    pub(super) live_threads: AtomicU32,
    /// Who must go: 0 nobody, `u32::MAX` every thread (`SignalState::group_exit`), else all but this tid (exec).
    pub(crate) exiting: AtomicU32,
    /// The group is to stop, or stopped (mirror of `SignalState::stop_signal`).
    pub(crate) stopping: AtomicBool,
    /// Woken when a thread has ended, for exec.
    pub(super) thread_wait: WaitQueue,

    /// Woken when it has become a zombie, for pidfds.
    pub exit_wait: WaitQueue,
    /// Woken when a child changes state.
    pub child_wait: WaitQueue,
    /// Created by vfork and not yet through exec or exit.
    pub(super) vfork_pending: AtomicBool,
    /// Where the parent waits for that.
    pub(super) vfork_wait: WaitQueue,

    /// ITIMER_REAL and alarm(2).
    pub(super) real_timer: Lock<IntervalTimer>,
    /// Timers of timer_create(2).
    pub(crate) posix_timers: Lock<PosixTimers>,
    /// ITIMER_VIRTUAL, ITIMER_PROF and RLIMIT_CPU.
    pub(super) cpu_timers: CpuTimers,
    /// CPU time and faults: own dead threads' and waited-for children's.
    pub usage: Usage,
    /// What its threads that have ended moved.
    pub transfers: Transfers,

    /// Has called execve since the fork (setpgid's EACCES).
    pub(super) did_exec: AtomicBool,
    /// PR_SET_CHILD_SUBREAPER.
    pub(super) subreaper: AtomicBool,
    /// PR_SET_DUMPABLE.
    pub(super) dumpable: AtomicU32,
    /// ptrace(2).
    pub trace: Trace,
    comm: Lock<[u8; 16]>,
    /// personality(2).
    pub personality: AtomicU32,
    /// /proc/PID/oom_score_adj, -1000..=1000.
    pub oom_score_adj: AtomicI32,
}

/// What a new process starts with.
pub(super) struct ProcessParts {
    pub pid: u32,
    pub pgid: u32,
    pub sid: u32,
    pub exit_signal: u32,
    pub mm: Arc<KMm>,
    pub files: Arc<FileTable>,
    pub fs: Arc<FsContext>,
    pub exe: Option<Arc<File>>,
    pub creds: Arc<Creds>,
    pub limits: Arc<Limits>,
    pub handlers: Arc<SignalHandlers>,
    pub vfork: bool,
    pub comm: [u8; 16],
}

impl Process {
    /// A process without threads, not in the table yet.
    pub(super) fn new(parts: ProcessParts) -> Process {
        Process {
            pid: parts.pid,
            start_ns: ptshare_machine::time::now_ns(),
            parent: AtomicU32::new(0),
            pgid: AtomicU32::new(parts.pgid),
            sid: AtomicU32::new(parts.sid),
            exit_signal: AtomicU32::new(parts.exit_signal),
            life: AtomicU32::new(Life::Alive as u32),
            exit_status: AtomicU32::new(0),
            stop_report: AtomicU32::new(0),
            continue_report: AtomicBool::new(false),
            mm: Slot::new(Some(parts.mm)),
            files: Slot::new(Some(parts.files)),
            fs: Slot::new(Some(parts.fs)),
            exe: Slot::new(parts.exe),
            creds: Slot::new(Some(parts.creds)),
            cpu_timers: CpuTimers::new(&parts.limits),
            limits: Slot::new(Some(parts.limits)),
            handlers: Slot::new(Some(parts.handlers)),
            signals: Lock::new(Rank::Signals, SignalState::new()),
            shared_pending: AtomicU64::new(0),
            live_threads: AtomicU32::new(0),
            exiting: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            thread_wait: WaitQueue::new(),
            exit_wait: WaitQueue::new(),
            child_wait: WaitQueue::new(),
            vfork_pending: AtomicBool::new(parts.vfork),
            vfork_wait: WaitQueue::new(),
            real_timer: Lock::new(Rank::Signals, IntervalTimer::new()),
            posix_timers: Lock::new(Rank::Registry, PosixTimers::new()),
            usage: Usage::new(),
            transfers: Transfers::new(),
            did_exec: AtomicBool::new(false),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicU32::new(1),
            trace: Trace::new(),
            comm: Lock::new(Rank::Registry, parts.comm),
            personality: AtomicU32::new(0),
            oom_score_adj: AtomicI32::new(0),
        }
    }

    /// Parent's pid, 0 for init.
    #[inline]
    pub fn parent(&self) -> u32 {
        self.parent.load(Relaxed)
    }

    /// Process group.
    #[inline]
    pub fn pgid(&self) -> u32 {
        self.pgid.load(Relaxed)
    }

    /// Session.
    #[inline]
    pub fn sid(&self) -> u32 {
        self.sid.load(Relaxed)
    }

    /// Is it a zombie, or already waited for?
    #[inline]
    pub fn is_dead(&self) -> bool {
        self.life.load(Relaxed) != Life::Alive as u32
    }

    /// Has it been waited for?
    pub fn is_reaped(&self) -> bool {
        self.life.load(Relaxed) == Life::Reaped as u32
    }

    /// The wait status, meaningful for a zombie.
    pub fn exit_status(&self) -> u32 {
        self.exit_status.load(Relaxed)
    }

    /// Live threads.
    pub fn threads(&self) -> u32 {
        self.live_threads.load(Relaxed)
    }

    /// The address space; an empty one after exit.
    #[inline]
    pub fn mm(&self) -> Arc<KMm> {
        match self.mm.get() {
            Some(mm) => mm,
            None => super::table::empty_mm(),
        }
    }

    /// The address space, unless it has exited.
    pub fn try_mm(&self) -> Option<Arc<KMm>> {
        self.mm.get()
    }

    /// Open files; `None` once exited.
    pub fn try_files(&self) -> Option<Arc<FileTable>> {
        self.files.get()
    }

    /// Open files; an empty table after exit.
    #[inline]
    pub fn files(&self) -> Arc<FileTable> {
        match self.files.get() {
            Some(files) => files,
            None => super::table::empty_files(),
        }
    }

    /// Root, working directory, umask; `None` once exited.
    pub fn try_fs(&self) -> Option<Arc<FsContext>> {
        self.fs.get()
    }

    /// Root, working directory, umask; the initial ones after exit.
    #[inline]
    pub fn fs(&self) -> Arc<FsContext> {
        match self.fs.get() {
            Some(fs) => fs,
            None => super::table::empty_fs(),
        }
    }

    /// The program file.
    pub fn exe(&self) -> Option<Arc<File>> {
        self.exe.get()
    }

    /// Who it is.
    pub fn creds(&self) -> Arc<Creds> {
        match self.creds.get() {
            Some(creds) => creds,
            None => Arc::new(Creds::root()),
        }
    }

    /// Changes who it is, and what its address space may do.
    pub fn set_creds(&self, creds: Creds) {
        let changed = creds.cap_effective != self.creds().cap_effective;
        let old = self.creds.replace(Some(Arc::new(creds)));
        drop(old);
        if changed && let Some(mm) = self.mm.get() {
            mm.set_limits(self.limits().for_mm(&self.creds()));
        }
    }

    /// Resource limits.
    pub fn limits(&self) -> Arc<Limits> {
        match self.limits.get() {
            Some(limits) => limits,
            None => Arc::new(Limits::initial()),
        }
    }

    /// Changes resource limits and tells the address space.
    pub fn set_limits(&self, limits: Limits) {
        if let Some(mm) = self.mm.get() {
            mm.set_limits(limits.for_mm(&self.creds()));
        }
        let old = self.limits.replace(Some(Arc::new(limits)));
        drop(old);
        cpu_timer::rearm(self);
    }

    /// Soft limit of a resource (`RLIMIT_*`).
    pub fn rlimit(&self, resource: usize) -> u64 {
        self.limits().soft(resource)
    }

    /// Is this capability in force?
    pub fn capable(&self, cap: u32) -> bool {
        self.creds().capable(cap)
    }

    /// Name of the program (of the first thread), up to 15 bytes and a NUL.
    pub fn comm(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    pub(super) fn set_comm(&self, comm: [u8; 16]) {
        *self.comm.lock() = comm;
    }

    /// A stop that the parent has not collected yet, as a wait status; 0 for none.
    pub(crate) fn set_stop_report(&self, status: u32) {
        self.stop_report.store(status, Relaxed);
    }

    /// A continuation that the parent has not collected yet.
    pub(crate) fn set_continue_report(&self, on: bool) {
        self.continue_report.store(on, Relaxed);
    }

    /// State letter for /proc: R, S, D, T, Z.
    pub fn state_char(&self) -> char {
        if self.is_dead() {
            return 'Z';
        }
        let state = self.signals.lock();
        if state.is_stopped() {
            return 'T';
        }
        state.threads().map(|task| task.state_char()).min_by_key(|c| "RDST".find(*c)).unwrap_or('Z')
    }

    /// PR_GET_DUMPABLE.
    pub fn dumpable(&self) -> u32 {
        self.dumpable.load(Relaxed)
    }

    /// PR_SET_DUMPABLE.
    pub fn set_dumpable(&self, value: u32) {
        self.dumpable.store(value, Relaxed);
    }

    /// PR_GET_CHILD_SUBREAPER.
    pub fn is_subreaper(&self) -> bool {
        self.subreaper.load(Relaxed)
    }

    /// PR_SET_CHILD_SUBREAPER.
    pub fn set_subreaper(&self, on: bool) {
        self.subreaper.store(on, Relaxed);
    }

    /// Is this pid init's?
    #[inline]
    pub fn is_init(&self) -> bool {
        self.pid == 1
    }
}
