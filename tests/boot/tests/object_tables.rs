//! What it costs in PTE pages and faults that many processes map one file.

use ptshare_boot_tests::{Programs, assert_clean, config, guest};
use ptshare_vmm::Config;
use xtask::batch::JobResult;

/// PTE pages of the file's 64 MiB.
const TABLES: u64 = 32;
/// Entries of a PTE page.
const ENTRIES: u64 = 512;
/// Pages that one fault on a file maps.
const AROUND: u64 = 16;

fn run(processes: u64, sharing: &str, cmdline: &str) -> Option<JobResult> {
    let built = guest()?;
    let mut programs = Programs::new();
    let program = built.program("shared_file_tables");
    programs.add("tables", &program, "/usr/bin/shared_file_tables", &[&processes.to_string(), "64"]);
    let config = Config { cmdline_extra: cmdline.into(), ..config(&built, sharing) };
    let (outcome, mut results) = programs.boot(&built, config);
    assert_clean(&outcome);
    let result = results.remove(0);
    assert!(result.passed(), "{}: {}", result.ending(), String::from_utf8_lossy(&result.stderr));
    Some(result)
}

#[test]
fn a_hundred_processes_need_one_set_of_pte_pages() {
    for sharing in ["pte", "none"] {
        let Some(result) = run(100, sharing, "") else { return };
        assert_eq!(result.metric("file_pte_pages"), TABLES);
        let filled = result.metric("file_entries_filled");
        assert!((TABLES * ENTRIES..TABLES * ENTRIES + 500).contains(&filled), "{filled} entries were filled");
        // One process fills the tables; each of the others takes one fault a table, and some for itself.
        let faults = result.metric("file_faults");
        let expected = TABLES * ENTRIES / AROUND + 99 * TABLES;
        assert!(faults < expected + 100 * 20, "{faults} faults, not about {expected}");
    }
}

#[test]
fn without_object_sharing_each_process_has_its_own() {
    let Some(result) = run(6, "pte", "share_file=0") else { return };
    assert_eq!(result.metric("file_pte_pages"), 6 * TABLES);
    assert!(result.metric("file_faults") >= 6 * TABLES * ENTRIES / AROUND);
}
