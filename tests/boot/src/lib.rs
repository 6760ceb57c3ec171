//! What the boot tests share: running the same program in a guest and on this machine, and comparing.
//!
//! The tests use what `cargo xtask test` has built, and the engine that PTSHARE_ENGINE names, or KVM, or QEMU. Where
//! there is none they are skipped, out loud.
//!
//! | variable | what it says, of every guest whose test does not say otherwise |
//! |---|---|
//! | `PTSHARE_TEST_CPUS=N` | its virtual CPUs: as many as this machine has, at most 4, where the variable is not set |
//! | `PTSHARE_TEST_RANDOM=HZ[,SEED]` | it is judged at random instants too, so often a second |
//!
//! `cargo xtask test --cpus N --random HZ` sets them. What a test demands must be true of any number of CPUs; one that needs
//! a certain number sets it, and says why.

use ptshare_vmm::{
    Config, Console, Ending, EngineChoice, Initramfs, Outcome, RandomVerify, Watchdog, engine,
};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use xtask::batch::{self, JobResult};
use xtask::guest::{self, Artefacts, Options};
use xtask::image::{ENVIRONMENT, Image, Job, Mode};
use xtask::run::usual_cpus;
use xtask::test::{CPUS_VARIABLE, RANDOM_VARIABLE, parse_cpus, parse_random};

/// No test rests as long as this: a guest in which no counter moves meanwhile hangs, whatever its CPUs do.
const HANG: Duration = Duration::from_secs(60);

/// Where Debian's `busybox-static` puts its program.
pub const BUSYBOX: &str = "/bin/busybox";

/// The built guest, or `None` (said out loud) where no guest can run.
///
/// # Panics
/// There is an engine, but the guest has not been built.
pub fn guest() -> Option<Artefacts> {
    guest_built(&Options::default())
}

/// As [`guest`], with the kernel's own checks on.
///
/// # Panics
/// As [`guest`].
pub fn checked_guest() -> Option<Artefacts> {
    guest_built(&Options { checked: true, ..Options::default() })
}

fn guest_built(options: &Options) -> Option<Artefacts> {
    if let Err(error) = engine::choose(EngineChoice::Auto) {
        eprintln!("SKIP: {error}");
        return None;
    }
    match guest::find_built(options) {
        Ok(built) => Some(built),
        Err(error) => panic!("{error}"),
    }
}

/// Whether busybox is there and runs alone; otherwise it is said out loud that it is not.
pub fn have_busybox() -> bool {
    let usable = std::fs::read(BUSYBOX)
        .is_ok_and(|data| xtask::elf::needs(&data).is_ok_and(|n| n.interpreter.is_none()));
    if !usable {
        eprintln!("SKIP: {BUSYBOX} is missing or not static: install Debian's package `busybox-static`");
    }
    usable
}

/// The CPUs of a guest whose test needs no certain number.
///
/// # Panics
/// The variable holds nonsense.
pub fn cpus() -> u32 {
    variable(CPUS_VARIABLE, parse_cpus).unwrap_or_else(usual_cpus)
}

/// The random instants at which a guest is judged whose test does not say.
///
/// # Panics
/// The variable holds nonsense.
pub fn random() -> Option<RandomVerify> {
    variable(RANDOM_VARIABLE, parse_random)
}

