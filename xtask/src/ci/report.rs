//! What CI found out: as JUnit XML for CI servers, as JSON for programs, and in a few lines.

use super::Verdict;
use super::step::{Done, Status};
use anyhow::Result;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

/// One suite a step: its tests, and the step itself as the last case.
///
/// # Errors
/// The XML cannot be made.
pub fn junit(verdict: &Verdict) -> Result<String> {
    let mut report = Report::new(format!("ptshare on {}", verdict.engine));
    report.set_time(verdict.took);
    for done in &verdict.steps {
        let mut suite = TestSuite::new(format!("ptshare.{}", done.name));
        suite.set_time(done.took);
        suite.add_property(("engine", verdict.engine.name()));
        for case in &done.cases {
            let status = match case.passed {
                Some(true) => TestCaseStatus::success(),
                Some(false) => TestCaseStatus::non_success(NonSuccessKind::Failure),
                None => TestCaseStatus::skipped(),
            };
            let mut entry = TestCase::new(case.name.as_str(), status);
            entry.set_classname(format!("ptshare.{}", done.name));
            if let Some(took) = case.took {
                entry.set_time(took);
            }
            suite.add_test_case(entry);
        }
        for scenario in scenarios(verdict, done) {
            let status = match scenario.passed {
                true => TestCaseStatus::success(),
                false => TestCaseStatus::non_success(NonSuccessKind::Failure),
            };
            let mut entry = TestCase::new(scenario.name, status);
            entry.set_classname("ptshare.tour");
            suite.add_test_case(entry);
        }
        let mut status = match &done.status {
            Status::Passed => TestCaseStatus::success(),
            Status::Skipped(_) => TestCaseStatus::skipped(),
            Status::Failed(_) | Status::TimedOut => TestCaseStatus::non_success(NonSuccessKind::Failure),
        };
        if done.status != Status::Passed {
            status.set_message(done.status.to_string());
            status.set_description(done.tail.as_str());
        }
        let mut entry = TestCase::new(done.command.as_str(), status);
        entry.set_classname(format!("ptshare.{}", done.name)).set_time(done.took);
        suite.add_test_case(entry);
        report.add_test_suite(suite);
    }
    Ok(report.to_string()?)
}

struct Scenario {
    name: String,
    passed: bool,
}

/// The boots of the tour: the first, and those that it was compared with.
fn boots(verdict: &Verdict) -> Vec<&Value> {
    let Some(tour) = &verdict.tour else { return Vec::new() };
    let others = tour.get("compared_with").and_then(Value::as_array).into_iter().flatten();
    std::iter::once(tour).chain(others).collect()
}

/// The scenarios of the tour, when this step is the tour.
fn scenarios(verdict: &Verdict, done: &Done) -> Vec<Scenario> {
    if done.name != "tour" {
        return Vec::new();
    }
    let list = |boot: &Value| {
        let sharing = boot.get("sharing").and_then(Value::as_str).unwrap_or("").to_owned();
        let all = boot.get("scenarios").and_then(Value::as_array).cloned().unwrap_or_default();
        all.into_iter().filter_map(move |scenario| {
            let name = format!("{} sharing={sharing}", scenario.get("name")?.as_str()?);
            Some(Scenario { name, passed: scenario.get("passed")?.as_bool()? })
        })
    };
    boots(verdict).into_iter().flat_map(list).collect()
}

/// What the judge did in the tour.
fn judge(verdict: &Verdict) -> Value {
    let sum = |name: &str| {
        let numbers = boots(verdict).into_iter().filter_map(|boot| boot.get("verifier")?.get(name)?.as_u64());
        numbers.sum::<u64>()
    };
    let list = |name: &str| {
        let boots = boots(verdict).into_iter();
        boots.filter_map(|boot| boot.get("verifier")?.get(name)?.as_array().cloned()).collect::<Vec<_>>()
    };
    json!({
        "boots": boots(verdict).len(),
        "verified": sum("verified"),
        "entries_walked": sum("entries_walked"),
        "rules": list("rules").first().map_or(0, Vec::len),
        "violations": list("violations").concat(),
    })
}

