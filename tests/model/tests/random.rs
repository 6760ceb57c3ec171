//! Random calls on several processes against the flat model, in every mode, under the arena's audit and the judge.
//!
//! `PTSHARE_OPS=N` plays about N calls instead of the share that fits a CI run; `PTSHARE_SEED=N` begins at another seed.

use ptshare_mm::Sharing;
use ptshare_mm::testing::FlatConfig;
use ptshare_model_tests::random::{Plan, play, shrink};

/// Calls of a run.
const STEPS: usize = 700;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The machine of a run: every combination of modes comes up.
fn machine(sharing: Sharing, seed: u64) -> FlatConfig {
    let huge_pages = if seed % 3 == 2 { 30 } else { 0 };
    FlatConfig {
        frames: 16384 + 512 * huge_pages as usize,
        huge_pages,
        huge_overcommit: if seed % 9 == 2 { 4 } else { 0 },
        sharing,
        small_tables: if seed % 5 == 4 { 3 } else { 0 },
        share_file: seed % 4 != 3,
        share_hugetlb: seed % 6 != 5,
    }
}

/// Plays about `ops` calls: one run in 16 with the judge after every step, one in 4 with the audit after every step.
fn run(sharing: Sharing, default_ops: u64) {
    let ops = number("PTSHARE_OPS").map_or(default_ops, |all| all / 3);
    let first = number("PTSHARE_SEED").unwrap_or(0);
    let runs = ops.div_ceil(STEPS as u64);
    for seed in first..first + runs {
        let (audit_every, judge_every) = match seed % 16 {
            0 => (1, 1),
            4 | 8 | 12 => (1, 50),
            _ => (25, 350),
        };
        let steps = if judge_every == 1 { STEPS / 4 } else { STEPS };
        let machine = machine(sharing, seed);
        let plan = Plan { machine, seed, steps, audit_every, judge_every, failures: seed % 2 == 1 };
        if let Err(failed) = play(plan) {
            println!("{failed}");
            panic!("shortest script:\n{}", shrink(failed));
        }
    }
}

#[test]
fn every_level_copied() {
    run(Sharing::None, 10_000);
}

#[test]
fn pte_pages_shared() {
    run(Sharing::Pte, 20_000);
}

#[test]
fn whole_trees_shared() {
    run(Sharing::Tree, 20_000);
}
