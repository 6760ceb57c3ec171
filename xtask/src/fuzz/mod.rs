//! `cargo xtask fuzz`: random programs on Linux and in the guest, with Linux as the oracle.
//!
//! ```text
//!  mod.rs      options, the loop over batches, the end report
//!  batch.rs    what a system gave for each trace, from the interpreter's output
//!  linux.rs    the interpreter on this machine
//!  guest.rs    the interpreter in the guest, with as many boots as it takes
//!  model.rs    the core alone
//!  compare.rs  what differs
//!  known.rs    differences that are meant
//!  shrink.rs   the smallest trace that still differs
//! ```
//!
//! Traces come from `shared/trace`; docs/FUZZ.md says what is compared, and what is not and why.

mod batch;
mod compare;
mod guest;
mod known;
mod linux;
mod model;
mod shrink;

pub use batch::Verdict;
pub use compare::{Difference, compare};
pub use guest::Guest;
pub use linux::Linux;

use crate::guest::{Artefacts, Options, build_all, build_programs};
use crate::report;
use crate::run::{Sharing, refused};
use anyhow::{Context, Result};
use ptshare_trace::{Trace, generate, text};
use ptshare_vmm::{EngineChoice, Verify, engine, exit_code};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// In which sharing modes the guest runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Modes {
    /// Copy all levels
    None,
    /// Share PTE pages
    Pte,
    /// Share whole subtrees
    Tree,
    /// Each trace in each of them
    All,
    /// Each trace in one of them, in turn
    Rotate,
}

/// What runs beside Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Engine {
    /// The guest, under KVM where it can be used and under QEMU's emulation elsewhere
    Auto,
    /// The guest under KVM
    Kvm,
    /// The guest under QEMU's emulation
    Qemu,
    /// The core alone, on this machine: without KVM, and without what is above the core
    Model,
    /// Linux again, to see whether the traces are deterministic there
    Linux,
}

impl Engine {
    /// What boots the guest; `None` where there is no guest.
    fn guest(self) -> Option<EngineChoice> {
        match self {
            Engine::Auto => Some(EngineChoice::Auto),
            Engine::Kvm => Some(EngineChoice::Only(engine::Engine::Kvm)),
            Engine::Qemu => Some(EngineChoice::Only(engine::Engine::Qemu)),
            Engine::Model | Engine::Linux => None,
        }
    }
}

/// Options of `cargo xtask fuzz`.
#[derive(Clone, Debug, clap::Args)]
pub struct FuzzArgs {
    /// The first seed; a seed is a trace, for ever
    #[arg(long, default_value_t = 1, value_parser = parse_seed)]
    pub seed: u64,
    /// How many programs, one a seed
    #[arg(long, default_value_t = 200)]
    pub programs: u64,
    /// Stop after this many minutes, if the programs have not all been run
    #[arg(long)]
    pub minutes: Option<u64>,
    /// Of every N seeds only that with remainder I, for a farm: I/N
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = parse_shard)]
    pub shard: (u64, u64),
    /// How the guest shares page tables
    #[arg(long, value_enum, default_value = "rotate")]
    pub sharing: Modes,
    /// When the verifier walks the page tables, as in `run`: off, exit, every-exit, faults:N, and at random instants
    #[arg(long, value_name = "WHEN", default_value = "faults:50+random:20")]
    pub verify: Verify,
    /// Virtual CPUs of the guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = crate::test::parse_cpus)]
    pub cpus: u32,
    /// Run the traces of a file instead of generated ones, and say all that they gave
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// What is compared with Linux
    #[arg(long, value_enum, default_value = "auto")]
    pub engine: Engine,
    /// Where traces that differ go, shrunk
    #[arg(long, value_name = "DIR", default_value = "target/fuzz")]
    pub keep: PathBuf,
    /// Traces in one boot
    #[arg(long, value_name = "N", default_value_t = 120)]
    pub batch: usize,
    /// Do not shrink what differs
    #[arg(long)]
    pub no_shrink: bool,
    /// Only print the traces
    #[arg(long)]
    pub print: bool,
    /// Write the figures as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Use the kernel with its own checks on (lock order, drop bombs, overflow)
    #[arg(long)]
    pub checked: bool,
    /// Show Cargo's output
    #[arg(short, long)]
    pub verbose: bool,
}

fn parse_seed(text: &str) -> Result<u64, String> {
    ptshare_trace::names::number(text).ok_or_else(|| format!("`{text}` is not a number"))
}

fn parse_shard(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    parts.filter(|(i, n)| i < n).ok_or_else(|| format!("`{text}` is not I/N with I below N, such as 0/4"))
}

