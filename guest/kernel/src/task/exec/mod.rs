//! exec: a new program in an old process.
//!
//! The new address space is built completely before anything of the old one is given up, so every error finds the caller
//! as it was. After that nothing can fail.

mod elf;
mod load;
mod stack;
pub mod strings;

use super::fork;
use super::process::{Process, ProcessParts};
use super::table::{self, PidTaken};
use super::thread::{Task, comm_of};
use super::{Creds, current, exit, limits, membarrier, posix_timer, rseq, sched};
use crate::fs::{self, File, FileTable, FsContext};
use crate::signal::{SIGCHLD, SS_DISABLE, SignalHandlers, wake_for_exit};
use crate::syscall::{SysErr, SysResult};
use crate::{KMm, heap_room};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use load::{HEAD_BYTES, Image};
use ptshare_abi::Errno;
use ptshare_machine::context::TaskContext;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{Machine, cpu, hyper, random};
use ptshare_mm::Mm;
use ptshare_paging::{PAGE_BYTES, USER_END, page_ceil};
use strings::Strings;

/// `#!` lines that may lead to `#!` lines (fs/exec.c, exec_binprm).
const SCRIPT_DEPTH: u32 = 5;
/// Room below the strings that the stack has from the start (fs/exec.c, setup_arg_pages).
const STACK_ROOM: u64 = 128 << 10;

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// A program that is ready to start.
struct Loaded {
    mm: Arc<KMm>,
    entry: u64,
    sp: u64,
}

/// The file that will be the program, after all `#!` lines.
struct Found {
    file: Arc<File>,
    image: Image,
}

/// Opens the program at `path`; a script is replaced by its interpreter, and `argv` with it.
fn find(path: &[u8], argv: &mut Strings) -> Result<Found, Errno> {
    let mut path: Vec<u8> = path.to_vec();
    for _ in 0..SCRIPT_DEPTH {
        let file = fs::open_exec(&path)?;
        let object = file.object().ok_or(Errno::EACCES)?;
        let head: [u8; HEAD_BYTES] = load::read_head(&object);
        let Some(script) = strings::parse_shebang(&head)? else {
            let image = Image::open(object, &head)?;
            return Ok(Found { file, image });
        };
        match script.argument {
            Some(argument) => argv.replace_first(&[script.interpreter, argument, &path])?,
            None => argv.replace_first(&[script.interpreter, &path])?,
        }
        path = script.interpreter.to_vec();
    }
    Err(Errno::ELOOP)
}

/// Builds the address space of a program.
fn load(
    image: &Image,
    path: &[u8],
    argv: &Strings,
    envp: &Strings,
    creds: &Creds,
    limits: &limits::Limits,
) -> Result<Loaded, Errno> {
    let mm = Mm::new(Machine).map_err(|_| Errno::ENOMEM)?;
    mm.set_limits(limits.for_mm(creds));
    let program = image.load(&mm, false)?;
    let mut entry = program.entry;
    let mut base = 0;
    if let Some(interpreter) = image.interpreter()? {
        let object = fs::open_exec(&interpreter)?.object().ok_or(Errno::EACCES)?;
        let head = load::read_head(&object);
        let interpreter = Image::open(object, &head).map_err(|errno| match errno {
            Errno::ENOEXEC => Errno::ELIBBAD,
            other => other,
        })?;
        let placed = interpreter.load(&mm, true)?;
        entry = placed.entry;
        base = placed.bias;
    }
    let ids = [creds.uid, creds.euid, creds.gid, creds.egid].map(u64::from);
    let auxiliary = stack::Auxiliary {
        phdr: image.layout.phdr_addr.wrapping_add(program.bias),
        phdrs: image.header.phdrs as u64,
        base,
        entry: program.entry,
        ids,
        secure: creds.uid != creds.euid || creds.gid != creds.egid,
        hwcap: u64::from(cpu::cpuid(1).3),
        random: [random::u64(), random::u64()],
    };
    let top = USER_END;
    let content = stack::build(top, argv, envp, path, &auxiliary)?;
    let len = page_ceil(content.bytes.len() as u64).ok_or(Errno::E2BIG)? + STACK_ROOM;
    mm.map_stack(top, len, image.layout.exec_stack)?;
    mm.write_user(content.sp, &content.bytes)?;

    let mut layout = mm.layout();
    let segments = &image.layout.segments;
    let at = |addr: u64| addr.wrapping_add(program.bias);
    if let Some(code) = segments.iter().find(|s| s.exec) {
        layout.start_code = at(code.vaddr);
        layout.end_code = at(code.vaddr + code.file_bytes);
    }
    if let Some(data) = segments.iter().rev().find(|s| s.write) {
        layout.start_data = at(data.vaddr);
        layout.end_data = at(data.vaddr + data.file_bytes);
    }
    // An unmapped page keeps the heap apart from the bss, so that they never merge.
    layout.start_brk = at(image.layout.end()) + PAGE_BYTES;
    layout.brk = layout.start_brk;
    layout.start_stack = content.sp;
    (layout.arg_start, layout.arg_end) = content.args;
    (layout.env_start, layout.env_end) = content.env;
    mm.set_layout(layout);
    Ok(Loaded { mm, entry, sp: content.sp })
}

