//! Resource usage: CPU time, faults, switches; own and of children that were waited for.
//!
//! CPU time is measured at context switches. How much of it went into system calls and page faults is measured by the
//! time-stamp counter at both ends of each (a dozen instructions; Linux: CONFIG_VIRT_CPU_ACCOUNTING_GEN). Interrupts,
//! and the little around system calls, count as whatever they interrupt.
//!
//! The largest resident set is estimated when somebody asks, and when an image ends, from the numbers of filled entries
//! that PTE pages keep; Linux follows it page by page.

use super::current;
use super::process::Process;
use super::sched::cpu_time_ns;
use super::thread::Task;
use crate::KMm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_machine::{cpu, time};

/// A sum of what was used.
#[derive(Clone, Copy, Default, Debug)]
pub struct Used {
    /// CPU time in user mode, ns.
    pub user_ns: u64,
    /// CPU time in the kernel, ns.
    pub system_ns: u64,
    /// Faults resolved.
    pub minor_faults: u64,
    /// Times the CPU was given up.
    pub voluntary: u64,
    /// Times the CPU was taken away.
    pub involuntary: u64,
    /// Most resident memory, KiB.
    pub max_rss_kib: u64,
}

impl Used {
    /// The sum of both.
    pub fn plus(self, other: Used) -> Used {
        Used {
            user_ns: self.user_ns + other.user_ns,
            system_ns: self.system_ns + other.system_ns,
            minor_faults: self.minor_faults + other.minor_faults,
            voluntary: self.voluntary + other.voluntary,
            involuntary: self.involuntary + other.involuntary,
            max_rss_kib: self.max_rss_kib.max(other.max_rss_kib),
        }
    }

    /// As `struct rusage`: 18 words.
    pub fn to_rusage(self) -> [u64; 18] {
        let mut words = [0; 18];
        words[0] = self.user_ns / 1_000_000_000;
        words[1] = self.user_ns / 1000 % 1_000_000;
        words[2] = self.system_ns / 1_000_000_000;
        words[3] = self.system_ns / 1000 % 1_000_000;
        words[4] = self.max_rss_kib;
        words[8] = self.minor_faults;
        words[16] = self.voluntary;
        words[17] = self.involuntary;
        words
    }
}

#[derive(Default)]
struct Cells([AtomicU64; 6]);

impl Cells {
    const fn new() -> Self {
        Cells([const { AtomicU64::new(0) }; 6])
    }

    fn add(&self, used: Used) {
        for (cell, value) in self.0.iter().zip([
            used.user_ns,
            used.system_ns,
            used.minor_faults,
            used.voluntary,
            used.involuntary,
        ]) {
            if value != 0 {
                cell.fetch_add(value, Relaxed);
            }
        }
        self.0[5].fetch_max(used.max_rss_kib, Relaxed);
    }

    fn get(&self) -> Used {
        let value = |i: usize| self.0[i].load(Relaxed);
        Used {
            user_ns: value(0),
            system_ns: value(1),
            minor_faults: value(2),
            voluntary: value(3),
            involuntary: value(4),
            max_rss_kib: value(5),
        }
    }
}

/// What a process keeps of it.
pub struct Usage {
    dead_threads: Cells,
    children: Cells,
    /// Largest resident set seen, KiB.
    max_rss_kib: AtomicU64,
}

impl Usage {
    /// Nothing used.
    pub const fn new() -> Self {
        Usage { dead_threads: Cells::new(), children: Cells::new(), max_rss_kib: AtomicU64::new(0) }
    }

    /// A thread has ended.
    pub(super) fn add_thread(&self, used: Used) {
        self.dead_threads.add(used);
    }

    /// Looks at the resident set of an address space of the process.
    pub(crate) fn see_rss(&self, mm: &KMm) {
        self.max_rss_kib.fetch_max(mm.resident_estimate() * 4, Relaxed);
    }

    /// A child was waited for.
    pub(super) fn add_child(&self, used: Used) {
        self.children.add(used);
    }
}

impl Default for Usage {
    fn default() -> Self {
        Usage::new()
    }
}

/// One thread's.
pub fn of_task(task: &Task) -> Used {
    let total = cpu_time_ns(task);
    let system_ns = system_time_ns(task).min(total);
    Used {
        user_ns: total - system_ns,
        system_ns,
        minor_faults: task.minor_faults.load(Relaxed),
        voluntary: task.voluntary_switches.load(Relaxed),
        involuntary: task.involuntary_switches.load(Relaxed),
        max_rss_kib: 0,
    }
}

/// Time that a task has spent in system calls and page faults, ns.
fn system_time_ns(task: &Task) -> u64 {
    let since = task.kernel_since.load(Relaxed);
    let now =
        if since != 0 && task.tid() == current().tid() { cpu::rdtsc().saturating_sub(since) } else { 0 };
    time::ticks_to_ns(task.kernel_ticks.load(Relaxed) + now)
}

/// The current task enters a system call or a page fault.
#[inline]
pub fn enter_kernel(task: &Task) {
    task.kernel_since.store(cpu::rdtsc(), Relaxed);
}

/// It is done with it. Only the task itself writes the two: no atomic addition is needed.
#[inline]
pub fn leave_kernel(task: &Task) {
    leave_cpu(task);
    task.kernel_since.store(0, Relaxed);
}

/// It gives the CPU up, perhaps in the middle of one.
pub(super) fn leave_cpu(task: &Task) {
    let since = task.kernel_since.load(Relaxed);
    if since != 0 {
        let used = cpu::rdtsc().wrapping_sub(since);
        task.kernel_ticks.store(task.kernel_ticks.load(Relaxed).wrapping_add(used), Relaxed);
    }
}

/// It has the CPU again.
pub(super) fn take_cpu(task: &Task) {
    if task.kernel_since.load(Relaxed) != 0 {
        task.kernel_since.store(cpu::rdtsc(), Relaxed);
    }
}

/// As [`of_task`], for a counted reference.
pub fn of_task_arc(task: &alloc::sync::Arc<Task>) -> Used {
    of_task(task)
}

/// All threads', dead and alive.
pub fn of_process(process: &Process) -> Used {
    let mut used = process.usage.dead_threads.get();
    for task in process.signals.lock().threads() {
        used = used.plus(of_task(task));
    }
    used.max_rss_kib = used.max_rss_kib.max(process.usage.max_rss_kib.load(Relaxed));
    used
}

/// The children's that were waited for, with theirs.
pub fn of_children(process: &Process) -> Used {
    process.usage.children.get()
}