impl FuzzArgs {
    fn modes(&self, round: usize) -> Vec<Sharing> {
        let all = [Sharing::Pte, Sharing::Tree, Sharing::None];
        match self.sharing {
            Modes::None => vec![Sharing::None],
            Modes::Pte => vec![Sharing::Pte],
            Modes::Tree => vec![Sharing::Tree],
            Modes::All => all.into(),
            Modes::Rotate => vec![all[round % all.len()]],
        }
    }

    /// Whether a trace can be run on both sides.
    fn can_run(&self, trace: &Trace, huge_pages: bool) -> bool {
        (huge_pages || !trace.huge) && (self.engine != Engine::Model || trace.is_for_the_core())
    }

    /// The seeds of this shard, in order.
    fn seeds(&self) -> impl Iterator<Item = u64> {
        let (i, n) = self.shard;
        let all = (0..self.programs).map(|at| self.seed.wrapping_add(at));
        all.filter(move |seed| seed % n == i)
    }
}

/// What a run has done so far.
#[derive(Clone, Debug, Default)]
struct Totals {
    programs: u64,
    runs: u64,
    operations: u64,
    left_out: u64,
    boots: u64,
    verified: u64,
    differing: Vec<u64>,
    /// Runs by known difference.
    known: BTreeMap<&'static str, u64>,
    files: Vec<PathBuf>,
}

/// The verb. Returns the exit status: 0 if nothing differs, 1 if something does.
///
/// # Errors
/// The guest cannot be built, or a system cannot be run.
pub fn run(args: &FuzzArgs) -> Result<u8> {
    if args.print {
        args.seeds().for_each(|seed| print!("{}", generate::generate(seed)));
        return Ok(0);
    }
    if let Some(choice) = args.engine.guest() {
        match engine::choose(choice) {
            Ok((_, notice)) => notice.iter().for_each(|notice| eprintln!("ptshare: {notice}")),
            Err(error) => return Ok(refused(&error)),
        }
    }
    let replayed = match &args.replay {
        None => None,
        Some(file) => match read(file) {
            Ok(traces) => Some(traces),
            Err(error) => {
                eprintln!("ptshare: {error:#}");
                return Ok(exit_code::BAD_FILE);
            }
        },
    };
    let options = Options { checked: args.checked, verbose: args.verbose, ..Options::default() };
    let built = match args.engine.guest() {
        Some(_) => build_all(&options)?,
        None => build_programs(&options)?,
    };
    if args.engine == Engine::Model {
        model::build(args.verbose)?;
    }
    let linux = Linux::new(&built)?;
    match replayed {
        Some(traces) => replay(args, &built, &linux, &traces),
        None => fuzz(args, &built, &linux),
    }
}

fn read(file: &Path) -> Result<Vec<Trace>> {
    let content = std::fs::read_to_string(file).with_context(|| format!("--replay {}", file.display()))?;
    text::parse_all(&content).with_context(|| format!("--replay {}", file.display()))
}

/// Runs traces on the other system; what it gave and how many boots and verifications it took.
fn other(
    args: &FuzzArgs,
    built: &Artefacts,
    linux: &Linux,
    mode: Sharing,
    traces: &[Trace],
    verbose: bool,
    totals: &mut Totals,
) -> Result<Vec<Verdict>> {
    match args.engine.guest() {
        None if args.engine == Engine::Model => model::run(&model::program(), traces, mode),
        None => linux.run(traces, verbose),
        Some(engine) => {
            let guest = Guest { built, engine, sharing: mode, cpus: args.cpus, verify: args.verify, verbose };
            let (verdicts, boots) = guest.run(traces)?;
            totals.boots += boots.boots;
            totals.verified += boots.verified;
            Ok(verdicts)
        }
    }
}

