//! One boot.

use super::{Bench, schedules};
use crate::batch::{self, JobResult};
use crate::guest::Artefacts;
use crate::image::{Image, Job, Mode};
use anyhow::{Context, Result};
use ptshare_mutants::{Boot, Mutant, probe};
use ptshare_vmm::{
    Config, Ending, Engine, EngineChoice, Initramfs, Outcome, RandomVerify, VerifyMode, Watchdog,
};
use std::time::Duration;

/// Verdicts at random instants, a second, where they are asked for.
const RANDOM_HZ: f64 = 20.0;

/// After so long without a counter that moves a guest hangs.
const HANGS_AFTER: Duration = Duration::from_secs(5);
/// How the watchdog says that a CPU spins for a lock.
const WAITS: &str = ", waits for the ";

/// How a boot ended.
pub(super) struct End {
    /// Boot options and programs.
    pub label: String,
    /// Rules and probes that objected.
    pub rules: Vec<String>,
    /// Which boot of the same kind this was, from 1.
    pub tries: u32,
    /// From the guest's first instruction to its end, milliseconds.
    pub millis: u128,
    /// Checkpoints that were verified, the last of which found it.
    pub checkpoints: u64,
    /// The end in words.
    pub text: String,
    /// Microseconds of each program that ended well.
    pub times: Vec<u64>,
    /// What the guest said.
    pub log: String,
}

impl End {
    /// Did every program end well, and nobody object?
    pub fn is_clean(&self, programs: usize) -> bool {
        self.rules.is_empty() && self.times.len() == programs
    }

    /// Did this rule object?
    pub fn names(&self, rule: &str) -> bool {
        self.rules.iter().any(|name| name == rule)
    }

    /// When the end came, in words.
    pub fn after(&self) -> String {
        let boot = if self.tries > 1 { format!(" of boot {}", self.tries) } else { String::new() };
        format!("{} ms{boot}", self.millis)
    }
}

/// Boots a guest, with the mutant if there is one, that runs the programs one after the other, judged at random instants too
/// if `random`; or plays them under the scheduler.
///
/// # Errors
/// The guest cannot be started, or the tests cannot be run.
pub(super) fn boot(
    bench: &Bench,
    boot: &Boot,
    programs: &[&str],
    mutant: Option<&Mutant>,
    limit: Duration,
    random: bool,
) -> Result<End> {
    if boot.schedules {
        return schedules::play(programs, mutant, label(boot, programs));
    }
    let (image, jobs) = image(&bench.built, programs)?;
    // A stale translation lasts until its CPU loads another root, which an idle one does: those boots keep their number.
    let cpus = if boot.emulated { boot.cpus } else { boot.cpus.max(bench.cpus) };
    let config = Config {
        kernel: bench.built.kernel.clone(),
        initramfs: Initramfs::Bytes(image.finish(Mode::Batch, &jobs)),
        cmdline_extra: words(boot, mutant),
        mem_bytes: boot.mem_bytes,
        cpus,
        random: random.then_some(RandomVerify { hz: RANDOM_HZ, seed: u64::from(cpus) }),
        sharing: boot.sharing.into(),
        verify: if boot.faults == 0 { VerifyMode::EveryExit } else { VerifyMode::Faults(boot.faults) },
        timeout: Some(limit),
        watchdog: Some(Watchdog { limit: HANGS_AFTER, strict: false }),
        engine: if boot.emulated { EngineChoice::Only(Engine::Qemu) } else { EngineChoice::Auto },
        ..Config::default()
    };
    let outcome = ptshare_vmm::run(&config)?;
    let results = batch::results(&outcome, &jobs);
    let (rules, text) = judge(&outcome, &results, programs);
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    Ok(End {
        label: label(boot, programs),
        rules,
        tries: 1,
        millis: outcome.wall.as_millis(),
        checkpoints: outcome.verifier.verified,
        text,
        times: results.iter().filter(|result| result.passed()).map(JobResult::micros).collect(),
        log: format!("{}\n{}{stderr}", outcome.ending, outcome.kernel_log),
    })
}

/// Who noticed, and how it ended.
fn judge(outcome: &Outcome, results: &[JobResult], programs: &[&str]) -> (Vec<String>, String) {
    let failed = results.iter().zip(programs).find(|(result, _)| !result.passed());
    match (&outcome.ending, failed) {
        (Ending::Violation { .. }, _) => {
            (outcome.verifier.broken.clone(), format!("ended by {}", outcome.verifier.broken.join(", ")))
        }
        (Ending::Timeout { .. }, _) => (vec!["probe:progress".into()], "did not end".into()),
        // A hang that no CPU explains is no verdict either.
        (Ending::Hang { text }, _) if text.contains(WAITS) => {
            let cpus: Vec<&str> = text.lines().filter(|line| line.contains(WAITS)).collect();
            (vec!["probe:hang".into()], format!("hung: {}", cpus.join("; ")))
        }
        (Ending::Exited(_), Some((result, program))) => {
            let stderr = String::from_utf8_lossy(&result.stderr);
            let said = stderr.lines().find(|line| !line.starts_with('\x01')).unwrap_or_default();
            (vec![probe(program).into()], format!("failed: {program}: {} {said}", result.ending()))
        }
        (Ending::Exited(0), None) => (Vec::new(), "was survived".into()),
        // A panic is no verdict: no rule has named anything.
        (other, _) => (Vec::new(), format!("ended otherwise: {other}")),
    }
}

/// The root file system with the programs, and the jobs.
fn image(built: &Artefacts, programs: &[&str]) -> Result<(Image, Vec<Job>)> {
    let mut image = Image::new(&built.init)?;
    let mut jobs: Vec<Job> = Vec::new();
    for line in programs {
        let mut words = line.split_whitespace();
        let name = words.next().context("a program without a name")?;
        let path = format!("/usr/bin/{name}");
        if jobs.iter().all(|job| job.argv.first() != Some(&path)) {
            image.executable(&path, &built.program(name))?;
        }
        let argv: Vec<&str> = std::iter::once(path.as_str()).chain(words).collect();
        jobs.push(Job::new(line.replace(' ', "-"), &argv));
    }
    Ok((image, jobs))
}

/// The words for the kernel that the VMM does not write itself.
fn words(boot: &Boot, mutant: Option<&Mutant>) -> String {
    let mutant = mutant.map_or(String::new(), |m| format!(" mutant={}", m.name));
    format!("{}{mutant}", boot.words)
}

/// The boot's options in words.
pub(super) fn describe(boot: &Boot) -> String {
    if boot.schedules {
        return "schedules".into();
    }
    let mut text = format!("sharing={}", boot.sharing);
    if !boot.words.is_empty() {
        text += &format!(" {}", boot.words);
    }
    if boot.faults != 0 {
        text += &format!(" verify=faults:{}", boot.faults);
    }
    if boot.cpus > 1 {
        text += &format!(" cpus={}", boot.cpus);
    }
    if boot.emulated {
        text += ", emulated";
    }
    text
}

fn label(boot: &Boot, programs: &[&str]) -> String {
    format!("{}: {}", describe(boot), programs.join(", "))
}