/// Set-user-ID and set-group-ID programs.
fn take_file_owner(creds: &mut Creds, file: &File) {
    let inode = file.inode();
    let mode = inode.mode();
    if creds.no_new_privs {
        return;
    }
    if mode & S_ISUID != 0 {
        creds.euid = inode.uid();
    }
    // Without group execution the bit means mandatory locking (inode(7)).
    if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
        creds.egid = inode.gid();
    }
}

fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// Replaces the current process's program by the one at `path`.
///
/// # Errors
/// As execve(2); the caller is unchanged then.
pub fn exec(path: &[u8], mut argv: Strings, envp: Strings, frame: &mut TrapFrame) -> SysResult {
    heap_room()?;
    if argv.count() == 0 {
        // Programs rely on argv[0] (fs/exec.c, do_execveat_common).
        argv.push(b"")?;
    }
    let task = current();
    let process = &task.process;
    let found = find(path, &mut argv)?;
    let mut creds = (*process.creds()).clone();
    take_file_owner(&mut creds, &found.file);
    creds.suid = creds.euid;
    creds.fsuid = creds.euid;
    creds.sgid = creds.egid;
    creds.fsgid = creds.egid;
    creds.fix_caps_at_exec();
    let loaded = load(&found.image, path, &argv, &envp, &creds, &process.limits())?;
    drop((argv, envp));
    end_siblings()?;

    // The point of no return.
    exit::release_user_memory(&task);
    loaded.mm.rec().pid.store(u64::from(process.pid), Relaxed);
    let files = process.files();
    // Counted: the slot's and ours.
    let files = if Arc::strong_count(&files) > 2 {
        let own = files.fork_copy();
        drop(process.files.replace(Some(own.clone())));
        own
    } else {
        files
    };
    files.close_on_exec();
    drop(files);
    drop(process.exe.replace(Some(found.file)));
    process.set_creds(creds);
    if let Some(handlers) = process.handlers.get() {
        drop(process.handlers.replace(Some(Arc::new(handlers.exec_copy()))));
    }
    for (cell, value) in task.altstack.iter().zip([0, 0, SS_DISABLE]) {
        cell.store(value, Relaxed);
    }
    process.did_exec.store(true, Relaxed);
    process.dumpable.store(1, Relaxed);
    process.exit_signal.store(SIGCHLD, Relaxed);
    task.set_comm(basename(path));
    let Loaded { mm, entry, sp } = loaded;
    posix_timer::delete_all(process);
    rseq::forget(&task);
    membarrier::reset(mm.slot());
    sched::use_mm(&task, Some(&mm));
    if let Some(old) = process.mm.replace(Some(mm)) {
        process.usage.see_rss(&old);
    }
    exit::release_vfork_parent(process);
    task.context.reset_current();
    *frame = TrapFrame::new_user(entry, sp);
    super::trace::on_exec(&task);
    Ok(0)
}

