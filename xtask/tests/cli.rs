//! The command line: what cannot work says so in one sentence, before anything is built, with its own exit status.

use std::process::{Command, Output};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], status: i32, words: &[&str]) {
    let output = xtask(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: `{word}` is not in: {text}");
    }
    assert!(!text.contains("building"), "{arguments:?}: {text}");
}

#[test]
fn bad_options_are_refused() {
    refused(&["run", "--mem", "1M"], 100, &["--mem", "16M"]);
    refused(&["run", "--mem", "lots"], 100, &["--mem", "lots"]);
    refused(&["run", "--cpus", "0"], 100, &["--cpus"]);
    refused(&["run", "--sharing", "all"], 100, &["--sharing", "none", "pte"]);
    refused(&["run", "--verify", "sometimes"], 100, &["--verify", "faults:N"]);
    refused(&["test", "--cpus", "0"], 100, &["--cpus", "64"]);
    refused(&["fuzz", "--cpus", "65"], 100, &["--cpus", "64"]);
    refused(&["mutants", "--cpus", "0"], 100, &["--cpus", "64"]);
    refused(&["test", "--random", "often"], 100, &["--random", "HZ"]);
    refused(&["run", "--no-such-option"], 100, &["--no-such-option"]);
    refused(&["no-such-verb"], 100, &["no-such-verb"]);
    refused(&[], 100, &["Usage"]);
}

#[test]
fn missing_files_are_refused() {
    refused(&["run", "--", "/no/such/program"], 103, &["ptshare:", "/no/such/program"]);
    refused(&["run", "--root", "/no/such/folder"], 103, &["ptshare:", "--root", "/no/such/folder"]);
}

#[test]
fn help_names_every_option_and_exit_status() {
    let output = xtask(&["run", "--help"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let options = [
        "--sharing",
        "--mem",
        "--cpus",
        "--verify",
        "--timeout",
        "--root",
        "--json",
        "--checked",
        "--verbose",
    ];
    for option in options {
        assert!(text.contains(option), "{option} is not in: {text}");
    }
    let text = String::from_utf8_lossy(&xtask(&["--help"]).stdout).into_owned();
    for (code, meaning) in ptshare_vmm::exit_code::TABLE {
        assert!(text.contains(&code.to_string()) && text.contains(meaning), "{code} is not in: {text}");
    }
}

#[test]
fn the_readme_lists_every_option_and_exit_status() {
    let readme = std::fs::read_to_string(xtask::paths::root().join("README.md")).unwrap();
    for (code, _) in ptshare_vmm::exit_code::TABLE {
        assert!(readme.contains(&format!("| {code} |")), "exit status {code} is not in README.md");
    }
    let help = String::from_utf8_lossy(&xtask(&["run", "--help"]).stdout).into_owned();
    let named =
        help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 3 && *word != "--help");
    for option in named {
        let option = option.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if option != "--verbose" {
            assert!(readme.contains(option), "{option} is not in README.md");
        }
    }
}
