//! The lock order, and the check of it.

use core::sync::atomic::{AtomicU64, Ordering};
use ptshare_wire::Wait;
use spin::Once;

/// Place of a lock in the order, outermost first. A CPU may take a lock only above the highest that it holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// The namespace: mounts and the directory tree.
    Namespace = 1,
    /// One inode (size, attributes, directory entries).
    Inode = 2,
    /// A table of open files, or one open file's position.
    Files = 3,
    /// A pipe's or a terminal's buffer.
    Pipe = 4,
    /// System V IPC tables.
    Ipc = 5,
    /// The process table: parents, children, groups, sessions.
    Tasks = 6,
    /// One process's signal handlers and pending signals.
    Signals = 7,
    /// A name's place in the directory tree.
    Dentry = 8,
    /// `mmap_lock`: an mm's VMAs.
    Mmap = 10,
    /// A second mm's `mmap_lock`, taken by fork for the child.
    MmapChild = 11,
    /// `i_mmap` lock: the mms that map an object.
    IMmap = 12,
    /// `page_table_lock`: an mm's upper levels.
    PageTable = 13,
    /// `pte_page_lock` of a PUD page.
    TablePud = 14,
    /// `pte_page_lock` of a PMD page.
    TablePmd = 15,
    /// `pte_page_lock` of a PTE page.
    TablePte = 16,
    /// `pte_page_lock` of the fresh copy of a table, not yet reachable by others.
    TableCopy = 17,
    /// An object's page cache.
    PageCache = 18,
    /// The registry of objects' PTE pages.
    ObjectTables = 19,
    /// Futex buckets.
    Futex = 20,
    /// A wait queue.
    WaitQueue = 21,
    /// A CPU's run queue.
    RunQueue = 22,
    /// Timers.
    Timer = 23,
    /// The console and the kernel log.
    Console = 24,
    /// The mm table's free slots, and other small registries.
    Registry = 25,
    /// The faults that one userfaultfd has not resolved yet.
    Userfault = 26,
    /// The kernel heap.
    Heap = 30,
    /// The frame allocator.
    Frames = 31,
}

static HELD: Once<fn() -> &'static AtomicU64> = Once::new();
static SPIN: Once<fn()> = Once::new();
static WAIT: Once<fn(Option<Wait>)> = Once::new();

/// Tells where the calling CPU keeps the set of ranks that it holds (a bit each). Without it nothing is checked.
pub fn set_held_hook(held: fn() -> &'static AtomicU64) {
    HELD.call_once(|| held);
}

/// Sets what a CPU does on each turn of a spin loop, apart from the pause instruction.
pub fn set_spin_hook(hook: fn()) {
    SPIN.call_once(|| hook);
}

/// Sets what a CPU does when it begins to spin, with what it spins for, and when it has got it.
pub fn set_wait_hook(hook: fn(Option<Wait>)) {
    WAIT.call_once(|| hook);
}

/// Spins in `spin`, and has it known for what.
#[cold]
pub fn waiting<R>(wait: Wait, spin: impl FnOnce() -> R) -> R {
    let tell = |wait| {
        if let Some(hook) = WAIT.get() {
            hook(wait);
        }
    };
    tell(Some(wait));
    let got = spin();
    tell(None);
    got
}

/// One turn of a spin loop.
#[inline]
pub fn spin_wait() {
    core::hint::spin_loop();
    if let Some(hook) = SPIN.get() {
        hook();
    }
}

/// Notes that the CPU takes a lock of this rank.
///
/// # Panics
/// With debug assertions, when a lock of this or a later rank is held already.
#[inline]
pub fn acquire(rank: Rank) {
    #[cfg(debug_assertions)]
    if let Some(held) = HELD.get() {
        let before = held().fetch_or(1 << rank as u8, Ordering::Relaxed);
        assert!(before >> rank as u8 == 0, "lock-order: {rank:?} taken while ranks {before:#x} are held");
    }
    let _ = rank;
}

/// Notes that the CPU gives up a lock of this rank.
#[inline]
pub fn release(rank: Rank) {
    #[cfg(debug_assertions)]
    if let Some(held) = HELD.get() {
        held().fetch_and(!(1 << rank as u8), Ordering::Relaxed);
    }
    let _ = rank;
}

/// Checks that the CPU holds no lock, as it must when it switches tasks or returns to user mode.
///
/// # Panics
/// With debug assertions, when a lock is held.
#[inline]
pub fn assert_none_held() {
    #[cfg(debug_assertions)]
    if let Some(held) = HELD.get() {
        let held = held().load(Ordering::Relaxed);
        assert!(held == 0, "lock-order: ranks {held:#x} still held");
    }
    let _ = Ordering::Relaxed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_know_every_rank_by_name() {
        use Rank::*;
        let ranks = [
            Namespace,
            Inode,
            Files,
            Pipe,
            Ipc,
            Tasks,
            Signals,
            Dentry,
            Mmap,
            MmapChild,
            IMmap,
            PageTable,
            TablePud,
            TablePmd,
            TablePte,
            TableCopy,
            PageCache,
            ObjectTables,
            Futex,
            WaitQueue,
            RunQueue,
            Timer,
            Console,
            Registry,
            Userfault,
            Heap,
            Frames,
        ];
        let names: Vec<(u8, String)> = ranks.iter().map(|rank| (*rank as u8, format!("{rank:?}"))).collect();
        let known: Vec<(u8, String)> =
            ptshare_wire::waits::RANKS.iter().map(|(rank, name)| (*rank, (*name).to_owned())).collect();
        assert_eq!(names, known);
    }
}