/// Ends the other threads of the process, and takes the leader's place.
fn end_siblings() -> Result<(), SysErr> {
    let task = current();
    let process = &task.process;
    {
        let state = process.signals.lock();
        if state.thread_count() > 1 || !task.is_leader() {
            if process.exiting.compare_exchange(0, task.tid(), SeqCst, SeqCst).is_err() {
                // The group ends, or another thread was first: this one must go.
                return Err(SysErr::Restart(crate::syscall::Restart::Always));
            }
            wake_for_exit(&state);
        }
    }
    process.thread_wait.wait_uninterruptible(|| (process.threads() <= 1).then_some(()));
    if !task.is_leader() {
        let (old, me) = (task.tid(), task.arc());
        let mut table = table::lock();
        task.become_leader();
        table.take_over_pid(&me, old, process.pid);
        drop(table);
    }
    // A kill that came meanwhile stays: it has put its own mark.
    let _ = process.exiting.fetch_update(SeqCst, SeqCst, |mark| (mark != u32::MAX).then_some(0));
    Ok(())
}

/// Makes the calling context, on a CPU's first stack, its idle task.
///
/// # Errors
/// ENOMEM.
pub fn become_idle() -> Result<(), Errno> {
    let context = TaskContext::new().ok_or(Errno::ENOMEM)?;
    let idle = Process::new(parts(0, table::empty_mm(), FileTable::new(), b"idle"));
    sched::adopt_idle(Arc::new(idle), context);
    Ok(())
}

/// Starts the first process from the boot stack, and makes that the idle task.
///
/// # Errors
/// As execve(2).
pub fn spawn_init(path: &[u8]) -> Result<(), Errno> {
    let empty = Mm::new(Machine).map_err(|_| Errno::ENOMEM)?;
    table::set_empty_mm(empty);
    become_idle()?;
    crate::task::smp::start_others();

    let mut argv = Strings::default();
    argv.push(path)?;
    let mut envp = Strings::default();
    envp.push(b"HOME=/")?;
    envp.push(b"TERM=linux")?;
    let found = find(path, &mut argv)?;
    let loaded = load(&found.image, path, &argv, &envp, &Creds::root(), &limits::Limits::initial())?;
    let taken = PidTaken::take()?;
    let pid = taken.pid();
    loaded.mm.rec().pid.store(u64::from(pid), Relaxed);
    let context = TaskContext::new().ok_or(Errno::ENOMEM)?;
    context.prepare_user(&TrapFrame::new_user(loaded.entry, loaded.sp));
    let (slot, root) = (loaded.mm.slot(), loaded.mm.root());
    let process = Process::new(parts(pid, loaded.mm, fs::init_files(), basename(path)));
    process.did_exec.store(true, Relaxed);
    drop(process.exe.replace(Some(found.file)));
    let task = Arc::new(Task::new(pid, Arc::new(process), context, comm_of(basename(path))));
    task.set_address_space(slot, root);
    {
        let mut table = table::lock();
        let mut state = task.process.signals.lock();
        state.add_thread(task.clone());
        drop(state);
        task.process.live_threads.store(1, Relaxed);
        taken.enter_process(&mut table, &task, 0);
    }
    sched::start(task);
    hyper::mark_first_user();
    Ok(())
}

fn parts(pid: u32, mm: Arc<KMm>, files: Arc<FileTable>, comm: &[u8]) -> ProcessParts {
    ProcessParts {
        pid,
        pgid: 0,
        sid: 0,
        exit_signal: fork::fork_args().exit_signal,
        mm,
        files,
        fs: Arc::new(FsContext::new()),
        exe: None,
        creds: Arc::new(Creds::root()),
        limits: Arc::new(limits::Limits::initial()),
        handlers: Arc::new(SignalHandlers::new()),
        vfork: false,
        comm: comm_of(comm),
    }
}
