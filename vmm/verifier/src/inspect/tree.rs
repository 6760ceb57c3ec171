//! The tables of an address space, and who shares them.

use std::collections::HashMap;
use std::fmt;

use ptshare_paging::{Entry, Level, Pte};
use serde::Serialize;

use super::{FrameView, Guest, InspectError, MmId, Rights, counted, list};
use crate::report::level_name;

/// An address space.
#[derive(Clone, Debug, Serialize)]
pub struct Tree {
    /// Whose.
    pub mm: MmId,
    /// Tables in it.
    pub tables: u64,
    /// Of these, tables that others use too.
    pub tables_shared: u64,
    /// Bytes of tables, each divided among those who share it.
    pub tables_part_bytes: u64,
    /// The root.
    pub root: Node,
}

/// A table, or several in a row that look alike.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Level: 1 PTE .. 4 PGD.
    pub level: u8,
    /// First address that it translates.
    pub start: u64,
    /// First address after it; after the last of several.
    pub end: u64,
    /// Its frame; the first of several.
    pub pfn: u64,
    /// Tables in a row that are shown as one: equal in all but the frame.
    pub alike: u64,
    /// Entries that are not zero.
    pub entries: u64,
    /// References that the guest counts.
    pub refs: Option<u32>,
    /// Entries and roots that the walk found to point to it.
    pub parents: u32,
    /// R/W of the entry that points to it; true for a root.
    pub writable: bool,
    /// Object and page, of an object's table.
    pub belongs: String,
    /// Other processes that use it.
    pub shared_with: Vec<u64>,
    /// Tables below it.
    pub children: Vec<Node>,
    /// What it maps, if that was asked for.
    pub leaves: Vec<Run>,
}

/// Leaves in a row that look alike.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Leaves.
    pub leaves: u64,
    /// What the whole path allows.
    pub rights: String,
    /// Kind of the frames.
    pub kind: String,
}

/// How much of the tree is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Depth {
    /// Levels of tables, from 1 (the root alone) to 4.
    pub levels: u8,
    /// The leaves as well.
    pub leaves: bool,
}

struct Maker<'a> {
    guest: &'a Guest,
    reach: HashMap<u32, Vec<u32>>,
    mm: u32,
    depth: Depth,
}

impl Guest {
    /// The tree of each address space of process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn tree(&self, pid: u64, depth: Depth) -> Result<Vec<Tree>, InspectError> {
        let mut recount = self.recount(Vec::new());
        let mut maker = Maker { guest: self, reach: self.reach(), mm: 0, depth };
        let mut trees = Vec::new();
        for m in self.of_pid(pid)? {
            let mm = &self.mms[m];
            let below = recount.root(mm.root);
            maker.mm = m as u32;
            trees.push(Tree {
                mm: mm.id,
                tables: below.tables,
                tables_shared: below.tables_shared,
                tables_part_bytes: (below.tables_part * 4096.0) as u64,
                root: maker.node(mm.root, Level::Pgd, 0, true, Rights::ALL),
            });
        }
        Ok(trees)
    }
}

impl Maker<'_> {
    fn node(&self, pfn: u64, level: Level, base: u64, writable: bool, rights: Rights) -> Node {
        let guest = self.guest;
        let index = guest.graph.index_of(&guest.frames, pfn);
        let table = index.and_then(|index| guest.graph.tables.get(index as usize));
        let FrameView { refs, belongs, .. } = guest.frame(pfn);
        let others = index.and_then(|index| self.reach.get(&index)).into_iter().flatten();
        let others = others.filter(|m| **m != self.mm);
        let mut shared_with: Vec<u64> = others.map(|m| guest.mms[*m as usize].id.pid).collect();
        shared_with.sort_unstable();
        let mut node = Node {
            level: level as u8,
            start: base,
            end: base + level.span_bytes(),
            pfn,
            alike: 1,
            entries: table.map_or(0, |t| t.nonzero.into()),
            refs,
            parents: table.map_or(0, |t| t.parents),
            writable,
            belongs,
            shared_with,
            children: Vec::new(),
            leaves: Vec::new(),
        };
        let shown = 5 - level as u8;
        guest.entries(pfn, level, |slot, pte| {
            let start = base + ((slot as u64) << level.shift());
            match (pte.decode(level), level.below()) {
                (Entry::Table(child), Some(below)) if shown < self.depth.levels => {
                    let child = self.node(child.0, below, start, pte.writable(), rights.through(pte));
                    join_node(&mut node.children, child);
                }
                (Entry::Leaf(_) | Entry::NoAccess(_), _) if self.depth.leaves => {
                    join_run(&mut node.leaves, self.run(pte, level, start, rights));
                }
                _ => {}
            }
        });
        node
    }

    fn run(&self, pte: Pte, level: Level, start: u64, rights: Rights) -> Run {
        let what = self.guest.frame(pte.pfn().0).what;
        let rights = rights.through(pte).text();
        Run { start, end: start + level.entry_bytes(), leaves: 1, rights, kind: what }
    }
}

/// Adds a table to a list, to the one before it if they look alike.
fn join_node(list: &mut Vec<Node>, node: Node) {
    let plain = node.children.is_empty() && node.leaves.is_empty();
    match list.last_mut() {
        Some(last)
            if plain
                && last.children.is_empty()
                && last.leaves.is_empty()
                && last.end == node.start
                && (last.entries, last.refs, last.parents) == (node.entries, node.refs, node.parents)
                && last.writable == node.writable
                && last.belongs.is_empty() == node.belongs.is_empty()
                && last.shared_with == node.shared_with =>
        {
            last.end = node.end;
            last.alike += 1;
        }
        _ => list.push(node),
    }
}

fn join_run(list: &mut Vec<Run>, run: Run) {
    match list.last_mut() {
        Some(last) if last.end == run.start && last.rights == run.rights && last.kind == run.kind => {
            last.end = run.end;
            last.leaves += 1;
        }
        _ => list.push(run),
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}, of which {} shared; {} bytes when each is divided among its sharers",
            self.mm,
            counted(self.tables, "table", "tables"),
            self.tables_shared,
            self.tables_part_bytes
        )?;
        self.root.show(f, 0)
    }
}

impl Node {
    fn show(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        let level = level_name(self.level);
        write!(f, "{:indent$}{:012x}-{:012x}  ", "", self.start, self.end - 1)?;
        match self.alike {
            1 => write!(f, "{level} page {:#x}, ", self.pfn)?,
            n => write!(f, "{n} {level} pages from {:#x} on, each: ", self.pfn)?,
        }
        write!(f, "{}", counted(self.entries, "entry", "entries"))?;
        if self.level < Level::Pgd as u8 {
            write!(f, ", R/W={}", u8::from(self.writable))?;
        }
        if self.parents != 1 || self.refs != Some(1) {
            write!(f, ", {} parents", self.parents)?;
        }
        if self.refs != Some(self.parents) {
            write!(f, ", refs {:?}", self.refs)?;
        }
        if !self.belongs.is_empty() {
            write!(f, ", {}", self.belongs)?;
        }
        if !self.shared_with.is_empty() {
            write!(f, "; also used by pid {}", list(&self.shared_with))?;
        }
        writeln!(f)?;
        for child in &self.children {
            child.show(f, indent + 2)?;
        }
        for run in &self.leaves {
            let (start, end, kind) = (run.start, run.end - 1, &run.kind);
            let leaves = counted(run.leaves, "leaf", "leaves");
            writeln!(f, "{:1$}{start:012x}-{end:012x}  {leaves}, {2}, {kind}", "", indent + 2, run.rights)?;
        }
        Ok(())
    }
}
