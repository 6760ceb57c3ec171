//! `cargo xtask stress`: processes and threads that do everything to memory at once, on several CPUs, under the judge.

use crate::guest;
use crate::run::{self, RunArgs, Sharing};
use anyhow::Result;
use clap::{Args, Parser};
use std::time::Instant;

/// Options of `cargo xtask stress`.
#[derive(Clone, Debug, Args)]
pub struct StressArgs {
    /// How long
    #[arg(long, default_value_t = 1.0)]
    pub minutes: f64,
    /// What the workers do is drawn from this number (when they do it is not)
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Virtual CPUs [default: as many as this machine has, but 2 to 4]
    #[arg(long)]
    pub cpus: Option<u32>,
    /// Processes of two and three threads each
    #[arg(long, default_value_t = 4)]
    pub workers: u32,
    /// How page tables are shared at fork: all three modes in turn unless one is named
    #[arg(long, value_enum)]
    pub sharing: Option<Sharing>,
    /// As for `run`
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: String,
    /// As for `run`
    #[arg(long, value_name = "WHEN", default_value = "exit+random:20")]
    pub verify: String,
    /// Use the kernel with its own checks on
    #[arg(long)]
    pub checked: bool,
}

/// How many times as long as the workers were told a guest may take: its clock stands still under emulation while it is
/// judged. A hang is not waited for, that is the watchdog's affair.
const PATIENCE: u64 = 4;
/// Seconds that a guest has beyond that: where kernels are interpreted, most of them go into getting ready.
const PATIENCE_SECONDS: u64 = 120;
/// Huge pages that a worker may need at the same time (`tests/programs`, `stress/huge.rs`), and those of the common file.
const HUGE_PAGES: (u32, u32) = (10, 8);

/// The workers never rest: a guest in which no counter moves hangs, whatever its CPUs do.
const WATCHDOG: &str = "30,strict";

/// The options of `run`, for a command line that is put together here.
#[derive(Parser)]
struct RunLine {
    #[command(flatten)]
    args: RunArgs,
}

/// The verb. Returns the exit status: that of the first run which did not end well.
///
/// # Errors
/// The guest cannot be built.
pub fn run(args: &StressArgs) -> Result<u8> {
    let modes = args.sharing.map_or(vec![Sharing::Pte, Sharing::Tree, Sharing::None], |mode| vec![mode]);
    let seconds = ((args.minutes * 60.0 / modes.len() as f64).ceil() as u64).max(1);
    let built = guest::build_all(&guest::Options { checked: args.checked, ..guest::Options::default() })?;
    let cpus = args.cpus.unwrap_or_else(|| run::usual_cpus().max(2));
    let program = built.program("stress").display().to_string();
    for mode in modes {
        eprintln!(
            "stress: sharing={}, {} CPUs, {} workers, {seconds} s, seed {}",
            mode.name(),
            cpus,
            args.workers,
            args.seed
        );
        let mut line = vec!["run".to_owned(), "-v".to_owned(), "--mem=1G".to_owned()];
        line.push(format!("--sharing={}", mode.name()));
        line.push(format!("--engine={}", args.engine));
        line.push(format!("--cpus={cpus}"));
        line.push(format!("--verify={}", args.verify));
        line.push(format!("--timeout={}", PATIENCE * seconds + PATIENCE_SECONDS));
        line.push(format!("--cmdline=hugepages={}", HUGE_PAGES.0 * args.workers + HUGE_PAGES.1));
        line.push(format!("--watchdog={WATCHDOG}"));
        line.extend(args.checked.then(|| "--checked".to_owned()));
        line.extend(["--".to_owned(), program.clone(), format!("seconds={seconds}")]);
        line.extend([format!("seed={}", args.seed), format!("workers={}", args.workers)]);
        let begin = Instant::now();
        let status = run::run(&RunLine::try_parse_from(line)?.args)?;
        // One test each for CI's report (`ci::output`).
        let word = if status == 0 { "PASS" } else { "FAIL" };
        let what = format!("stress sharing={} cpus={cpus} seed={}", mode.name(), args.seed);
        eprintln!("{word} [{:>8.3}s] {what}", begin.elapsed().as_secs_f64());
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}
