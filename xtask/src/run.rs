//! `cargo xtask run -- PROGRAM`: one program of the host in a guest of its own.

use crate::guest::{self, Artefacts, Target};
use crate::image::{Image, Job, Mode};
use crate::{report, tour};
use anyhow::{Context, Result};
use ptshare_vmm::{
    Config, Console, Ending, EngineChoice, Initramfs, Verify, VmmError, Watchdog, engine, exit_code, json,
    verbosity,
};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How page tables are shared at fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Sharing {
    /// Copy all levels, as an unmodified kernel does
    None,
    /// Share PTE pages, copy them on write
    Pte,
    /// Share whole subtrees, copy them on write
    Tree,
}

impl Sharing {
    /// The word for the kernel's command line.
    pub fn name(self) -> &'static str {
        match self {
            Sharing::None => "none",
            Sharing::Pte => "pte",
            Sharing::Tree => "tree",
        }
    }
}

/// A pool of huge pages that the guest is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Bytes of a page.
    pub size: u64,
    /// How many.
    pub pages: u64,
}

fn parse_pool(text: &str) -> Result<Pool, String> {
    let (size, pages) = text.split_once(':').unwrap_or(("2M", text));
    let size = ptshare_vmm::config::parse_size(size)?;
    if ![2 << 20, 1 << 30].contains(&size) {
        return Err("huge pages are of 2M or of 1G".into());
    }
    let pages = pages.parse().map_err(|_| format!("{pages} is no number of pages"))?;
    Ok(Pool { size, pages })
}

/// Options of `cargo xtask run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// How page tables are shared at fork [default: pte; the tour compares pte with none]
    #[arg(long, value_enum)]
    pub sharing: Option<Sharing>,
    /// What runs the guest: kvm, qemu (emulation), or auto: KVM where it can be used, otherwise QEMU
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineChoice,
    /// Under QEMU: a nanosecond of the guest's clock is one instruction, so that a run is the same each time
    #[arg(long)]
    pub icount: bool,
    /// Guest memory, with suffix K, M, G or T; costs nothing until the guest touches it
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = ptshare_vmm::config::parse_size)]
    pub mem: u64,
    /// Virtual CPUs [default: as many as this machine has, at most 4; 1 with --icount]
    #[arg(long)]
    pub cpus: Option<u32>,
    /// When the verifier walks the page tables: off, exit (process exits, requests, shutdown), every-exit, faults:N (also
    /// every N page faults), every-fault; alone or behind one of these and a plus sign, random:HZ[,SEED] (also at random
    /// instants)
    #[arg(long, value_name = "WHEN", default_value = "exit")]
    pub verify: Verify,
    /// End the run after this many seconds, with exit status 107 [default: none for a program, 120 for the tour]
    #[arg(long, value_name = "SECS")]
    pub timeout: Option<u64>,
    /// End the run, with exit status 108 and the state of every CPU, after so many seconds in which some CPU is in the guest's
    /// kernel and no counter of the kernel moves; with `,strict` whatever the CPUs do; 0 for never
    #[arg(long, value_name = "SECS[,strict]", default_value = "60")]
    pub watchdog: Watchdog,
    /// Add everything below DIR to the guest's root; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub root: Vec<PathBuf>,
    /// Write what was counted and verified as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Use the kernel with its own checks on (lock order, drop bombs, overflow)
    #[arg(long)]
    pub checked: bool,
    /// Words to add to the guest kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub cmdline: String,
    /// Huge pages in the guest's pools: `N` of 2 MiB, `1G:N` where the guest's processor has them, or both as in
    /// `560,1G:2`
    #[arg(long, value_name = "[SIZE:]N", value_delimiter = ',', value_parser = parse_pool)]
    pub hugepages: Vec<Pool>,
    /// Where a violation's dump of guest memory goes
    #[arg(long, value_name = "FILE", default_value = "violation.ptdump")]
    pub dump: PathBuf,
    /// Write the dump though nothing is wrong: at the `end` of the run, or when a program writes `checkpoint LABEL` to
    /// /dev/ptshare
    #[arg(long, value_name = "end|LABEL")]
    pub dump_at: Option<String>,
    /// Sample where the guest spends its time, and print a table by kernel function
    #[arg(long)]
    pub profile: bool,
    /// How the kernel is built
    #[arg(long, value_enum, default_value = "linux-lto")]
    pub target: Target,
    /// More of the guest's log; twice for all of it, and Cargo's output
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Any Linux x86-64 ELF file of this machine, and its arguments; without it, the tour
    #[arg(trailing_var_arg = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
}

