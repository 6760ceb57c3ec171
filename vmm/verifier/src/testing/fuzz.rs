//! Hostile memory: seeded mutations of an image, each judged. The judge must come back, whatever it says.

use std::mem::size_of;

use ptshare_paging::{ENTRIES, PAGE_BYTES, PAGE_SHIFT, Pte};
use ptshare_wire::frame::FRAME_META_BYTES;
use ptshare_wire::{CensusHeader, CpuRec, MmRec};

use super::scout::Scout;
use crate::view::{Image, PhysView};
use crate::{Aids, History, Options, Vcpu, verify_with};

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fuzzed {
    /// Images judged.
    pub cases: u64,
    /// Of these, images in which the judge found something.
    pub accused: u64,
    /// Images that it did not judge because a CPU seemed to be inside a critical section.
    pub critical: u64,
    /// Findings in all.
    pub findings: u64,
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len() as u64) as usize)
    }
}

/// An image that ends early, as a dump that was cut off would.
struct Cut<'a> {
    image: &'a Image,
    /// First frame that is not there.
    end: u64,
}

impl PhysView for Cut<'_> {
    fn read_bytes(&self, pa: u64, out: &mut [u8]) -> bool {
        let last = pa.checked_add(out.len() as u64);
        last.is_some_and(|last| last <= self.end * PAGE_BYTES) && self.image.read_bytes(pa, out)
    }
}

/// Pages worth changing, by what they hold.
struct Targets {
    pages: Vec<Vec<u64>>,
    tables: Vec<u64>,
    frames: u64,
}

impl Targets {
    fn new(image: &Image, census_pa: u64) -> Option<Targets> {
        let scout = Scout::new(image, census_pa)?;
        let span =
            |pa: u64, bytes: u64| (pa >> PAGE_SHIFT..(pa + bytes.max(1)).div_ceil(PAGE_BYTES)).collect();
        let tables: Vec<u64> = scout.graph.tables.iter().map(|table| table.pfn).collect();
        // The metadata of the tables and of what they map lies near each other; the rest of the array is of free frames.
        let meta = |pfn: &u64| (scout.census.frame_array + pfn * FRAME_META_BYTES) >> PAGE_SHIFT;
        let mut metas: Vec<u64> = tables.iter().map(meta).collect();
        metas.extend(scout.leaves.iter().take(4096).map(|place| meta(&place.word.pfn().0)));
        metas.sort_unstable();
        metas.dedup();
        let vmas =
            (0..scout.mms.len()).filter_map(|mm| scout.vma_pa(image, mm, 0)).map(|pa| pa >> PAGE_SHIFT);
        let pages = vec![
            span(census_pa, size_of::<CensusHeader>() as u64),
            span(scout.census.cpu_table, size_of::<CpuRec>() as u64),
            span(scout.census.mm_table, scout.census.mm_high * size_of::<MmRec>() as u64),
            metas,
            tables.clone(),
            tables.clone(),
            vmas.collect(),
        ];
        Some(Targets { pages, tables, frames: scout.census.frames })
    }

    /// Changes a word, or a whole page.
    fn mutate(&self, image: &mut Image, random: &mut Random) -> Option<()> {
        let pages = random.one(&self.pages)?;
        let pfn = *random.one(pages)?;
        let entry = |flags: u64, frame: u64| frame << PAGE_SHIFT | flags & 0x8000_0000_0000_0fff;
        if random.below(16) == 0 {
            let kind = random.below(4);
            let mut other = [0; ENTRIES];
            image.read_page(*random.one(&self.tables)?, &mut other);
            for word in image.page_mut(pfn).iter_mut().zip(other) {
                *word.0 = match kind {
                    0 => random.next(),
                    1 => word.1,
                    // A fan: every word points to a table.
                    2 => *random.one(&self.tables)? << PAGE_SHIFT | 0x27,
                    _ => 0,
                };
            }
            return Some(());
        }
        let used = random.below(4) != 0;
        let mut slot = random.below(ENTRIES as u64) as usize;
        let page = image.page_mut(pfn);
        if used {
            // Most pages are sparse: a word that says something.
            slot = (0..ENTRIES).map(|i| (slot + i) % ENTRIES).find(|slot| page[*slot] != 0).unwrap_or(slot);
        }
        let word = page.get_mut(slot)?;
        *word = match random.below(9) {
            0 => random.next(),
            1 => *word ^ 1 << random.below(64),
            2 => word.wrapping_add(random.below(64)).wrapping_sub(32),
            3 => entry(random.next(), *random.one(&self.tables)?),
            4 => entry(random.next(), random.below(self.frames + 64)),
            5 => *word & !Pte::ADDR | *random.one(&self.tables)? << PAGE_SHIFT,
            6 => u64::MAX >> random.below(64),
            7 => word.rotate_left(32),
            _ => 0,
        };
        Some(())
    }
}

/// Judges `cases` mutations of `image`, which is as it was afterwards. `None` if the image has no sound census to begin with.
pub fn fuzz(image: &mut Image, census_pa: u64, vcpus: &[Vcpu], seed: u64, cases: u64) -> Option<Fuzzed> {
    let targets = Targets::new(image, census_pa)?;
    let mut random = Random(seed);
    let mut sum = Fuzzed::default();
    // Little enough that a tangle of tables ends soon.
    let options = Options { max_findings_per_rule: 4, entry_budget: 16 << 20 };
    let mut history = History::default();
    for _ in 0..cases {
        image.remember();
        for _ in 0..=random.below(8) {
            targets.mutate(image, &mut random);
        }
        let mut asked = |_: u32, addresses: &[u64]| Ok(vec![None; addresses.len()]);
        let seed = random.next();
        let report = if random.below(8) == 0 {
            let cut = Cut { image, end: random.below(targets.frames) };
            verify_with(&cut, census_pa, vcpus, &options, Aids::default())
        } else {
            let aids = Aids { history: Some(&mut history), translate: Some(&mut asked), seed };
            verify_with(image, census_pa, vcpus, &options, aids)
        };
        sum.cases += 1;
        sum.accused += u64::from(!report.findings.is_empty());
        sum.critical += u64::from(report.in_critical);
        sum.findings += report.findings.len() as u64 + report.suppressed;
        for finding in &report.findings {
            // What is said of hostile memory must be printable too.
            sum.findings += u64::from(finding.to_string().is_empty());
        }
        image.undo();
    }
    Some(sum)
}
