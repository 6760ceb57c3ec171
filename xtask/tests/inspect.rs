//! `cargo xtask inspect` on small dumps.

use ptshare_verifier::dump;
use ptshare_verifier::testing::{Guest, corruptions, sample};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn write(folder: &Path, name: &str, guest: &Guest) -> PathBuf {
    let path = folder.join(name);
    dump::write(&path, &guest.image, guest.census_pa, &guest.vcpus, guest.image.populated()).unwrap();
    path
}

fn inspect(dump: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("inspect").arg(dump).args(arguments).output().unwrap()
}

#[track_caller]
fn shows(dump: &Path, arguments: &[&str], status: i32, words: &[&str]) -> String {
    let output = inspect(dump, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}{errors}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: `{word}` is not in: {text}");
    }
    text
}

#[track_caller]
fn json(dump: &Path, arguments: &[&str], status: i32) -> serde_json::Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&shows(dump, &arguments, status, &[])).unwrap()
}

#[test]
fn every_command_shows_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good", &sample());
    shows(&good, &[], 0, &["5 address spaces", "no violation"]);
    assert_eq!(json(&good, &["verdict"], 0)["findings"], serde_json::json!([]));
    shows(&good, &["summary"], 0, &["process pid 5 (mm slot 4)"]);
    shows(&good, &["summary", "--vmas"], 0, &["VMA 400000-404000 r-xp"]);
    let tree = shows(&good, &["tree", "3"], 0, &["pid 3 (mm slot 2):", "PGD page", "also used by pid"]);
    shows(&good, &["tree", "3", "--leaves"], 0, &["r-x, Cache"]);
    assert!(!shows(&good, &["tree", "3", "--depth", "2"], 0, &["PUD page"]).contains("PMD page"));
    shows(&good, &["walk", "1", "0x1000000"], 0, &["PTE[  0]", "allows     r--"]);
    // The table that the tree names first with several parents, and the page behind an address.
    let shared = tree.lines().find(|line| line.contains("PTE page 0x")).unwrap();
    let pfn = shared.split("PTE page ").nth(1).unwrap().split(',').next().unwrap();
    shows(&good, &["sharers", pfn], 0, &["PTE page", "pid 3 (mm slot 2), va"]);
    let walk = json(&good, &["walk", "1", "0x400000"], 0);
    let page = walk[0]["steps"][3]["frame"]["pfn"].as_u64().unwrap().to_string();
    let who = json(&good, &["who", &page], 0);
    assert_eq!(who["places"].as_array().unwrap().len(), 3, "{who}");
    assert_eq!(who["places"][0]["va"], 0x40_0000);
    assert_eq!(who["places"][0]["rights"], "r-x");
}

#[test]
fn a_violation_and_a_difference_have_a_status() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good", &sample());
    let mut guest = sample();
    let crime = corruptions().iter().find(|c| c.name == "shared_entry_made_writable").unwrap();
    assert!((crime.apply)(&mut guest.image, guest.census_pa));
    let bad = write(folder.path(), "bad", &guest);
    shows(&bad, &["verdict"], 104, &["violation of cow-shared-entries-read-only"]);
    let other = good.to_str().unwrap();
    shows(&bad, &["diff", other], 1, &["entries\n", "PW"]);
    shows(&good, &["diff", other], 0, &["no difference"]);
    assert_eq!(json(&bad, &["diff", other], 1)["entries"][0]["change"], "rights");
}

#[test]
fn what_cannot_be_shown_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good", &sample());
    let says = |dump: &Path, arguments: &[&str], status: i32, words: &[&str]| {
        let output = inspect(dump, arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: `{word}` is not in: {text}");
        }
    };
    says(&good, &["tree", "99"], 103, &["ptshare:", "no process 99", "1, 2, 3, 4, 5"]);
    says(&good, &["sharers", "0x400"], 103, &["0x400 is no page table", "who 0x400"]);
    says(&good, &["who", "7f4"], 100, &["`7f4` is not a number"]);
    says(&good, &["tree", "1", "--depth", "5"], 100, &["--depth"]);
    says(&good, &["gossip"], 100, &["gossip"]);
    says(&folder.path().join("none"), &[], 103, &["none:", "cannot access the dump"]);
    let text = folder.path().join("text");
    std::fs::write(&text, "this is not a dump of anything at all").unwrap();
    says(&text, &["summary"], 103, &["not a ptshare dump"]);
    let whole = std::fs::read(&good).unwrap();
    let cut = folder.path().join("cut");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    says(&cut, &["verdict"], 103, &["cut off"]);
    let mut guest = sample();
    guest.image.write_u64(guest.census_pa, 0);
    let broken = write(folder.path(), "broken", &guest);
    says(&broken, &["tree", "1"], 103, &["census", "verdict"]);
    shows(&broken, &[], 104, &["census-is-sound"]);
}
