//! sysfs: a fixed tree, as much of it as programs look at.

use super::hugepages::{self, GIB1, MIB2};
use super::text::Text;
use super::virt::{Entry, What};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::Env;
use ptshare_mm::hugetlb::{self, HugeSize};

const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, mode: 0o755, what: What::Dir(entries) }
}

const fn fixed(name: &'static str, value: &'static str) -> Entry {
    Entry { name, mode: 0o444, what: What::Fixed(value) }
}

const fn text(name: &'static str, make: fn(&mut Text)) -> Entry {
    Entry { name, mode: 0o444, what: What::Text(make) }
}

const fn line(name: &'static str, show: fn(&mut Text), write: fn(&[u8]) -> Result<(), Errno>) -> Entry {
    Entry { name, mode: 0o644, what: What::Line(show, write) }
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
            // One memory node: as a kernel without CONFIG_NUMA, there is no `node`.
            &[dir("system", &[dir("cpu", CPU), dir("clocksource", CLOCKSOURCE)])],
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

static CLOCKSOURCE: &[Entry] = &[dir(
    "clocksource0",
    &[fixed("available_clocksource", "tsc \n"), fixed("current_clocksource", "tsc\n")],
)];

/// As a kernel without CONFIG_KSM and CONFIG_TRANSPARENT_HUGEPAGE: no `ksm`, no `transparent_hugepage`.
static MM: &[Entry] = &[Entry { name: "hugepages", mode: 0o755, what: What::Choice(huge_sizes) }];

/// A directory for each page size that there is.
fn huge_sizes() -> &'static [Entry] {
    static DIRS: &[Entry] =
        &[dir("hugepages-2048kB", &pool::<MIB2>()), dir("hugepages-1048576kB", &pool::<GIB1>())];
    let sizes = HugeSize::ALL.into_iter().filter(|size| hugetlb::has_size(&Machine, *size)).count();
    DIRS.get(..sizes).unwrap_or(DIRS)
}

const fn pool<const SIZE: usize>() -> [Entry; 5] {
    [
        text("free_hugepages", hugepages::free::<SIZE>),
        line("nr_hugepages", hugepages::total::<SIZE>, hugepages::resize::<SIZE>),
        line("nr_overcommit_hugepages", hugepages::overcommit::<SIZE>, hugepages::set_overcommit::<SIZE>),
        text("resv_hugepages", hugepages::reserved::<SIZE>),
        text("surplus_hugepages", hugepages::surplus::<SIZE>),
    ]
}

fn cpu_list(t: &mut Text) {
    let last = Machine.census().cpus.load(Relaxed).saturating_sub(1);
    t.c(b'0');
    if last > 0 {
        t.c(b'-').dec(last);
    }
    t.c(b'\n');
}
