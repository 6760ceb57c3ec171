//! The machine-readable report of a run: one JSON object.
//!
//! `engine, icount, sharing, mem_bytes, cpus, boot{..}, ending, program{exit_code} | scenarios[{name, passed, metrics{}}],
//! guest{..}, verifier{..}`. Keys are never left out; what is not known is null.

use crate::config::Config;
use crate::outcome::{Ending, Outcome};
use crate::scenario::{self, Scenario};
use serde_json::{Map, Value, json};

/// Builds the report. With `program` the run was that of one program and its exit code is reported; otherwise the
/// scenarios are.
pub fn report(config: &Config, outcome: &Outcome, program: bool) -> Value {
    let mut object = json!({
        "engine": outcome.engine.name(),
        "icount": config.icount,
        "sharing": config.sharing,
        "mem_bytes": config.mem_bytes,
        "cpus": config.cpus,
        "boot": {
            "first_user_instruction_us": outcome.first_user_instruction_us,
            "instructions": outcome.insn_emulation_at_first_user,
            "setup_us": outcome.setup.as_micros() as u64,
        },
        "ending": {
            "kind": kind(&outcome.ending),
            "status": outcome.status,
            "text": text(&outcome.ending),
            "wall_us": outcome.wall.as_micros() as u64,
        },
        "guest": guest(outcome),
        "verifier": {
            "checkpoints": outcome.verifier.checkpoints,
            "verified": outcome.verifier.verified,
            "coalesced": outcome.verifier.coalesced,
            "random": random(config, outcome),
            "entries_walked": outcome.verifier.entries_walked,
            "tables_walked": outcome.verifier.tables_walked,
            "tables_compared": outcome.verifier.tables_compared,
            "translated": outcome.verifier.translated,
            "rules": outcome.verifier.rules,
            "violations": outcome.verifier.violations,
            "micros": outcome.verifier.micros,
            "ns": outcome.verifier.nanos,
            "entries_per_second": rate(outcome.verifier.entries_walked, outcome.verifier.nanos),
        },
    });
    if program {
        let code = match outcome.ending {
            Ending::Exited(status) => Some(status),
            _ => None,
        };
        object["program"] = json!({ "exit_code": code });
    } else {
        let all = scenario::assemble(&outcome.events);
        object["scenarios"] = all.iter().map(scenario_json).collect();
    }
    object
}

/// So many in so many nanoseconds, as a rate a second; null if nothing was measured.
fn rate(count: u64, nanos: u64) -> Option<u64> {
    (nanos > 0).then(|| (u128::from(count) * 1_000_000_000 / u128::from(nanos)) as u64)
}

/// What the judge did at random instants; null if it was not asked to.
fn random(config: &Config, outcome: &Outcome) -> Value {
    let totals = &outcome.verifier.random;
    config.random.map_or(Value::Null, |how| {
        json!({
            "hz": how.hz,
            "seed": how.seed,
            "pauses": totals.pauses,
            "retries": totals.retries,
            "verdicts": totals.verdicts,
            "in_kernel": totals.in_kernel,
        })
    })
}

fn scenario_json(scenario: &Scenario) -> Value {
    let metrics: Map<_, _> =
        scenario.metrics.iter().map(|(k, v)| (k.clone(), Value::Number(v.clone()))).collect();
    json!({
        "name": scenario.name,
        "passed": scenario.passed,
        "wait_status": scenario.wait_status,
        "micros": scenario.micros,
        "metrics": metrics,
    })
}

/// Every counter by name, frames, and the unknown system calls.
fn guest(outcome: &Outcome) -> Value {
    let mut map = Map::new();
    for &name in ptshare_wire::Stats::NAMES {
        map.insert(name.to_owned(), outcome.stat(name).into());
    }
    let frames = outcome.last.as_ref();
    map.insert("frames_total".into(), frames.map(|s| s.frames_total).into());
    map.insert("frames_free".into(), frames.map(|s| s.frames_free).into());
    map.insert("syscalls_unknown".into(), outcome.syscalls_unknown.clone().into());
    Value::Object(map)
}