/// The verdict: `passed`, `engine`, the steps with their tests counted, and what the judge saw in the tour.
pub fn json(verdict: &Verdict) -> String {
    let count = |done: &Done, passed: Option<bool>| done.cases.iter().filter(|c| c.passed == passed).count();
    let steps: Vec<Value> = verdict
        .steps
        .iter()
        .map(|done| {
            let (status, why) = match &done.status {
                Status::Passed => ("passed", None),
                Status::Failed(how) => ("failed", Some(how.as_str())),
                Status::TimedOut => ("timed_out", None),
                Status::Skipped(why) => ("skipped", Some(why.as_str())),
            };
            json!({
                "name": done.name,
                "command": done.command,
                "status": status,
                "why": why,
                "seconds": done.took.as_secs_f64(),
                "tests": {
                    "passed": count(done, Some(true)),
                    "failed": done.cases.iter().filter(|c| c.passed == Some(false)).map(|c| c.name.as_str()).collect::<Vec<_>>(),
                    "ignored": count(done, None),
                },
                "left_out": done.left_out,
            })
        })
        .collect();
    let value = json!({
        "passed": verdict.passed(),
        "engine": verdict.engine.name(),
        "engine_notice": verdict.notice,
        "commit": verdict.commit,
        "seconds": verdict.took.as_secs_f64(),
        "steps": steps,
        "judge": judge(verdict),
    });
    format!("{value:#}\n")
}

/// One line a step, and one for the whole.
pub fn summary(verdict: &Verdict) -> String {
    let mut text = String::new();
    for done in &verdict.steps {
        let passed = done.cases.iter().filter(|case| case.passed == Some(true)).count();
        let cases = if passed > 0 { format!(", {passed} tests") } else { String::new() };
        let left = if done.left_out.is_empty() {
            String::new()
        } else {
            format!(", {} things left out", done.left_out.len())
        };
        text += &format!("{:<8} {}, {:.0} s{cases}{left}\n", done.name, done.status, done.took.as_secs_f64());
        for case in done.cases.iter().filter(|case| case.passed == Some(false)) {
            text += &format!("         failed: {}\n", case.name);
        }
        if matches!(done.status, Status::Failed(_) | Status::TimedOut) {
            text += &last_lines(&done.tail);
        }
    }
    let word = if verdict.passed() { "passed" } else { "FAILED" };
    text += &format!("{word} on engine {} in {:.0} s\n", verdict.engine, verdict.took.as_secs_f64());
    text
}

/// Lines of a step that failed which the summary repeats, so that whoever sees nothing else knows where to look.
const REPEATED: usize = 8;

fn last_lines(tail: &str) -> String {
    let lines: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(REPEATED)..].iter().map(|line| format!("         | {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::output::case;
    use super::*;
    use ptshare_vmm::Engine;
    use std::time::Duration;

    fn sample() -> Verdict {
        let done = |name, status, lines: &[&str]| Done {
            name,
            command: format!("cargo xtask {name}"),
            status,
            took: Duration::from_secs(3),
            cases: lines.iter().filter_map(|line| case(line)).collect(),
            left_out: vec!["busybox".into()],
            tail: "the <end>".into(),
        };
        let boot = json!({
            "sharing": "pte",
            "scenarios": [{ "name": "hello", "passed": true }],
            "verifier": { "verified": 2, "entries_walked": 30, "rules": ["a", "b"], "violations": [] },
        });
        let mut tour = boot.clone();
        tour["compared_with"] = json!([boot]);
        Verdict {
            engine: Engine::Qemu,
            notice: Some("no KVM".into()),
            commit: None,
            took: Duration::from_secs(9),
            steps: vec![
                done("test", Status::Failed("exit status 1".into()), &["test a ... ok", "test b ... FAILED"]),
                done("tour", Status::Passed, &[]),
                done("fuzz", Status::Skipped("no such verb".into()), &[]),
            ],
            tour: Some(tour),
        }
    }

    #[test]
    fn junit_has_a_suite_a_step() {
        let text = junit(&sample()).unwrap();
        let report = Report::deserialize_from_str(&text).unwrap();
        let counts: Vec<_> = report.test_suites.iter().map(|s| (s.test_cases.len(), s.failures)).collect();
        assert_eq!(counts, [(3, 2), (3, 0), (1, 0)]);
        assert_eq!(text.matches("<skipped").count(), 1, "{text}");
        assert!(text.contains("the &lt;end&gt;") && text.contains("hello sharing=pte"), "{text}");
    }

    #[test]
    fn the_verdict_names_engine_failures_and_judge() {
        let value: Value = serde_json::from_str(&json(&sample())).unwrap();
        assert_eq!((&value["passed"], &value["engine"]), (&json!(false), &json!("qemu")));
        assert_eq!(value["steps"][0]["tests"], json!({ "passed": 1, "failed": ["b"], "ignored": 0 }));
        assert_eq!(value["steps"][2]["why"], "no such verb");
        let judge = json!({ "boots": 2, "verified": 4, "entries_walked": 60, "rules": 2, "violations": [] });
        assert_eq!(value["judge"], judge);
        let text = summary(&sample());
        assert!(text.contains("         | the <end>\n"), "{text}");
        assert!(text.contains("failed: b") && text.ends_with("FAILED on engine qemu in 9 s\n"), "{text}");
    }
}