fn variable<T>(name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    let text = std::env::var_os(name)?;
    Some(parse(&text.to_string_lossy()).unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// The usual configuration: everything captured, ten minutes at most, a hang told with the state of every CPU, and what the
/// environment says of CPUs and of random instants.
///
/// # Panics
/// As [`cpus`] and [`random`].
pub fn config(built: &Artefacts, sharing: &str) -> Config {
    Config {
        kernel: built.kernel.clone(),
        cpus: cpus(),
        random: random(),
        sharing: sharing.into(),
        timeout: Some(Duration::from_secs(600)),
        watchdog: Some(Watchdog { limit: HANG, strict: true }),
        ..Config::default()
    }
}

/// Programs for one boot: where each is on this machine, and its arguments.
#[derive(Default)]
pub struct Programs {
    files: Vec<(String, PathBuf)>,
    jobs: Vec<Job>,
}

impl Programs {
    /// None yet.
    pub fn new() -> Self {
        Programs::default()
    }

    /// Adds a job that runs a program of this machine under a name of its own.
    pub fn add(&mut self, name: &str, host_path: &Path, guest_path: &str, arguments: &[&str]) -> &mut Self {
        if !self.files.iter().any(|file| file.0 == guest_path) {
            self.files.push((guest_path.to_owned(), host_path.to_path_buf()));
        }
        let mut argv = vec![guest_path];
        argv.extend(arguments);
        self.jobs.push(Job::new(name, &argv));
        self
    }

    /// Adds a test program without arguments.
    pub fn test_program(&mut self, built: &Artefacts, name: &str) -> &mut Self {
        self.add(name, &built.program(name), &format!("/usr/bin/{name}"), &[])
    }

    /// Adds a busybox shell script, which has busybox's own commands and no others.
    pub fn script(&mut self, name: &str, script: &str) -> &mut Self {
        let script = &format!("PATH=/none; {script}");
        self.add(name, Path::new(BUSYBOX), BUSYBOX, &["sh", "-c", script])
    }

    /// Boots a guest that runs all of them, one after the other.
    ///
    /// # Panics
    /// The guest cannot be started.
    pub fn boot(&self, built: &Artefacts, config: Config) -> (Outcome, Vec<JobResult>) {
        let mut image = Image::new(&built.init).unwrap();
        for (path, from) in &self.files {
            image.executable(path, from).unwrap();
        }
        let initramfs = Initramfs::Bytes(image.finish(Mode::Batch, &self.jobs));
        let outcome = ptshare_vmm::run(&Config { initramfs, ..config }).unwrap();
        let results = batch::results(&outcome, &self.jobs);
        (outcome, results)
    }

    /// Runs all of them on this machine, each in a directory of its own.
    ///
    /// # Panics
    /// One cannot be started.
    pub fn on_host(&self) -> Vec<OnHost> {
        self.jobs.iter().map(|job| self.one_on_host(job)).collect()
    }

    fn one_on_host(&self, job: &Job) -> OnHost {
        let folder = tempfile::tempdir().unwrap();
        let (program, arguments) = job.argv.split_first().unwrap();
        let (_, file) = self.files.iter().find(|file| file.0 == *program).unwrap();
        let output = Command::new(file)
            .args(arguments)
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|v| v.split_once('=')))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        OnHost { stdout: output.stdout, stderr: output.stderr, wait_status: output.status.into_raw().into() }
    }
}

/// What a program did on this machine.
#[derive(Debug)]
pub struct OnHost {
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
    /// Its wait status as wait(2) gives it.
    pub wait_status: i64,
}

/// Says what differs between a job in the guest and on this machine; empty when nothing does.
pub fn difference(guest: &JobResult, host: &OnHost, with_stderr: bool) -> String {
    let mut text = String::new();
    if guest.wait_status() != Some(host.wait_status) {
        text += &format!(
            "  wait status {:?} in the guest, {} on the host\n",
            guest.wait_status(),
            host.wait_status
        );
    }
    text += &stream_difference("stdout", &guest.stdout, &host.stdout);
    if with_stderr {
        text += &stream_difference("stderr", &guest.stderr, &host.stderr);
    } else if !text.is_empty() {
        text += &format!("  stderr in the guest: {}\n", String::from_utf8_lossy(&guest.stderr));
    }
    if text.is_empty() { text } else { format!("{}:\n{text}", guest.name) }
}

fn stream_difference(stream: &str, guest: &[u8], host: &[u8]) -> String {
    if guest == host {
        return String::new();
    }
    let (guest, host) = (String::from_utf8_lossy(guest), String::from_utf8_lossy(host));
    let at = guest.lines().zip(host.lines()).take_while(|(g, h)| g == h).count();
    let rest = |text: &str| text.lines().skip(at).take(6).map(|l| format!("      {l}\n")).collect::<String>();
    format!(
        "  {stream} differs from line {}:\n    guest:\n{}    host:\n{}",
        at + 1,
        rest(&guest),
        rest(&host)
    )
}

/// Ends the test unless the run ended by itself and the judge found nothing.
///
/// # Panics
/// It did not, or the judge did.
pub fn assert_clean(outcome: &Outcome) {
    assert!(
        matches!(outcome.ending, Ending::Exited(_)),
        "{}\nkernel log:\n{}stdout:\n{}stderr:\n{}",
        outcome.ending,
        outcome.kernel_log,
        tail(&outcome.stdout),
        tail(&outcome.stderr)
    );
    assert!(outcome.verifier.violations.is_empty(), "{:?}", outcome.verifier.violations);
    assert!(outcome.verifier.verified > 0, "the judge was never asked");
    let unknown = &outcome.syscalls_unknown;
    assert!(unknown.is_empty(), "unknown system calls: {unknown:?}");
}

fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(2000);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

/// Boots a guest with one program whose stdin is `stdin`; what `cargo xtask run -- PROGRAM` does, but captured.
///
/// # Panics
/// The guest cannot be started.
pub fn run_single(
    built: &Artefacts,
    config: Config,
    host_path: &Path,
    arguments: &[&str],
    stdin: &[u8],
) -> Outcome {
    let mut image = Image::new(&built.init).unwrap();
    let path = image.host_program(host_path).unwrap();
    let mut argv = vec![path.as_str()];
    argv.extend(arguments);
    let initramfs = Initramfs::Bytes(image.finish(Mode::Single, &[Job::new("program", &argv)]));
    ptshare_vmm::run(&Config { initramfs, console: Console::Captured { stdin: stdin.to_vec() }, ..config })
        .unwrap()
}
