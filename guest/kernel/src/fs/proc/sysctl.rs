//! /proc/sys: settings. Those that mean something here are read by those who obey them; the others are kept so that
//! programs can save and restore them.

use super::text;
use crate::fs::hugepages;
use crate::fs::text::Text;
use crate::fs::virt::{Entry, What, number};
use crate::task;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_machine::random;

const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, mode: 0o555, what: What::Dir(entries) }
}

const fn fixed(name: &'static str, value: &'static str) -> Entry {
    Entry { name, mode: 0o444, what: What::Fixed(value) }
}

const fn setting(name: &'static str, value: &'static AtomicU64, max: u64) -> Entry {
    Entry { name, mode: 0o644, what: What::Number(value, max) }
}

const fn line(name: &'static str, show: fn(&mut Text), write: fn(&[u8]) -> Result<(), Errno>) -> Entry {
    Entry { name, mode: 0o644, what: What::Line(show, write) }
}

macro_rules! settings {
    ($($name:ident = $default:expr;)+) => {
        $(static $name: AtomicU64 = AtomicU64::new($default);)+
    };
}

settings! {
    PID_MAX = 32768;
    SHMALL = u64::MAX - (1 << 24);
    SHMMAX = u64::MAX - (1 << 24);
    SHMMNI = 4096;
    TAINTED = 0;
    RANDOMIZE = 2;
    PANIC = 0;
    PRINTK = 4;
    OVERCOMMIT = 0;
    OVERCOMMIT_RATIO = 50;
    OVERCOMMIT_KBYTES = 0;
    MAX_MAP_COUNT = 65530;
    SWAPPINESS = 60;
    MMAP_MIN_ADDR = 65536;
    OOM_KILL_ALLOCATING = 0;
    PANIC_ON_OOM = 0;
    UNPRIVILEGED_USERFAULTFD = 0;
    FILE_MAX = 1 << 20;
    PIPE_MAX_SIZE = 1 << 20;
    NR_OPEN = 1 << 20;
    PROTECTED_LINKS = 0;
    SHM_RMID_FORCED = 0;
    YAMA = 0;
}

pub static SYS: &[Entry] = &[dir("kernel", KERNEL), dir("vm", VM), dir("fs", FS), dir("net", NET)];

static KERNEL: &[Entry] = &[
    fixed("cap_last_cap", "40\n"),
    line(
        "core_pattern",
        |t| {
            t.s("core\n");
        },
        ignore,
    ),
    fixed("core_uses_pid", "0\n"),
    line("hostname", hostname, set_hostname),
    fixed("domainname", "(none)\n"),
    fixed("ngroups_max", "65536\n"),
    text("osrelease", |t| {
        t.s(task::uts::RELEASE).c(b'\n');
    }),
    fixed("ostype", "Linux\n"),
    text("version", |t| {
        t.s(task::uts::VERSION).c(b'\n');
    }),
    setting("panic", &PANIC, u64::MAX),
    setting("pid_max", &PID_MAX, 1 << 22),
    setting("printk", &PRINTK, 15),
    dir("random", RANDOM),
    setting("randomize_va_space", &RANDOMIZE, 2),
    fixed("sched_child_runs_first", "0\n"),
    setting("shm_rmid_forced", &SHM_RMID_FORCED, 1),
    line(
        "shm_next_id",
        |t| {
            t.s("-1\n");
        },
        ignore,
    ),
    setting("shmall", &SHMALL, u64::MAX),
    setting("shmmax", &SHMMAX, u64::MAX),
    setting("shmmni", &SHMMNI, 32768),
    fixed("sem", "32000\t1024000000\t500\t32000\n"),
    fixed("msgmax", "8192\n"),
    fixed("msgmnb", "16384\n"),
    fixed("msgmni", "32000\n"),
    setting("tainted", &TAINTED, u64::MAX),
    setting("threads-max", &crate::task::limits::THREADS_MAX, 1 << 22),
    dir("yama", YAMA_DIR),
];

static YAMA_DIR: &[Entry] = &[setting("ptrace_scope", &YAMA, 3)];

