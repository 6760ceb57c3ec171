//! /proc/sys: settings. Those that mean something here are read by those who obey them; the others are kept so that
//! programs can save and restore them.

use super::text;
use crate::fs::file::open_files;
use crate::fs::hugepages;
use crate::fs::text::Text;
use crate::fs::virt::{Entry, What, number};
use crate::ipc::perm::IPCMNI;
use crate::ipc::{msg, sem, shm};
use crate::task;
use crate::task::table::{PID_LIMIT, PID_MAX, PID_MIN};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_machine::random;
use ptshare_mm::space::limits;
use ptshare_sync::{Lock, Rank};

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
    TAINTED = 0;
    RANDOMIZE = 2;
    PANIC = 0;
    DROP_CACHES = 0;
    SWAPPINESS = 60;
    MMAP_MIN_ADDR = 65536;
    OOM_KILL_ALLOCATING = 0;
    PANIC_ON_OOM = 0;
    UNPRIVILEGED_USERFAULTFD = 0;
    FILE_MAX = 1 << 20;
    PIPE_MAX_SIZE = 1 << 20;
    NR_OPEN = 1 << 20;
    PROTECTED_LINKS = 0;
    YAMA = 0;
}

pub static SYS: &[Entry] = &[dir("kernel", KERNEL), dir("vm", VM), dir("fs", FS), dir("net", NET)];

static KERNEL: &[Entry] = &[
    fixed("cap_last_cap", "40\n"),
    line("core_pattern", core_pattern, set_core_pattern),
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
    line("pid_max", pid_max, set_pid_max),
    dir("random", RANDOM),
    setting("randomize_va_space", &RANDOMIZE, 2),
    fixed("sched_child_runs_first", "0\n"),
    line("msg_next_id", |t| next_id(t, &msg::NEXT_ID), |line| set_next_id(line, &msg::NEXT_ID)),
    setting("msgmax", &msg::MSGMAX, i32::MAX as u64),
    setting("msgmnb", &msg::MSGMNB, i32::MAX as u64),
    setting("msgmni", &msg::MSGMNI, IPCMNI),
    line("sem", sem_limits, set_sem_limits),
    line("sem_next_id", |t| next_id(t, &sem::NEXT_ID), |line| set_next_id(line, &sem::NEXT_ID)),
    line("shm_next_id", |t| next_id(t, &shm::NEXT_ID), |line| set_next_id(line, &shm::NEXT_ID)),
    setting("shmall", &shm::SHMALL, u64::MAX),
    setting("shmmax", &shm::SHMMAX, u64::MAX),
    setting("shmmni", &shm::SHMMNI, IPCMNI),
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
            t.dec(DROP_CACHES.load(Relaxed)).c(b'\n');
        },
        drop_caches,
    ),
    setting("max_map_count", &limits::MAX_MAP_COUNT, i32::MAX as u64),
    setting("mmap_min_addr", &MMAP_MIN_ADDR, u64::MAX),
    line("nr_hugepages", hugepages::default_total, hugepages::resize_default),
    line("nr_overcommit_hugepages", hugepages::default_overcommit, hugepages::set_default_overcommit),
    setting("oom_kill_allocating_task", &OOM_KILL_ALLOCATING, 1),
    line("overcommit_kbytes", |t| number_line(t, &limits::OVERCOMMIT_KBYTES), set_overcommit_kbytes),
    setting("overcommit_memory", &limits::OVERCOMMIT_MEMORY, 2),
    line("overcommit_ratio", |t| number_line(t, &limits::OVERCOMMIT_RATIO), set_overcommit_ratio),
    setting("panic_on_oom", &PANIC_ON_OOM, 2),
    setting("swappiness", &SWAPPINESS, 200),
    setting("unprivileged_userfaultfd", &UNPRIVILEGED_USERFAULTFD, 1),
];

