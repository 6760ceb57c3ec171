//! Boot options: read once, then plain loads.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use ptshare_machine::{Machine, boot};
use ptshare_mm::hugetlb::{self, HugeSize, PoolOptions};
use ptshare_mm::{Env, Sharing};

static SHARING: AtomicU8 = AtomicU8::new(1);
static SMALL_TABLES: AtomicU32 = AtomicU32::new(DEFAULT_SMALL_TABLES);
static VERIFY_EXIT: AtomicBool = AtomicBool::new(true);
static VERIFY_FAULTS: AtomicU64 = AtomicU64::new(0);
static LOG_LEVEL: AtomicU64 = AtomicU64::new(2);
static INPUT_POLL_NS: AtomicU64 = AtomicU64::new(0);
static RESERVE: AtomicU64 = AtomicU64::new(0);

/// Fork copies the PTE pages of an mm that has at most this many ("only has 3 pte pages", the 2003 paper, section 6).
const DEFAULT_SMALL_TABLES: u32 = 3;

/// Reads the command line.
pub fn init() {
    mutate();
    let sharing = match boot::option("sharing") {
        Some("none") => 0,
        Some("tree") => 2,
        Some("pte") | None => 1,
        Some(other) => {
            klog!(2, "sharing={other} is unknown (none, pte or tree): using pte");
            1
        }
    };
    SHARING.store(sharing, Relaxed);
    boot::census().sharing.store(u64::from(sharing), Relaxed);
    if let Some(n) = boot::option("small_tables").and_then(|v| v.parse().ok()) {
        SMALL_TABLES.store(n, Relaxed);
    }
    ptshare_machine::set_share_file(boot::option("share_file") != Some("0"));
    VERIFY_EXIT.store(boot::option("verify") != Some("off"), Relaxed);
    VERIFY_FAULTS.store(boot::number("verify_faults"), Relaxed);
    INPUT_POLL_NS.store(boot::number("input_poll_ms") * 1_000_000, Relaxed);
    if let Some(n) = boot::option("loglevel").and_then(|v| v.parse().ok()) {
        LOG_LEVEL.store(n, Relaxed);
    }
    if boot::option("share_hugetlb") == Some("0") {
        hugetlb::set_sharing(&Machine, false);
    }
    RESERVE.store(Machine.allocator().lock().reserve(), Relaxed);
    ptshare_machine::find_gib_pages();
    huge_pools();
}

/// Makes the hugetlb pools that the command line asks for.
fn huge_pools() {
    let has_size = |size| hugetlb::has_size(&Machine, size);
    let wanted = PoolOptions::parse(boot::words(), &has_size, &mut |warning| klog!(2, "{warning}"));
    hugetlb::set_default_size(&Machine, wanted.default);
    // The largest first: they need the longest runs of frames.
    for size in HugeSize::ALL.into_iter().rev() {
        let pages = wanted.pages[size.index()];
        hugetlb::resize(&Machine, size, pages);
        let [total, ..] = hugetlb::counts(&Machine, size);
        if total < pages {
            klog!(2, "hugepages={pages} of {} KiB: there is memory for {total}", size.bytes() >> 10);
        }
    }
}

/// Switches on the deliberate bug that `mutant=NAME` names. A kernel that has no such bug does not run without it: what
/// it would show is not what was asked for.
fn mutate() {
    let Some(name) = boot::option("mutant") else { return };
    #[cfg(feature = "mutants")]
    if ptshare_mutants::select(name) {
        return;
    }
    klog!(
        1,
        "mutant={name}: this kernel has no such deliberate bug (`cargo xtask mutants --list` names those of its build)"
    );
    ptshare_machine::hyper::exit(125);
}

/// How fork treats page tables (`sharing=none|pte|tree`).
#[inline]
pub fn sharing() -> Sharing {
    match SHARING.load(Relaxed) {
        0 => Sharing::None,
        2 => Sharing::Tree,
        _ => Sharing::Pte,
    }
}

/// Fork copies instead of sharing up to this many PTE pages (`small_tables=N`).
#[inline]
pub fn small_tables() -> u32 {
    SMALL_TABLES.load(Relaxed)
}

/// Verify at process exits (`verify=off` switches it off)?
#[inline]
pub fn verify_exit() -> bool {
    VERIFY_EXIT.load(Relaxed)
}

/// Verify every this many faults, 0 for never (`verify_faults=N`).
#[inline]
pub fn verify_faults() -> u64 {
    VERIFY_FAULTS.load(Relaxed)
}

/// How often to look for console input where no interrupt announces it, ns; 0 for never (`input_poll_ms=N`).
#[inline]
pub fn input_poll_ns() -> u64 {
    INPUT_POLL_NS.load(Relaxed)
}

/// Most verbose level that the host wants to hear (`loglevel=N`).
#[inline]
pub fn log_level() -> u64 {
    LOG_LEVEL.load(Relaxed)
}

/// Frames that the allocator manages.
pub fn ram_frames() -> u64 {
    boot::census().ram.iter().map(|r| r.end.load(Relaxed) - r.start.load(Relaxed)).sum()
}

/// Frames that the allocator keeps for the kernel.
#[inline]
pub fn reserve_frames() -> u64 {
    RESERVE.load(Relaxed)
}
