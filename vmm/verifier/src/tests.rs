//! Tests of the whole judge: clean guests, seeded corruptions, hostile memory, dumps.

use proptest::prelude::*;

use crate::testing::{Guest, Verdict, corrupt, corruptions, fuzz, run_corruptions, sample, sample_gib};
use crate::{Image, Options, PhysView, Report, dump, rules, verify};

fn print(report: &Report) -> String {
    report.findings.iter().map(|f| format!("{f}\n")).collect()
}

#[test]
fn a_clean_guest_has_no_findings() {
    let report = sample().verify();
    assert!(report.is_clean(), "{}", print(&report));
    assert_eq!(report.mms, 5);
    assert!(report.tables > 20 && report.tables_shared >= 5, "{report:?}");
    assert!(report.kinds.free > 0 && report.kinds.virgin > 0 && report.kinds.hugetlb == 4 * 512);
}

#[test]
fn a_clean_guest_with_pages_of_1_gib_has_no_findings() {
    let report = sample_gib().verify();
    assert!(report.is_clean(), "{}", print(&report));
    assert_eq!(report.kinds.hugetlb, 2 * (1 << 18) + 512);
}

#[test]
fn each_corruption_is_reported_by_its_rule_alone() {
    let (guest, gib) = (sample(), sample_gib());
    let mut wrong = String::new();
    for trial in run_corruptions(&guest.image, guest.census_pa, &guest.vcpus) {
        let name = trial.corruption.name;
        // What the small guest has no victim for is about pages of 1 GiB.
        let verdict = match trial.verdict {
            Verdict::NoVictim => corrupt(trial.corruption, &gib.image, gib.census_pa, &gib.vcpus).verdict,
            verdict => verdict,
        };
        match verdict {
            Verdict::Caught => {}
            Verdict::NoVictim => wrong += &format!("{name}: no victim\n"),
            Verdict::Wrong(findings) => {
                wrong += &format!("{name}: expected {}, got\n", trial.corruption.rule);
                for finding in findings {
                    wrong += &format!("{finding}\n");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_rule_has_a_corruption_and_every_corruption_a_rule() {
    for rule in rules() {
        assert!(corruptions().iter().any(|c| c.rule == rule.name), "{}", rule.name);
    }
    for corruption in corruptions() {
        assert!(rules().iter().any(|r| r.name == corruption.rule), "{}", corruption.name);
    }
}

#[test]
fn a_critical_section_postpones_the_verdict() {
    let mut guest = sample();
    let cpu_table = 0x10_1000;
    let critical = cpu_table + std::mem::offset_of!(ptshare_wire::CpuRec, critical) as u64;
    assert!(guest.image.write_u32(critical, 1));
    let report = guest.verify();
    assert!(report.in_critical && report.findings.is_empty() && !report.is_clean());
}

#[test]
fn a_finding_names_the_process_that_maps_a_frame() {
    let mut guest = sample();
    let corruption = corruptions().iter().find(|c| c.name == "anon_refs_one_more").unwrap();
    assert!((corruption.apply)(&mut guest.image, guest.census_pa));
    let report = guest.verify();
    let finding = &report.findings[0];
    assert!(finding.mm.is_some() && finding.va.is_some() && finding.entry.is_some());
    let text = finding.to_string();
    for part in
        ["violation of leaf-refs-equal-maps", "pid ", "level 1 (PTE)", "expected", "found", "mapped by"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn findings_are_limited_for_each_rule_and_counted_beyond() {
    let mut guest = sample();
    let options = Options { max_findings_per_rule: 1, ..Options::default() };
    let corruption = corruptions().iter().find(|c| c.name == "leaf_to_free_frame").unwrap();
    assert!((corruption.apply)(&mut guest.image, guest.census_pa));
    let corruption = corruptions().iter().find(|c| c.name == "mapped_frame_freed").unwrap();
    assert!((corruption.apply)(&mut guest.image, guest.census_pa));
    let report = verify(&guest.image, guest.census_pa, &guest.vcpus, &options);
    assert_eq!(report.findings.len(), 1, "{}", print(&report));
    assert!(report.suppressed > 0);
}

#[test]
fn a_spent_budget_is_a_finding() {
    let guest = sample();
    let options = Options { entry_budget: 5000, ..Options::default() };
    let report = verify(&guest.image, guest.census_pa, &guest.vcpus, &options);
    assert!(report.findings.iter().any(|f| f.rule == "census-is-sound"));
}

#[test]
fn no_memory_at_all_is_a_finding() {
    let report = verify(&Image::new(), 0x1000, &[], &Options::default());
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].rule, "census-is-sound");
}

/// Thousands of hostile images: random words, tangled tables, memory cut off. Each gets a verdict.
#[test]
fn mutated_images_are_judged_without_a_panic() {
    let guest = sample();
    let mut image = guest.image.clone();
    let fuzzed = fuzz(&mut image, guest.census_pa, &guest.vcpus, 1, 4000).unwrap();
    println!("{fuzzed:?}");
    assert_eq!(fuzzed.cases, 4000);
    // Most mutations hit something that matters; some hit words that no rule reads.
    assert!(fuzzed.accused > 2000 && fuzzed.accused < 4000, "{fuzzed:?}");
    assert!(same_memory(&guest.image, &image), "the image is not as it was");
    assert!(Guest { image, ..guest }.verify().is_clean());
}

/// Frames without any order, and no census worth the name.
#[test]
fn random_memory_is_judged_without_a_panic() {
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 11
    };
    let guest = sample();
    let mut header = [0; 512];
    assert!(guest.image.read_page(guest.census_pa >> 12, &mut header));
    for case in 0..500 {
        let mut image = Image::new();
        image.add_extent(0..0x2000);
        for _ in 0..40 {
            let page = image.page_mut(random() % 0x2000);
            page.fill_with(|| random() << (random() % 12));
        }
        if case % 2 == 0 {
            image.set_page(guest.census_pa >> 12, &header);
        }
        let report = verify(&image, guest.census_pa, &guest.vcpus, &small());
        assert!(!report.is_clean(), "random memory is no guest");
    }
}

fn same_memory(a: &Image, b: &Image) -> bool {
    let (mut x, mut y) = ([0; 512], [0; 512]);
    (0..0x2100).all(|pfn| a.read_page(pfn, &mut x) == b.read_page(pfn, &mut y) && x == y)
}

#[test]
fn a_dump_comes_back_whole() {
    let guest = sample();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.ptdump");
    let pages = guest.image.populated();
    dump::write(&path, &guest.image, guest.census_pa, &guest.vcpus, pages).unwrap();
    let (image, census_pa, vcpus) = dump::read(&path).unwrap();
    assert_eq!((census_pa, &vcpus), (guest.census_pa, &guest.vcpus));
    assert!(same_memory(&guest.image, &image));
    assert!(Guest { image, census_pa, vcpus }.verify().is_clean());
}

/// A view that cannot tell its extents, as a device file could not.
struct NoExtents<'a>(&'a Image);

impl PhysView for NoExtents<'_> {
    fn read_bytes(&self, pa: u64, out: &mut [u8]) -> bool {
        self.0.read_bytes(pa, out)
    }
}

#[test]
fn a_dump_takes_its_extents_from_the_census_if_need_be() {
    let guest = sample();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.ptdump");
    let mut pages: Vec<u64> = guest.image.populated().collect();
    pages.sort();
    dump::write(&path, &NoExtents(&guest.image), guest.census_pa, &guest.vcpus, pages.into_iter()).unwrap();
    let (image, census_pa, vcpus) = dump::read(&path).unwrap();
    assert!(Guest { image, census_pa, vcpus }.verify().is_clean());
}

#[test]
fn a_cut_or_foreign_dump_is_an_error() {
    let guest = sample();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.ptdump");
    dump::write(&path, &guest.image, guest.census_pa, &guest.vcpus, guest.image.populated()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for len in [0, 7, 8, 20, 31, 40, 100, 4100, whole.len() / 2, whole.len() - 16, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(dump::read(&path).is_err(), "{len} bytes");
    }
    let mut foreign = whole.clone();
    foreign[0] ^= 1;
    std::fs::write(&path, &foreign).unwrap();
    assert!(matches!(dump::read(&path), Err(dump::DumpError::Format(_))));
    assert!(dump::read(&dir.path().join("none")).is_err());
}

/// Options under which hostile memory cannot take long.
fn small() -> Options {
    Options { max_findings_per_rule: 4, entry_budget: 4 << 20 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any words of the books and tables changed: a verdict, never a panic.
    #[test]
    fn changed_words_never_panic(
        changes in proptest::collection::vec((0u64..0x700, 0usize..512, any::<u64>(), 0u8..4), 1..40),
    ) {
        let mut guest = sample();
        for (page, slot, random, how) in changes {
            // The pages in use: census, mm table, frame array, tables.
            let pfn = match page { 0..0x200 => 0x100 + page % 8, 0x200..0x300 => 0x310 + page % 64, _ => 0x100 + page };
            let word = &mut guest.image.page_mut(pfn)[slot];
            *word = match how {
                0 => random,
                1 => *word ^ 1 << (random % 64),
                2 => word.wrapping_add(random % 16),
                _ => (random % 0x2000) << 12 | 0x67,
            };
        }
        let report = verify(&guest.image, guest.census_pa, &guest.vcpus, &small());
        for finding in &report.findings {
            prop_assert!(!finding.to_string().is_empty());
        }
    }

    /// Every table full of pointers to tables: cycles and fans end.
    #[test]
    fn tangled_tables_end(seed in any::<u64>()) {
        let mut guest = sample();
        let mut state = seed | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let pages: Vec<u64> = guest.image.populated().filter(|p| *p >= 0x400).collect();
        for pfn in pages {
            if random() % 4 == 0 {
                for slot in 0..512 {
                    guest.image.page_mut(pfn)[slot] = (0x400 + random() % 0x100) << 12 | 0x67;
                }
            }
        }
        let report = verify(&guest.image, guest.census_pa, &guest.vcpus, &small());
        prop_assert!(!report.is_clean() || seed == 0);
    }

    /// A header of random words, magic right: bounded.
    #[test]
    fn random_headers_end(words in proptest::collection::vec(any::<u64>(), 48)) {
        let mut guest = sample();
        for (slot, word) in words.iter().enumerate().skip(2) {
            guest.image.page_mut(0x100)[slot] = *word >> (word % 64);
        }
        verify(&guest.image, guest.census_pa, &guest.vcpus, &small());
    }
}
