//! Tracing (ptrace(2)): a process stops at each signal, and at system calls if asked, for its parent to look at it.
//!
//! A traced thread that stops leaves its registers in [`Trace`], where the tracer reads and changes them, and waits to be
//! told how to go on. Only a parent traces, so wait4 needs no second list of children.

use super::{Process, Task, WaitQueue, current, table};
use crate::signal::{self, SIGKILL, SIGTRAP, SigInfo, status_stopped};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_sync::{Lock, Rank};

/// PTRACE_O_TRACESYSGOOD: stops at system calls have this bit in their signal.
pub const TRACESYSGOOD: u32 = 1;
/// PTRACE_O_EXITKILL: a tracee does not outlive its tracer.
pub const EXITKILL: u32 = 1 << 20;
/// Options that can be set.
pub const OPTIONS: u32 = TRACESYSGOOD | EXITKILL;
const SYSCALL_MARK: u32 = 0x80;

/// A thread that has stopped.
#[derive(Clone, Copy)]
pub struct Stop {
    /// Its registers, which the tracer may change.
    pub regs: TrapFrame,
    /// The number of the system call that it is in; -1 outside of one (`orig_rax`).
    pub call: u64,
    /// Its FS base.
    pub fs_base: u64,
    /// Its GS base.
    pub gs_base: u64,
    /// The signal that stopped it.
    pub info: SigInfo,
}

#[derive(Default)]
struct State {
    stop: Option<Stop>,
    /// How to go on: with this signal, 0 for none.
    resume: Option<u32>,
}

/// What a process keeps of being traced.
pub struct Trace {
    /// Pid of the tracer, 0 for none.
    tracer: AtomicU32,
    options: AtomicU32,
    /// Stop at the next system call.
    calls: AtomicBool,
    state: Lock<State>,
    resumed: WaitQueue,
}

impl Default for Trace {
    fn default() -> Self {
        Trace::new()
    }
}

impl Trace {
    /// Not traced.
    pub const fn new() -> Self {
        Trace {
            tracer: AtomicU32::new(0),
            options: AtomicU32::new(0),
            calls: AtomicBool::new(false),
            state: Lock::new(Rank::WaitQueue, State { stop: None, resume: None }),
            resumed: WaitQueue::new(),
        }
    }

    /// Pid of the tracer, 0 for none.
    #[inline]
    pub fn tracer(&self) -> u32 {
        self.tracer.load(Relaxed)
    }

    /// Is it to stop at system calls?
    #[inline]
    pub fn stops_at_calls(&self) -> bool {
        self.calls.load(Relaxed)
    }

    /// Begins to trace it.
    ///
    /// # Errors
    /// EPERM when somebody traces it already.
    pub fn begin(&self, tracer: u32) -> Result<(), Errno> {
        let taken = self.tracer.compare_exchange(0, tracer, Relaxed, Relaxed);
        taken.map(|_| ()).map_err(|_| Errno::EPERM)
    }

    /// PTRACE_SETOPTIONS.
    pub fn set_options(&self, options: u32) {
        self.options.store(options, Relaxed);
    }

    /// Where it has stopped.
    ///
    /// # Errors
    /// ESRCH when it has not.
    pub fn stopped(&self) -> Result<Stop, Errno> {
        self.state.lock().stop.ok_or(Errno::ESRCH)
    }

    /// Changes the registers of a stopped thread.
    ///
    /// # Errors
    /// ESRCH when it has not stopped.
    pub fn set_regs(&self, regs: TrapFrame) -> Result<(), Errno> {
        self.state.lock().stop.as_mut().ok_or(Errno::ESRCH)?.regs = regs;
        Ok(())
    }

    /// Lets it go on with a signal, 0 for none; up to the next system call if `calls`; `detach`: for good.
    ///
    /// # Errors
    /// ESRCH when it has not stopped.
    pub fn resume(&self, sig: u32, calls: bool, detach: bool) -> Result<(), Errno> {
        {
            let mut state = self.state.lock();
            if state.stop.is_none() || state.resume.is_some() {
                return Err(Errno::ESRCH);
            }
            self.calls.store(calls, Relaxed);
            if detach {
                self.tracer.store(0, Relaxed);
            }
            state.resume = Some(sig);
        }
        self.resumed.wake_all();
        Ok(())
    }
}

/// Stops the current thread until its tracer lets it go on. Gives the signal to go on with, 0 for none.
fn stop(info: SigInfo, shown: u32, call: u64, regs: &mut TrapFrame) -> u32 {
    let task = current();
    let process = &task.process;
    let trace = &process.trace;
    let (fs_base, gs_base) = (task.context.fs_base(), task.context.gs_base());
    {
        let mut state = trace.state.lock();
        state.stop = Some(Stop { regs: *regs, call, fs_base, gs_base, info });
        state.resume = None;
    }
    signal::report_stop(process, status_stopped(shown));
    // Only the end of the process comes before the tracer.
    let resumed = trace.resumed.wait_killable(|| trace.state.lock().resume.take());
    process.set_stop_report(0);
    let stop = trace.state.lock().stop.take();
    if let (Some(stop), Ok(_)) = (stop, resumed) {
        *regs = stop.regs;
    }
    resumed.unwrap_or(0)
}

/// A signal is about to be delivered to the current thread. Gives what its tracer, if it has one, makes of it.
pub fn on_signal(info: SigInfo, regs: &mut TrapFrame) -> Option<SigInfo> {
    let tracer = current().process.trace.tracer();
    if tracer == 0 || info.signo == SIGKILL {
        return Some(info);
    }
    match stop(info, info.signo, u64::MAX, regs) {
        0 => None,
        sig if sig == info.signo => Some(info),
        sig => Some(SigInfo::user(sig, tracer, 0)),
    }
}

/// The current thread enters or leaves a system call, and its tracer wants to know.
#[cold]
pub fn on_call(call: u64, regs: &mut TrapFrame) {
    let process = &current().process;
    if process.trace.tracer() == 0 {
        return;
    }
    let mark = if process.trace.options.load(Relaxed) & TRACESYSGOOD != 0 { SYSCALL_MARK } else { 0 };
    let info = SigInfo { code: (SIGTRAP | mark) as i32, ..SigInfo::user(SIGTRAP, process.pid, 0) };
    let sig = stop(info, SIGTRAP | mark, call, regs);
    if sig != 0 {
        signal::send_to_current(sig);
    }
}

/// A traced process has got another program: it stops before the first instruction.
pub fn on_exec(task: &Task) {
    if task.process.trace.tracer() != 0 {
        signal::send_to_current(SIGTRAP);
    }
}

/// A process ends: those that it traced go on by themselves, or go too.
pub fn tracer_ends(pid: u32) {
    for process in table::all_processes() {
        let trace = &process.trace;
        if trace.tracer() != pid {
            continue;
        }
        if trace.options.load(Relaxed) & EXITKILL != 0 {
            signal::kill_process(&process);
        }
        trace.tracer.store(0, Relaxed);
        // One that has not stopped goes on anyway.
        let _ = trace.resume(0, false, true);
    }
}

/// The traced child with this pid.
///
/// # Errors
/// ESRCH when there is none that the caller traces.
pub fn tracee(pid: u32) -> Result<Arc<Process>, Errno> {
    let process = super::find_process_of(pid).ok_or(Errno::ESRCH)?;
    let mine = process.trace.tracer() == current().process.pid;
    if mine && !process.is_dead() { Ok(process) } else { Err(Errno::ESRCH) }
}
