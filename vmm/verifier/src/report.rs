//! What the judge says: rules by name, findings, and the report of one verification.

use std::fmt;

use ptshare_paging::Pte;
use serde::Serialize;

/// An invariant, with what there is to know about it. `docs/RULES.md` is made of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RuleInfo {
    /// Name, in kebab-case, used everywhere; also the name of its file.
    pub name: &'static str,
    /// The invariant in one sentence.
    pub statement: &'static str,
    /// What of the guest it looks at.
    pub reads: &'static str,
    /// What goes wrong without it, with a case where it did.
    pub why: &'static str,
    /// Numbers of the design's invariants that it checks, or helps to: see [`crate::catalogue::DESIGN`].
    pub design: &'static [u8],
    /// Numbers of the invariants drawn from Linux's bugs that it checks, or helps to: see
    /// [`crate::catalogue::DRAWN`].
    pub catalogue: &'static [u8],
}

/// An address space, as people name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct MmId {
    /// Slot in the mm table.
    pub slot: u32,
    /// Process that owns it.
    pub pid: u64,
}

impl fmt::Display for MmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (mm slot {})", self.pid, self.slot)
    }
}

/// One violation of one rule at one place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Name of the rule.
    pub rule: &'static str,
    /// Address space in which it was met; the first of them for a shared table.
    pub mm: Option<MmId>,
    /// User virtual address: the first byte that the entry, table or VMA covers.
    pub va: Option<u64>,
    /// Level of the entry's table, or of the table itself: 1 PTE .. 4 PGD.
    pub level: Option<u8>,
    /// The entry's word.
    pub entry: Option<u64>,
    /// Frame number concerned.
    pub frame: Option<u64>,
    /// What the rule demands here.
    pub expected: String,
    /// What the guest has.
    pub found: String,
    /// Anything else that helps; may be empty.
    pub detail: String,
}

impl Finding {
    /// A finding of `rule` with nothing but what was expected and found.
    pub(crate) fn new(rule: &RuleInfo, expected: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding {
            rule: rule.name,
            mm: None,
            va: None,
            level: None,
            entry: None,
            frame: None,
            expected: expected.into(),
            found: found.into(),
            detail: String::new(),
        }
    }

    /// With the address space.
    pub(crate) fn mm(mut self, mm: MmId) -> Finding {
        self.mm = Some(mm);
        self
    }

    /// With the virtual address.
    pub(crate) fn va(mut self, va: u64) -> Finding {
        self.va = Some(va);
        self
    }

    /// With the level.
    pub(crate) fn level(mut self, level: u8) -> Finding {
        self.level = Some(level);
        self
    }

    /// With the entry's word.
    pub(crate) fn entry(mut self, word: u64) -> Finding {
        self.entry = Some(word);
        self
    }

    /// With the frame number.
    pub(crate) fn frame(mut self, pfn: u64) -> Finding {
        self.frame = Some(pfn);
        self
    }

    /// With a note.
    pub(crate) fn detail(mut self, note: impl Into<String>) -> Finding {
        self.detail = note.into();
        self
    }
}

/// Linux's name of a level.
pub(crate) fn level_name(level: u8) -> &'static str {
    match level {
        1 => "PTE",
        2 => "PMD",
        3 => "PUD",
        4 => "PGD",
        _ => "?",
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "violation of {}", self.rule)?;
        if let Some(rule) = crate::rules().iter().find(|r| r.name == self.rule) {
            write!(f, ": {}", rule.statement)?;
        }
        if self.mm.is_some() || self.va.is_some() || self.level.is_some() {
            let mut gap = "";
            write!(f, "\n  where     ")?;
            if let Some(mm) = self.mm {
                write!(f, "{mm}")?;
                gap = ", ";
            }
            if let Some(va) = self.va {
                write!(f, "{gap}va {va:#x}")?;
                gap = ", ";
            }
            if let Some(level) = self.level {
                write!(f, "{gap}level {level} ({})", level_name(level))?;
            }
        }
        if let Some(word) = self.entry {
            write!(f, "\n  entry     {word:#018x} = {}", Pte(word))?;
        }
        if let Some(pfn) = self.frame {
            write!(f, "\n  frame     {pfn:#x}")?;
        }
        write!(f, "\n  expected  {}\n  found     {}", self.expected, self.found)?;
        if !self.detail.is_empty() {
            write!(f, "\n  note      {}", self.detail)?;
        }
        Ok(())
    }
}

