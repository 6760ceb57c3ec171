//! Do the host-side tests of the core notice the deliberate bugs of `ptshare-mutants`? Each is switched on in turn, and random
//! calls are played against the model until something is wrong.
//!
//!     cargo test -p ptshare-model-tests --features mutants --test mutants -- --nocapture
//!
//! `PTSHARE_MUTANTS=NAME,..` tries these alone.

use ptshare_mm::Sharing;
use ptshare_mm::testing::FlatConfig;
use ptshare_model_tests::random::{Plan, play};
use ptshare_mutants::{all, select};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Runs that a bug must survive to count as not noticed.
const RUNS: u64 = 36;

/// A run takes a second or two.
const PATIENCE: Duration = Duration::from_secs(300);

const SEVERAL: &str = "it takes two processors at once (tests/concurrency, `cargo xtask mutants`)";

/// Bugs that the calls cannot reach, and why.
const OUT_OF_REACH: &[(&str, &str)] = &[
    ("kernel-half-aliased", "the arena has a kernel half of its own"),
    ("kernel-frames-uncounted", "nothing here takes frames for the kernel"),
    ("rss-counts-zero-page", "nothing here reads what /proc says"),
    ("cpumask-lacks-cpu", "no mm is loaded on a CPU"),
    ("cpu-record-lags", "no mm is loaded on a CPU"),
    ("census-list-unreachable", "the arena writes the lists of VMAs out itself"),
    ("mprotect-ignores-may", "all files are open for writing"),
    ("uffd-register-shares", "no call here registers with a userfaultfd"),
    ("leaf-written-after-unlock", SEVERAL),
    ("table-count-not-atomic", SEVERAL),
    ("object-found-unlocked", SEVERAL),
    ("object-left-unlocked", SEVERAL),
    ("truncate-trusts-first-list", SEVERAL),
    ("remote-flush-skipped", SEVERAL),
    ("freed-before-flush", SEVERAL),
    ("rmap-stops-at-dead", SEVERAL),
    ("uffd-marks-later", SEVERAL),
    ("walk-ignores-answers", SEVERAL),
    ("pmd-takes-dying-table", SEVERAL),
];

fn plan(seed: u64) -> Plan {
    let huge_pages = if seed % 3 == 1 { 30 } else { 0 };
    let machine = FlatConfig {
        frames: 16384 + 512 * huge_pages as usize,
        huge_pages,
        sharing: [Sharing::Pte, Sharing::Tree, Sharing::Pte, Sharing::None][seed as usize % 4],
        small_tables: if seed % 7 == 6 { 3 } else { 0 },
        ..FlatConfig::default()
    };
    let failures = seed % 2 == 1;
    Plan { machine, seed: 9000 + seed, steps: 500, audit_every: 10, judge_every: 50, failures }
}

/// What goes wrong in a run. A bug may also keep it from ending.
fn wrong(plan: Plan) -> Option<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(play(plan)));
    match receive.recv_timeout(PATIENCE) {
        Ok(Ok(())) => None,
        Ok(Err(failed)) => {
            let first = failed.message.lines().next().unwrap_or_default();
            Some(format!("step {}: {first}", failed.script.len()))
        }
        Err(_) => Some("it does not end".into()),
    }
}

#[test]
fn every_bug_in_reach_is_noticed() {
    let mut missed = Vec::new();
    let mut noticed = 0;
    let only = std::env::var("PTSHARE_MUTANTS").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|one| one == name));
    for mutant in all().filter(|mutant| wanted(mutant.name)) {
        assert!(select(mutant.name));
        let found = (0..RUNS).find_map(|seed| Some((seed, wrong(plan(seed))?)));
        match &found {
            Some((seed, what)) => {
                noticed += 1;
                println!("{}: run {seed}, {what}", mutant.name);
            }
            None => missed.push(mutant.name),
        }
        let out_of_reach = OUT_OF_REACH.iter().any(|(name, _)| *name == mutant.name);
        assert!(found.is_none() || !out_of_reach, "{} is in reach", mutant.name);
    }
    missed.retain(|missed| OUT_OF_REACH.iter().all(|(name, _)| name != missed));
    println!("{noticed} noticed, {} out of reach", OUT_OF_REACH.len());
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
