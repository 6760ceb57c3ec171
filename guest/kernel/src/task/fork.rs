//! fork, vfork, clone: new processes and threads.

use super::creds::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use super::process::{Process, ProcessParts};
use super::table::{self, PidTaken};
use super::thread::Task;
use super::{CurrentTask, current, limits, membarrier, rseq, sched};
use crate::signal::SIGCHLD;
use crate::syscall::{Restart, SysErr, SysResult};
use crate::{config, heap_room};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::context::TaskContext;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{Machine, time, uaccess};
use ptshare_mm::Env;
use ptshare_paging::USER_END;

/// What a new task is to share, and where it starts.
#[derive(Clone, Copy, Default, Debug)]
pub struct CloneArgs {
    /// `CLONE_*`, without the exit signal.
    pub flags: u64,
    /// Signal for the parent at the end, 0 for none.
    pub exit_signal: u32,
    /// Stack pointer, 0 for the parent's.
    pub stack: u64,
    /// CLONE_PARENT_SETTID: address for the tid.
    pub parent_tid: u64,
    /// CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID: address for the tid.
    pub child_tid: u64,
    /// CLONE_SETTLS: FS base.
    pub tls: u64,
    /// CLONE_PIDFD: address for the descriptor.
    pub pidfd: u64,
}

const VM: u64 = raw::CLONE_VM as u64;
const FS: u64 = raw::CLONE_FS as u64;
const FILES: u64 = raw::CLONE_FILES as u64;
const SIGHAND: u64 = raw::CLONE_SIGHAND as u64;
const VFORK: u64 = raw::CLONE_VFORK as u64;
const PARENT: u64 = raw::CLONE_PARENT as u64;
const THREAD: u64 = raw::CLONE_THREAD as u64;
const SETTLS: u64 = raw::CLONE_SETTLS as u64;
const PARENT_SETTID: u64 = raw::CLONE_PARENT_SETTID as u64;
const CHILD_CLEARTID: u64 = raw::CLONE_CHILD_CLEARTID as u64;
const CHILD_SETTID: u64 = raw::CLONE_CHILD_SETTID as u64;
const PIDFD: u64 = raw::CLONE_PIDFD as u64;
const CLEAR_SIGHAND: u64 = raw::CLONE_CLEAR_SIGHAND;

/// Flags that name a namespace: this kernel has the initial ones only.
pub const NAMESPACES: u64 = (raw::CLONE_NEWNS
    | raw::CLONE_NEWCGROUP
    | raw::CLONE_NEWUTS
    | raw::CLONE_NEWIPC
    | raw::CLONE_NEWUSER
    | raw::CLONE_NEWPID
    | raw::CLONE_NEWNET
    | raw::CLONE_NEWTIME) as u64;
/// Flags that cannot be honoured.
const REFUSED: u64 = NAMESPACES & !(raw::CLONE_NEWTIME as u64) | raw::CLONE_INTO_CGROUP;