fn kind(ending: &Ending) -> &'static str {
    match ending {
        Ending::Exited(_) => "exited",
        Ending::Violation { .. } => "violation",
        Ending::GuestPanic { .. } => "guest_panic",
        Ending::InternalError { .. } => "internal_error",
        Ending::Timeout { .. } => "timeout",
        Ending::Hang { .. } => "hang",
        Ending::Interrupted => "interrupted",
        Ending::OutputClosed => "output_closed",
    }
}

fn text(ending: &Ending) -> Option<String> {
    (!matches!(ending, Ending::Exited(_))).then(|| ending.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::outcome::{Event, Snapshot, VerifierTotals};
    use std::time::Duration;

    fn outcome(ending: Ending) -> Outcome {
        Outcome {
            engine: Engine::Qemu,
            status: crate::exit_code::of_ending(&ending),
            ending,
            stdout: Vec::new(),
            stderr: Vec::new(),
            first_user_instruction_us: Some(5),
            insn_emulation_at_first_user: None,
            setup: Duration::from_micros(7),
            wall: Duration::from_millis(1),
            events: vec![
                Event { micros: 1, line: "scenario s".into(), snapshot: None },
                Event { micros: 2, line: "metric m 3".into(), snapshot: None },
                Event { micros: 3, line: "result s 0".into(), snapshot: None },
            ],
            last: Some(Snapshot { stats: [("forks", 9)].into(), frames_total: 100, frames_free: 50 }),
            syscalls_unknown: vec![999],
            profile: None,
            verifier: VerifierTotals { checkpoints: 2, rules: vec!["a".into()], ..Default::default() },
            kernel_log: String::new(),
        }
    }

    #[test]
    fn the_report_has_the_promised_keys() {
        let report = report(&Config::default(), &outcome(Ending::Exited(0)), false);
        for (path, value) in [
            ("/engine", json!("qemu")),
            ("/icount", json!(false)),
            ("/sharing", json!("pte")),
            ("/mem_bytes", json!(512u64 << 20)),
            ("/cpus", json!(1)),
            ("/boot/first_user_instruction_us", json!(5)),
            ("/boot/instructions", Value::Null),
            ("/scenarios/0/name", json!("s")),
            ("/scenarios/0/passed", json!(true)),
            ("/scenarios/0/metrics/m", json!(3)),
            ("/guest/forks", json!(9)),
            ("/guest/page_faults", json!(0)),
            ("/guest/tables_now", json!(0)),
            ("/guest/tables_peak", json!(0)),
            ("/guest/tables_shared_peak", json!(0)),
            ("/guest/unshares", json!(0)),
            ("/guest/syscalls_unknown", json!([999])),
            ("/verifier/checkpoints", json!(2)),
            ("/verifier/random", Value::Null),
            ("/verifier/entries_walked", json!(0)),
            ("/verifier/rules", json!(["a"])),
            ("/verifier/violations", json!([])),
            ("/verifier/micros", json!(0)),
            ("/verifier/ns", json!(0)),
            ("/verifier/entries_per_second", Value::Null),
        ] {
            assert_eq!(report.pointer(path), Some(&value), "{path}");
        }
        assert!(report.get("program").is_none());
    }

    #[test]
    fn a_programs_run_reports_its_exit_code() {
        let good = report(&Config::default(), &outcome(Ending::Exited(3)), true);
        assert_eq!(good.pointer("/program/exit_code"), Some(&json!(3)));
        assert!(good.get("scenarios").is_none());
        let bad = report(&Config::default(), &outcome(Ending::Interrupted), true);
        assert_eq!(bad.pointer("/program/exit_code"), Some(&Value::Null));
        assert_eq!(bad.pointer("/ending/kind"), Some(&json!("interrupted")));
    }
}
