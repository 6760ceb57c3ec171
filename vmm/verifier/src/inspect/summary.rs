//! Memory, CPUs, processes.

use std::fmt;

use serde::Serialize;

use super::{Guest, MmId, counted};
use crate::rules::rights_within_vma::describe;

/// A guest in a few lines.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Managed frames: first, first never given out, first after.
    pub memory: Vec<(u64, u64, u64)>,
    /// Frames on free lists, and those of the kernel.
    pub free_frames: u64,
    /// Frames that the kernel holds.
    pub kernel_frames: u64,
    /// What each CPU does.
    pub cpus: Vec<String>,
    /// The processes, in the order of slots.
    pub processes: Vec<Process>,
}

/// An address space.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its names.
    pub mm: MmId,
    /// Frame of its root.
    pub root: u64,
    /// Tables that it reaches.
    pub tables: u64,
    /// Of these, shared ones.
    pub tables_shared: u64,
    /// Resident pages of 4 KiB: private ones, and those of objects.
    pub anon: u64,
    /// Pages of objects.
    pub object: u64,
    /// Pages of 4 KiB in huge pages.
    pub hugetlb: u64,
    /// VMAs, if they were asked for.
    pub vmas: Vec<String>,
    /// How many there are.
    pub vma_count: usize,
}

impl Guest {
    /// Memory, CPUs and processes; with `vmas` also every VMA.
    pub fn summary(&self, vmas: bool) -> Summary {
        let mut recount = self.recount(Vec::new());
        let cpus = self.census.cpus(&self.image, &mut crate::report::Sink::new(0)).unwrap_or_default();
        Summary {
            memory: self.census.ram.iter().map(|ram| (ram.start, ram.virgin, ram.end)).collect(),
            free_frames: self.census.free_frames,
            kernel_frames: self.census.kernel_frames,
            cpus: cpus
                .iter()
                .map(|cpu| match (cpu.online, cpu.critical, cpu.mm_slot) {
                    (false, ..) => "offline".to_string(),
                    (_, 1.., _) => "inside a critical section".to_string(),
                    (_, _, 0) => "in the kernel's own root".to_string(),
                    (_, _, slot) => format!("runs mm slot {}", slot - 1),
                })
                .collect(),
            processes: self
                .mms
                .iter()
                .map(|mm| {
                    let below = recount.root(mm.root);
                    Process {
                        mm: mm.id,
                        root: mm.root,
                        tables: below.tables,
                        tables_shared: below.tables_shared,
                        anon: below.anon,
                        object: below.object,
                        hugetlb: below.hugetlb,
                        vmas: mm.vmas.iter().filter(|_| vmas).map(describe).collect(),
                        vma_count: mm.vmas.len(),
                    }
                })
                .collect(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (start, virgin, end) in &self.memory {
            writeln!(f, "memory  frames {start:#x}..{end:#x}, given out below {virgin:#x}")?;
        }
        let (free, kernel) = (self.free_frames, self.kernel_frames);
        writeln!(f, "books   {free} frames on free lists, {kernel} of the kernel")?;
        for (index, state) in self.cpus.iter().enumerate() {
            writeln!(f, "cpu {index}   {state}")?;
        }
        for p in &self.processes {
            writeln!(
                f,
                "process {}: root {:#x}, {} ({} shared), pages: {} private, {} of objects, {} huge; {}",
                p.mm,
                p.root,
                counted(p.tables, "table", "tables"),
                p.tables_shared,
                p.anon,
                p.object,
                p.hugetlb,
                counted(p.vma_count as u64, "VMA", "VMAs"),
            )?;
            for vma in &p.vmas {
                writeln!(f, "  {vma}")?;
            }
        }
        Ok(())
    }
}
