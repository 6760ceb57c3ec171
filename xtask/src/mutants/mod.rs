//! `cargo xtask mutants`: is every deliberate bug of the guest (`shared/mutants`) noticed, by the rule that it was made
//! for?
//!
//! The kernel is built once with all of them. First it runs every program that takes part without any bug: no rule may
//! object and no program fail, or what follows would mean nothing. Then each bug is switched on under each of its boots.
//! A boot ends at the first checkpoint at which a rule objects.

mod boots;
mod document;
mod one;
pub mod rules;
mod schedules;

use crate::guest::{self, Artefacts, Options};
use crate::{process, report};
use anyhow::{Context, Result};
use boots::Baseline;
use one::End;
use ptshare_mutants::{Mutant, all};
use ptshare_vmm::{Engine, EngineChoice, engine, exit_code};
use std::path::PathBuf;
use std::time::Instant;

/// A part of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Subset {
    /// Every mutant
    All,
    /// Those that CI runs
    Ci,
}

/// Options of `cargo xtask mutants`.
#[derive(Clone, Debug, clap::Args)]
pub struct MutantsArgs {
    /// Which mutants to run
    #[arg(long, value_enum, default_value = "all")]
    pub subset: Subset,
    /// Only these mutants
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Print the list and run nothing
    #[arg(long)]
    pub list: bool,
    /// Write the document here; docs/MUTANTS.md is made so from a run of all
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the result as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Virtual CPUs of the boots that need no certain number; more than one with verdicts at random instants too (where one
    /// of these is another rule's, the boot is repeated without)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = crate::test::parse_cpus)]
    pub cpus: u32,
    /// Guests at a time [default: one a CPU of this machine]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Show each guest's end in full, and Cargo's output
    #[arg(short, long)]
    pub verbose: bool,
}

/// What emulates a machine.
const QEMU: &str = "qemu-system-x86_64";

/// What every boot needs.
struct Bench {
    built: Artefacts,
    /// Guests at a time.
    jobs: usize,
    /// CPUs of a boot that needs no certain number.
    cpus: u32,
}

impl Bench {
    /// Whether the judge looks at random instants too: with several CPUs what is under way on one is another's affair.
    fn random(&self) -> bool {
        self.cpus > 1
    }
}

/// A mutant and what became of it, boot by boot.
struct Row {
    mutant: &'static Mutant,
    boots: Vec<End>,
}

impl Row {
    /// Did the rule it was made for name it, in each of its boots?
    fn is_killed(&self) -> bool {
        self.boots.iter().all(|boot| boot.names(self.mutant.rule))
    }

    /// Rules that objected, the expected one first.
    fn rules(&self) -> Vec<&str> {
        let mut rules: Vec<&str> =
            self.boots.iter().flat_map(|b| b.rules.iter().map(String::as_str)).collect();
        rules.sort_by_key(|&rule| (rule != self.mutant.rule, rule));
        rules.dedup();
        rules
    }

    fn verdict(&self) -> &'static str {
        match (self.is_killed(), self.rules().is_empty()) {
            (true, _) => "killed",
            (false, true) => "SURVIVED",
            (false, false) => "MISSED",
        }
    }
}

/// The verb. Returns the exit status: 0 when every mutant was killed by its rule, 1 when not.
///
/// # Errors
/// The kernel cannot be built, a guest cannot be started, or a file cannot be written.
pub fn run(args: &MutantsArgs) -> Result<u8> {
    if let Some(unknown) = args.only.iter().find(|name| all().all(|m| m.name != **name)) {
        eprintln!(
            "ptshare: --only {unknown}: there is no such mutant (`cargo xtask mutants --list` names them)"
        );
        return Ok(exit_code::USAGE);
    }
    let mut wanted: Vec<&'static Mutant> = all()
        .filter(|m| args.subset == Subset::All || m.ci)
        .filter(|m| args.only.is_empty() || args.only.iter().any(|name| name == m.name))
        .collect();
    if args.list {
        print!("{}", list(&wanted));
        return Ok(0);
    }
    if wanted.is_empty() {
        eprintln!("ptshare: no mutant is in the subset and named by --only");
        return Ok(exit_code::USAGE);
    }
    if !process::installed(QEMU) {
        let left_out = |mutant: &&Mutant| mutant.runs.iter().any(|run| run.0.emulated);
        for mutant in wanted.iter().copied().filter(left_out) {
            eprintln!(
                "SKIP: {}: only an emulated TLB shows it; install Debian's package `qemu-system-x86`",
                mutant.name
            );
        }
        wanted.retain(|mutant| !left_out(mutant));
    }
    if !engine::choose(EngineChoice::Auto).is_ok_and(|(engine, _)| engine == Engine::Kvm) {
        let left_out = |mutant: &&Mutant| mutant.runs.iter().any(|run| run.0.cpus > 1 && !run.0.emulated);
        for mutant in wanted.iter().copied().filter(left_out) {
            eprintln!("SKIP: {}: it takes several CPUs that run at once, and so KVM", mutant.name);
        }
        wanted.retain(|mutant| !left_out(mutant));
    }
    if wanted.iter().any(|mutant| mutant.runs.iter().any(|run| run.0.schedules)) {
        schedules::build()?;
    }
    let built = guest::build_all(&Options { mutants: true, verbose: args.verbose, ..Options::default() })?;
    let begin = Instant::now();
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let bench = Bench { built, jobs, cpus: args.cpus };

    let baseline = match Baseline::measure(&bench, &wanted)? {
        Ok(baseline) => baseline,
        Err(why) => {
            eprintln!("ptshare: without any mutant {why}");
            return Ok(1);
        }
    };
    println!("without any mutant: {}", baseline.summary());
    let rows = boots::run_all(&bench, &wanted, &baseline, args.verbose)?;
    let seconds = begin.elapsed().as_secs_f64();

    let failed: Vec<&Row> = rows.iter().filter(|row| !row.is_killed()).collect();
    for row in &failed {
        println!("{}: {} should say so; {}", row.mutant.name, row.mutant.rule, ends(row));
    }
    println!(
        "{} of {} mutants killed by the rule they were made for, in {} boots and {seconds:.0} s",
        rows.len() - failed.len(),
        rows.len(),
        rows.iter().map(|row| row.boots.len()).sum::<usize>()
    );
    if let Some(path) = &args.out {
        std::fs::write(path, document::markdown(&rows, &baseline, seconds))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.json {
        report::write(path, &document::json(&rows, &baseline, seconds))?;
    }
    Ok(u8::from(!failed.is_empty()))
}

/// How the boots of a mutant ended that it should not have survived.
fn ends(row: &Row) -> String {
    let ends: Vec<String> = row
        .boots
        .iter()
        .filter(|boot| !boot.names(row.mutant.rule))
        .map(|boot| format!("`{}` {}{}", boot.label, boot.text, times(boot.tries)))
        .collect();
    ends.join("; ")
}

/// How often, where it was more than once.
fn times(tries: u32) -> String {
    if tries > 1 { format!(", the last of {tries} boots") } else { String::new() }
}

fn list(wanted: &[&'static Mutant]) -> String {
    let name = wanted.iter().map(|m| m.name.len()).max().unwrap_or(0);
    let rule = wanted.iter().map(|m| m.rule.len()).max().unwrap_or(0);
    let mut text = String::new();
    for mutant in wanted {
        let ci = if mutant.ci { "ci" } else { "  " };
        text += &format!("{:name$}  {ci}  {:rule$}  {}\n", mutant.name, mutant.rule, mutant.what);
    }
    text
}
