//! The path that translates one address.

use std::fmt;

use ptshare_paging::{Entry, Level, Pte};
use serde::Serialize;

use super::{FrameView, Guest, InspectError, MmId, Rights};
use crate::report::level_name;
use crate::rules::rights_within_vma::describe;

/// The way from a root to a leaf.
#[derive(Clone, Debug, Serialize)]
pub struct Walk {
    /// Whose.
    pub mm: MmId,
    /// The address.
    pub va: u64,
    /// The VMA there, if there is one.
    pub vma: Option<String>,
    /// The root.
    pub root: FrameView,
    /// The entries, from the root down.
    pub steps: Vec<Step>,
    /// What the whole path allows: `r--`; empty if nothing is there.
    pub rights: String,
}

/// One entry of a path.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Level of its table.
    pub level: u8,
    /// The table.
    pub table: u64,
    /// Which entry of it.
    pub slot: usize,
    /// The word.
    pub word: u64,
    /// The frame that it names.
    pub frame: Option<FrameView>,
}

impl Guest {
    /// The path that translates `va` in each address space of process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn walk(&self, pid: u64, va: u64) -> Result<Vec<Walk>, InspectError> {
        Ok(self.of_pid(pid)?.into_iter().map(|m| self.walk_mm(m, va)).collect())
    }

    fn walk_mm(&self, m: usize, va: u64) -> Walk {
        let mm = &self.mms[m];
        let vma = mm.vmas.iter().find(|v| v.start <= va && va < v.end).map(describe);
        let root = self.frame(mm.root);
        let mut walk = Walk { mm: mm.id, va, vma, root, steps: Vec::new(), rights: String::new() };
        let (mut table, mut rights) = (mm.root, Rights::ALL);
        for level in Level::TOP_DOWN {
            let slot = level.slot(va).index();
            let Some(pte) = self.page(table).map(|page| Pte(page[slot])) else { break };
            let entry = pte.decode(level);
            let frame = match entry {
                Entry::Table(pfn) | Entry::Leaf(pfn) | Entry::NoAccess(pfn) => Some(self.frame(pfn.0)),
                Entry::Absent | Entry::Marker(_) => None,
            };
            walk.steps.push(Step { level: level as u8, table, slot, word: pte.0, frame });
            rights = rights.through(pte);
            match entry {
                Entry::Table(pfn) => table = pfn.0,
                Entry::Leaf(_) | Entry::NoAccess(_) => {
                    walk.rights = rights.text();
                    break;
                }
                Entry::Absent | Entry::Marker(_) => break,
            }
        }
        walk
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, va {:#x}", self.mm, self.va)?;
        writeln!(f, "  {}", self.vma.as_deref().unwrap_or("no VMA"))?;
        writeln!(f, "  root       {}", self.root)?;
        for step in &self.steps {
            let pte = Pte(step.word);
            writeln!(f, "  {}[{:3}]   {:#018x} {pte}", level_name(step.level), step.slot, step.word)?;
            if let Some(frame) = &step.frame {
                writeln!(f, "             {frame}")?;
            }
        }
        match self.rights.as_str() {
            "" => writeln!(f, "  nothing is mapped there"),
            rights => writeln!(f, "  allows     {rights}"),
        }
    }
}