/// Most CPUs that a guest gets without being asked for more.
const USUAL_CPUS_MAX: usize = 4;

/// CPUs of a guest of which nothing else is said: as many as this machine has, at most 4.
pub fn usual_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(USUAL_CPUS_MAX) as u32)
}

impl RunArgs {
    /// How the guest is built for this run.
    pub fn build_options(&self) -> guest::Options {
        guest::Options {
            checked: self.checked,
            target: self.target,
            verbose: self.verbose >= 2,
            ..guest::Options::default()
        }
    }

    /// The words for the guest kernel's command line.
    fn cmdline_extra(&self) -> String {
        let pools =
            self.hugepages.iter().map(|pool| format!(" hugepagesz={} hugepages={}", pool.size, pool.pages));
        self.cmdline.clone() + &pools.collect::<String>()
    }

    /// The run's configuration, but for console and initramfs.
    pub fn config(&self, built: &Artefacts, sharing: Sharing) -> Config {
        Config {
            kernel: built.kernel.clone(),
            engine: self.engine,
            icount: self.icount,
            initramfs: Initramfs::Bytes(Vec::new()),
            cmdline_extra: self.cmdline_extra(),
            mem_bytes: self.mem,
            cpus: self.cpus.unwrap_or_else(|| if self.icount { 1 } else { usual_cpus() }),
            sharing: sharing.name().into(),
            verify: self.verify.mode,
            random: self.verify.random,
            timeout: self.timeout.map(Duration::from_secs),
            watchdog: Some(self.watchdog).filter(|how| !how.limit.is_zero()),
            dump_path: Some(self.dump.clone()),
            dump_at: self.dump_at.clone(),
            log_level: verbosity(self.verbose),
            profile: self.profile,
            ..Config::default()
        }
    }
}

/// The verb. Returns the exit status.
///
/// # Errors
/// The guest cannot be built. Everything after that has an exit status of its own.
pub fn run(args: &RunArgs) -> Result<u8> {
    // Judge the options before minutes of building.
    if let Err(error) = args.config(&Artefacts::expected(&args.build_options()), Sharing::Pte).check() {
        return Ok(refused(&error));
    }
    if let Some(folder) = args.root.iter().find(|folder| !folder.is_dir()) {
        eprintln!("ptshare: --root {}: not a directory", folder.display());
        return Ok(exit_code::BAD_FILE);
    }
    if let Some(program) = args.program.first()
        && !in_root(args, program)
        && !Path::new(program).is_file()
    {
        eprintln!("ptshare: there is no program {program} on this machine");
        return Ok(exit_code::BAD_FILE);
    }
    let engine = match engine::choose(args.engine) {
        Ok((engine, notice)) => {
            if let Some(notice) = notice {
                eprintln!("ptshare: {notice}");
            }
            engine
        }
        Err(error) => return Ok(refused(&error)),
    };
    let args = &RunArgs { engine: EngineChoice::Only(engine), ..args.clone() };
    let built = guest::build_all(&args.build_options())?;
    match args.program.split_first() {
        None => tour::run(args, &built),
        Some((program, arguments)) => run_program(args, &built, program, arguments),
    }
}

