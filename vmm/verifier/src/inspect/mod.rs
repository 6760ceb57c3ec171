//! For people: what a guest looked like. `cargo xtask inspect` prints what is made here, as text or as JSON.
//!
//! | module | shows |
//! |---|---|
//! | [`summary`] | memory, CPUs, processes and their VMAs |
//! | [`tree`] | the tables of an address space, and who shares them |
//! | [`who`] | where a frame is mapped, or a table is used |
//! | [`walk`] | the path that translates an address |
//! | [`diff`] | what differs between two guests |
//!
//! A guest may be broken: what is shown is what its memory holds, and what cannot be read is said.

pub mod diff;
pub mod summary;
pub mod tree;
pub mod walk;
pub mod who;

use std::collections::HashMap;
use std::path::Path;

use ptshare_paging::{ENTRIES, Entry, Level, Pfn, Pte};
use ptshare_wire::FrameKind;
use serde::Serialize;

use crate::Report;
use crate::census::{Census, Mm};
use crate::dump::{self, DumpError};
use crate::frames::{Frame, Frames, Place};
use crate::graph::{Builder, Graph, each_nonzero, user_slots};
use crate::recount::Recount;
use crate::report::{Finding, MmId, Sink};
use crate::verify::{Options, Vcpu, verify};
use crate::view::{Image, PhysView};

/// Why something cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file.
    #[error("{0}")]
    Dump(#[from] DumpError),
    /// The guest's own records make no sense.
    #[error("the guest's census cannot be read, so only `verdict` has something to say:\n{0}")]
    Census(String),
    /// There is no such process.
    #[error("no process {pid} has an address space; there are {there}")]
    NoProcess {
        /// The process asked for.
        pid: u64,
        /// Those that there are.
        there: String,
    },
    /// A frame of another kind was asked for.
    #[error("frame {pfn:#x} is no page table: {what}; `who {pfn:#x}` shows where it is mapped")]
    NoTable {
        /// The frame.
        pfn: u64,
        /// What it is.
        what: String,
    },
}

/// A guest taken apart.
pub struct Guest {
    image: Image,
    census_pa: u64,
    vcpus: Vec<Vcpu>,
    census: Census,
    mms: Vec<Mm>,
    frames: Frames,
    graph: Graph,
}

impl Guest {
    /// Takes the guest in a dump apart.
    ///
    /// # Errors
    /// When the file is no whole dump, or the guest's records make no sense.
    pub fn read(path: &Path) -> Result<Guest, InspectError> {
        let (image, census_pa, vcpus) = dump::read(path)?;
        Guest::open(image, census_pa, vcpus)
    }

    /// Takes a guest in memory apart.
    ///
    /// # Errors
    /// When its records make no sense.
    pub fn open(image: Image, census_pa: u64, vcpus: Vec<Vcpu>) -> Result<Guest, InspectError> {
        let mut sink = Sink::new(4);
        let parts = (|| {
            let census = Census::read(&image, census_pa, &mut sink)?;
            let mms = census.mms(&image, &mut sink)?;
            let frames = Frames::read(&image, &census, &mut sink)?;
            Some((census, mms, frames))
        })();
        let Some((census, mms, mut frames)) = parts else {
            let texts: Vec<_> = sink.finish().0.iter().map(Finding::to_string).collect();
            return Err(InspectError::Census(texts.join("\n")));
        };
        let graph = Builder {
            view: &image,
            mms: &mms,
            frames: &mut frames,
            sink: &mut Sink::new(0),
            phys_mask: census.phys_mask(),
            budget: &mut Options::default().entry_budget,
            graph: Graph::default(),
            pending: Vec::new(),
            memory: None,
        }
        .run()
        .0;
        Ok(Guest { image, census_pa, vcpus, census, mms, frames, graph })
    }

    /// Judges it again.
    pub fn verdict(&self) -> Report {
        verify(&self.image, self.census_pa, &self.vcpus, &Options::default())
    }

    /// The address spaces of a process; there is usually one.
    fn of_pid(&self, pid: u64) -> Result<Vec<usize>, InspectError> {
        let found: Vec<_> = (0..self.mms.len()).filter(|&i| self.mms[i].id.pid == pid).collect();
        if found.is_empty() {
            let pids: Vec<_> = self.mms.iter().map(|mm| mm.id.pid.to_string()).collect();
            let there = if pids.is_empty() { "none".into() } else { pids.join(", ") };
            return Err(InspectError::NoProcess { pid, there });
        }
        Ok(found)
    }

    fn page(&self, pfn: u64) -> Option<Box<[u64; ENTRIES]>> {
        let mut page = Box::new([0; ENTRIES]);
        self.image.read_page(pfn, &mut page).then_some(page)
    }

    /// Calls `f` with slot and entry of each entry of a table that is not zero.
    fn entries(&self, pfn: u64, level: Level, mut f: impl FnMut(usize, Pte)) {
        if let Some(page) = self.page(pfn) {
            each_nonzero(&page, user_slots(level), |slot, word| f(slot, Pte(word)));
        }
    }