static RANDOM: &[Entry] = &[
    text("boot_id", boot_id),
    text("uuid", uuid),
    fixed("entropy_avail", "256\n"),
    fixed("poolsize", "256\n"),
];

static VM: &[Entry] = &[
    Entry { name: "compact_memory", mode: 0o200, what: What::Line(nothing, ignore) },
    line(
        "drop_caches",
        |t| {
            t.s("0\n");
        },
        drop_caches,
    ),
    setting("max_map_count", &MAX_MAP_COUNT, i32::MAX as u64),
    setting("mmap_min_addr", &MMAP_MIN_ADDR, u64::MAX),
    line("nr_hugepages", hugepages::total, hugepages::resize),
    line("nr_hugepages_mempolicy", hugepages::total, hugepages::resize),
    line("nr_overcommit_hugepages", hugepages::overcommit, hugepages::set_overcommit),
    setting("oom_kill_allocating_task", &OOM_KILL_ALLOCATING, 1),
    setting("overcommit_kbytes", &OVERCOMMIT_KBYTES, u64::MAX),
    setting("overcommit_memory", &OVERCOMMIT, 2),
    setting("overcommit_ratio", &OVERCOMMIT_RATIO, i32::MAX as u64),
    setting("panic_on_oom", &PANIC_ON_OOM, 2),
    setting("swappiness", &SWAPPINESS, 200),
    setting("unprivileged_userfaultfd", &UNPRIVILEGED_USERFAULTFD, 1),
];

static FS: &[Entry] = &[
    setting("file-max", &FILE_MAX, u64::MAX),
    fixed("file-nr", "256\t0\t1048576\n"),
    setting("nr_open", &NR_OPEN, 1 << 20),
    setting("pipe-max-size", &PIPE_MAX_SIZE, 1 << 30),
    setting("protected_hardlinks", &PROTECTED_LINKS, 1),
    setting("protected_symlinks", &PROTECTED_LINKS, 1),
    fixed("aio-max-nr", "65536\n"),
];

static NET: &[Entry] = &[dir("core", NET_CORE)];
static NET_CORE: &[Entry] = &[fixed("somaxconn", "4096\n")];

fn nothing(_: &mut Text) {}

fn ignore(_: &[u8]) -> Result<(), Errno> {
    Ok(())
}

/// There is nothing to drop: all files are in memory only.
fn drop_caches(line: &[u8]) -> Result<(), Errno> {
    match number(line) {
        Some(1..=4) => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

fn hostname(t: &mut Text) {
    let name = task::uts::hostname();
    let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    t.b(&name[..len]).c(b'\n');
}

fn set_hostname(line: &[u8]) -> Result<(), Errno> {
    task::uts::set_hostname(line.trim_ascii_end())
}

fn write_uuid(t: &mut Text, high: u64, low: u64) {
    // Version 4, variant 1 (RFC 9562, "UUID Version 4").
    let high = high & !0xf000 | 0x4000;
    let low = low & !(3 << 62) | 2 << 62;
    t.hex(high >> 32, 8).c(b'-').hex(high >> 16 & 0xffff, 4).c(b'-').hex(high & 0xffff, 4);
    t.c(b'-').hex(low >> 48, 4).c(b'-').hex(low & 0xffff_ffff_ffff, 12).c(b'\n');
}

fn uuid(t: &mut Text) {
    write_uuid(t, random::u64(), random::u64());
}

fn boot_id(t: &mut Text) {
    static HIGH: AtomicU64 = AtomicU64::new(0);
    static LOW: AtomicU64 = AtomicU64::new(0);
    if HIGH.load(Relaxed) == 0 {
        LOW.store(random::u64(), Relaxed);
        HIGH.store(random::u64() | 1, Relaxed);
    }
    write_uuid(t, HIGH.load(Relaxed), LOW.load(Relaxed));
}

/// May anybody have the kernel's faults reported (vm.unprivileged_userfaultfd)?
pub fn unprivileged_userfaultfd() -> bool {
    UNPRIVILEGED_USERFAULTFD.load(Relaxed) != 0
}
