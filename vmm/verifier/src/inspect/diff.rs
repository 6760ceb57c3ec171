//! What differs between two guests, or one guest at two moments: VMAs, entries, counts, counters. Processes are matched by
//! pid and slot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem::offset_of;

use ptshare_paging::{ENTRIES, Entry, Level, Pte};
use ptshare_wire::{CensusHeader, Stats};
use serde::Serialize;

use super::{Guest, MmId};
use crate::graph::user_slots;
use crate::report::level_name;
use crate::rules::rights_within_vma::describe;
use crate::view::PhysView;

/// The differences.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Diff {
    /// Processes that only the first, or only the second, has.
    pub gone: Vec<MmId>,
    /// The same for the second.
    pub new: Vec<MmId>,
    /// VMAs: `-` and `+` lines.
    pub vmas: Vec<String>,
    /// Entries of page tables, those in a row that changed in the same way as one.
    pub entries: Vec<EntryChange>,
    /// Leaves in which nothing but the accessed and dirty bits changed.
    pub only_accessed_or_dirty: u64,
    /// Counts of frames that are in use in both.
    pub counts: Vec<String>,
    /// Counters: name, before, after.
    pub counters: Vec<(String, u64, u64)>,
}

/// Entries that changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EntryChange {
    /// Whose; the first in which the table was met.
    pub mm: MmId,
    /// First address.
    pub va: u64,
    /// Level of the table.
    pub level: u8,
    /// Entries in a row.
    pub entries: u64,
    /// What happened.
    pub change: Change,
    /// The first of the entries, before and after.
    pub words: (u64, u64),
}

/// What happened to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was zero.
    Appeared,
    /// It is zero now.
    Gone,
    /// It names another frame.
    Frame,
    /// It allows something else.
    Rights,
}

/// Accessed and dirty: set by the processor.
const BY_PROCESSOR: u64 = Pte::ACCESSED | Pte::DIRTY;

impl Guest {
    /// What is different in `other`.
    pub fn diff(&self, other: &Guest) -> Diff {
        let mut diff = Diff::default();
        let ids = |guest: &Guest| guest.mms.iter().map(|mm| (mm.id.pid, mm.id.slot)).collect::<BTreeSet<_>>();
        let (before, after) = (ids(self), ids(other));
        let id = |(pid, slot): &(u64, u32)| MmId { pid: *pid, slot: *slot };
        diff.gone = before.difference(&after).map(id).collect();
        diff.new = after.difference(&before).map(id).collect();
        let mut seen = BTreeSet::new();
        for mm in &self.mms {
            let Some(now) = other.mms.iter().find(|now| now.id == mm.id) else { continue };
            let lines = |vmas: &[ptshare_wire::VmaRec]| vmas.iter().map(describe).collect::<BTreeSet<_>>();
            let (old, new) = (lines(&mm.vmas), lines(&now.vmas));
            diff.vmas.extend(old.difference(&new).map(|vma| format!("{}: - {vma}", mm.id)));
            diff.vmas.extend(new.difference(&old).map(|vma| format!("{}: + {vma}", mm.id)));
            let tables = (mm.root, now.root);
            diff.tables((self, other), mm.id, tables, Level::Pgd, 0, &mut seen);
        }
        diff.frames(self, other);
        for (i, name) in Stats::NAMES.iter().enumerate() {
            let at = (offset_of!(CensusHeader, stats) + 8 * i) as u64;
            let word = |guest: &Guest| guest.image.read_u64(guest.census_pa + at).unwrap_or(0);
            if word(self) != word(other) {
                diff.counters.push(((*name).to_owned(), word(self), word(other)));
            }
        }
        diff
    }
}

impl Diff {
    /// Compares the tables at one place. Tables that several share are compared where they are met first.
    fn tables(
        &mut self,
        guests: (&Guest, &Guest),
        mm: MmId,
        (a, b): (u64, u64),
        level: Level,
        base: u64,
        seen: &mut BTreeSet<(u64, u64)>,
    ) {
        if !seen.insert((a, b)) {
            return;
        }
        let empty = || Box::new([0; ENTRIES]);
        let (old, new) = (guests.0.page(a).unwrap_or_else(empty), guests.1.page(b).unwrap_or_else(empty));
        for slot in 0..user_slots(level) {
            let (x, y) = (Pte(old[slot]), Pte(new[slot]));
            let va = base + ((slot as u64) << level.shift());
            self.entry(mm, va, level, x, y);
            // What hangs below an entry that came or went is not listed: the entry says it.
            if let (Entry::Table(x), Entry::Table(y), Some(below)) =
                (x.decode(level), y.decode(level), level.below())
            {
                self.tables(guests, mm, (x.0, y.0), below, va, seen);
            }
        }
    }

