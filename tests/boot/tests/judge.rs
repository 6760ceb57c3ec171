//! The judge is judged: a dump of a real guest is corrupted in every known way, and the right rule must report each time.

use ptshare_boot_tests::{Programs, config, guest};
use ptshare_verifier::testing::{Verdict, run_corruptions};
use ptshare_verifier::{Options, dump, rules, verify};
use ptshare_vmm::{Config, Ending};
use std::collections::BTreeSet;

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

#[test]
fn a_guest_that_nobody_judges_runs_the_same() {
    let Some(built) = guest() else { return };
    let mut programs = Programs::new();
    programs.test_program(&built, "fork_cow");
    let config = Config { verify: ptshare_vmm::VerifyMode::Off, ..config(&built, "pte") };
    let (outcome, results) = programs.boot(&built, config);
    assert!(matches!(outcome.ending, Ending::Exited(_)), "{}", outcome.ending);
    assert!(results[0].passed(), "{}", results[0].ending());
    assert!(outcome.verifier.checkpoints > 0 && outcome.verifier.verified == 0);
}