/// Makes a new task that returns to user mode as `frame` does, with 0 in RAX. Gives its tid.
///
/// # Errors
/// EINVAL for combinations of flags that clone(2) forbids, EAGAIN at the limit of processes, ENOMEM.
pub fn clone(args: &CloneArgs, frame: &TrapFrame) -> SysResult {
    let start = time::now_ns();
    check(args)?;
    let me = current();
    // A signal that arrives before the fork must not be outrun by it (kernel/fork.c, copy_process).
    if me.signal_pending() {
        return Err(SysErr::Restart(Restart::Always));
    }
    heap_room()?;
    check_process_limit(&me)?;
    let taken = PidTaken::take()?;
    let tid = taken.pid();

    let context = TaskContext::new().ok_or(Errno::ENOMEM)?;
    context.inherit(&me.context);
    if args.flags & SETTLS != 0 {
        context.preset_fs_base(args.tls);
    }
    let mut child_frame = *frame;
    child_frame.rax = 0;
    if args.stack != 0 {
        child_frame.rsp = args.stack;
    }
    context.prepare_user(&child_frame);

    if args.flags & THREAD != 0 {
        let task = new_task(&me, args, tid, me.process.clone(), context);
        {
            let mut table = table::lock();
            let mut state = me.process.signals.lock();
            state.reserve().map_err(|_| Errno::ENOMEM)?;
            state.add_thread(task.clone());
            me.process.live_threads.store(state.thread_count() as u32, Relaxed);
            drop(state);
            taken.enter_thread(&mut table, &task);
        }
        announce(args, tid);
        sched::start(task);
        return Ok(u64::from(tid));
    }

    let process = new_process(&me, args, tid)?;
    let task = new_task(&me, args, tid, process, context);
    let pidfd = if args.flags & PIDFD != 0 { Some(give_pidfd(&task.process, args.pidfd)?) } else { None };
    {
        let mut table = table::lock();
        let parent = if args.flags & PARENT != 0 { me.process.parent() } else { me.process.pid };
        let mut state = task.process.signals.lock();
        if state.reserve().is_err() {
            drop((state, table));
            if let Some(fd) = pidfd {
                drop(me.process.files().remove(fd as i32));
            }
            return Err(Errno::ENOMEM.into());
        }
        state.add_thread(task.clone());
        task.process.live_threads.store(1, Relaxed);
        drop(state);
        taken.enter_process(&mut table, &task, parent);
    }
    announce(args, tid);
    let child = (args.flags & VFORK != 0).then(|| task.process.clone());
    sched::start(task);

    let stats = Machine.stats();
    let took = time::now_ns() - start;
    stats.forks.fetch_add(1, Relaxed);
    stats.fork_ns.fetch_add(took, Relaxed);
    stats.last_fork_ns.store(took, Relaxed);
    if let Some(child) = child {
        // Interrupted only by the end of this process, which the return to user mode sees to.
        let _ = child.vfork_wait.wait_killable(|| (!child.vfork_pending.load(Relaxed)).then_some(()));
    }
    Ok(u64::from(tid))
}

