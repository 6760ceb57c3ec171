//! `cargo xtask bench`: what fork costs here and on Linux, from one program that runs everywhere.
//!
//! | module | what |
//! |---|---|
//! | [`plan`] | what is measured where |
//! | [`engines`], [`judge`] | which kernels run the program, on what, and how; the judge's speed |
//! | [`qemu`], [`linux`] | booting under emulation, and the Linux kernel to compare with |
//! | [`measure`] | the figures |
//! | [`scale`] | how much more gets done with more CPUs |
//! | [`table`], [`parts`], [`files`], [`plot`], [`document`] | what is made of them |
//!
//! Every figure comes from the run that prints it. What cannot run leaves a hole, and the hole says why.

pub mod document;
pub mod engines;
pub mod files;
pub mod judge;
pub mod linux;
pub mod measure;
pub mod parts;
pub mod plan;
pub mod plot;
pub mod qemu;
pub mod scale;
pub mod table;

use crate::{guest, paths};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Options of `cargo xtask bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Small memories only, in less time
    #[arg(long)]
    pub quick: bool,
    /// Only how much more gets done with more CPUs; renews that section of BENCHMARKS.md
    #[arg(long)]
    pub scaling: bool,
    /// The Linux kernel to compare with: `deb` (Debian's cloud kernel, fetched with apt), a vmlinux or bzImage, or `none`
    #[arg(long, default_value = "deb", value_name = "deb|FILE|none")]
    pub linux: String,
    /// Where bench.json, bench.csv, the plots and BENCHMARKS.md go; `target/bench/results` unless said otherwise
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Show Cargo's output
    #[arg(short, long)]
    pub verbose: bool,
}

/// All that one call of the verb found out.
pub struct Report {
    /// The kernels that ran, or did not.
    pub runs: Vec<measure::Run>,
    /// What ran them: names and values for the head of a report.
    pub machine: Vec<(&'static str, String)>,
    /// Whether large memories were left out.
    pub quick: bool,
}

/// The verb. Returns the exit status: 0 when at least one kernel gave figures.
///
/// # Errors
/// Something cannot be built, or a result cannot be written.
pub fn run(args: &BenchArgs) -> Result<u8> {
    let built = guest::build_all(&guest::Options { verbose: args.verbose, ..guest::Options::default() })?;
    if args.scaling {
        return scaling(args, &built);
    }
    let report = engines::measure(args, &built)?;
    for (title, table) in table::all(&report) {
        println!("{title}\n{}", table.text());
    }
    for run in &report.runs {
        for hole in &run.holes {
            println!("no figures for {} on {}, {}: {}", run.system, run.engine, hole.what, hole.why);
        }
    }
    let out = args.out.clone().unwrap_or_else(|| paths::target().join("bench").join("results"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let write = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let plots = [("fork.svg", plot::fork_time(&report)), ("tables.svg", plot::tables(&report))];
    write(out.join("bench.json"), &files::json(&report))?;
    write(out.join("bench.csv"), &files::csv(&report))?;
    for (name, plot) in &plots {
        write(out.join(name), plot)?;
    }
    write(out.join("BENCHMARKS.md"), &document::page(&report, ""))?;
    println!("written to {}: bench.json, bench.csv, fork.svg, tables.svg, BENCHMARKS.md", out.display());
    let complete = report.runs.iter().filter(|run| run.engine == "qemu").all(|run| run.figures.is_ok());
    if !args.quick && complete {
        for (name, plot) in &plots {
            write(paths::root().join("docs").join(name), plot)?;
        }
        write(paths::root().join("BENCHMARKS.md"), &document::page(&report, "docs/"))?;
        println!("a complete run: BENCHMARKS.md and the plots in docs of the repository are renewed");
    }
    Ok(u8::from(report.runs.iter().all(|run| run.figures.is_err())))
}

/// Only how much more gets done with more CPUs.
fn scaling(args: &BenchArgs, built: &guest::Artefacts) -> Result<u8> {
    let runs = scale::measure(args.quick, built, &engines::linux_of(args));
    let report = Report { runs, machine: Vec::new(), quick: args.quick };
    let (title, table) = scale::table(&report);
    println!("{title}\n{}", table.text());
    for run in &report.runs {
        for hole in &run.holes {
            println!("no figures for {}, {}: {}", run.engine, hole.what, hole.why);
        }
    }
    let out = args.out.clone().unwrap_or_else(|| paths::target().join("bench").join("results"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let write = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write(out.join("scaling.json"), &files::json(&report))?;
    write(out.join("scaling.csv"), &files::csv(&report))?;
    println!("written to {}: scaling.json, scaling.csv", out.display());
    if !args.quick {
        let path = paths::root().join("BENCHMARKS.md");
        let old =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        write(path, &document::with_scaling(&old, &report))?;
        println!("that section of BENCHMARKS.md is renewed");
    }
    Ok(u8::from(report.runs.iter().all(|run| run.figures.is_err())))
}
