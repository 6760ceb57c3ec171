//! One boot: under KVM with the judge, or under the emulator with the programs' own verdict.

use crate::batch::{self, JobResult};
use crate::emulator;
use crate::guest::Artefacts;
use crate::image::{Image, Job, Mode};
use anyhow::{Context, Result};
use ptshare_mutants::{Boot, Mutant, probe};
use ptshare_vmm::{Config, Ending, Initramfs, Outcome, VerifyMode, show_size};
use std::time::{Duration, Instant};

/// From this exit status on it is init or the kernel that failed: no mutant of this name, no program, a panic.
const NO_VERDICT: u8 = 125;

/// How a boot ended.
pub(super) struct End {
    /// Boot options and programs.
    pub label: String,
    /// Rules and probes that objected.
    pub rules: Vec<String>,
    /// From the guest's first instruction to its end, milliseconds; of the whole of QEMU under the emulator.
    pub millis: u128,
    /// Checkpoints that were verified, the last of which found it; 0 under the emulator.
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
}

/// Boots a guest, with the mutant if there is one, that runs the programs one after the other.
///
/// # Errors
/// The guest cannot be started.
pub(super) fn boot(
    built: &Artefacts,
    boot: &Boot,
    programs: &[&str],
    mutant: Option<&Mutant>,
    limit: Duration,
) -> Result<End> {
    if boot.emulated {
        return emulate(built, boot, programs, mutant, limit);
    }
    let (image, jobs) = image(built, programs)?;
    let config = Config {
        kernel: built.kernel.clone(),
        initramfs: Initramfs::Bytes(image.finish(Mode::Batch, &jobs)),
        cmdline_extra: words(boot, mutant),
        mem_bytes: boot.mem_bytes,
        sharing: boot.sharing.into(),
        verify: if boot.faults == 0 { VerifyMode::EveryExit } else { VerifyMode::Faults(boot.faults) },
        timeout: Some(limit),
        ..Config::default()
    };
    let outcome = ptshare_vmm::run(&config)?;
    let results = batch::results(&outcome, &jobs);
    let (rules, text) = judge(&outcome, &results, programs);
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    Ok(End {
        label: label(boot, programs),
        rules,
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

/// Each program alone, whose exit status is all that counts.
fn emulate(
    built: &Artefacts,
    boot: &Boot,
    programs: &[&str],
    mutant: Option<&Mutant>,
    limit: Duration,
) -> Result<End> {
    let mut end = End {
        label: label(boot, programs),
        rules: Vec::new(),
        millis: 0,
        checkpoints: 0,
        text: "was survived".into(),
        times: Vec::new(),
        log: String::new(),
    };
    let cmdline = format!("sharing={} {}", boot.sharing, words(boot, mutant));
    for program in programs {
        let (image, jobs) = image(built, &[program])?;
        let archive = image.finish(Mode::Single, &jobs);
        let begin = Instant::now();
        let ended =
            emulator::boot(&built.kernel, &archive, &cmdline, &show_size(boot.mem_bytes), &[], limit)?;
        let time = begin.elapsed();
        end.millis += time.as_millis();
        end.log += &ended.text;
        match ended.status {
            Some(0) => end.times.push(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            // Of what init gives for a program that a signal killed, the device passes on seven bits.
            Some(status) if status < NO_VERDICT => {
                end.rules.push(probe(program).into());
                end.text = format!("failed: {program}");
                break;
            }
            status => {
                end.text = format!("ended otherwise: status {status:?}, {}", ended.errors);
                break;
            }
        }
    }
    Ok(end)
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
    let mut text = format!("sharing={}", boot.sharing);
    if !boot.words.is_empty() {
        text += &format!(" {}", boot.words);
    }
    if boot.faults != 0 {
        text += &format!(" verify=faults:{}", boot.faults);
    }
    if boot.emulated {
        text += ", emulated";
    }
    text
}

fn label(boot: &Boot, programs: &[&str]) -> String {
    format!("{}: {}", describe(boot), programs.join(", "))
}