/// Managed frames by state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct KindCounts {
    /// Free, below the virgin marks.
    pub free: u64,
    /// Never given out.
    pub virgin: u64,
    /// Page-table pages.
    pub table: u64,
    /// Private memory of processes.
    pub anon: u64,
    /// Page-cache pages.
    pub cache: u64,
    /// Parts of hugetlb pages.
    pub hugetlb: u64,
    /// Kernel memory.
    pub kernel: u64,
    /// The zero page.
    pub zero: u64,
    /// In no state that exists.
    pub unknown: u64,
}

/// The result of one verification.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Report {
    /// A vCPU stood inside a critical section: nothing was checked; resume the guest and try again.
    pub in_critical: bool,
    /// Violations, at most [`crate::Options::max_findings_per_rule`] for each rule.
    pub findings: Vec<Finding>,
    /// Violations beyond that limit.
    pub suppressed: u64,
    /// Entries looked at, absent ones included, over both walks.
    pub entries_walked: u64,
    /// Distinct tables reached from mm roots.
    pub tables: u64,
    /// Of these, tables that more than one entry or root points to.
    pub tables_shared: u64,
    /// Frames whose metadata was checked.
    pub frames_checked: u64,
    /// Live address spaces.
    pub mms: u64,
    /// VMAs in them.
    pub vmas: u64,
    /// Managed frames by state.
    pub kinds: KindCounts,
    /// Shared tables compared word by word with those of the verdict before.
    pub tables_compared: u64,
    /// Addresses whose translation was compared with somebody else's.
    pub addresses_compared: u64,
    /// Why nobody else could be asked.
    pub translate_refused: Option<String>,
    /// Microseconds that the verification took.
    pub micros: u64,
    /// The same in nanoseconds.
    pub nanos: u64,
}

impl Report {
    /// Was everything checked, and right?
    pub fn is_clean(&self) -> bool {
        !self.in_critical && self.findings.is_empty()
    }
}

/// Collects findings, with a limit for each rule.
pub(crate) struct Sink {
    findings: Vec<Finding>,
    counts: Vec<(&'static str, usize)>,
    limit: usize,
    suppressed: u64,
}

impl Sink {
    /// An empty one that keeps `limit` findings for each rule.
    pub(crate) fn new(limit: usize) -> Sink {
        Sink { findings: Vec::new(), counts: Vec::new(), limit, suppressed: 0 }
    }

    /// Records a violation of `rule`; `make` runs only if the limit has not been reached.
    pub(crate) fn report(&mut self, rule: &RuleInfo, make: impl FnOnce() -> Finding) {
        let index = match self.counts.iter().position(|(name, _)| *name == rule.name) {
            Some(index) => index,
            None => {
                self.counts.push((rule.name, 0));
                self.counts.len() - 1
            }
        };
        let count = &mut self.counts[index].1;
        if *count < self.limit {
            *count += 1;
            self.findings.push(make());
        } else {
            self.suppressed += 1;
        }
    }

    /// Violations so far, those beyond the limits included.
    pub(crate) fn total(&self) -> u64 {
        self.findings.len() as u64 + self.suppressed
    }

    /// The findings, to add to them.
    pub(crate) fn findings_mut(&mut self) -> &mut [Finding] {
        &mut self.findings
    }

    /// The findings and the number of those left out.
    pub(crate) fn finish(self) -> (Vec<Finding>, u64) {
        (self.findings, self.suppressed)
    }
}
