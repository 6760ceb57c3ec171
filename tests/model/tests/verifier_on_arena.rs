//! Random families of processes: the judge looks after every step, and finds nothing; then every corruption that it knows
//! is tried on what they left, and each is found by its own rule.

use ptshare_mm::testing::{Arena, Image};
use ptshare_mm::{Env, MapRequest, Mm, Sharing};
use ptshare_model_tests::args::{
    MADV_DONTNEED, MADV_REMOVE, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, MREMAP_MAYMOVE_FIXED,
    PROT_READ, PROT_WRITE,
};
use ptshare_model_tests::{View, judge, judge_again, vcpu};
use ptshare_paging::{Level, PAGE_BYTES};
use ptshare_verifier::testing::{Verdict, run_corruptions};
use ptshare_verifier::{History, Report};
use std::sync::Arc;

const SPAN: u64 = Level::Pte.span_bytes();
/// The processes live in four PTE pages' spans, across the end of a PMD page's.
const BASE: u64 = 0x10_4000_0000 - 2 * SPAN;
const PAGES: u64 = 4 * 512;
const SEEDS: u64 = 6;
const PROCESSES_MAX: usize = 6;
/// Steps from one look at shared tables to the next.
const LOOKS: u64 = 5;

struct Family {
    arena: Arena,
    mode: Sharing,
    mms: Vec<Arc<Mm<Arena>>>,
}

impl Family {
    fn new(mode: Sharing, seed: u64) -> Family {
        let arena = Arena::new(6000);
        for _ in 0..seed {
            arena.random();
        }
        let first = Mm::new(arena.clone()).unwrap();
        Family { arena, mode, mms: vec![first] }
    }

    fn below(&self, n: u64) -> u64 {
        self.arena.random() % n
    }

    /// A range of up to two PTE pages' spans; often whole spans, because sharing treats those differently.
    fn range(&self) -> (u64, u64) {
        if self.below(3) == 0 {
            return (BASE + self.below(4) * SPAN, SPAN);
        }
        let first = self.below(PAGES);
        let pages = 1 + self.below((PAGES - first).min(600));
        (BASE + first * PAGE_BYTES, pages * PAGE_BYTES)
    }

    fn map(&self, mm: &Mm<Arena>) {
        let (addr, len) = self.range();
        let kind = if self.below(4) == 0 { MAP_SHARED } else { MAP_PRIVATE };
        let request = MapRequest {
            addr,
            flags: kind | MAP_FIXED | MAP_ANONYMOUS,
            ..MapRequest::anonymous(len, PROT_READ | (self.below(2) * PROT_WRITE))
        };
        // Shortage and limits are answers like any other: what they leave must be sound.
        let _ = mm.mmap(request);
    }

    fn step(&mut self) {
        let who = self.below(self.mms.len() as u64) as usize;
        let mm = self.mms[who].clone();
        let (addr, len) = self.range();
        match self.below(16) {
            0 | 1 => self.map(&mm),
            2 => {
                let _ = mm.munmap(addr, len);
            }
            3 => {
                let _ = mm.mprotect(addr, len, self.below(4));
            }
            4 => {
                let advice = if self.below(2) == 0 { MADV_DONTNEED } else { MADV_REMOVE };
                let _ = mm.madvise(addr, len, advice);
            }
            5 => {
                let target = BASE + self.below(4) * SPAN;
                let _ = mm.mremap(addr, len, len, MREMAP_MAYMOVE_FIXED, target);
            }
            6 | 7 if self.mms.len() < PROCESSES_MAX => {
                let mode = if self.below(8) == 0 { Sharing::None } else { self.mode };
                if let Ok(child) = mm.fork(mode, self.below(2) as u32) {
                    self.mms.push(child);
                }
            }
            8 if self.mms.len() > 1 => {
                self.mms.swap_remove(who);
            }
            9..=11 => {
                let _ = self.arena.user_load(&mm, addr);
            }
            _ => {
                let _ = self.arena.user_store(&mm, addr, addr ^ 1);
            }
        }
    }

