//! Files of procfs about the whole system.

use crate::fs::text::Text;
use crate::task;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_machine::{Machine, boot, cpu, time};
use ptshare_mm::Env;
use ptshare_mm::hugetlb;
use ptshare_mm::object::cached_pages;
use ptshare_mm::space::limits::{commit_limit, committed_pages};

/// The version line of /proc/version, after uname(2)'s fields.
pub fn version(t: &mut Text) {
    t.s("Linux version ").s(task::uts::RELEASE).s(" (ptshare) ").s(task::uts::VERSION).c(b'\n');
}

pub fn self_link(t: &mut Text) {
    t.dec(u64::from(task::current().process.pid));
}

pub fn thread_self_link(t: &mut Text) {
    let task = task::current();
    t.dec(u64::from(task.process.pid)).s("/task/").dec(u64::from(task.tid()));
}

pub fn cmdline(t: &mut Text) {
    t.s(boot::info().cmdline).c(b'\n');
}

/// What memory is used for, in pages.
pub struct Memory {
    /// RAM that the kernel manages.
    pub total: u64,
    /// Frames that nobody has.
    pub free: u64,
    /// The kernel's own.
    pub kernel: u64,
    /// In page caches.
    pub cached: u64,
    /// Page tables.
    pub tables: u64,
    /// Private memory of processes: what is managed and nothing else.
    pub anon: u64,
}

impl Memory {
    /// As it is now.
    pub fn now() -> Memory {
        let (total, free, kernel) = pages();
        let cached = cached_pages();
        let tables = Machine.stats().tables_now.load(Relaxed);
        // 1 is the zero page.
        let others = free + kernel + cached + tables + hugetlb::pool_frames(&Machine) + 1;
        Memory { total, free, kernel, cached, tables, anon: total.saturating_sub(others) }
    }
}

/// Stacks that tasks have in the kernel, KiB.
pub fn kernel_stacks_kb() -> u64 {
    task::task_count() as u64 * 16
}

/// Pages of RAM that the kernel manages, and of those the ones in use by the kernel.
fn pages() -> (u64, u64, u64) {
    let census = Machine.census();
    let total: u64 = census.ram.iter().map(|range| range.end.load(Relaxed) - range.start.load(Relaxed)).sum();
    let free = Machine.allocator().lock().free_frames(census);
    (total, free, census.kernel_frames.load(Relaxed))
}

/// Figures that the kernel does not keep (Mapped, Mlocked) have no line: none is better than a wrong one.
pub fn meminfo(t: &mut Text) {
    let Memory { total, free, kernel, cached, tables, anon } = Memory::now();
    let kb = |pages: u64| pages * 4;
    for (name, value) in [
        ("MemTotal:       ", kb(total)),
        ("MemFree:        ", kb(free)),
        ("MemAvailable:   ", kb(free)),
        ("Buffers:        ", 0),
        ("Cached:         ", kb(cached)),
        ("SwapCached:     ", 0),
        ("Active:         ", kb(anon)),
        ("Inactive:       ", kb(cached)),
        ("Active(anon):   ", kb(anon)),
        ("Inactive(anon): ", kb(cached)),
        ("Active(file):   ", 0),
        ("Inactive(file): ", 0),
        ("SwapTotal:      ", 0),
        ("SwapFree:       ", 0),
        ("Dirty:          ", 0),
        ("Writeback:      ", 0),
        ("AnonPages:      ", kb(anon)),
        ("Shmem:          ", kb(cached)),
        ("KReclaimable:   ", 0),
        ("Slab:           ", kb(kernel)),
        ("SReclaimable:   ", 0),
        ("SUnreclaim:     ", kb(kernel)),
        ("KernelStack:    ", kernel_stacks_kb()),
        ("PageTables:     ", kb(tables)),
        ("SecPageTables:  ", 0),
        ("NFS_Unstable:   ", 0),
        ("Bounce:         ", 0),
        ("WritebackTmp:   ", 0),
        ("CommitLimit:    ", kb(commit_limit(total.saturating_sub(hugetlb::pool_frames(&Machine))))),
        ("Committed_AS:   ", kb(committed_pages())),
        ("VmallocTotal:   ", 34_359_738_367),
        ("VmallocUsed:    ", 0),
        ("VmallocChunk:   ", 0),
        ("Percpu:         ", 0),
        ("AnonHugePages:  ", 0),
        ("ShmemHugePages: ", 0),
        ("ShmemPmdMapped: ", 0),
        ("FileHugePages:  ", 0),
        ("FilePmdMapped:  ", 0),
    ] {
        t.kb(name, value);
    }
    let names = ["HugePages_Total:", "HugePages_Free: ", "HugePages_Rsvd: ", "HugePages_Surp: "];
    let size = hugetlb::default_size(&Machine);
    for (name, pages) in names.into_iter().zip(hugetlb::counts(&Machine, size)) {
        t.s(name).padded(pages, 8, b' ').c(b'\n');
    }
    t.kb("Hugepagesize:   ", size.bytes() / 1024);
    t.kb("Hugetlb:        ", kb(hugetlb::pool_frames(&Machine)));
}

