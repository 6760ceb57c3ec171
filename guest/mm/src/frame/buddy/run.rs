//! Runs of frames longer than the largest block, for pages of 1 GiB (Linux: `alloc_contig_pages`, mm/page_alloc.c; but no
//! page moves to make room).
//!
//! A run is found by looking at each aligned place in turn, from below: at the heads of the free blocks that lie there, at
//! most one for each 2 MiB of what is really free, and at nothing at all where memory is virgin. Rare and asked for by
//! name, so it may take its time.

use super::{Buddy, DIRTY, ZEROED, listed_class};
use crate::Env;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_wire::RamRange;

impl Buddy {
    /// Takes `1 << order` consecutive frames, aligned to their number, off the lists and out of virgin memory; gives the
    /// first and the class of the content.
    pub(super) fn take_run<E: Env>(&mut self, env: &E, order: u32) -> Option<(u64, usize)> {
        let frames = 1 << order;
        env.census().ram.iter().find_map(|range| {
            let end = range.end.load(Relaxed);
            let mut first = range.start.load(Relaxed).next_multiple_of(frames);
            while first + frames <= end {
                if let Some(class) = self.run_class(env, range, first, first + frames) {
                    self.claim(env, range, first, first + frames);
                    return Some((first, class));
                }
                first += frames;
            }
            None
        })
    }

    /// Are the frames `[first, end)` of this range all free? Then: the class that the whole has.
    fn run_class<E: Env>(&self, env: &E, range: &RamRange, first: u64, end: u64) -> Option<usize> {
        let virgin = range.virgin.load(Relaxed);
        let listed = if first < virgin { listed_class(env, first, end.min(virgin))? } else { ZEROED };
        let fresh = if virgin < end { self.virgin_class } else { ZEROED };
        Some(if listed == ZEROED && fresh == ZEROED { ZEROED } else { DIRTY })
    }

    /// Takes frames that are free. Virgin ones below them go to the lists.
    fn claim<E: Env>(&mut self, env: &E, range: &RamRange, first: u64, end: u64) {
        let virgin = range.virgin.load(Relaxed);
        if first < virgin {
            self.remove_parts(env, first, end.min(virgin));
        }
        if virgin < end {
            range.virgin.store(end, Relaxed);
            self.virgin_left -= end - virgin;
            self.list_skipped(env, virgin, first);
        }
    }
}
