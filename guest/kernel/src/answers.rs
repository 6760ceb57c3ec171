//! What the kernel says of itself, for the judge to compare with what it finds in the page tables: reverse maps, and the
//! numbers of /proc. The area and its rules are in `ptshare_wire::answers`.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_machine::smp::{self, Stopped};
use ptshare_machine::{Machine, boot};
use ptshare_mm::Env;
use ptshare_mm::rmap::{NoReverseMap, for_each_mapping, for_each_mm};
use ptshare_paging::Pfn;
use ptshare_sync::{Lock, Rank};
use ptshare_wire::FrameKind;
use ptshare_wire::answers::ANSWER_USAGES;

/// Frames looked at for one that has a reverse map.
const TRIES: u64 = 64;
/// Processes with more tables than this are not asked for their numbers, which take a look at every leaf.
const USAGE_TABLES_MAX: u64 = 256;

/// Somewhere that the frame asked for last is mapped, for readers of /dev/ptshare.
#[derive(Clone, Copy)]
pub struct Place {
    /// The process, by the record of its mm.
    pub pid: u64,
    /// The address.
    pub va: u64,
}

static LAST: Lock<Vec<Place>> = Lock::new(Rank::Registry, Vec::new());

/// Where the frame of the last [`frame`] was mapped.
pub fn last() -> Vec<Place> {
    LAST.lock().clone()
}

/// Answers that stand until this is dropped: no other CPU runs meanwhile, which could change what they are about.
pub struct Given(Stopped);

impl Given {
    /// None yet. No lock is held.
    fn nothing() -> Given {
        Given(smp::stop_others())
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let area = boot::answers();
        area.frames.store(0, Relaxed);
        area.usages.store(0, Relaxed);
    }
}

/// Answers for `frames` of the frames in use, chosen at random.
pub fn sample(frames: usize) -> Given {
    let given = Given::nothing();
    (0..frames).filter_map(|_| random_frame()).for_each(|pfn| {
        // One whose places are too many goes unasked.
        let _ = add_frame(pfn);
    });
    given
}

/// Adds answers with /proc's numbers of every process whose tables are not too many.
pub fn usages(_given: &Given) {
    let area = boot::answers();
    for_each_mm(&Machine, &mut |mm| {
        let n = area.usages.load(Relaxed);
        let few = mm.rec().table_pages.load(Relaxed) <= USAGE_TABLES_MAX;
        let Some(answer) = area.usage.get(n as usize).filter(|_| few && n < ANSWER_USAGES as u64) else {
            return;
        };
        let usage = mm.usage();
        answer.slot.store(u64::from(mm.slot()), Relaxed);
        answer.rss_anon.store(usage.rss_anon, Relaxed);
        answer.rss_object.store(usage.rss_file + usage.rss_shmem, Relaxed);
        answer.hugetlb.store(usage.hugetlb, Relaxed);
        answer.tables.store(usage.table_pages, Relaxed);
        answer.tables_shared.store(usage.shares.shared_pages, Relaxed);
        answer.tables_prop.store(usage.shares.proportional, Relaxed);
        area.usages.store(n + 1, Relaxed);
    });
}

/// Answers for one frame, and remembers the places.
///
/// # Errors
/// [`NoReverseMap`].
pub fn frame(pfn: Pfn) -> Result<Given, NoReverseMap> {
    let given = Given::nothing();
    add_frame(pfn)?;
    Ok(given)
}

fn add_frame(pfn: Pfn) -> Result<(), NoReverseMap> {
    let area = boot::answers();
    let n = area.frames.load(Relaxed);
    let Some(answer) = area.frame.get(n as usize) else { return Ok(()) };
    let first = match n.checked_sub(1).and_then(|last| area.frame.get(last as usize)) {
        Some(last) => last.first.load(Relaxed) + last.places.load(Relaxed),
        None => 0,
    };
    let (mut places, mut left_out) = (0, 0);
    let mut list = Vec::new();
    for_each_mapping(&Machine, pfn, &mut |mm, va| {
        match area.place.get((first + places) as usize) {
            Some(place) => {
                place.slot.store(u64::from(mm.slot()), Relaxed);
                place.va.store(va, Relaxed);
                places += 1;
            }
            None => left_out += 1,
        }
        if list.try_reserve(1).is_ok() {
            list.push(Place { pid: mm.rec().pid.load(Relaxed), va });
        }
    })?;
    let before = core::mem::replace(&mut *LAST.lock(), list);
    drop(before);
    answer.pfn.store(pfn.0, Relaxed);
    answer.first.store(first, Relaxed);
    answer.places.store(places, Relaxed);
    answer.left_out.store(left_out, Relaxed);
    area.frames.store(n + 1, Relaxed);
    Ok(())
}

/// A frame that has a reverse map, near a random place.
fn random_frame() -> Option<Pfn> {
    let range = Machine.census().ram.iter().max_by_key(|range| range.virgin.load(Relaxed))?;
    let (start, end) = (range.start.load(Relaxed), range.virgin.load(Relaxed));
    let from = start + Machine.random() % end.saturating_sub(start).max(1);
    (from..end.min(from + TRIES)).map(Pfn).find(|&pfn| {
        let state = Machine.meta(pfn).state.load(Relaxed);
        state & 0xff == FrameKind::Anon as u32 || state & 0xff == FrameKind::Cache as u32
    })
}
