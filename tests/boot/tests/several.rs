//! Several CPUs: programs end as on this machine, every CPU is judged, and what the kernel says of reverse maps and of
//! /proc's numbers holds while the other CPUs stand still.

use ptshare_boot_tests::{Programs, assert_clean, config, difference, guest};
use ptshare_vmm::{Config, RandomVerify, VerifyMode};
use xtask::guest::Artefacts;

/// Programs of threads and of processes that share much, those that ask for reverse maps among them.
const PROGRAMS: &[&str] = &[
    "races",
    "threads_tables",
    "futex_threads",
    "rseq",
    "rmap_truncate",
    "proc_views",
    "fork_cow",
    "shared_file_tables",
    "object_unshare",
    "family",
    "shm_attach",
    "exec_chain",
    "signals_model",
];

fn compare(built: &Artefacts, cpus: u32, sharing: &str) {
    let mut programs = Programs::new();
    for name in PROGRAMS {
        programs.test_program(built, name);
    }
    let random = Some(RandomVerify { hz: 10.0, seed: u64::from(cpus) });
    let verify = VerifyMode::EveryExit;
    let (outcome, results) = programs.boot(built, Config { cpus, verify, random, ..config(built, sharing) });
    let differences: String =
        results.iter().zip(programs.on_host()).map(|(guest, host)| difference(guest, &host, false)).collect();
    assert!(differences.is_empty(), "{differences}{}", outcome.kernel_log);
    assert_clean(&outcome);
    assert!(outcome.stat("tlb_shootdowns") > 0);
    for rule in ["reverse-map-equals-walk", "proc-numbers-equal-walk"] {
        assert!(outcome.verifier.rules.iter().any(|name| name == rule), "{rule} was not checked");
    }
}

#[test]
fn two_cpus_that_share_pte_pages() {
    let Some(built) = guest() else { return };
    compare(&built, 2, "pte");
}

#[test]
fn four_cpus_that_share_trees() {
    let Some(built) = guest() else { return };
    compare(&built, 4, "tree");
}

/// The kernel is asked to start a CPU that its machine does not have: it says so, and what it took for that CPU goes back.
#[test]
fn a_cpu_that_is_refused_leaves_nothing_behind() {
    let Some(built) = guest() else { return };
    let mut programs = Programs::new();
    programs.test_program(&built, "hello");
    let free = |words: &str| {
        let config = Config { cpus: 1, cmdline_extra: words.into(), ..config(&built, "pte") };
        let (outcome, results) = programs.boot(&built, config);
        assert_clean(&outcome);
        let refused = outcome.kernel_log.contains("CPU 1 is left out: the machine does not start it");
        assert_eq!(refused, words == "cpus=2", "{}", outcome.kernel_log);
        results[0].metric("frames_free_before")
    };
    assert_eq!(free("cpus=2"), free(""));
}
