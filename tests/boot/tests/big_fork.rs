//! What a fork of 1 GiB with a byte in each 2 MiB costs in page tables.

use ptshare_boot_tests::{Programs, assert_clean, config, guest};
use xtask::batch::JobResult;

/// The region's PTE pages.
const SPANS: u64 = 512;

fn big_fork(sharing: &str) -> Option<JobResult> {
    let built = guest()?;
    let mut programs = Programs::new();
    // The first run fills page caches and the kernel's heap; the second is measured.
    for job in ["big_fork.1", "big_fork.2"] {
        programs.add(job, &built.program("big_fork"), "/usr/bin/big_fork", &[]);
    }
    let (outcome, mut results) = programs.boot(&built, config(&built, sharing));
    assert_clean(&outcome);
    let result = results.remove(1);
    assert!(result.passed(), "{}: {}", result.ending(), String::from_utf8_lossy(&result.stderr));
    Some(result)
}

#[track_caller]
fn step(result: &JobResult, from: &str, to: &str) -> i64 {
    let (from, to) = (result.metric(from), result.metric(to));
    assert!(from > 0 && to > 0, "the program reported nothing");
    to as i64 - from as i64
}

/// But for one frame that the kernel's heap may have broken into: the judge accounts for all others.
#[track_caller]
fn assert_no_frame_lost(result: &JobResult) {
    let (before, after) = (result.metric("frames_free_before"), result.metric("frames_free_after"));
    assert!(before > 0 && after + 1 >= before, "{before} frames were free before, {after} are after");
}

#[test]
fn shared_pte_pages_are_not_copied_until_written() {
    let Some(result) = big_fork("pte") else { return };
    let added = step(&result, "tables_before_fork", "tables_after_fork");
    assert!(added < 20, "fork allocated {added} tables");
    assert!(
        result.metric("pte_pages_shared") >= SPANS,
        "{} PTE pages are shared",
        result.metric("pte_pages_shared")
    );
    assert!(
        result.metric("pte_pages_copied") < 8,
        "{} PTE pages were copied",
        result.metric("pte_pages_copied")
    );
    assert_eq!(step(&result, "tables_before_child_write", "tables_after_child_write"), 1);
    assert_eq!(step(&result, "tables_before_parent_write", "tables_after_parent_write"), 1);
    assert_no_frame_lost(&result);
}

#[test]
fn without_sharing_all_pte_pages_are_copied() {
    let Some(result) = big_fork("none") else { return };
    let added = step(&result, "tables_before_fork", "tables_after_fork");
    assert!((SPANS as i64..SPANS as i64 + 20).contains(&added), "fork allocated {added} tables");
    assert!(
        result.metric("pte_pages_copied") >= SPANS,
        "{} PTE pages were copied",
        result.metric("pte_pages_copied")
    );
    assert_eq!(step(&result, "tables_before_child_write", "tables_after_child_write"), 0);
    assert_eq!(step(&result, "tables_before_parent_write", "tables_after_parent_write"), 0);
    assert_no_frame_lost(&result);
}
