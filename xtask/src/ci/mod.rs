//! `cargo xtask ci`: everything that a CI job needs, in one command, on whichever engine the machine has.
//!
//! | module | what |
//! |---|---|
//! | [`step`] | one step: a verb of this program, with a time limit |
//! | [`output`] | the tests that a step's output names |
//! | [`report`] | JUnit XML and the JSON verdict |
//!
//! Each step is this program again, as a process of its own: what one does cannot spoil the next, and its time limit
//! ends all that it has started.

pub mod output;
pub mod report;
pub mod step;

use crate::{paths, run};
use anyhow::{Context, Result};
use ptshare_vmm::{Engine, EngineChoice, engine};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use step::{Done, Status, Step};

/// Options of `cargo xtask ci`.
#[derive(Clone, Debug, clap::Args)]
pub struct CiArgs {
    /// What runs the guests: kvm, qemu, or auto: KVM where it can be used, otherwise QEMU
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineChoice,
    /// Where the JUnit XML goes [default: target/ci/junit.xml]
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Where the JSON verdict goes [default: target/ci/verdict.json]
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Without mutants, fuzzing and stress
    #[arg(long)]
    pub quick: bool,
}

/// All that a call found out.
pub struct Verdict {
    /// What ran the guests.
    pub engine: Engine,
    /// Why it was not the usual engine, if it was not.
    pub notice: Option<String>,
    /// The commit, where git says.
    pub commit: Option<String>,
    /// From the first step to the last.
    pub took: Duration,
    /// The steps in order.
    pub steps: Vec<Done>,
    /// The tour's own report.
    pub tour: Option<serde_json::Value>,
}

impl Verdict {
    /// Whether no step failed.
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|done| matches!(done.status, Status::Passed | Status::Skipped(_)))
    }
}

/// How often a second the guests of the boot tests are judged at random instants: a verdict takes a millisecond or so.
const RANDOM_HZ: &str = "5";

/// The steps, in the order in which a mistake is found soonest.
fn plan(quick: bool, tour: &Path) -> Vec<Step> {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let tour = tour.to_string_lossy().into_owned();
    let mut steps = vec![
        Step::new("lint", &["lint"], minutes(15)),
        // With as many CPUs as this machine has, as `test` and `run` do of themselves.
        Step::new("test", &["test", "--keep-going", "--random", RANDOM_HZ], minutes(40)),
        Step::new("tour", &["run", "--timeout", "300", "--json", &tour], minutes(10)),
    ];
    if !quick {
        steps.push(Step::new("mutants", &["mutants", "--subset", "ci"], minutes(15)));
        steps.push(Step::new(
            "fuzz",
            &["fuzz", "--seed", "1", "--programs", "150", "--minutes", "1", "--cpus", "2"],
            minutes(10),
        ));
        steps.push(Step::new("stress", &["stress", "--minutes", "2"], minutes(15)));
    }
    steps
}

/// The verb. Returns the exit status: 0 when every step passed, 1 when one failed, or the code of an engine that cannot be
/// used.
///
/// # Errors
/// A report cannot be written.
pub fn run(args: &CiArgs) -> Result<u8> {
    let (engine, notice) = match engine::choose(args.engine) {
        Ok(chosen) => chosen,
        Err(error) => return Ok(run::refused(&error)),
    };
    if let Some(notice) = &notice {
        eprintln!("ptshare: {notice}");
    }
    let folder = paths::target().join("ci");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let tour = folder.join("tour.json");
    // That of an earlier call is not this one's.
    let _ = std::fs::remove_file(&tour);

    let start = Instant::now();
    let mut steps = Vec::new();
    for step in plan(args.quick, &tour) {
        eprintln!("\n== {} (engine {engine}, at most {} min)", step.name, step.limit.as_secs() / 60);
        let done = step.carry_out(engine);
        eprintln!("== {}: {} after {:.0} s", done.name, done.status, done.took.as_secs_f64());
        steps.push(done);
    }
    let tour = std::fs::read(&tour).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let root = paths::root();
    let commit = crate::process::answer("git", &["-C", &root.to_string_lossy(), "rev-parse", "HEAD"]);
    let verdict = Verdict { engine, notice, commit, took: start.elapsed(), steps, tour };

    let junit = args.junit.clone().unwrap_or_else(|| folder.join("junit.xml"));
    let json = args.json.clone().unwrap_or_else(|| folder.join("verdict.json"));
    for (path, text) in [(&junit, report::junit(&verdict)?), (&json, report::json(&verdict))] {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("\n{}", report::summary(&verdict));
    println!("written: {} and {}", junit.display(), json.display());
    Ok(u8::from(!verdict.passed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_leaves_out_mutants_fuzzing_and_stress() {
        let names = |quick| plan(quick, Path::new("t")).iter().map(|step| step.name).collect::<Vec<_>>();
        assert_eq!(names(true), ["lint", "test", "tour"]);
        assert_eq!(names(false), ["lint", "test", "tour", "mutants", "fuzz", "stress"]);
    }
}