    fn refs(&self) -> Vec<&Mm<Arena>> {
        self.mms.iter().map(|mm| &**mm).collect()
    }

    fn assert_clean(&self, when: &str) {
        Family::assert_report(judge(&self.arena, &self.refs()), when);
    }

    fn assert_report(report: Report, when: &str) {
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(report.is_clean(), "{when}:\n{}", findings.join("\n"));
    }
}

fn life(mode: Sharing) {
    let mut compared = 0;
    for seed in 0..SEEDS {
        let mut family = Family::new(mode, seed);
        let free = family.arena.free_frames();
        let mut history = History::default();
        for step in 0..150 {
            family.step();
            family.assert_clean(&format!("seed {seed} step {step}"));
            if step % LOOKS == 0 {
                let report = judge_again(&family.arena, &family.refs(), &mut history);
                compared += report.tables_compared;
                Family::assert_report(report, &format!("seed {seed} up to step {step}"));
            }
        }
        family.mms.clear();
        family.assert_clean("after the last exit");
        // The first mm's root came back too.
        assert_eq!(family.arena.free_frames(), free + 1, "frames are lost");
    }
    assert_eq!(compared > 0, mode != Sharing::None, "{compared} shared tables were compared");
}

#[test]
fn the_judge_finds_nothing_when_every_level_is_copied() {
    life(Sharing::None);
}

#[test]
fn the_judge_finds_nothing_when_pte_pages_are_shared() {
    life(Sharing::Pte);
}

#[test]
fn the_judge_finds_nothing_when_whole_trees_are_shared() {
    life(Sharing::Tree);
}

#[test]
fn every_corruption_of_a_family_is_found_by_its_own_rule() {
    let mut caught = 0;
    for seed in 100..104 {
        let mut family = Family::new(Sharing::Pte, seed);
        (0..80).for_each(|_| family.step());
        let path = std::env::temp_dir().join(format!("ptshare-model-{}-{seed}.ptdump", std::process::id()));
        let view = View(family.arena.image(&family.refs()));
        let vcpus = [vcpu(&family.arena)];
        let pfns = view.0.populated();
        ptshare_verifier::dump::write(&path, &view, Image::HEADER_PA, &vcpus, pfns.into_iter()).unwrap();
        let (image, census, vcpus) = ptshare_verifier::dump::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for trial in run_corruptions(&image, census, &vcpus) {
            match trial.verdict {
                Verdict::Caught => caught += 1,
                // Four corruptions need what an arena does not have (kernel frames, a loaded mm).
                Verdict::NoVictim => {}
                Verdict::Wrong(findings) => panic!("{}: {findings:?}", trial.corruption.name),
            }
        }
    }
    assert!(caught > 40, "only {caught} corruptions found a victim");
}

#[test]
fn another_page_of_the_file_may_come_where_one_was_punched_out() {
    let family = Family::new(Sharing::Pte, 0);
    let first = family.mms[0].clone();
    // Not the whole span of a table, which would be the object's.
    let request = MapRequest {
        addr: BASE,
        flags: MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS,
        ..MapRequest::anonymous(16 * PAGE_BYTES, PROT_READ | PROT_WRITE)
    };
    first.mmap(request).unwrap();
    family.arena.user_store(&first, BASE, 7).unwrap();
    let child = first.fork(Sharing::Pte, 0).unwrap();
    let mms = [&*first, &*child];
    let mut history = History::default();
    Family::assert_report(judge_again(&family.arena, &mms, &mut history), "after fork");
    child.madvise(BASE, PAGE_BYTES, MADV_REMOVE).unwrap();
    // The page's frame goes to another.
    for at in [BASE + PAGE_BYTES, BASE] {
        assert_eq!(family.arena.user_load(&first, at).unwrap(), 0);
    }
    let report = judge_again(&family.arena, &mms, &mut history);
    assert_eq!(report.tables_compared, 1);
    Family::assert_report(report, "with another page");
}