    fn entry(&mut self, mm: MmId, va: u64, level: Level, x: Pte, y: Pte) {
        if x == y {
            return;
        }
        let change = match (x.0, y.0) {
            (0, _) => Change::Appeared,
            (_, 0) => Change::Gone,
            _ if x.without(BY_PROCESSOR) == y.without(BY_PROCESSOR) => {
                self.only_accessed_or_dirty += 1;
                return;
            }
            _ if x.pfn() != y.pfn() => Change::Frame,
            _ => Change::Rights,
        };
        if let Some(last) = self.entries.last_mut()
            && (last.mm, last.level, last.change) == (mm, level as u8, change)
            && last.va + last.entries * level.entry_bytes() == va
        {
            last.entries += 1;
            return;
        }
        let words = (x.0, y.0);
        self.entries.push(EntryChange { mm, va, level: level as u8, entries: 1, change, words });
    }

    /// Counts of the frames that are of one kind in both, and kinds that changed by number.
    fn frames(&mut self, old: &Guest, new: &Guest) {
        let mut kinds: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (pfn, frame) in old.frames.iter() {
            let Some(now) = new.frames.get(pfn) else { continue };
            if frame.kind() != now.kind() {
                let kind = |f: &crate::frames::Frame| {
                    f.kind().map_or_else(|| "unknown".into(), |kind| format!("{kind:?}"))
                };
                *kinds.entry((kind(frame), kind(now))).or_default() += 1;
            } else if frame.refs != now.refs {
                let what = old.frame(pfn);
                self.counts
                    .push(format!("frame {pfn:#x}, {}: refs {} -> {}", what.what, frame.refs, now.refs));
            }
        }
        let changed = kinds.iter().map(|((a, b), n)| format!("{n} frames: {a} -> {b}"));
        self.counts.splice(0..0, changed);
    }

    /// Is nothing different but accessed and dirty bits?
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty()
            && self.new.is_empty()
            && self.vmas.is_empty()
            && self.entries.is_empty()
            && self.counts.is_empty()
            && self.counters.is_empty()
    }
}

impl fmt::Display for EntryChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (Pte(self.words.0), Pte(self.words.1));
        write!(f, "{}, va {:#x}, {}: ", self.mm, self.va, level_name(self.level))?;
        match self.change {
            Change::Appeared => write!(f, "+ {new}")?,
            Change::Gone => write!(f, "- {old}")?,
            Change::Frame | Change::Rights => write!(f, "{old} -> {new}")?,
        }
        match self.entries {
            1 => Ok(()),
            n => write!(f, " (and the {} after it likewise)", n - 1),
        }
    }
}

/// Lines of each section that are printed.
const LINES_MAX: usize = 200;

fn section(f: &mut fmt::Formatter<'_>, title: &str, lines: &[impl fmt::Display]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    for line in lines.iter().take(LINES_MAX) {
        writeln!(f, "  {line}")?;
    }
    match lines.len().saturating_sub(LINES_MAX) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more; --json has all of them"),
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() && self.only_accessed_or_dirty == 0 {
            return writeln!(f, "no difference");
        }
        section(f, "processes that are gone", &self.gone)?;
        section(f, "new processes", &self.new)?;
        section(f, "VMAs", &self.vmas)?;
        section(f, "entries", &self.entries)?;
        if self.only_accessed_or_dirty > 0 {
            writeln!(f, "{} entries differ in accessed and dirty bits alone", self.only_accessed_or_dirty)?;
        }
        section(f, "counts", &self.counts)?;
        let counters: Vec<_> =
            self.counters.iter().map(|(name, old, new)| format!("{name} {old} -> {new}")).collect();
        section(f, "counters", &counters)
    }
}
