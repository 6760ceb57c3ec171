//! The verbs of `cargo xtask` and their options. The doc comments are the help.

use crate::guest::{self, Options, Target};
use crate::{bench, ci, docs, fuzz, inspect, lint, mutants, run, stress, test};
use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Builds, runs and tests ptshare.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = exit_codes())]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run a program in a guest of its own, or the tour of scenarios when none is named
    Run(run::RunArgs),
    /// Build everything and run every test; those that need an engine or busybox are skipped out loud without it
    Test(test::TestArgs),
    /// Everything that a CI job needs, in one command: lint, tests, the tour, mutants, fuzzing, stress; with JUnit XML and a
    /// verdict
    Ci(ci::CiArgs),
    /// Build the guest kernel, init and the test programs
    Build(BuildArgs),
    /// Measure fork and its consequences in every sharing mode and in Linux: tables, files, a plot, BENCHMARKS.md
    Bench(bench::BenchArgs),
    /// Plant deliberate bugs in the guest kernel one at a time, and see which rule of the judge names each
    Mutants(mutants::MutantsArgs),
    /// Run random programs here and in the guest, and compare everything that they see
    Fuzz(fuzz::FuzzArgs),
    /// Run processes and threads that do everything to memory at once, on several CPUs
    Stress(stress::StressArgs),
    /// Look at a dump of guest memory: the verdict, page tables, who shares and maps what, what changed between two
    Inspect(inspect::InspectArgs),
    /// Generate docs/SYSCALLS.md from the table of system calls
    DocSyscalls(DocArgs),
    /// Generate docs/RULES.md from the judge's rules
    DocRules(DocArgs),
    /// Check the format, clippy's opinion of the host's and the guest's code, and the generated documents
    Lint {
        /// Show Cargo's output
        #[arg(short, long)]
        verbose: bool,
    },
}

#[derive(clap::Args, Debug)]
struct BuildArgs {
    /// The kernel with its own checks on (lock order, drop bombs, overflow)
    #[arg(long)]
    checked: bool,
    /// How the kernel is built
    #[arg(long, value_enum, default_value = "linux-lto")]
    target: Target,
    /// Show Cargo's output
    #[arg(short, long)]
    verbose: bool,
}

#[derive(clap::Args, Debug)]
struct DocArgs {
    /// Only say whether the file is up to date
    #[arg(long)]
    check: bool,
}

/// The table of exit codes, for the end of the help.
fn exit_codes() -> String {
    let mut text =
        String::from("Exit status of `run`: the program's own (128 + N when signal N killed it), or\n");
    for (code, meaning) in ptshare_vmm::exit_code::TABLE {
        text += &format!("  {code}  {meaning}\n");
    }
    text
}

/// Whether this program has a verb of this name.
pub fn has_verb(name: &str) -> bool {
    Cli::command().find_subcommand(name).is_some()
}

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { ptshare_vmm::exit_code::USAGE } else { 0 });
        }
    };
    ptshare_vmm::init_logging(ptshare_vmm::verbosity(match &cli.verb {
        Verb::Run(args) => args.verbose,
        _ => 0,
    }));
    match carry_out(cli.verb) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(ptshare_vmm::exit_code::BAD_FILE)
        }
    }
}

fn carry_out(verb: Verb) -> Result<u8> {
    match verb {
        Verb::Run(args) => run::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Ci(args) => ci::run(&args),
        Verb::Build(args) => {
            let options = Options {
                checked: args.checked,
                target: args.target,
                verbose: args.verbose,
                ..Options::default()
            };
            let built = guest::build_all(&options)?;
            println!("{}\n{}\n{}", built.kernel.display(), built.init.display(), built.programs.display());
            Ok(0)
        }
        Verb::Bench(args) => bench::run(&args),
        Verb::Mutants(args) => mutants::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Stress(args) => stress::run(&args),
        Verb::Inspect(args) => Ok(inspect::run(&args)),
        Verb::DocSyscalls(DocArgs { check: true }) => docs::check_syscalls().map(|()| 0),
        Verb::DocSyscalls(DocArgs { check: false }) => docs::write_syscalls().map(|()| 0),
        Verb::DocRules(DocArgs { check: true }) => docs::check_rules().map(|()| 0),
        Verb::DocRules(DocArgs { check: false }) => docs::write_rules().map(|()| 0),
        Verb::Lint { verbose } => lint::run(verbose).map(|()| 0),
    }
}