fn run_program(args: &RunArgs, built: &Artefacts, program: &str, arguments: &[String]) -> Result<u8> {
    let initramfs = match program_image(args, built, program, arguments) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("ptshare: {error:#}");
            return Ok(exit_code::BAD_FILE);
        }
    };
    let config = Config {
        initramfs: Initramfs::Bytes(initramfs),
        console: Console::Inherit,
        ..args.config(built, args.sharing.unwrap_or(Sharing::Pte))
    };
    let outcome = match ptshare_vmm::run(&config) {
        Ok(outcome) => outcome,
        Err(error) => return Ok(refused(&error)),
    };
    if !matches!(outcome.ending, Ending::Exited(_)) {
        eprintln!("ptshare: {}", outcome.ending);
    }
    // A script that captures stderr gets the program's and nothing else.
    if args.verbose > 0 || std::io::stderr().is_terminal() {
        eprintln!("ptshare: {}", report::verdict(&outcome));
    }
    say_dumped(args, outcome.verifier.dumps);
    if let Some(samples) = &outcome.profile {
        eprint!("{}", samples.table());
    }
    if let Some(path) = &args.json {
        report::write(path, &json::report(&config, &outcome, true))?;
    }
    Ok(outcome.status)
}

/// What came of `--dump-at`.
pub fn say_dumped(args: &RunArgs, dumps: u64) {
    match (&args.dump_at, dumps) {
        (None, _) => {}
        (Some(at), 0) => eprintln!("ptshare: --dump-at {at}: no such moment came, nothing was written"),
        (Some(_), _) => {
            let file = args.dump.display();
            eprintln!("ptshare: guest memory was written to {file}; `cargo xtask inspect {file}` shows it");
        }
    }
}

/// Whether a folder of `--root` has the program: then it is started as it is.
fn in_root(args: &RunArgs, program: &str) -> bool {
    let Some(relative) = program.strip_prefix('/') else { return false };
    args.root.iter().any(|folder| folder.join(relative).is_file())
}

fn program_image(args: &RunArgs, built: &Artefacts, program: &str, arguments: &[String]) -> Result<Vec<u8>> {
    let mut image = Image::new(&built.init)?;
    for folder in &args.root {
        image.host_folder(folder)?;
    }
    if let Ok(term) = std::env::var("TERM") {
        image.variable(format!("TERM={term}"));
    }
    let path = if in_root(args, program) {
        program.to_owned()
    } else {
        image.host_program(Path::new(program)).with_context(|| format!("PROGRAM {program}"))?
    };
    let mut argv = vec![path];
    argv.extend(arguments.iter().cloned());
    Ok(image.finish(Mode::Single, &[Job { name: "program".into(), argv }]))
}

/// Says why a run could not begin; its exit status.
pub fn refused(error: &VmmError) -> u8 {
    eprintln!("ptshare: {error}");
    exit_code::of_error(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn config(words: &[&str]) -> Config {
        let line = Line::try_parse_from(["run"].iter().chain(words)).unwrap();
        line.args.config(&Artefacts::expected(&line.args.build_options()), Sharing::Pte)
    }

    #[test]
    fn a_run_is_what_its_options_say() {
        let usual = config(&[]);
        assert_eq!(usual.cpus, usual_cpus());
        assert!((1..=4).contains(&usual.cpus));
        assert_eq!(usual.watchdog, Some(Watchdog { limit: Duration::from_secs(60), strict: false }));
        usual.check().unwrap();
        let counted = config(&["--engine=qemu", "--icount", "--watchdog=0"]);
        assert_eq!((counted.cpus, counted.watchdog), (1, None));
        counted.check().unwrap();
        assert!(config(&["--engine=qemu", "--icount", "--cpus=2"]).check().is_err());
        let strict = config(&["--cpus=3", "--watchdog=5,strict"]);
        assert_eq!((strict.cpus, strict.watchdog.map(|how| how.strict)), (3, Some(true)));
    }
}
