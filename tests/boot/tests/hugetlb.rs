//! Huge pages: the programs in a guest with a pool, in every sharing mode, and what sharing PMD pages saves.

use ptshare_boot_tests::{Programs, assert_clean, checked_guest, config, difference, guest};
use ptshare_vmm::{Config, Outcome};
use xtask::batch::JobResult;
use xtask::guest::Artefacts;

const PROGRAMS: &[&str] = &[
    "hugetlb_ways",
    "hugetlb_pool",
    "hugetlb_cow",
    "hugetlb_share",
    "hugetlb_eligible",
    "hugetlb_when",
    "hugetlb_unshare",
    "hugetlb_fork",
    "hugetlb_sizes",
    "uffd_huge",
];

fn huge(built: &Artefacts, sharing: &str, more: &str) -> Config {
    Config { mem_bytes: 2 << 30, cmdline_extra: format!("hugepages=560 {more}"), ..config(built, sharing) }
}

fn programs(built: &Artefacts, names: &[&str]) -> Programs {
    let mut programs = Programs::new();
    for name in names {
        programs.test_program(built, name);
    }
    programs
}

#[track_caller]
fn assert_passed(outcome: &Outcome, results: &[JobResult]) {
    for result in results {
        let skipped = result.stdout.starts_with(b"SKIP");
        assert!(
            result.passed() && !skipped,
            "{}: {}\n{}{}",
            result.name,
            result.ending(),
            String::from_utf8_lossy(&result.stdout),
            String::from_utf8_lossy(&result.stderr)
        );
    }
    assert_clean(outcome);
}

#[test]
fn in_every_sharing_mode_and_as_on_this_machine() {
    let Some(built) = guest() else { return };
    let programs = programs(&built, PROGRAMS);
    let host = programs.on_host();
    for sharing in ["pte", "none", "tree"] {
        let (outcome, results) = programs.boot(&built, huge(&built, sharing, ""));
        assert_passed(&outcome, &results);
        for (guest, host) in results.iter().zip(&host) {
            if host.stdout.starts_with(b"SKIP") {
                eprintln!("SKIP: {}: this machine has no huge pages to compare with", guest.name);
                continue;
            }
            let difference = difference(guest, host, false);
            assert!(difference.is_empty(), "sharing={sharing}: {difference}");
        }
    }
}

#[test]
fn with_the_checked_kernel() {
    let Some(built) = checked_guest() else { return };
    let (outcome, results) = programs(&built, PROGRAMS).boot(&built, huge(&built, "pte", ""));
    assert_passed(&outcome, &results);
}

#[test]
fn a_hundred_processes_share_one_pmd_page() {
    let Some(built) = guest() else { return };
    let run = |more: &str| {
        let mut programs = Programs::new();
        programs.add("hugetlb_share", &built.program("hugetlb_share"), "/usr/bin/hugetlb_share", &["100"]);
        let (outcome, results) = programs.boot(&built, huge(&built, "pte", more));
        assert_passed(&outcome, &results);
        let metric = |name: &str| results[0].metric(name);
        ["huge_faults_in_all", "pmd_pages_taken_over", "tables_for_all"].map(metric)
    };
    let [faults, taken_over, tables] = run("");
    assert_eq!((faults, taken_over), (512, 99));
    let [faults_without, taken_over, tables_without] = run("share_hugetlb=0");
    assert_eq!((faults_without, taken_over), (51_200, 0));
    // A PMD page each, less the one that all share.
    assert_eq!(tables_without - tables, 99);
}

#[test]
fn the_pool_can_be_resized_at_run_time() {
    let Some(built) = guest() else { return };
    if !ptshare_boot_tests::have_busybox() {
        return;
    }
    let script = "cd /sys/kernel/mm/hugepages/hugepages-2048kB && for n in 5 2; do echo $n > nr_hugepages && \
                  cat nr_hugepages free_hugepages resv_hugepages surplus_hugepages; done; \
                  echo 3 > /proc/sys/vm/nr_overcommit_hugepages; cat nr_overcommit_hugepages; \
                  grep -e HugePages_ -e Hugetlb: /proc/meminfo";
    let mut programs = Programs::new();
    programs.script("resize", script);
    let (outcome, results) = programs.boot(&built, config(&built, "pte"));
    assert_passed(&outcome, &results);
    let text = String::from_utf8_lossy(&results[0].stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words[..9].join(" "), "5 5 0 0 2 2 0 0 3", "{text}");
    assert!(text.contains("HugePages_Total:       2\n"), "{text}");
    assert!(text.contains("Hugetlb:            4096 kB\n"), "{text}");
}
