//! sysfs: a fixed tree, as much of it as programs look at.

use super::hugepages;
use super::text::Text;
use super::virt::{Entry, What};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::Env;

const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, mode: 0o755, what: What::Dir(entries) }
}

const fn fixed(name: &'static str, value: &'static str) -> Entry {
    Entry { name, mode: 0o444, what: What::Fixed(value) }
}

const fn text(name: &'static str, make: fn(&mut Text)) -> Entry {
    Entry { name, mode: 0o444, what: What::Text(make) }
}

const fn setting(name: &'static str, value: &'static AtomicU64, max: u64) -> Entry {
    Entry { name, mode: 0o644, what: What::Number(value, max) }
}

const fn line(name: &'static str, show: fn(&mut Text), write: fn(&[u8]) -> Result<(), Errno>) -> Entry {
    Entry { name, mode: 0o644, what: What::Line(show, write) }
}

const fn kept(name: &'static str, show: fn(&mut Text)) -> Entry {
    Entry { name, mode: 0o644, what: What::Line(show, ignore) }
}

/// The root of sysfs.
pub static ROOT: Entry = Entry {
    name: "",
    mode: 0o555,
    what: What::Dir(&[
        dir("block", &[]),
        dir("bus", &[]),
        dir("class", &[]),
        dir("dev", &[]),
        dir(
            "devices",
            &[dir("system", &[dir("cpu", CPU), dir("node", NODE), dir("clocksource", CLOCKSOURCE)])],
        ),
        dir("firmware", &[]),
        dir("fs", &[dir("cgroup", &[])]),
        dir("kernel", &[dir("debug", &[]), dir("mm", MM), fixed("uevent_seqnum", "0\n")]),
        dir("module", &[]),
        dir("power", &[]),
    ]),
};

static CPU: &[Entry] = &[
    text("online", cpu_list),
    text("possible", cpu_list),
    text("present", cpu_list),
    fixed("offline", "\n"),
    fixed("isolated", "\n"),
    fixed("kernel_max", "63\n"),
    dir("cpu0", &[fixed("online", "1\n"), dir("topology", TOPOLOGY)]),
];

static TOPOLOGY: &[Entry] = &[
    fixed("core_id", "0\n"),
    fixed("physical_package_id", "0\n"),
    fixed("thread_siblings", "1\n"),
    fixed("thread_siblings_list", "0\n"),
];

static NODE: &[Entry] = &[
    fixed("online", "0\n"),
    fixed("possible", "0\n"),
    fixed("has_cpu", "0\n"),
    fixed("has_memory", "0\n"),
    fixed("has_normal_memory", "0\n"),
    dir("node0", NODE0),
];

static NODE0: &[Entry] = &[
    text("cpulist", cpu_list),
    fixed("cpumap", "1\n"),
    fixed("distance", "10\n"),
    text("meminfo", node_meminfo),
    dir("hugepages", &[dir("hugepages-2048kB", NODE_HUGE)]),
];

static NODE_HUGE: &[Entry] = &[
    line("nr_hugepages", hugepages::total, hugepages::resize),
    text("free_hugepages", hugepages::free),
    text("surplus_hugepages", hugepages::surplus),
];

static CLOCKSOURCE: &[Entry] = &[dir(
    "clocksource0",
    &[fixed("available_clocksource", "tsc \n"), fixed("current_clocksource", "tsc\n")],
)];

static MM: &[Entry] =
    &[dir("hugepages", &[dir("hugepages-2048kB", HUGE)]), dir("ksm", KSM), dir("transparent_hugepage", THP)];

static HUGE: &[Entry] = &[
    text("free_hugepages", hugepages::free),
    line("nr_hugepages", hugepages::total, hugepages::resize),
    line("nr_hugepages_mempolicy", hugepages::total, hugepages::resize),
    line("nr_overcommit_hugepages", hugepages::overcommit, hugepages::set_overcommit),
    text("resv_hugepages", hugepages::reserved),
    text("surplus_hugepages", hugepages::surplus),
];

static THP: &[Entry] = &[
    kept("enabled", |t| {
        t.s("always madvise [never]\n");
    }),
    kept("defrag", |t| {
        t.s("always defer defer+madvise [madvise] never\n");
    }),
    kept("shmem_enabled", |t| {
        t.s("always within_size advise [never] deny force\n");
    }),
    kept("use_zero_page", |t| {
        t.s("1\n");
    }),
    fixed("hpage_pmd_size", "2097152\n"),
    dir("khugepaged", &[fixed("defrag", "1\n"), fixed("full_scans", "0\n"), fixed("pages_collapsed", "0\n")]),
];

static KSM_RUN: AtomicU64 = AtomicU64::new(0);
static KSM_PAGES: AtomicU64 = AtomicU64::new(100);
static KSM_SLEEP: AtomicU64 = AtomicU64::new(20);
static KSM_NODES: AtomicU64 = AtomicU64::new(1);
static KSM_SHARING: AtomicU64 = AtomicU64::new(256);
static KSM_SMART: AtomicU64 = AtomicU64::new(1);

static KSM: &[Entry] = &[
    setting("run", &KSM_RUN, 2),
    setting("pages_to_scan", &KSM_PAGES, u32::MAX as u64),
    setting("sleep_millisecs", &KSM_SLEEP, u32::MAX as u64),
    setting("merge_across_nodes", &KSM_NODES, 1),
    setting("max_page_sharing", &KSM_SHARING, i32::MAX as u64),
    setting("smart_scan", &KSM_SMART, 1),
    fixed("full_scans", "0\n"),
    fixed("pages_shared", "0\n"),
    fixed("pages_sharing", "0\n"),
    fixed("pages_unshared", "0\n"),
    fixed("pages_volatile", "0\n"),
];

fn ignore(_: &[u8]) -> Result<(), Errno> {
    Ok(())
}

fn cpu_list(t: &mut Text) {
    let last = Machine.census().cpus.load(Relaxed).saturating_sub(1);
    t.c(b'0');
    if last > 0 {
        t.c(b'-').dec(last);
    }
    t.c(b'\n');
}

fn node_meminfo(t: &mut Text) {
    let mut all = Text::new();
    super::proc::meminfo(&mut all);
    for line in all.bytes().split(|b| *b == b'\n').filter(|line| line.starts_with(b"Mem")) {
        t.s("Node 0 ").b(line).c(b'\n');
    }
}
