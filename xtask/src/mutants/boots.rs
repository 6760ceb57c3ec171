//! The boots: first without a bug, then one for each bug and each way to reach it.

use super::Row;
use crate::batch::{self, JobResult};
use crate::guest::Artefacts;
use crate::image::{Image, Job, Mode};
use anyhow::Result;
use ptshare_mutants::{Boot, Mutant, Run};
use ptshare_vmm::{Config, Ending, Initramfs, Outcome, VerifyMode};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How one boot with a mutant ended.
pub(super) struct Killed {
    /// Boot options and programs.
    pub label: String,
    /// Rules and probes that objected; none if it survived.
    pub rules: Vec<String>,
    /// From the guest's first instruction to its end, milliseconds.
    pub millis: u128,
    /// Checkpoints that were verified, the last of which found it.
    pub checkpoints: u64,
    /// The end in words.
    pub end: String,
}

/// What the kernel does without a mutant.
pub(super) struct Baseline {
    /// Microseconds of each program under each boot.
    times: BTreeMap<(String, &'static str), u64>,
    boots: usize,
    checkpoints: u64,
}

/// Longest run without a mutant.
const CLEAN_LIMIT: Duration = Duration::from_secs(120);
/// A mutant's run may take this many times as long as the same programs without it, but at least [`LEAST_LIMIT`].
const LIMIT_FACTOR: u32 = 20;
const LEAST_LIMIT: Duration = Duration::from_secs(10);

impl Baseline {
    /// Runs every program that the mutants need, under each boot that they need it under. The inner error says which
    /// rule objected, or which program failed.
    pub fn measure(
        built: &Artefacts,
        wanted: &[&'static Mutant],
        jobs: usize,
    ) -> Result<Result<Baseline, String>> {
        let mut boots: Vec<(Boot, Vec<&'static str>)> = Vec::new();
        for (boot, programs) in wanted.iter().flat_map(|m| m.runs) {
            if !boots.iter().any(|b| b.0 == *boot) {
                boots.push((*boot, Vec::new()));
            }
            for (_, list) in boots.iter_mut().filter(|b| b.0 == *boot) {
                list.extend(programs.iter().filter(|p| !list.contains(p)).collect::<Vec<_>>());
            }
        }
        let outcomes =
            in_parallel(&boots, jobs, |(boot, programs)| start(built, boot, programs, None, CLEAN_LIMIT))?;
        let mut baseline = Baseline { times: BTreeMap::new(), boots: boots.len(), checkpoints: 0 };
        for ((boot, programs), (outcome, results)) in boots.iter().zip(outcomes) {
            let label = label(boot, programs);
            if outcome.ending != Ending::Exited(0) {
                return Ok(Err(format!("`{label}` does not end well: {}", outcome.ending)));
            }
            for (result, program) in results.iter().zip(programs) {
                if !result.passed() {
                    let stderr = String::from_utf8_lossy(&result.stderr).into_owned();
                    return Ok(Err(format!("`{program}` fails ({}): {}", describe(boot), stderr.trim_end())));
                }
                baseline.times.insert((describe(boot), program), result.micros());
            }
            baseline.checkpoints += outcome.verifier.verified;
        }
        Ok(Ok(baseline))
    }

    /// One line.
    pub fn summary(&self) -> String {
        format!(
            "{} programs in {} boots passed, {} checkpoints verified, 0 violations",
            self.times.len(),
            self.boots,
            self.checkpoints
        )
    }

    fn limit(&self, (boot, programs): &Run) -> Duration {
        let micros = programs.iter().filter_map(|&p| self.times.get(&(describe(boot), p))).sum();
        (Duration::from_micros(micros) * LIMIT_FACTOR).max(LEAST_LIMIT)
    }
}

/// Runs each mutant under each of its boots; says how each went as soon as it is known.
pub(super) fn run_all(
    built: &Artefacts,
    wanted: &[&'static Mutant],
    baseline: &Baseline,
    jobs: usize,
    verbose: bool,
) -> Result<Vec<Row>> {
    let width = wanted.iter().map(|m| m.name.len()).max().unwrap_or(0);
    in_parallel(wanted, jobs, |&mutant| {
        let mut boots = Vec::new();
        for run in mutant.runs {
            let (outcome, results) = start(built, &run.0, run.1, Some(mutant), baseline.limit(run))?;
            if verbose {
                eprintln!("{}: {}\n{}", mutant.name, outcome.ending, outcome.kernel_log);
            }
            boots.push(judge(run, &outcome, &results));
        }
        let row = Row { mutant, boots };
        let after: Vec<String> = row.boots.iter().map(|b| format!("{} ms", b.millis)).collect();
        println!(
            "{:<8}  {:<width$}  {:<9}  {}",
            row.verdict(),
            mutant.name,
            after.join(", "),
            row.rules().join(", ")
        );
        Ok(row)
    })
}

/// Boots a guest that runs the programs one after the other.
fn start(
    built: &Artefacts,
    boot: &Boot,
    programs: &[&str],
    mutant: Option<&Mutant>,
    limit: Duration,
) -> Result<(Outcome, Vec<JobResult>)> {
    let mut image = Image::new(&built.init)?;
    let mut jobs: Vec<Job> = Vec::new();
    for (number, line) in programs.iter().enumerate() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let path = format!("/usr/bin/{name}");
        if programs.iter().take(number).all(|p| p.split_whitespace().next() != Some(name)) {
            image.executable(&path, &built.program(name))?;
        }
        let argv: Vec<&str> = std::iter::once(path.as_str()).chain(words).collect();
        jobs.push(Job::new(line.replace(' ', "-"), &argv));
    }
    let mutant = mutant.map_or(String::new(), |m| format!(" mutant={}", m.name));
    let config = Config {
        kernel: built.kernel.clone(),
        initramfs: Initramfs::Bytes(image.finish(Mode::Batch, &jobs)),
        cmdline_extra: format!("{}{mutant}", boot.words),
        mem_bytes: boot.mem_bytes,
        sharing: boot.sharing.into(),
        verify: if boot.faults == 0 { VerifyMode::EveryExit } else { VerifyMode::Faults(boot.faults) },
        timeout: Some(limit),
        ..Config::default()
    };
    let outcome = ptshare_vmm::run(&config)?;
    let results = batch::results(&outcome, &jobs);
    Ok((outcome, results))
}

/// Who noticed.
fn judge(run: &Run, outcome: &Outcome, results: &[JobResult]) -> Killed {
    let (boot, programs) = run;
    let failed = results.iter().zip(*programs).find(|(result, _)| !result.passed());
    let (rules, end) = match (&outcome.ending, failed) {
        (Ending::Violation { .. }, _) => {
            (outcome.verifier.broken.clone(), format!("ended by {}", outcome.verifier.broken.join(", ")))
        }
        (Ending::Timeout { .. }, _) => (vec!["probe:progress".into()], "did not end".into()),
        (Ending::Exited(_), Some((result, program))) => {
            let stderr = String::from_utf8_lossy(&result.stderr);
            let last = stderr.lines().last().unwrap_or_default();
            let end = format!("failed: {program}: {} {last}", result.ending());
            (vec![ptshare_mutants::probe(program).into()], end)
        }
        (Ending::Exited(0), None) => (Vec::new(), "was survived".into()),
        // A panic is no verdict: no rule has named anything.
        (other, _) => (Vec::new(), format!("ended otherwise: {other}")),
    };
    Killed {
        label: label(boot, programs),
        rules,
        millis: outcome.wall.as_millis(),
        checkpoints: outcome.verifier.verified,
        end,
    }
}

fn describe(boot: &Boot) -> String {
    let mut text = format!("sharing={}", boot.sharing);
    if !boot.words.is_empty() {
        text += &format!(" {}", boot.words);
    }
    if boot.faults != 0 {
        text += &format!(" verify=faults:{}", boot.faults);
    }
    text
}

fn label(boot: &Boot, programs: &[&str]) -> String {
    format!("{}: {}", describe(boot), programs.join(", "))
}

/// Applies `f` to every item, `jobs` at a time; results in the items' order, or the first error met.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    f: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                while let Some((at, item)) =
                    Some(next.fetch_add(1, Relaxed)).and_then(|at| Some((at, items.get(at)?)))
                {
                    let result = f(item);
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|result| result.0);
    done.into_iter().map(|result| result.1).collect()
}
