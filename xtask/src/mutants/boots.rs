//! All the boots: first without a bug, then one for each bug and each way to reach it.

use super::one::{self, End, describe};
use super::{Bench, Row};
use anyhow::Result;
use ptshare_mutants::{Boot, Mutant, Run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// What the kernel does without a mutant.
pub(super) struct Baseline {
    /// Microseconds of each program under each boot.
    times: BTreeMap<(String, &'static str), u64>,
    boots: usize,
    checkpoints: u64,
}

/// Longest boot without a mutant.
const CLEAN_LIMIT: Duration = Duration::from_secs(120);
/// A mutant's boot may take this many times as long as the same programs without it, but at least [`LEAST_LIMIT`].
const LIMIT_FACTOR: u32 = 10;
const LEAST_LIMIT: Duration = Duration::from_secs(10);
/// Boots of a mutant that is a race, at most.
const RACES: u32 = 8;

impl Baseline {
    /// Runs every program that the mutants need, under each boot that they need it under. The inner error says which
    /// rule objected, or which program failed.
    pub fn measure(bench: &Bench, wanted: &[&'static Mutant]) -> Result<Result<Baseline, String>> {
        let mut boots: Vec<(Boot, Vec<&'static str>)> = Vec::new();
        for (boot, programs) in wanted.iter().flat_map(|m| m.runs) {
            if !boots.iter().any(|known| known.0 == *boot) {
                boots.push((*boot, Vec::new()));
            }
            for (_, known) in boots.iter_mut().filter(|known| known.0 == *boot) {
                let fresh: Vec<&str> = programs.iter().copied().filter(|p| !known.contains(p)).collect();
                known.extend(fresh);
            }
        }
        let ends = in_parallel(&boots, bench.jobs, |(boot, programs)| {
            one::boot(bench, boot, programs, None, CLEAN_LIMIT, bench.random())
        })?;
        let mut baseline = Baseline { times: BTreeMap::new(), boots: boots.len(), checkpoints: 0 };
        for ((boot, programs), end) in boots.iter().zip(ends) {
            if !end.is_clean(programs.len()) {
                return Ok(Err(format!("`{}` {}\n{}", end.label, end.text, end.log)));
            }
            let times = programs.iter().zip(end.times);
            baseline.times.extend(times.map(|(program, time)| ((describe(boot), *program), time)));
            baseline.checkpoints += end.checkpoints;
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
///
/// # Errors
/// A guest cannot be started.
pub(super) fn run_all(
    bench: &Bench,
    wanted: &[&'static Mutant],
    baseline: &Baseline,
    verbose: bool,
) -> Result<Vec<Row>> {
    let width = wanted.iter().map(|m| m.name.len()).max().unwrap_or(0);
    in_parallel(wanted, bench.jobs, |&mutant| {
        let once = |run: &Run| {
            let boot = |random| one::boot(bench, &run.0, run.1, Some(mutant), baseline.limit(run), random);
            let end = boot(bench.random())?;
            // A random instant may come before the harm that this rule names, and show another part of it to another.
            let of_another = bench.random() && !end.rules.is_empty() && !end.names(mutant.rule);
            if of_another { boot(false) } else { Ok(end) }
        };
        let boot = |run: &Run| until_named(mutant, run.0.is_a_race(), || once(run));
        let boots = mutant.runs.iter().map(boot).collect::<Result<Vec<End>>>()?;
        let row = Row { mutant, boots };
        let after: Vec<String> = row.boots.iter().map(End::after).collect();
        println!(
            "{:<8}  {:<width$}  {:<9}  {}",
            row.verdict(),
            mutant.name,
            after.join(", "),
            row.rules().join(", ")
        );
        if verbose {
            for end in &row.boots {
                eprintln!("{}: `{}` {}\n{}", mutant.name, end.label, end.text, end.log);
            }
        }
        Ok(row)
    })
}

/// Boots once, or, where two CPUs must meet in a few instructions, until the rule has named the mutant or it has survived
/// [`RACES`] times.
fn until_named(mutant: &Mutant, race: bool, mut boot: impl FnMut() -> Result<End>) -> Result<End> {
    let mut end = boot()?;
    while race && !end.names(mutant.rule) && end.tries < RACES {
        let tries = end.tries + 1;
        end = End { tries, ..boot()? };
    }
    Ok(end)
}

/// Applies `f` to every item, `jobs` at a time; results in the items' order, or the first error.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    f: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::new());
    let work = || {
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(item) = items.get(at) else { return };
            let result = f(item);
            done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((at, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|result| result.0);
    done.into_iter().map(|result| result.1).collect()
}
