//! Tests by name in the output of libtest and of cargo-nextest, and mutants in that of `cargo xtask mutants`.

use std::time::Duration;

/// A test that some output names.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// Its path, with the crate where the output has it.
    pub name: String,
    /// Whether it passed; `None` when it was ignored.
    pub passed: Option<bool>,
    /// How long it took, where the output says.
    pub took: Option<Duration>,
}

/// The test whose end a line tells: `test PATH ... ok` (libtest), `PASS [   0.005s] (1/9) CRATE PATH` (nextest) or
/// `killed    NAME  317 ms  RULE` (mutants).
pub fn case(line: &str) -> Option<Case> {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix("test ") {
        let (name, end) = rest.rsplit_once(" ... ")?;
        let passed = match end.split_whitespace().next()? {
            "ok" => Some(true),
            "FAILED" => Some(false),
            "ignored" | "ignored," => None,
            _ => return None,
        };
        return Some(Case { name: name.to_owned(), passed, took: None });
    }
    if let Some(mutant) = mutant(line) {
        return Some(mutant);
    }
    let (word, rest) = line.split_once(" [")?;
    let passed = match word {
        "PASS" | "LEAK" => true,
        "FAIL" | "TIMEOUT" | "ABORT" | "SIGABRT" | "SIGSEGV" | "SIGKILL" => false,
        _ => return None,
    };
    let (took, name) = rest.split_once("] ")?;
    let took = took.trim().trim_start_matches('>').strip_suffix('s')?.parse().ok()?;
    // A counter of tests may stand before the name.
    let name = name.trim_start();
    let name = match name.strip_prefix('(').and_then(|rest| rest.split_once(") ")) {
        Some((_, name)) => name,
        None => name,
    };
    let took = Duration::try_from_secs_f64(took).ok()?;
    Some(Case { name: name.trim().to_owned(), passed: Some(passed), took: Some(took) })
}

/// The mutant that a line tells the end of: a verdict in its column, the name, and after how long.
fn mutant(line: &str) -> Option<Case> {
    let mut words = line.split_whitespace();
    let passed = match words.next()? {
        "killed" => true,
        "SURVIVED" | "MISSED" => false,
        _ => return None,
    };
    let name = words.next()?;
    words.next()?.parse::<u64>().ok()?;
    (words.next()?.starts_with("ms")).then(|| Case {
        name: format!("mutant {name}"),
        passed: Some(passed),
        took: None,
    })
}

/// Each nextest case once (its failures are listed again at the end). libtest's names are not unique over crates: each
/// line stays.
pub fn last_word(cases: Vec<Case>) -> Vec<Case> {
    let mut kept: Vec<Case> = Vec::new();
    for case in cases {
        let again = case.took.is_some() && kept.iter().any(|k| k.took.is_some() && k.name == case.name);
        if !again {
            kept.push(case);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_are_understood() {
        let of = |line| case(line).map(|case| (case.name, case.passed));
        assert_eq!(of("test a::b ... ok"), Some(("a::b".into(), Some(true))));
        assert_eq!(of("test a::b ... FAILED"), Some(("a::b".into(), Some(false))));
        assert_eq!(of("test a ... ignored, slow"), Some(("a".into(), None)));
        assert_eq!(of("test result: ok. 3 passed"), None);
        assert_eq!(of("test a has been running for over 60 seconds"), None);
        let line = "        PASS [   1.250s] ( 12/345) ptshare-mm table::tests::empty";
        let name = "ptshare-mm table::tests::empty".to_owned();
        let took = Some(Duration::from_millis(1250));
        assert_eq!(case(line), Some(Case { name, passed: Some(true), took }));
        assert_eq!(of("  FAIL [   0.004s] xtask cli::x"), Some(("xtask cli::x".into(), Some(false))));
        assert_eq!(of("  SLOW [> 60.000s] xtask cli::x"), None);
        assert_eq!(of("PASS [nonsense] x"), None);
        let killed = "killed    fork-flush-skipped    104 ms, 112 ms  probe:stale-tlb";
        assert_eq!(of(killed), Some(("mutant fork-flush-skipped".into(), Some(true))));
        assert_eq!(of("SURVIVED  a-race  9 ms of boot 8  "), Some(("mutant a-race".into(), Some(false))));
        assert_eq!(of("killed the process 7"), None);
    }

    #[test]
    fn a_failure_told_twice_counts_once() {
        let twice = ["FAIL [ 1s] a b", "PASS [ 1s] a c", "FAIL [ 1s] a b", "test b ... ok", "test b ... ok"];
        let cases = last_word(twice.iter().filter_map(|line| case(line)).collect());
        assert_eq!(cases.len(), 4);
    }
}
