//! sysfs: a fixed tree, as much of it as programs look at.

use super::hugepages::{self, GIB1, MIB2};
use super::node::NODE;
use super::text::Text;
use super::virt::{Entry, What};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::Env;
use ptshare_mm::hugetlb::{self, HugeSize};
use ptshare_wire::census::CPUS_MAX;

pub(super) const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, mode: 0o755, what: What::Dir(entries) }
}

pub(super) const fn fixed(name: &'static str, value: &'static str) -> Entry {
    Entry { name, mode: 0o444, what: What::Fixed(value) }
}

pub(super) const fn text(name: &'static str, make: fn(&mut Text)) -> Entry {
    Entry { name, mode: 0o444, what: What::Text(make) }
}

const fn numbered(name: &'static str, make: fn(&mut Text, u64), number: u64) -> Entry {
    Entry { name, mode: 0o444, what: What::Numbered(make, number) }
}

pub(super) const fn line(
    name: &'static str,
    show: fn(&mut Text),
    write: fn(&[u8]) -> Result<(), Errno>,
) -> Entry {
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
        dir("devices", &[dir("system", &[CPU, dir("clocksource", CLOCKSOURCE), NODE])]),
        dir("firmware", &[]),
        dir("fs", &[dir("cgroup", &[])]),
        dir("kernel", &[dir("debug", &[]), dir("mm", MM), fixed("uevent_seqnum", "0\n")]),
        dir("module", &[]),
        dir("power", &[]),
    ]),
};

/// Files of the CPUs' folder that stand before the first CPU's own.
const CPU_FILES: usize = 6;

/// The CPUs' folder, with a folder for each CPU that the machine can have.
macro_rules! cpus {
    ($($number:literal)*) => {
        &[
            text("online", cpu_list),
            text("possible", cpu_list),
            text("present", cpu_list),
            fixed("offline", "\n"),
            fixed("isolated", "\n"),
            fixed("kernel_max", "63\n"),
            $(dir(concat!("cpu", $number), &[
                fixed("online", "1\n"),
                dir("topology", &[
                    numbered("core_id", number, $number),
                    fixed("physical_package_id", "0\n"),
                    numbered("thread_siblings", only, $number),
                    numbered("thread_siblings_list", number, $number),
                ]),
            ]),)*
        ]
    };
}

static CPUS: &[Entry] = cpus!(
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
);
const _: () = assert!(CPUS_MAX == 64);

const CPU: Entry =
    Entry { name: "cpu", mode: 0o755, what: What::First(CPUS, || CPU_FILES + cpus() as usize) };

static CLOCKSOURCE: &[Entry] = &[dir(
    "clocksource0",
    &[fixed("available_clocksource", "tsc \n"), fixed("current_clocksource", "tsc\n")],
)];

/// As a kernel without CONFIG_KSM and CONFIG_TRANSPARENT_HUGEPAGE: no `ksm`, no `transparent_hugepage`.
static MM: &[Entry] = &[Entry { name: "hugepages", mode: 0o755, what: What::First(HUGE_SIZES, huge_sizes) }];

/// A directory for each page size, smallest first.
static HUGE_SIZES: &[Entry] =
    &[dir("hugepages-2048kB", &pool::<MIB2>()), dir("hugepages-1048576kB", &pool::<GIB1>())];

/// How many sizes there are.
pub(super) fn huge_sizes() -> usize {
    HugeSize::ALL.into_iter().filter(|size| hugetlb::has_size(&Machine, *size)).count()
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

/// CPUs that run.
pub(super) fn cpus() -> u64 {
    Machine.census().cpus.load(Relaxed).max(1)
}

fn number(t: &mut Text, number: u64) {
    t.dec(number).c(b'\n');
}

/// This CPU alone, as a mask.
fn only(t: &mut Text, cpu: u64) {
    mask(t, 1 << cpu);
}

/// A mask of CPUs, as the kernel prints it: words of 32 bits, as many as the machine's CPUs need.
pub(super) fn mask(t: &mut Text, cpus_in_it: u64) {
    if cpus() > 32 {
        t.hex(cpus_in_it >> 32, 8).c(b',').hex(cpus_in_it & 0xffff_ffff, 8);
    } else {
        t.hex(cpus_in_it, 1);
    }
    t.c(b'\n');
}

/// The CPUs that run, as a list.
pub(super) fn cpu_list(t: &mut Text) {
    let last = cpus() - 1;
    t.c(b'0');
    if last > 0 {
        t.c(b'-').dec(last);
    }
    t.c(b'\n');
}
