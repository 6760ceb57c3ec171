//! Out of memory: who has to go (Linux: mm/oom_kill.c).

use super::limits::memory_pages;
use super::process::Process;
use super::{current, sched, table};
use crate::signal;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_machine::Machine;
use ptshare_mm::Env;

/// oom_score_adj of a process that is never chosen.
const NEVER: i64 = -1000;
/// Faults that may find no memory while a victim is dying, before the task that faults goes itself.
const PATIENCE: u64 = 200;

/// Faults since memory was last found for one.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// Pages that the end of a process would free, weighted by oom_score_adj (`oom_badness`); `None` for who is not chosen.
fn badness(process: &Process) -> Option<i64> {
    let adjust = i64::from(process.oom_score_adj.load(Relaxed));
    if process.is_init() || process.is_dead() || adjust == NEVER {
        return None;
    }
    let pages = process.try_mm()?.release_estimate() as i64;
    Some(pages + adjust * memory_pages() as i64 / 1000)
}

/// /proc/PID/oom_score.
pub fn score(process: &Process) -> u64 {
    let per_mille = badness(process).map(|pages| 1000 + pages * 1000 / memory_pages().max(1) as i64);
    per_mille.map_or(0, |n| (n * 2 / 3).max(0) as u64)
}

/// A fault of the current task found no memory: kills the process whose end frees most, and lets it go first. The task
/// tries again on its return to user mode.
#[cold]
pub fn out_of_memory() {
    let me = current();
    let failures = FAILURES.fetch_add(1, Relaxed);
    let dying = |process: &Arc<Process>| !process.is_dead() && process.exiting.load(Relaxed) == u32::MAX;
    let processes = table::all_processes();
    if failures < PATIENCE && processes.iter().any(dying) {
        drop(processes);
        sched::yield_now();
        return;
    }
    FAILURES.store(0, Relaxed);
    Machine.stats().oom_kills.fetch_add(1, Relaxed);
    let chosen = processes.iter().filter(|process| !dying(process)).filter_map(|process| {
        let badness = badness(process)?;
        // Of equals the one that asks.
        Some((badness, process.pid == me.process.pid, process))
    });
    let chosen =
        chosen.max_by_key(|(badness, asks, _)| (*badness, *asks)).map(|(_, _, process)| process.clone());
    drop(processes);
    match chosen {
        Some(victim) if failures < PATIENCE && victim.pid != me.process.pid => {
            klog!(3, "out of memory: process {} is killed", victim.pid);
            signal::kill_process(&victim);
            drop(victim);
            sched::yield_now();
        }
        // Nobody else, or nobody who goes.
        _ => signal::force_kill(),
    }
}
