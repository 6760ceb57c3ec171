//! /sys/devices/system/node: all memory and all CPUs are one node's (drivers/base/node.c).

use super::hugepages::{self, GIB1, MIB2};
use super::proc::system;
use super::sys::{self, dir, fixed, line, text};
use super::text::Text;
use super::virt::{Entry, What};
use ptshare_machine::Machine;
use ptshare_mm::hugetlb;

/// The folder.
pub const NODE: Entry = Entry { name: "node", mode: 0o755, what: What::Dir(FILES) };

static FILES: &[Entry] = &[
    fixed("has_cpu", "0\n"),
    fixed("has_memory", "0\n"),
    fixed("has_normal_memory", "0\n"),
    fixed("online", "0\n"),
    fixed("possible", "0\n"),
    dir("node0", NODE0),
];

static NODE0: &[Entry] = &[
    text("cpulist", sys::cpu_list),
    text("cpumap", cpu_map),
    fixed("distance", "10\n"),
    Entry { name: "hugepages", mode: 0o755, what: What::First(HUGE_SIZES, sys::huge_sizes) },
    text("meminfo", meminfo),
];

/// A directory for each page size, smallest first.
static HUGE_SIZES: &[Entry] =
    &[dir("hugepages-2048kB", &pool::<MIB2>()), dir("hugepages-1048576kB", &pool::<GIB1>())];

const fn pool<const SIZE: usize>() -> [Entry; 3] {
    [
        text("free_hugepages", hugepages::free::<SIZE>),
        line("nr_hugepages", hugepages::total::<SIZE>, hugepages::resize::<SIZE>),
        text("surplus_hugepages", hugepages::surplus::<SIZE>),
    ]
}

fn cpu_map(t: &mut Text) {
    sys::mask(t, u64::MAX >> (64 - sys::cpus()));
}

/// `node_read_meminfo`. As in /proc/meminfo, what is not kept has no line.
fn meminfo(t: &mut Text) {
    let memory = system::Memory::now();
    let kb = |pages: u64| pages * 4;
    for (name, pages) in [
        ("Node 0 MemTotal:       ", memory.total),
        ("Node 0 MemFree:        ", memory.free),
        ("Node 0 MemUsed:        ", memory.total - memory.free),
        ("Node 0 SwapCached:     ", 0),
        ("Node 0 Active:         ", memory.anon),
        ("Node 0 Inactive:       ", memory.cached),
        ("Node 0 Active(anon):   ", memory.anon),
        ("Node 0 Inactive(anon): ", memory.cached),
        ("Node 0 Active(file):   ", 0),
        ("Node 0 Inactive(file): ", 0),
        ("Node 0 Dirty:          ", 0),
        ("Node 0 Writeback:      ", 0),
        ("Node 0 FilePages:      ", memory.cached),
        ("Node 0 AnonPages:      ", memory.anon),
        ("Node 0 Shmem:          ", memory.cached),
    ] {
        t.kb(name, kb(pages));
    }
    t.kb("Node 0 KernelStack:    ", system::kernel_stacks_kb());
    for (name, pages) in [
        ("Node 0 PageTables:     ", memory.tables),
        ("Node 0 SecPageTables:  ", 0),
        ("Node 0 NFS_Unstable:   ", 0),
        ("Node 0 Bounce:         ", 0),
        ("Node 0 WritebackTmp:   ", 0),
        ("Node 0 KReclaimable:   ", 0),
        ("Node 0 Slab:           ", memory.kernel),
        ("Node 0 SReclaimable:   ", 0),
        ("Node 0 SUnreclaim:     ", memory.kernel),
    ] {
        t.kb(name, kb(pages));
    }
    let [total, free, _, surplus] = hugetlb::counts(&Machine, hugetlb::default_size(&Machine));
    for (name, pages) in [("Total:", total), ("Free: ", free), ("Surp: ", surplus)] {
        t.s("Node 0 HugePages_").s(name).padded(pages, 6, b' ').c(b'\n');
    }
}
