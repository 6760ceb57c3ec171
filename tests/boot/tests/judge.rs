//! The judge is judged: a dump of a real guest is corrupted in every known way, and the right rule must report each time.

use ptshare_boot_tests::{Programs, assert_clean, config, guest};
use ptshare_verifier::testing::{Verdict, fuzz, run_corruptions};
use ptshare_verifier::{Options, dump, rules, verify};
use ptshare_vmm::{Config, Ending, RandomVerify, Verify};
use std::collections::BTreeSet;
use xtask::batch::JobResult;

#[test]
fn every_corruption_of_a_real_guest_is_reported_by_its_rule() {
    let Some(built) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.ptdump");
    let mut programs = Programs::new();
    programs.test_program(&built, "family");
    let config = Config {
        dump_path: Some(path.clone()),
        cmdline_extra: "hugepages=4".into(),
        ..config(&built, "pte")
    };
    let (outcome, results) = programs.boot(&built, config);
    assert!(matches!(outcome.ending, Ending::Exited(_)), "{}\n{}", outcome.ending, outcome.kernel_log);
    assert!(path.exists(), "no dump: {}", String::from_utf8_lossy(&results[0].stderr));

    let (image, census, vcpus) = dump::read(&path).unwrap();
    let report = verify(&image, census, &vcpus, &Options::default());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(report.tables_shared > 0, "nothing is shared in this guest");

    let mut hostile = image.clone();
    let fuzzed = fuzz(&mut hostile, census, &vcpus, 2, 1000).unwrap();
    eprintln!("{fuzzed:?}");
    assert!(fuzzed.cases == 1000 && fuzzed.accused > 300, "{fuzzed:?}");

    let mut shown = BTreeSet::new();
    let mut wrong = String::new();
    for trial in run_corruptions(&image, census, &vcpus) {
        match trial.verdict {
            Verdict::Caught => {
                shown.insert(trial.corruption.rule);
            }
            // Not every guest holds a victim for every corruption; the synthetic one of the judge's own tests does.
            Verdict::NoVictim => eprintln!("{}: no victim in this guest", trial.corruption.name),
            Verdict::Wrong(findings) => {
                wrong += &format!("{} (must be {}):\n", trial.corruption.name, trial.corruption.rule);
                for finding in findings {
                    wrong += &format!("  {finding}\n");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let silent: Vec<_> = rules().iter().map(|rule| rule.name).filter(|name| !shown.contains(name)).collect();
    assert!(silent.is_empty(), "rules that no corruption of this guest showed: {silent:?}");
}

/// Programs that fork and change mappings for a second or so.
const BUSY: &[&str] =
    &["fork_chain", "fork_cow", "mprotect_cow", "munmap_partial", "mremap_cow", "object_unshare"];

#[test]
fn random_instants_are_judged_between_critical_sections() {
    let Some(built) = guest() else { return };
    for sharing in ["pte", "tree"] {
        let mut programs = Programs::new();
        for name in BUSY {
            programs.test_program(&built, name);
        }
        let random = Some(RandomVerify { hz: 50.0, seed: 3 });
        let (outcome, results) = programs.boot(&built, Config { random, ..config(&built, sharing) });
        assert_clean(&outcome);
        assert!(results.iter().all(JobResult::passed), "{results:?}");
        let counts = outcome.verifier.random;
        eprintln!("sharing={sharing}: {counts:?}");
        assert!(counts.verdicts >= 20, "{counts:?}");
        // The run may end in the middle of the last.
        assert!((0..=1).contains(&(counts.pauses - counts.retries - counts.verdicts)), "{counts:?}");
        // This KVM and the judge translate alike, and shared tables stay as they were.
        assert!(outcome.verifier.translated > counts.verdicts, "{:?}", outcome.verifier);
        assert!(outcome.verifier.tables_compared > 0, "{:?}", outcome.verifier);
        // Those of the checkpoints come on top.
        assert!(outcome.verifier.verified > counts.verdicts, "{:?}", outcome.verifier);
    }
}

#[test]
fn every_fault_is_judged() {
    let Some(built) = guest() else { return };
    let mut programs = Programs::new();
    programs.test_program(&built, "small_fork");
    let Verify { mode, random } = "every-fault+random:100,1".parse().unwrap();
    let (outcome, results) = programs.boot(&built, Config { verify: mode, random, ..config(&built, "pte") });
    assert_clean(&outcome);
    assert!(results[0].passed(), "{}", results[0].ending());
    let faults = outcome.stat("page_faults");
    assert!(faults > 100, "{faults} faults");
    // System calls fault in what they touch without a checkpoint of their own.
    let judged = outcome.verifier.checkpoints;
    assert!(judged * 10 >= faults * 9, "{judged} for {faults} faults");
    assert!(outcome.verifier.random.pauses > 0, "{:?}", outcome.verifier);
}

#[test]
fn a_guest_that_nobody_judges_runs_the_same() {
    let Some(built) = guest() else { return };
    let mut programs = Programs::new();
    programs.test_program(&built, "fork_cow");
    let config = Config { verify: ptshare_vmm::VerifyMode::Off, random: None, ..config(&built, "pte") };
    let (outcome, results) = programs.boot(&built, config);
    assert!(matches!(outcome.ending, Ending::Exited(_)), "{}", outcome.ending);
    assert!(results[0].passed(), "{}", results[0].ending());
    assert!(outcome.verifier.checkpoints > 0 && outcome.verifier.verified == 0);
}
