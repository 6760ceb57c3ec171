//! Turns the lines that programs wrote to `/dev/ptshare` into scenarios with metrics.

use crate::outcome::{Event, Snapshot};
use serde_json::Number;

/// Counters that only grow, reported as their difference over a scenario.
const DELTAS: &[&str] = &[
    "page_faults",
    "forks",
    "unshares",
    "reclaims",
    "detaches",
    "fork_tables_copied",
    "fork_tables_shared",
    "cow_copies",
    "hugetlb_faults",
    "pmd_tables_shared",
    "pmd_detaches",
    "cow_reuses",
    "anon_fills",
    "zero_page_fills",
    "file_fills",
    "tlb_flushes",
    "syscalls",
    "switches",
    "fork_ns",
    "oom_kills",
];

/// Gauges, reported before and after a scenario.
const GAUGES: &[(&str, &str)] = &[("tables_now", "tables"), ("tables_shared_now", "tables_shared")];

/// One scenario, from `scenario NAME` to `result NAME STATUS`.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Whether it ended, with wait status 0.
    pub passed: bool,
    /// Wait status (wait(2)); `None` when the run ended before the scenario did.
    pub wait_status: Option<i64>,
    /// From its first line to its result, microseconds; `None` without a result.
    pub micros: Option<u64>,
    /// Numbers that its program reported and counters' differences over it, in that order. Names are unique.
    pub metrics: Vec<(String, Number)>,
}

impl Scenario {
    /// A metric by name.
    pub fn metric(&self, name: &str) -> Option<&Number> {
        self.metrics.iter().find(|m| m.0 == name).map(|m| &m.1)
    }

    fn put(&mut self, name: String, value: Number) {
        match self.metrics.iter_mut().find(|m| m.0 == name) {
            Some(metric) => metric.1 = value,
            None => self.metrics.push((name, value)),
        }
    }
}

/// The scenarios of a run, in order. Lines that fit the grammar of `ptshare_wire::stats` nowhere are left out.
pub fn assemble(events: &[Event]) -> Vec<Scenario> {
    let mut done = Vec::new();
    let mut open: Option<(Scenario, &Event)> = None;
    for event in events {
        let words: Vec<&str> = event.line.split_whitespace().collect();
        match words[..] {
            ["scenario", name] => {
                done.extend(open.take().map(|o| o.0));
                open = Some((fresh(name), event));
            }
            ["metric", name, value] => {
                if let (Some((scenario, _)), Some(value)) = (&mut open, number(value)) {
                    scenario.put(name.to_owned(), value);
                }
            }
            ["result", name, status] => {
                let (mut scenario, first) = match open.take() {
                    Some(o) if o.0.name == name => o,
                    other => {
                        done.extend(other.map(|o| o.0));
                        (fresh(name), event)
                    }
                };
                scenario.wait_status = status.parse().ok();
                scenario.passed = scenario.wait_status == Some(0);
                scenario.micros = Some(event.micros.saturating_sub(first.micros));
                if let (Some(before), Some(after)) = (&first.snapshot, &event.snapshot) {
                    add_counters(&mut scenario, before, after);
                }
                done.push(scenario);
            }
            _ => {}
        }
    }
    done.extend(open.map(|o| o.0));
    done
}

fn fresh(name: &str) -> Scenario {
    Scenario { name: name.to_owned(), passed: false, wait_status: None, micros: None, metrics: Vec::new() }
}

fn number(text: &str) -> Option<Number> {
    if let Ok(n) = text.parse::<i64>() {
        return Some(n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Some(n.into());
    }
    Number::from_f64(text.parse().ok()?)
}

fn add_counters(scenario: &mut Scenario, before: &Snapshot, after: &Snapshot) {
    let of = |s: &Snapshot, name: &str| s.stats.get(name).copied().unwrap_or(0);
    for name in DELTAS {
        scenario.put((*name).to_owned(), of(after, name).saturating_sub(of(before, name)).into());
    }
    for (counter, name) in GAUGES {
        scenario.put(format!("{name}_before"), of(before, counter).into());
        scenario.put(format!("{name}_after"), of(after, counter).into());
    }
    scenario.put("last_fork_ns".into(), of(after, "last_fork_ns").into());
    scenario.put("frames_free_before".into(), before.frames_free.into());
    scenario.put("frames_free_after".into(), after.frames_free.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(micros: u64, line: &str, counters: Option<(u64, u64, u64)>) -> Event {
        let snapshot = counters.map(|(forks, tables, free)| Snapshot {
            stats: [("forks", forks), ("tables_now", tables)].into(),
            frames_total: 1000,
            frames_free: free,
        });
        Event { micros, line: line.into(), snapshot }
    }

    #[test]
    fn a_scenario_carries_its_metrics_and_the_counters_differences() {
        let all = assemble(&[
            event(100, "scenario fork", Some((5, 20, 900))),
            event(150, "metric ratio 1.5", None),
            event(160, "metric pages 512", None),
            event(170, "metric pages 513", None),
            event(200, "result fork 0", Some((7, 24, 890))),
        ]);
        assert_eq!(all.len(), 1);
        let one = &all[0];
        assert_eq!(
            (one.name.as_str(), one.passed, one.wait_status, one.micros),
            ("fork", true, Some(0), Some(100))
        );
        for (name, value) in [
            ("pages", 513),
            ("forks", 2),
            ("tables_before", 20),
            ("tables_after", 24),
            ("frames_free_before", 900),
            ("frames_free_after", 890),
        ] {
            assert_eq!(one.metric(name).and_then(Number::as_u64), Some(value), "{name}");
        }
        assert_eq!(one.metric("ratio").and_then(Number::as_f64), Some(1.5));
    }

    #[test]
    fn failures_and_missing_results_do_not_pass() {
        let all = assemble(&[
            event(1, "scenario a", None),
            event(2, "result a 139", None),
            event(3, "scenario b", None),
            event(4, "scenario c", None),
            event(5, "metric x y", None),
            event(6, "result other 0", None),
            event(7, "checkpoint here", None),
            event(8, "scenario d", None),
        ]);
        let names: Vec<_> = all.iter().map(|s| (s.name.as_str(), s.passed, s.wait_status)).collect();
        assert_eq!(
            names,
            [
                ("a", false, Some(139)),
                ("b", false, None),
                ("c", false, None),
                ("other", true, Some(0)),
                ("d", false, None)
            ]
        );
        assert!(all[2].metrics.is_empty());
        assert!(assemble(&[]).is_empty());
    }
}
