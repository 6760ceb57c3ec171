//! What a verdict remembers for the next: the words of tables that were shared copy-on-write ([`History`]).

use std::collections::HashMap;

use ptshare_paging::{ENTRIES, Level, Pte};

use crate::graph::user_slots;

/// Tables remembered, 4 KiB each; those beyond are left out and counted.
const TABLES_MAX: usize = 8192;
/// Changed words that a verdict looks at.
const SUSPECTS_MAX: usize = 64;

/// Shared tables as the last verdict saw them. Keep one for each guest, and give it to every verdict.
#[derive(Clone, Default)]
pub struct History {
    /// Sharings by fork that the guest had counted.
    epoch: u64,
    tables: HashMap<u64, Box<[u64; ENTRIES]>>,
}

/// A word of a shared table that is not what it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    /// The table's frame.
    pub(crate) table: u64,
    pub(crate) slot: usize,
    pub(crate) before: u64,
    pub(crate) now: u64,
}

/// The memory in use by one verdict.
pub(crate) struct Memory<'a> {
    history: &'a mut History,
    next: History,
    /// Every table shared at both instants was so all the time between.
    comparable: bool,
    pub(crate) suspects: Vec<Suspect>,
    pub(crate) compared: u64,
}

/// May a shared table's word become this one? The processor sets A and D, anyone may fill an absent entry as all sharers
/// would, and who copies the table takes R/W from what was in it.
fn allowed(before: u64, now: u64) -> bool {
    let still = Pte::ACCESSED | Pte::DIRTY;
    before == 0 || before & !still == now & !still || before & !still & !Pte::WRITE == now & !still
}

impl<'a> Memory<'a> {
    /// Compares with `history` where no table has become shared since: `epoch` counts the times that fork made one so.
    pub(crate) fn new(history: &'a mut History, epoch: u64) -> Memory<'a> {
        let comparable = history.epoch == epoch;
        let next = History { epoch, tables: HashMap::new() };
        Memory { history, next, comparable, suspects: Vec::new(), compared: 0 }
    }

    /// A table that its count says is shared.
    pub(crate) fn table(&mut self, pfn: u64, level: Level, page: &[u64; ENTRIES]) {
        let kept = self.history.tables.remove(&pfn);
        if let Some(before) = kept.as_deref().filter(|_| self.comparable) {
            self.compared += 1;
            if before != page {
                let words = before.iter().zip(page).take(user_slots(level)).enumerate();
                for (slot, (before, now)) in words.filter(|(_, (before, now))| !allowed(**before, **now)) {
                    if self.suspects.len() < SUSPECTS_MAX {
                        self.suspects.push(Suspect { table: pfn, slot, before: *before, now: *now });
                    }
                }
            }
        }
        if self.next.tables.len() < TABLES_MAX {
            let mut words = kept.unwrap_or_else(|| Box::new([0; ENTRIES]));
            words.copy_from_slice(page);
            self.next.tables.insert(pfn, words);
        }
    }

    /// Remembers this verdict instead of the last.
    pub(crate) fn keep(self) {
        *self.history = self.next;
    }
}
