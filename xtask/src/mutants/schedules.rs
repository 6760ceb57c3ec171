//! Mutants that need one order of many steps: tests of the core on the host, under a scheduler of threads
//! (`tests/model/tests/concurrency`), with the mutant switched on by `PTSHARE_MUTANT`.

use super::one::End;
use crate::{paths, process};
use anyhow::{Context, Result, bail};
use ptshare_mutants::Mutant;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// Executions of a case under each scheduler, until one finds the mutant: four orderings out of hundreds take many.
const SCHEDULES: &[&str] = &["200", "1500", "8000"];
/// Those of the core without a mutant, which are there to show that the test can pass.
const SCHEDULES_WITHOUT: &[&str] = &["150"];

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(process::cargo_program());
    command.args(["test", "--quiet", "--package", "ptshare-model-tests", "--features", "mutants"]);
    command.args(["--test", "concurrency"]).args(arguments);
    command.current_dir(paths::root()).stdin(Stdio::null());
    command
}

/// Builds the tests with the mutants in them.
///
/// # Errors
/// They cannot be built.
pub(super) fn build() -> Result<()> {
    let status = cargo(&["--no-run"]).status().context("cargo cannot be run")?;
    if !status.success() {
        bail!("the tests of the core cannot be built with mutants: {status}");
    }
    Ok(())
}

/// Plays the tests, with the mutant if there is one.
///
/// # Errors
/// Cargo cannot be run, or there is no such test.
pub(super) fn play(tests: &[&str], mutant: Option<&Mutant>, label: String) -> Result<End> {
    let begin = Instant::now();
    let mut end = End {
        label,
        rules: Vec::new(),
        tries: 1,
        millis: 0,
        checkpoints: 0,
        text: "was survived".into(),
        times: Vec::new(),
        log: String::new(),
    };
    for test in tests {
        let started = Instant::now();
        let tries = if mutant.is_some() { SCHEDULES } else { SCHEDULES_WITHOUT };
        let mut found = None;
        for schedules in tries {
            let mut command = cargo(&["--", "--exact", test]);
            command.env("PTSHARE_MUTANT", mutant.map_or("", |mutant| mutant.name));
            command.env("PTSHARE_SCHEDULES", schedules);
            let output = command.output().context("cargo cannot be run")?;
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            found = verdict(&output, &text)?;
            end.log += &text;
            if found.is_some() {
                break;
            }
        }
        match found {
            Some(why) => {
                end.rules.push("probe:schedule".into());
                end.text = format!("ended by {test}: {why}");
            }
            None => end.times.push(started.elapsed().as_micros() as u64),
        }
    }
    end.millis = begin.elapsed().as_millis();
    Ok(end)
}

/// Why a test failed, if it did.
fn verdict(output: &Output, text: &str) -> Result<Option<String>> {
    if output.status.success() && text.contains("1 passed") {
        return Ok(None);
    }
    if !text.contains("1 failed") {
        bail!("no test of the core was run:\n{text}");
    }
    // The first panic's message stands below the line that says where it was.
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at"));
    Ok(Some(lines.nth(1).unwrap_or("it failed").trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn a_failed_test_is_told_from_none() {
        let ended =
            |code: i32| Output { status: ExitStatus::from_raw(code << 8), stdout: vec![], stderr: vec![] };
        let passed = "test result: ok. 1 passed; 0 failed";
        assert_eq!(verdict(&ended(0), passed).unwrap(), None);
        let failed = "thread 'a' panicked at x.rs:1:2:\nflush-before-free: frame\n0 passed; 1 failed";
        assert_eq!(verdict(&ended(101), failed).unwrap().as_deref(), Some("flush-before-free: frame"));
        assert!(verdict(&ended(0), "0 passed; 0 failed").is_err());
        assert!(verdict(&ended(101), "error: could not compile").is_err());
    }
}