static FS: &[Entry] = &[
    setting("file-max", &FILE_MAX, u64::MAX),
    text("file-nr", |t| {
        t.dec(open_files()).s("\t0\t").dec(FILE_MAX.load(Relaxed)).c(b'\n');
    }),
    setting("nr_open", &NR_OPEN, 1 << 20),
    setting("pipe-max-size", &PIPE_MAX_SIZE, 1 << 30),
    setting("protected_hardlinks", &PROTECTED_LINKS, 1),
    setting("protected_symlinks", &PROTECTED_LINKS, 1),
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
        Some(how @ 1..=4) => {
            DROP_CACHES.store(how, Relaxed);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

fn number_line(t: &mut Text, value: &AtomicU64) {
    t.dec(value.load(Relaxed)).c(b'\n');
}

fn pid_max(t: &mut Text) {
    t.dec(u64::from(PID_MAX.load(Relaxed))).c(b'\n');
}

fn set_pid_max(line: &[u8]) -> Result<(), Errno> {
    let max = number(line).and_then(|n| u32::try_from(n).ok());
    let max = max.filter(|max| (PID_MIN..=PID_LIMIT).contains(max)).ok_or(Errno::EINVAL)?;
    PID_MAX.store(max, Relaxed);
    Ok(())
}

/// The ratio counts while kbytes is 0, and the one that was set last counts (mm/util.c, `overcommit_ratio_handler`).
fn set_overcommit_ratio(line: &[u8]) -> Result<(), Errno> {
    let ratio = number(line).filter(|&n| n <= i32::MAX as u64).ok_or(Errno::EINVAL)?;
    limits::OVERCOMMIT_RATIO.store(ratio, Relaxed);
    limits::OVERCOMMIT_KBYTES.store(0, Relaxed);
    Ok(())
}

fn set_overcommit_kbytes(line: &[u8]) -> Result<(), Errno> {
    limits::OVERCOMMIT_KBYTES.store(number(line).ok_or(Errno::EINVAL)?, Relaxed);
    limits::OVERCOMMIT_RATIO.store(0, Relaxed);
    Ok(())
}

fn next_id(t: &mut Text, id: &AtomicI64) {
    t.int(id.load(Relaxed)).c(b'\n');
}

fn set_next_id(line: &[u8], id: &AtomicI64) -> Result<(), Errno> {
    let wanted = number(line).and_then(|n| i32::try_from(n).ok()).ok_or(Errno::EINVAL)?;
    id.store(i64::from(wanted), Relaxed);
    Ok(())
}

static SEM_LIMITS: [&AtomicU64; 4] = [&sem::SEMMSL, &sem::SEMMNS, &sem::SEMOPM, &sem::SEMMNI];

fn sem_limits(t: &mut Text) {
    for (i, limit) in SEM_LIMITS.iter().enumerate() {
        t.s(if i == 0 { "" } else { "\t" }).dec(limit.load(Relaxed));
    }
    t.c(b'\n');
}

/// As many numbers as are given, from the first on.
fn set_sem_limits(line: &[u8]) -> Result<(), Errno> {
    let mut values = [None; 4];
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    for (value, word) in values.iter_mut().zip(words) {
        let n = number(word).filter(|&n| n <= i32::MAX as u64).ok_or(Errno::EINVAL)?;
        *value = Some(n);
    }
    if values[3].is_some_and(|sets| sets > IPCMNI) {
        return Err(Errno::EINVAL);
    }
    for (limit, value) in SEM_LIMITS.iter().zip(values) {
        if let Some(value) = value {
            limit.store(value, Relaxed);
        }
    }
    Ok(())
}

/// Longest core_pattern (CORENAME_MAX_SIZE), its NUL included. It is kept: no core is ever written.
const CORE_PATTERN_BYTES: usize = 128;
static CORE_PATTERN: Lock<Vec<u8>> = Lock::new(Rank::Registry, Vec::new());

fn core_pattern(t: &mut Text) {
    let pattern = CORE_PATTERN.lock();
    t.b(if pattern.is_empty() { b"core" } else { &pattern }).c(b'\n');
}

fn set_core_pattern(line: &[u8]) -> Result<(), Errno> {
    let line = line.split(|b| *b == b'\n' || *b == 0).next().unwrap_or(line);
    let mut pattern = Vec::new();
    let kept = line.get(..CORE_PATTERN_BYTES - 1).unwrap_or(line);
    pattern.try_reserve_exact(kept.len()).map_err(|_| Errno::ENOMEM)?;
    pattern.extend_from_slice(kept);
    let old = core::mem::replace(&mut *CORE_PATTERN.lock(), pattern);
    drop(old);
    Ok(())
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