fn cpus() -> u64 {
    Machine.census().cpus.load(Relaxed).max(1)
}

pub fn cpuinfo(t: &mut Text) {
    let (_, vendor_b, vendor_c, vendor_d) = cpu::cpuid(0);
    let (signature, _, features_c, features_d) = cpu::cpuid(1);
    let mut vendor = [0u8; 12];
    for (part, word) in vendor.chunks_exact_mut(4).zip([vendor_b, vendor_d, vendor_c]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    let base = u64::from(signature >> 8 & 15);
    let family = if base == 15 { base + u64::from(signature >> 20 & 255) } else { base };
    let model = u64::from(signature >> 4 & 15) | u64::from(signature >> 16 & 15) << 4;
    for n in 0..cpus() {
        t.s("processor\t: ").dec(n);
        t.s("\nvendor_id\t: ").b(&vendor);
        t.s("\ncpu family\t: ").dec(family);
        t.s("\nmodel\t\t: ").dec(model);
        t.s("\nmodel name\t: ptshare virtual CPU");
        t.s("\nstepping\t: ").dec(u64::from(signature & 15));
        t.s("\ncache size\t: 0 KB\nphysical id\t: 0\nsiblings\t: ").dec(cpus());
        t.s("\ncore id\t\t: ").dec(n);
        t.s("\ncpu cores\t: ").dec(cpus());
        t.s("\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: 13\nwp\t\t: yes\nflags\t\t:");
        for (word, names) in [(features_d, FLAGS_1_EDX), (features_c, FLAGS_1_ECX)] {
            for (bit, name) in names {
                if word >> bit & 1 != 0 {
                    t.c(b' ').s(name);
                }
            }
        }
        t.s(" syscall nx lm\nbugs\t\t:\nbogomips\t: 2000.00\nclflush size\t: 64\ncache_alignment\t: 64");
        t.s("\naddress sizes\t: 46 bits physical, 48 bits virtual\npower management:\n\n");
    }
}

/// Feature names by bit (arch/x86/include/asm/cpufeatures.h, words 0 and 4).
const FLAGS_1_EDX: &[(u32, &str)] = &[
    (0, "fpu"),
    (3, "pse"),
    (4, "tsc"),
    (5, "msr"),
    (6, "pae"),
    (8, "cx8"),
    (9, "apic"),
    (13, "pge"),
    (15, "cmov"),
    (16, "pat"),
    (19, "clflush"),
    (23, "mmx"),
    (24, "fxsr"),
    (25, "sse"),
    (26, "sse2"),
];
const FLAGS_1_ECX: &[(u32, &str)] = &[
    (0, "pni"),
    (1, "pclmulqdq"),
    (9, "ssse3"),
    (12, "fma"),
    (13, "cx16"),
    (19, "sse4_1"),
    (20, "sse4_2"),
    (22, "movbe"),
    (23, "popcnt"),
    (25, "aes"),
    (28, "avx"),
    (30, "rdrand"),
    (31, "hypervisor"),
];

pub fn devices(t: &mut Text) {
    t.s("Character devices:\n  1 mem\n  4 ttyS\n  5 /dev/tty\n  5 /dev/console\n240 ptshare\n\nBlock devices:\n");
}

pub fn filesystems(t: &mut Text) {
    t.s("nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\tramfs\nnodev\thugetlbfs\n");
}

/// Tasks that run or want to, and all tasks.
fn running() -> (u64, u64) {
    let mut ready = 0;
    task::for_each_process(|process| ready += u64::from(process.state_char() == 'R'));
    (ready.max(1), task::task_count() as u64)
}

pub fn loadavg(t: &mut Text) {
    let (ready, all) = running();
    t.s("0.00 0.00 0.00 ")
        .dec(ready)
        .c(b'/')
        .dec(all)
        .c(b' ')
        .dec(u64::from(task::table::last_pid()))
        .c(b'\n');
}

fn seconds(t: &mut Text, ns: u64) {
    let centi = ns / 10_000_000;
    t.dec(centi / 100).c(b'.').padded(centi % 100, 2, b'0');
}

/// How long a CPU has run tasks, and what is left of the clock: idle. ns.
fn busy_idle(cpu: u64) -> (u64, u64) {
    let busy = task::sched::busy_ns(cpu as usize);
    (busy, time::now_ns().saturating_sub(busy))
}

pub fn uptime(t: &mut Text) {
    let idle = (0..cpus()).map(|cpu| busy_idle(cpu).1).sum();
    seconds(t, time::now_ns());
    t.c(b' ');
    seconds(t, idle);
    t.c(b'\n');
}

pub fn stat(t: &mut Text) {
    const TICK_NS: u64 = 10_000_000;
    let mut line = |cpu: Option<u64>, (busy, idle): (u64, u64)| {
        match cpu {
            None => t.s("cpu  "),
            Some(number) => t.s("cpu").dec(number).c(b' '),
        };
        t.dec(busy / TICK_NS).s(" 0 0 ").dec(idle / TICK_NS).s(" 0 0 0 0 0 0\n");
    };
    let all = (0..cpus()).map(busy_idle).fold((0, 0), |sum, cpu| (sum.0 + cpu.0, sum.1 + cpu.1));
    line(None, all);
    for cpu in 0..cpus() {
        line(Some(cpu), busy_idle(cpu));
    }
    let stats = Machine.stats();
    let boot_s = (time::realtime_ns() - time::now_ns()) / 1_000_000_000;
    t.s("intr 0\nctxt ").dec(stats.switches.load(Relaxed));
    t.s("\nbtime ").dec(boot_s);
    t.s("\nprocesses ").dec(u64::from(task::table::last_pid()));
    t.s("\nprocs_running ").dec(running().0);
    t.s("\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n");
}

/// There are no disks.
pub fn partitions(t: &mut Text) {
    t.s("major minor  #blocks  name\n\n");
}

pub fn swaps(t: &mut Text) {
    t.s("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
}

pub fn vmstat(t: &mut Text) {
    let (_, free, _) = pages();
    let stats = Machine.stats();
    for (name, value) in [
        ("nr_free_pages", free),
        ("nr_file_pages", cached_pages()),
        ("nr_shmem", cached_pages()),
        ("nr_page_table_pages", stats.tables_now.load(Relaxed)),
        ("pgfault", stats.page_faults.load(Relaxed)),
        ("pgmajfault", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("oom_kill", stats.oom_kills.load(Relaxed)),
        ("compact_stall", 0),
        ("compact_success", 0),
        ("thp_fault_alloc", 0),
    ] {
        t.s(name).c(b' ').dec(value).c(b'\n');
    }
}