    fn recount(&self, wanted: Vec<u64>) -> Recount<'_> {
        Recount::new(&self.image, &self.frames, &self.graph, self.census.phys_mask(), wanted)
    }

    /// Which mms (by index) reach each table.
    fn reach(&self) -> HashMap<u32, Vec<u32>> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (index, table) in (0..).zip(&self.graph.tables) {
            let mut below = Vec::new();
            if table.walked {
                self.entries(table.pfn, table.level, |_, pte| {
                    if let Entry::Table(Pfn(pfn)) = pte.decode(table.level) {
                        below.extend(self.graph.index_of(&self.frames, pfn));
                    }
                });
            }
            children.insert(index, below);
        }
        let mut reach: HashMap<u32, Vec<u32>> = HashMap::new();
        for (m, mm) in (0..).zip(&self.mms) {
            let mut pending: Vec<u32> = self.graph.index_of(&self.frames, mm.root).into_iter().collect();
            while let Some(table) = pending.pop() {
                let mms = reach.entry(table).or_default();
                if mms.last() != Some(&m) {
                    mms.push(m);
                    pending.extend(children.get(&table).into_iter().flatten());
                }
            }
        }
        reach
    }

    /// What the metadata say of a frame.
    fn frame(&self, pfn: u64) -> FrameView {
        let place = self.frames.place(pfn);
        let Place::Known(frame) = place else {
            let what = match place {
                Place::Virgin => "never given out",
                Place::Reserved => "reserved memory",
                _ => "no memory of the census",
            };
            return FrameView { pfn, what: what.into(), ..FrameView::default() };
        };
        let kind = frame.kind();
        let key = || self.frames.key(pfn).unwrap_or_default();
        let level = Level::from_u8(frame.level()).filter(|_| kind == Some(FrameKind::Table));
        let belongs = match kind {
            Some(FrameKind::Table) if frame.is_object_table() => {
                let (object, page) = key();
                format!("of object {object} from page {page:#x} on")
            }
            Some(FrameKind::Table) if frame.is_object_pmd() => {
                let (part, _) = key();
                format!("of object {} from huge page {} on", part >> 32, part & 0xffff_ffff)
            }
            Some(FrameKind::Cache | FrameKind::Hugetlb) if frame.in_cache() => {
                let (object, page) = key();
                format!("page {page:#x} of object {object}")
            }
            Some(FrameKind::Anon | FrameKind::Hugetlb) if frame.refs > 0 => {
                let (family, page) = key();
                format!("private, page {page:#x} in its VMAs, family {family}")
            }
            _ => String::new(),
        };
        FrameView {
            pfn,
            what: describe_kind(&frame, level),
            refs: Some(frame.refs),
            aux: Some(frame.aux),
            level: level.map(|level| level as u8),
            belongs,
        }
    }
}

fn describe_kind(frame: &Frame, level: Option<Level>) -> String {
    match (frame.kind(), level) {
        (Some(FrameKind::Table), Some(level)) => format!("{} page", crate::report::level_name(level as u8)),
        (Some(kind), _) => format!("{kind:?}"),
        (None, _) => format!("unknown state {:#x}", frame.state),
    }
}

/// What the metadata say of a frame.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct FrameView {
    /// Its number.
    pub pfn: u64,
    /// Its kind, or why it has none.
    pub what: String,
    /// References, as the guest counts them.
    pub refs: Option<u32>,
    /// Entries of a table; kernel holds of a page.
    pub aux: Option<u32>,
    /// Level of a table.
    pub level: Option<u8>,
    /// Object and page, or family and page; may be empty.
    pub belongs: String,
}

impl std::fmt::Display for FrameView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "frame {:#x}: {}", self.pfn, self.what)?;
        if let Some(refs) = self.refs {
            write!(f, ", refs {refs}")?;
        }
        if let Some(aux) = self.aux.filter(|aux| *aux > 0 || self.level.is_some()) {
            let (one, many) = if self.level.is_some() { ("entry", "entries") } else { ("hold", "holds") };
            write!(f, ", {}", counted(aux.into(), one, many))?;
        }
        if !self.belongs.is_empty() {
            write!(f, ", {}", self.belongs)?;
        }
        Ok(())
    }
}

/// What a path allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rights {
    read: bool,
    write: bool,
    exec: bool,
}

impl Rights {
    const ALL: Rights = Rights { read: true, write: true, exec: true };

    fn through(self, pte: Pte) -> Rights {
        Rights {
            read: self.read && pte.present(),
            write: self.write && pte.present() && pte.writable(),
            exec: self.exec && pte.present() && !pte.has(Pte::NO_EXEC),
        }
    }

    fn text(self) -> String {
        let bit = |set, letter| if set { letter } else { '-' };
        [bit(self.read, 'r'), bit(self.write, 'w'), bit(self.exec, 'x')].iter().collect()
    }
}

/// `1, 2, 5` or `1, 2, 5 and 14 more`.
fn list(pids: &[u64]) -> String {
    const NAMED: usize = 8;
    let named: Vec<_> = pids.iter().take(NAMED).map(u64::to_string).collect();
    let more = pids.len().saturating_sub(NAMED);
    if more > 0 { format!("{} and {more} more", named.join(", ")) } else { named.join(", ") }
}

/// `1 entry`, `3 entries`.
fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests;
