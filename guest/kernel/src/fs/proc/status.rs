//! /proc/PID/stat, status and limits (proc_pid_stat(5), proc_pid_status(5)).

use crate::fs::console;
use crate::fs::text::Text;
use crate::task::{self, Process, Task};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mm::MmUsage;

const TICK_NS: u64 = 10_000_000;

/// The name of a task without its NULs.
pub fn comm(t: &mut Text, task: Option<&Arc<Task>>, process: &Process) {
    let name = task.map_or_else(|| process.comm(), |task| task.comm());
    let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    t.b(name.get(..len).unwrap_or(&[]));
}

fn usage(process: &Process) -> MmUsage {
    process.try_mm().map(|mm| mm.usage()).unwrap_or_default()
}

fn state(process: &Process, task: Option<&Arc<Task>>) -> char {
    match task {
        Some(task) if !process.is_dead() && process.threads() > 1 => task.state_char(),
        _ => process.state_char(),
    }
}

/// /proc/PID/stat.
pub fn stat(t: &mut Text, process: &Process, task: Option<&Arc<Task>>, tid: u32, whole: bool) {
    let used = match task {
        Some(task) if !whole => task::usage::of_task(task),
        _ => task::usage::of_process(process),
    };
    let children = task::usage::of_children(process);
    let mem = usage(process);
    let layout = process.try_mm().map(|mm| mm.layout()).unwrap_or_default();
    let (tty, foreground) = match console::of_session(process.sid()) {
        Some(group) => (crate::fs::device::makedev(5, 1) as i64, i64::from(group)),
        None => (0, -1),
    };
    t.dec(u64::from(tid)).s(" (");
    comm(t, task, process);
    t.s(") ").c(state(process, task) as u8);
    for n in
        [i64::from(process.parent()), i64::from(process.pgid()), i64::from(process.sid()), tty, foreground]
    {
        t.c(b' ').int(n);
    }
    // flags: PF_RANDOMIZE, as every ordinary program has.
    t.c(b' ').dec(0x40_0000);
    let nice = task.map_or(0, |task| i64::from(task.nice.load(Relaxed)));
    for n in [used.minor_faults, children.minor_faults, 0, 0] {
        t.c(b' ').dec(n);
    }
    for ns in [used.user_ns, used.system_ns, children.user_ns, children.system_ns] {
        t.c(b' ').dec(ns / TICK_NS);
    }
    t.c(b' ').int(20 + nice).c(b' ').int(nice).c(b' ').dec(u64::from(process.threads().max(1)));
    t.s(" 0 ").dec(process.start_ns / TICK_NS).c(b' ').dec(mem.vm_pages * 4096);
    t.c(b' ').dec(mem.rss_pages()).c(b' ').dec(process.rlimit(5));
    for n in [layout.start_code, layout.end_code, layout.start_stack, 0, 0] {
        t.c(b' ').dec(n);
    }
    let (blocked, pending) = masks(process, task);
    let (ignored, caught) = process.handlers.get().map_or((0, 0), |h| h.sets());
    // Only the first 31 signals, as the file has had it since it was made.
    for set in [pending.0 | pending.1, blocked, ignored, caught] {
        t.c(b' ').dec(set & 0x7fff_ffff);
    }
    let exit_signal = if whole || tid == process.pid { 17 } else { -1 };
    t.s(" 0 0 0 ").int(exit_signal).s(" 0 0 0 0 0 0 ");
    for n in [
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
    ] {
        t.dec(n).c(b' ');
    }
    t.dec(if process.is_dead() { u64::from(process.exit_status()) } else { 0 }).c(b'\n');
}

/// Blocked signals, and pending ones: the thread's and the process's.
fn masks(process: &Process, task: Option<&Arc<Task>>) -> (u64, (u64, u64)) {
    let shared = process.shared_pending.load(Relaxed);
    match task {
        Some(task) => (task.blocked.load(Relaxed), (task.pending.load(Relaxed), shared)),
        None => (0, (0, shared)),
    }
}

