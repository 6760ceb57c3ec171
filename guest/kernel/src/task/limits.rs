//! Resource limits (getrlimit(2)).

use super::creds::{CAP_IPC_LOCK, CAP_SYS_RAWIO, Creds};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::sys::general as raw;
use ptshare_machine::context::KERNEL_STACK_BYTES;
use ptshare_mm::Limits as MmLimits;

/// No limit.
pub const INFINITY: u64 = u64::MAX;
/// Number of resources.
pub const RESOURCES: usize = raw::RLIM_NLIMITS as usize;
/// RLIMIT_CPU, seconds.
pub const CPU: usize = raw::RLIMIT_CPU as usize;
/// RLIMIT_DATA, bytes.
pub const DATA: usize = raw::RLIMIT_DATA as usize;
/// RLIMIT_STACK, bytes.
pub const STACK: usize = raw::RLIMIT_STACK as usize;
/// RLIMIT_CORE, bytes.
pub const CORE: usize = raw::RLIMIT_CORE as usize;
/// RLIMIT_NPROC, processes of one user.
pub const NPROC: usize = raw::RLIMIT_NPROC as usize;
/// RLIMIT_NOFILE, highest descriptor plus 1.
pub const NOFILE: usize = raw::RLIMIT_NOFILE as usize;
/// RLIMIT_MEMLOCK, bytes.
pub const MEMLOCK: usize = raw::RLIMIT_MEMLOCK as usize;
/// RLIMIT_AS, bytes.
pub const AS: usize = raw::RLIMIT_AS as usize;
/// RLIMIT_SIGPENDING, queued signals.
pub const SIGPENDING: usize = raw::RLIMIT_SIGPENDING as usize;
/// RLIMIT_MSGQUEUE, bytes.
pub const MSGQUEUE: usize = raw::RLIMIT_MSGQUEUE as usize;
/// RLIMIT_NICE.
pub const NICE: usize = raw::RLIMIT_NICE as usize;
/// RLIMIT_RTPRIO.
pub const RTPRIO: usize = raw::RLIMIT_RTPRIO as usize;

/// Highest value of RLIMIT_NOFILE's hard limit (fs.nr_open).
pub const NOFILE_MAX: u64 = 1 << 20;

/// kernel.threads-max: most tasks at once, root's included.
pub static THREADS_MAX: AtomicU64 = AtomicU64::new(20);

/// Sets [`THREADS_MAX`] from the size of memory: kernel stacks may take an eighth of it (Linux: `set_max_threads`,
/// kernel/fork.c).
pub fn set_max_threads(ram_bytes: u64) {
    let max = ram_bytes / (8 * KERNEL_STACK_BYTES);
    THREADS_MAX.store(max.clamp(20, u64::from(super::table::PID_LIMIT)), Relaxed);
}

/// Soft and hard limit of each resource.
#[derive(Clone, Debug)]
pub struct Limits([[u64; 2]; RESOURCES]);

impl Limits {
    /// Linux's INIT_RLIMITS (include/asm-generic/resource.h).
    pub fn initial() -> Limits {
        let mut limits = [[INFINITY; 2]; RESOURCES];
        limits[STACK] = [8 << 20, INFINITY];
        limits[CORE] = [0, INFINITY];
        limits[NPROC] = [THREADS_MAX.load(Relaxed) / 2; 2];
        limits[NOFILE] = [1024, 4096];
        limits[MEMLOCK] = [8 << 20, 8 << 20];
        limits[SIGPENDING] = [1024, 1024];
        limits[MSGQUEUE] = [819_200, 819_200];
        limits[NICE] = [0, 0];
        limits[RTPRIO] = [0, 0];
        Limits(limits)
    }

    /// Soft limit; none for an unknown resource.
    pub fn soft(&self, resource: usize) -> u64 {
        self.0.get(resource).map_or(INFINITY, |limit| limit[0])
    }

    /// Soft and hard limit.
    pub fn get(&self, resource: usize) -> Option<[u64; 2]> {
        self.0.get(resource).copied()
    }

    /// Sets soft and hard limit; an unknown resource is left alone.
    pub fn set(&mut self, resource: usize, limit: [u64; 2]) {
        if let Some(slot) = self.0.get_mut(resource) {
            *slot = limit;
        }
    }

    /// What the address space of a process with these credentials obeys.
    pub fn for_mm(&self, creds: &Creds) -> MmLimits {
        MmLimits {
            as_bytes: self.soft(AS),
            data_bytes: self.soft(DATA),
            stack_bytes: self.soft(STACK),
            memlock_bytes: self.soft(MEMLOCK),
            commit_pages: memory_pages(),
            privileged: creds.capable(CAP_IPC_LOCK) && creds.capable(CAP_SYS_RAWIO),
        }
    }
}

/// Memory in all, in pages.
pub fn memory_pages() -> u64 {
    let ram = &ptshare_machine::boot::census().ram;
    ram.iter().map(|range| range.end.load(Relaxed).saturating_sub(range.start.load(Relaxed))).sum()
}
