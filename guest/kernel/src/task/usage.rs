//! Resource usage: CPU time, faults, switches; own and of children that were waited for.
//!
//! CPU time is measured at context switches and reported as user time, except for a share by system calls that is not
//! told apart: reading the clock on each entry would cost more than it tells.

use super::process::Process;
use super::sched::cpu_time_ns;
use super::thread::Task;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
}

impl Usage {
    /// Nothing used.
    pub const fn new() -> Self {
        Usage { dead_threads: Cells::new(), children: Cells::new() }
    }

    /// A thread has ended.
    pub(super) fn add_thread(&self, used: Used) {
        self.dead_threads.add(used);
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
    Used {
        user_ns: cpu_time_ns(task),
        system_ns: 0,
        minor_faults: task.minor_faults.load(Relaxed),
        voluntary: task.voluntary_switches.load(Relaxed),
        involuntary: task.involuntary_switches.load(Relaxed),
        max_rss_kib: 0,
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
    used
}

/// The children's that were waited for, with theirs.
pub fn of_children(process: &Process) -> Used {
    process.usage.children.get()
}