fn check(args: &CloneArgs) -> Result<(), Errno> {
    let flags = args.flags;
    let has = |flag: u64| flags & flag != 0;
    let forbidden = flags & REFUSED != 0
        || has(SIGHAND) && !has(VM)
        || has(THREAD) && !has(SIGHAND)
        || has(CLEAR_SIGHAND) && has(SIGHAND)
        || has(PIDFD) && has(THREAD)
        || has(PARENT) && current().process.is_init()
        || u64::from(args.exit_signal) > u64::from(crate::signal::SIGNALS);
    if forbidden {
        return Err(Errno::EINVAL);
    }
    if has(SETTLS) && args.tls >= USER_END {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// RLIMIT_NPROC, from which root is exempt.
fn check_process_limit(me: &CurrentTask) -> Result<(), Errno> {
    let limit = me.process.rlimit(limits::NPROC);
    let creds = me.process.creds();
    if limit == limits::INFINITY
        || creds.capable(CAP_SYS_RESOURCE)
        || creds.capable(CAP_SYS_ADMIN)
        || creds.uid == 0
    {
        return Ok(());
    }
    let table = table::lock();
    let mine: u64 = table
        .all()
        .iter()
        .filter(|p| p.creds().uid == creds.uid)
        .map(|p| u64::from(p.threads().max(1)))
        .sum();
    if mine >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

fn new_process(me: &CurrentTask, args: &CloneArgs, pid: u32) -> Result<Arc<Process>, SysErr> {
    let parent = &me.process;
    let has = |flag: u64| args.flags & flag != 0;
    let mm = parent.mm();
    let mm = if has(VM) {
        mm
    } else {
        let child = mm.fork(config::sharing(), config::small_tables()).map_err(|_| Errno::ENOMEM)?;
        child.rec().pid.store(u64::from(pid), Relaxed);
        membarrier::inherit(child.slot(), me);
        child
    };
    let files = parent.files();
    let files = if has(FILES) { files } else { files.fork_copy() };
    let fs = parent.fs();
    let fs = if has(FS) { fs } else { Arc::new((*fs).clone()) };
    let handlers = parent.handlers.get().unwrap_or_default();
    let handlers = if has(SIGHAND) {
        handlers
    } else if has(CLEAR_SIGHAND) {
        Arc::new(handlers.exec_copy())
    } else {
        Arc::new(handlers.fork_copy())
    };
    let exit_signal = if has(PARENT) { parent.exit_signal.load(Relaxed) } else { args.exit_signal };
    let process = Process::new(ProcessParts {
        pid,
        pgid: parent.pgid(),
        sid: parent.sid(),
        exit_signal,
        mm,
        files,
        fs,
        exe: parent.exe(),
        creds: parent.creds(),
        limits: parent.limits(),
        handlers,
        vfork: has(VFORK),
        comm: me.comm(),
    });
    process.personality.store(parent.personality.load(Relaxed), Relaxed);
    process.oom_score_adj.store(parent.oom_score_adj.load(Relaxed), Relaxed);
    process.dumpable.store(parent.dumpable.load(Relaxed), Relaxed);
    Ok(Arc::new(process))
}

fn new_task(
    me: &CurrentTask,
    args: &CloneArgs,
    tid: u32,
    process: Arc<Process>,
    context: TaskContext,
) -> Arc<Task> {
    let has = |flag: u64| args.flags & flag != 0;
    let task = Task::new(tid, process, context, me.comm());
    task.affinity.store(me.affinity.load(Relaxed), Relaxed);
    if has(VM) {
        task.mm_slot.store(me.mm_slot.load(Relaxed), Relaxed);
        task.mm_root.store(me.mm_root.load(Relaxed), Relaxed);
    } else {
        let mm = task.process.mm();
        task.set_address_space(mm.slot(), mm.root());
    }
    task.blocked.store(me.blocked.load(Relaxed), Relaxed);
    task.nice.store(me.nice.load(Relaxed), Relaxed);
    task.policy.store(me.policy.load(Relaxed), Relaxed);
    task.rt_priority.store(me.rt_priority.load(Relaxed), Relaxed);
    task.timer_slack.store(me.timer_slack.load(Relaxed), Relaxed);
    if !has(VM) || has(VFORK) {
        for (to, from) in task.altstack.iter().zip(&me.altstack) {
            to.store(from.load(Relaxed), Relaxed);
        }
    }
    if !has(VM) {
        rseq::inherit(&task, me);
    }
    if has(CHILD_SETTID) {
        task.set_child_tid.store(args.child_tid, Relaxed);
    }
    if has(CHILD_CLEARTID) {
        task.clear_child_tid.store(args.child_tid, Relaxed);
    }
    Arc::new(task)
}

/// CLONE_PIDFD: a descriptor of the new process, stored at `at`.
fn give_pidfd(process: &Arc<Process>, at: u64) -> Result<u64, SysErr> {
    let files = current().process.files();
    let fd = files.install(crate::fs::pidfd::open(process.clone(), false), true)?;
    if let Err(fault) = uaccess::write(at, &(fd as u32)) {
        drop(files.remove(fd as i32));
        return Err(fault.into());
    }
    Ok(fd)
}

/// CLONE_PARENT_SETTID. As on Linux, an address that cannot be written is the program's own business.
fn announce(args: &CloneArgs, tid: u32) {
    if args.flags & PARENT_SETTID != 0 {
        let _ = uaccess::write(args.parent_tid, &tid);
    }
}

/// The arguments of fork(2).
pub fn fork_args() -> CloneArgs {
    CloneArgs { exit_signal: SIGCHLD, ..CloneArgs::default() }
}

/// The arguments of vfork(2).
pub fn vfork_args() -> CloneArgs {
    CloneArgs { flags: VFORK | VM, exit_signal: SIGCHLD, ..CloneArgs::default() }
}

/// unshare(2).
///
/// # Errors
/// EINVAL for what cannot be taken apart.
pub fn unshare(flags: u64) -> Result<(), Errno> {
    let me = current();
    let process = &me.process;
    let known = FS | FILES | raw::CLONE_SYSVSEM as u64 | THREAD | SIGHAND | VM;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    // These three can be "unshared" only by who shares them with nobody (kernel/fork.c, check_unshare_flags).
    if flags & (THREAD | SIGHAND | VM) != 0 && process.threads() > 1 {
        return Err(Errno::EINVAL);
    }
    heap_room()?;
    if flags & FS != 0 {
        let copy = Arc::new((*process.fs()).clone());
        drop(process.fs.replace(Some(copy)));
    }
    if flags & FILES != 0 {
        let copy = process.files().fork_copy();
        drop(process.files.replace(Some(copy)));
    }
    Ok(())
}