fn fuzz(args: &FuzzArgs, built: &Artefacts, linux: &Linux) -> Result<u8> {
    let started = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let mut totals = Totals::default();
    let mut told = Instant::now();
    let seeds: Vec<u64> = args.seeds().collect();
    eprintln!(
        "fuzz: {} programs, seeds {} to {}, shard {}/{}",
        seeds.len(),
        args.seed,
        args.seed.wrapping_add(args.programs.saturating_sub(1)),
        args.shard.0,
        args.shard.1
    );
    if !linux.has_huge_pages() {
        eprintln!("fuzz: {}", linux::NO_POOL);
    }
    for (round, seeds) in seeds.chunks(args.batch.max(1)).enumerate() {
        let traces: Vec<Trace> = seeds.iter().map(|&seed| generate::generate(seed)).collect();
        let huge = linux.has_huge_pages();
        let usable = |trace: &Trace| args.can_run(trace, huge);
        totals.left_out += traces.iter().filter(|trace| !usable(trace)).count() as u64;
        let traces: Vec<Trace> = traces.into_iter().filter(usable).collect();
        let expected = linux.run(&traces, false)?;
        for mode in args.modes(round) {
            let found = other(args, built, linux, mode, &traces, false, &mut totals)?;
            totals.runs += traces.len() as u64;
            for ((trace, linux_gave), guest_gave) in traces.iter().zip(&expected).zip(&found) {
                for name in compare::explained(trace, linux_gave, guest_gave) {
                    *totals.known.entry(name).or_default() += 1;
                }
                if let Some(difference) = compare(trace, linux_gave, guest_gave) {
                    totals.differing.push(trace.seed);
                    println!("seed {} with sharing={} differs: {difference}", trace.seed, mode.name());
                    let small = match args.no_shrink {
                        true => trace.clone(),
                        false => shrink::shrink(trace, &mut |traces| {
                            let expected = linux.run(traces, false)?;
                            let found = other(args, built, linux, mode, traces, false, &mut totals)?;
                            let pairs = traces.iter().zip(expected.iter().zip(&found));
                            Ok(pairs.map(|(trace, (l, g))| compare(trace, l, g)).collect())
                        })?,
                    };
                    totals.files.push(keep(args, mode, &small)?);
                }
            }
        }
        totals.programs += traces.len() as u64;
        totals.operations += traces.iter().map(|trace| trace.ops.len() as u64).sum::<u64>();
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("fuzz: {}", progress(&totals, started.elapsed()));
        }
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            eprintln!("fuzz: --minutes is over");
            break;
        }
    }
    println!("{}", progress(&totals, started.elapsed()));
    for (name, runs) in &totals.known {
        println!("known difference in {runs} runs: {name}");
    }
    for file in &totals.files {
        println!("replay with: cargo xtask fuzz --replay {}", file.display());
    }
    if let Some(path) = &args.json {
        report::write(path, &json(args, &totals, started.elapsed()))?;
    }
    Ok(u8::from(!totals.differing.is_empty()))
}

fn per_minute(count: u64, elapsed: Duration) -> u64 {
    (count as f64 * 60.0 / elapsed.as_secs_f64().max(0.001)) as u64
}

fn progress(totals: &Totals, elapsed: Duration) -> String {
    let mut text = format!(
        "{} programs ({} operations), {} runs in the guest, {} differ; {} runs a minute, {} boots, {} checkpoints verified",
        totals.programs,
        totals.operations,
        totals.runs,
        totals.differing.len(),
        per_minute(totals.runs, elapsed),
        totals.boots,
        totals.verified,
    );
    if totals.left_out > 0 {
        let _ = write!(text, ", {} left out that cannot run here", totals.left_out);
    }
    text
}

fn json(args: &FuzzArgs, totals: &Totals, elapsed: Duration) -> serde_json::Value {
    serde_json::json!({
        "seed": args.seed,
        "shard": format!("{}/{}", args.shard.0, args.shard.1),
        "programs": totals.programs,
        "operations": totals.operations,
        "runs": totals.runs,
        "left_out": totals.left_out,
        "differing_seeds": totals.differing,
        "runs_with_known_differences": totals.known,
        "seconds": elapsed.as_secs_f64(),
        "runs_a_minute": per_minute(totals.runs, elapsed),
        "boots": totals.boots,
        "checkpoints_verified": totals.verified,
    })
}

/// Writes a trace that differs to a file.
fn keep(args: &FuzzArgs, mode: Sharing, trace: &Trace) -> Result<PathBuf> {
    std::fs::create_dir_all(&args.keep).with_context(|| format!("--keep {}", args.keep.display()))?;
    let file = args.keep.join(format!("{:#x}-{}.trace", trace.seed, mode.name()));
    std::fs::write(&file, trace.to_string()).with_context(|| format!("--keep {}", file.display()))?;
    println!("{trace}");
    Ok(file)
}

/// Runs the traces of a file and prints what both systems gave.
fn replay(args: &FuzzArgs, built: &Artefacts, linux: &Linux, traces: &[Trace]) -> Result<u8> {
    let mut totals = Totals::default();
    let mut differ = false;
    let traces: Vec<Trace> =
        traces.iter().filter(|trace| args.can_run(trace, linux.has_huge_pages())).cloned().collect();
    // The core alone does not tell the content of each page.
    let expected = linux.run(&traces, args.engine != Engine::Model)?;
    for round in 0..if args.sharing == Modes::Rotate { 3 } else { 1 } {
        for mode in args.modes(round) {
            let found = other(args, built, linux, mode, &traces, true, &mut totals)?;
            for ((trace, linux_gave), guest_gave) in traces.iter().zip(&expected).zip(&found) {
                let difference = compare(trace, linux_gave, guest_gave);
                differ |= difference.is_some();
                let side_by_side = compare::side_by_side(trace, linux_gave, guest_gave);
                println!("trace {:#x}, sharing={}\n{side_by_side}", trace.seed, mode.name());
                match difference {
                    Some(difference) => println!("DIFFERS: {difference}\n"),
                    None => println!("the same\n"),
                }
            }
        }
    }
    Ok(u8::from(differ))
}
