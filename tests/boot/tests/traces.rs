//! The traces of tests/traces: each once told Linux and the guest apart, shrunk. They must not any more; those in `known` still
//! do, and the reason is known.

use ptshare_boot_tests::{cpus, guest, random};
use ptshare_trace::{Trace, text};
use ptshare_vmm::{EngineChoice, Verify, VerifyMode};
use std::path::Path;
use xtask::fuzz::{Guest, Linux, Verdict, compare};
use xtask::guest::Artefacts;
use xtask::run::Sharing;

/// The traces of a folder with their files' names.
fn traces(folder: &str) -> Vec<(String, Trace)> {
    let folder = xtask::paths::root().join("tests/traces").join(folder);
    let mut found = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "trace")) {
        let content = std::fs::read_to_string(file).unwrap();
        let parsed = text::parse_all(&content).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(!parsed.is_empty(), "{}: no trace", file.display());
        found.extend(parsed.into_iter().map(|trace| (file.display().to_string(), trace)));
    }
    assert!(!found.is_empty(), "{}: no traces", folder.display());
    found
}

/// A trace, its file's name, and what Linux and the guest gave for it.
struct Pair {
    name: String,
    trace: Trace,
    linux: Verdict,
    guest: Verdict,
}

/// What Linux and the guest give for the traces of a folder; those with huge pages only where there are some.
fn both(built: &Artefacts, folder: &str, sharing: Sharing) -> Option<Vec<Pair>> {
    if !Path::new("/dev/shm").is_dir() {
        eprintln!("SKIP: this machine has no /dev/shm");
        return None;
    }
    let linux = Linux::new(built).unwrap();
    let huge = linux.has_huge_pages();
    if !huge {
        eprintln!(
            "SKIP: traces with huge pages: this machine has no 64 of them free (/proc/sys/vm/nr_hugepages)"
        );
    }
    let (names, traces): (Vec<_>, Vec<_>) =
        traces(folder).into_iter().filter(|(_, trace)| huge || !trace.huge).unzip();
    let verify = Verify { mode: VerifyMode::Faults(20), random: random() };
    let guest = Guest { built, engine: EngineChoice::Auto, sharing, cpus: cpus(), verify, verbose: true };
    let expected = linux.run(&traces, true).unwrap();
    let (found, _) = guest.run(&traces).unwrap();
    let pairs = names.into_iter().zip(traces).zip(expected.into_iter().zip(found));
    Some(pairs.map(|((name, trace), (linux, guest))| Pair { name, trace, linux, guest }).collect())
}

fn nothing_differs(sharing: Sharing) {
    let Some(built) = guest() else { return };
    for Pair { name, trace, linux, guest } in both(&built, ".", sharing).unwrap_or_default() {
        let difference = compare(&trace, &linux, &guest);
        assert!(difference.is_none(), "{name}, sharing={}: {}", sharing.name(), difference.unwrap());
    }
}

#[test]
fn nothing_differs_with_shared_pte_pages() {
    nothing_differs(Sharing::Pte);
}

#[test]
fn nothing_differs_with_shared_trees() {
    nothing_differs(Sharing::Tree);
}

#[test]
fn nothing_differs_without_sharing() {
    nothing_differs(Sharing::None);
}

#[test]
fn known_differences_are_there_and_known() {
    let Some(built) = guest() else { return };
    for Pair { name, trace, linux, guest } in both(&built, "known", Sharing::Pte).unwrap_or_default() {
        assert_ne!(linux, guest, "{name}: no difference any more: take it out of docs/FUZZ.md");
        let difference = compare(&trace, &linux, &guest);
        assert!(difference.is_none(), "{name}: {}", difference.unwrap());
    }
}
