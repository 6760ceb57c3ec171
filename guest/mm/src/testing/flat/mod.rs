//! A flat kernel: processes that are nothing but address spaces, files that are nothing but objects, and between them the
//! memory calls with Linux's arguments and error numbers. For tests and for replaying traces on the host.
//!
//! Descriptors, permissions and sizes that a system-call layer would check before it calls the core are not here: a file is
//! open for reading and writing and is named by its index.

mod calls;
mod files;
mod op;
mod snapshot;
#[cfg(test)]
mod tests;

pub use op::{Answer, Op};
pub use snapshot::Snapshot;

use super::Arena;
use crate::hugetlb::{HugeSize, resize, set_overcommit, set_sharing};
use crate::{Layout, Limits, Mm, Object, Sharing};
use ptshare_abi::Errno;
use ptshare_wire::VmaRec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the machine and the kernel on it are like.
#[derive(Clone, Copy, Debug)]
pub struct FlatConfig {
    /// Frames of 4 KiB, those of the pool included.
    pub frames: usize,
    /// Boot option `hugepages=`.
    pub huge_pages: u64,
    /// `nr_overcommit_hugepages`.
    pub huge_overcommit: u64,
    /// Boot option `sharing=`.
    pub sharing: Sharing,
    /// Boot option `small_tables=`.
    pub small_tables: u32,
    /// Boot option `share_file=`.
    pub share_file: bool,
    /// Boot option `share_hugetlb=`.
    pub share_hugetlb: bool,
}

impl Default for FlatConfig {
    fn default() -> Self {
        FlatConfig {
            frames: 16384,
            huge_pages: 0,
            huge_overcommit: 0,
            sharing: Sharing::Pte,
            small_tables: 0,
            share_file: true,
            share_hugetlb: true,
        }
    }
}

/// The kernel. Processes are numbered from 1.
pub struct FlatKernel {
    arena: Arena,
    config: FlatConfig,
    processes: BTreeMap<u32, Arc<Mm<Arena>>>,
    next_pid: u32,
    files: Vec<Option<Arc<Object<Arena>>>>,
}

impl FlatKernel {
    /// Process 1 with an empty address space, and no files.
    ///
    /// # Panics
    /// If there are too few frames for that.
    pub fn new(config: FlatConfig) -> FlatKernel {
        let arena = Arena::new(config.frames);
        arena.set_share_file(config.share_file);
        resize(&arena, HugeSize::Mib2, config.huge_pages);
        set_overcommit(&arena, HugeSize::Mib2, config.huge_overcommit)
            .expect("pages of 2 MiB may be surplus");
        set_sharing(&arena, config.share_hugetlb);
        let init = Mm::new(arena.clone()).expect("frames for the first process");
        FlatKernel { arena, config, processes: BTreeMap::from([(1, init)]), next_pid: 2, files: Vec::new() }
    }

    /// The machine below.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// What it was built with.
    pub fn config(&self) -> &FlatConfig {
        &self.config
    }

    /// Processes that live, in order.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.keys().copied().collect()
    }

    /// The address space of a process.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn mm(&self, pid: u32) -> &Arc<Mm<Arena>> {
        self.processes.get(&pid).unwrap_or_else(|| panic!("there is no process {pid}"))
    }

    /// All address spaces, in the order of their processes.
    pub fn mms(&self) -> Vec<&Mm<Arena>> {
        self.processes.values().map(|mm| &**mm).collect()
    }

    /// Says where things lie in the address space of a process.
    pub fn set_layout(&self, pid: u32, layout: Layout) {
        self.mm(pid).set_layout(layout);
    }

    /// Says what a process must not exceed.
    pub fn set_limits(&self, pid: u32, limits: Limits) {
        self.mm(pid).set_limits(limits);
    }

    /// The VMAs of a process, as the census shows them.
    pub fn vmas(&self, pid: u32) -> Vec<VmaRec> {
        self.mm(pid).vmas.read().iter().map(|vma| vma.rec).collect()
    }

    /// Checks the core's own rules ([`Arena::audit`]).
    ///
    /// # Panics
    /// At the first broken rule.
    pub fn audit(&self) {
        self.arena.audit(&self.mms());
    }

    /// A new process that no other is the parent of. ENOMEM.
    pub fn spawn(&mut self) -> Result<u32, Errno> {
        let mm = Mm::new(self.arena.clone()).map_err(|_| Errno::ENOMEM)?;
        Ok(self.add(mm))
    }

    fn add(&mut self, mm: Arc<Mm<Arena>>) -> u32 {
        let pid = self.next_pid;
        self.next_pid += 1;
        self.processes.insert(pid, mm);
        pid
    }

    /// fork(2), as the machine's configuration shares. Gives the child's pid.
    pub fn fork(&mut self, pid: u32) -> Result<u32, Errno> {
        self.fork_as(pid, self.config.sharing, self.config.small_tables)
    }

    /// fork(2) with a choice of how tables are shared.
    pub fn fork_as(&mut self, pid: u32, sharing: Sharing, small_tables: u32) -> Result<u32, Errno> {
        let child = self.mm(pid).fork(sharing, small_tables).map_err(|_| Errno::ENOMEM)?;
        Ok(self.add(child))
    }

    /// What exec does with the old memory: all of it goes.
    pub fn exec(&self, pid: u32) {
        self.mm(pid).clear();
    }

    /// The process ends.
    pub fn exit(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }
}
