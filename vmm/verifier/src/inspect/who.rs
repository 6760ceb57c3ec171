//! Where a frame is mapped, or a table is used: every address of every process.

use std::fmt;

use ptshare_paging::{Entry, Level, Pte};
use ptshare_wire::FrameKind;
use serde::Serialize;

use super::{FrameView, Guest, InspectError, MmId, Rights, counted};
use crate::report::level_name;

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Who {
    /// The frame.
    pub frame: FrameView,
    /// Entries and roots that the walk found to point to it, if it is a table.
    pub parents: Option<u32>,
    /// Everywhere that it is mapped, or that the table's span begins, by mm and address.
    pub places: Vec<PlaceView>,
    /// Are these all? Not if there are millions.
    pub complete: bool,
}

/// One place.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceView {
    /// The address space.
    pub mm: MmId,
    /// The address of the frame's first byte, or of the first byte that the table translates.
    pub va: u64,
    /// What the path to it allows: `r-x`.
    pub rights: String,
    /// The highest table on the way that has more than one parent: level, frame and parents.
    pub shared_from: Option<(u8, u64, u32)>,
}

impl Guest {
    /// Where a frame is mapped.
    pub fn who(&self, pfn: u64) -> Who {
        let table = self.graph.index_of(&self.frames, pfn);
        let parents = table.and_then(|index| self.graph.tables.get(index as usize)).map(|t| t.parents);
        let mut recount = self.recount(vec![pfn]);
        let mut places = Vec::new();
        for (m, mm) in self.mms.iter().enumerate() {
            let below = recount.root(mm.root);
            places.extend(below.places.iter().map(|(va, _)| self.place(m, *va, pfn)));
        }
        Who { frame: self.frame(pfn), parents, places, complete: recount.complete() }
    }

    /// Who uses a table.
    ///
    /// # Errors
    /// When the frame is no table.
    pub fn sharers(&self, pfn: u64) -> Result<Who, InspectError> {
        let known = self.frames.get(pfn).is_some_and(|frame| frame.kind() == Some(FrameKind::Table));
        if !known && self.graph.index_of(&self.frames, pfn).is_none() {
            return Err(InspectError::NoTable { pfn, what: self.frame(pfn).to_string() });
        }
        Ok(self.who(pfn))
    }

    /// Describes the way of mm `m` to `va`, down to the frame `pfn`.
    fn place(&self, m: usize, va: u64, pfn: u64) -> PlaceView {
        let mm = &self.mms[m];
        let (mut table, mut rights, mut shared_from) = (mm.root, Rights::ALL, None);
        for level in Level::TOP_DOWN {
            let node = self.graph.index_of(&self.frames, table);
            let parents = node.and_then(|i| self.graph.tables.get(i as usize)).map_or(0, |t| t.parents);
            if parents > 1 && shared_from.is_none() {
                shared_from = Some((level as u8, table, parents));
            }
            if table == pfn {
                break;
            }
            let Some(pte) = self.page(table).map(|page| Pte(page[level.slot(va).index()])) else { break };
            rights = rights.through(pte);
            match pte.decode(level) {
                Entry::Table(below) => table = below.0,
                _ => break,
            }
        }
        PlaceView { mm: mm.id, va, rights: rights.text(), shared_from }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.frame)?;
        if let Some(parents) = self.parents {
            writeln!(
                f,
                "  {} to it",
                counted(parents.into(), "entry or root points", "entries and roots point")
            )?;
        }
        for place in &self.places {
            write!(f, "  {}, va {:#x}, {}", place.mm, place.va, place.rights)?;
            match place.shared_from {
                Some((level, pfn, parents)) if pfn != self.frame.pfn => {
                    writeln!(
                        f,
                        ", through {} page {pfn:#x}, which has {parents} parents",
                        level_name(level)
                    )?;
                }
                _ => writeln!(f)?,
            }
        }
        if self.places.is_empty() {
            writeln!(f, "  no process has it")?;
        }
        if !self.complete {
            writeln!(f, "  and more: the list was cut off")?;
        }
        Ok(())
    }
}