/// /proc/PID/status.
pub fn status(t: &mut Text, process: &Process, task: Option<&Arc<Task>>, tid: u32) {
    let cred = process.creds();
    t.s("Name:\t");
    comm(t, task, process);
    let umask = process.try_fs().map_or(0, |fs| fs.umask());
    t.s("\nUmask:\t").oct(u64::from(umask), 4);
    let letter = state(process, task);
    t.s("\nState:\t").c(letter as u8).s(match letter {
        'R' => " (running)",
        'S' => " (sleeping)",
        'D' => " (disk sleep)",
        'T' => " (stopped)",
        'Z' => " (zombie)",
        _ => " (dead)",
    });
    for (name, n) in [
        ("\nTgid:\t", process.pid),
        ("\nNgid:\t", 0),
        ("\nPid:\t", tid),
        ("\nPPid:\t", process.parent()),
        ("\nTracerPid:\t", process.trace.tracer()),
    ] {
        t.s(name).dec(u64::from(n));
    }
    for (name, ids) in [
        ("\nUid:", [cred.uid, cred.euid, cred.suid, cred.fsuid]),
        ("\nGid:", [cred.gid, cred.egid, cred.sgid, cred.fsgid]),
    ] {
        t.s(name);
        for id in ids {
            t.c(b'\t').dec(u64::from(id));
        }
    }
    t.s("\nFDSize:\t").dec(process.try_files().map_or(0, |files| files.capacity()));
    t.s("\nGroups:\t");
    for group in cred.groups.iter() {
        t.dec(u64::from(*group)).c(b' ');
    }
    for (name, n) in [
        ("\nNStgid:\t", process.pid),
        ("\nNSpid:\t", tid),
        ("\nNSpgid:\t", process.pgid()),
        ("\nNSsid:\t", process.sid()),
    ] {
        t.s(name).dec(u64::from(n));
    }
    t.s("\nKthread:\t0\n");
    if process.try_mm().is_some() {
        memory(t, process);
    }
    t.s("Threads:\t").dec(u64::from(process.threads().max(1)));
    let (blocked, (own, shared)) = masks(process, task);
    let (ignored, caught) = process.handlers.get().map_or((0, 0), |h| h.sets());
    t.s("\nSigQ:\t0/").dec(process.rlimit(11));
    for (name, set) in [
        ("\nSigPnd:\t", own),
        ("\nShdPnd:\t", shared),
        ("\nSigBlk:\t", blocked),
        ("\nSigIgn:\t", ignored),
        ("\nSigCgt:\t", caught),
        ("\nCapInh:\t", cred.cap_inheritable),
        ("\nCapPrm:\t", cred.cap_permitted),
        ("\nCapEff:\t", cred.cap_effective),
        ("\nCapBnd:\t", cred.cap_bounding),
        ("\nCapAmb:\t", cred.cap_ambient),
    ] {
        t.s(name).hex(set, 16);
    }
    t.s("\nNoNewPrivs:\t").dec(u64::from(cred.no_new_privs));
    t.s("\nSeccomp:\t0\nSeccomp_filters:\t0\nCpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed:\t1\nMems_allowed_list:\t0");
    let used = task.map_or_else(|| task::usage::of_process(process), task::usage::of_task_arc);
    t.s("\nvoluntary_ctxt_switches:\t").dec(used.voluntary);
    t.s("\nnonvoluntary_ctxt_switches:\t").dec(used.involuntary).c(b'\n');
}

fn memory(t: &mut Text, process: &Process) {
    let mem = usage(process);
    let kb = |pages: u64| pages * 4;
    for (name, kb) in [
        ("VmPeak:\t", kb(mem.vm_pages)),
        ("VmSize:\t", kb(mem.vm_pages)),
        ("VmLck:\t", kb(mem.locked_pages)),
        ("VmPin:\t", 0),
        ("VmHWM:\t", kb(mem.rss_pages())),
        ("VmRSS:\t", kb(mem.rss_pages())),
        ("RssAnon:\t", kb(mem.rss_anon)),
        ("RssFile:\t", kb(mem.rss_file)),
        ("RssShmem:\t", kb(mem.rss_shmem)),
        ("VmData:\t", kb(mem.data_pages)),
        ("VmStk:\t", kb(mem.stack_pages)),
        ("VmExe:\t", kb(mem.exe_pages)),
        ("VmLib:\t", kb(mem.lib_pages)),
        ("VmPTE:\t", kb(mem.table_pages)),
        ("VmPTEShared:\t", kb(mem.shares.shared_pages)),
        ("VmPTEProp:\t", mem.shares.proportional / 1024),
        ("VmSwap:\t", 0),
        ("HugetlbPages:\t", kb(mem.hugetlb)),
    ] {
        t.kb(name, kb);
    }
    t.s("CoreDumping:\t0\nTHP_enabled:\t0\nuntag_mask:\t0xffffffffffffffff\n");
}

/// Names and units of /proc/PID/limits, in the order of `RLIMIT_*` (fs/proc/base.c, `lnames`).
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// /proc/PID/limits.
pub fn limits(t: &mut Text, process: &Process) {
    t.s("Limit                     Soft Limit           Hard Limit           Units     \n");
    let limits = process.limits();
    for (resource, (name, unit)) in LIMITS.iter().enumerate() {
        let start = t.len();
        t.s(name).pad_to(start, 26);
        for (n, column) in limits.get(resource).unwrap_or_default().into_iter().zip([47, 68]) {
            if n == u64::MAX {
                t.s("unlimited")
            } else {
                t.dec(n)
            };
            t.pad_to(start, column);
        }
        t.s(unit).pad_to(start, 78).c(b'\n');
    }
}
