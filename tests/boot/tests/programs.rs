//! The test programs end in the guest as they do on this machine, whatever the sharing mode, with no violation.

use ptshare_boot_tests::{Programs, assert_clean, checked_guest, config, difference, guest};
use ptshare_vmm::{Config, VerifyMode};
use xtask::guest::Artefacts;

/// Programs whose stdout is the same everywhere.
const PROGRAMS: &[&str] = &[
    "hello",
    "small_fork",
    "fork_cow",
    "fork_chain",
    "exec_chain",
    "vfork_exec",
    "mprotect_cow",
    "munmap_partial",
    "vm_cases",
    "mremap_cow",
    "brk_fork",
    "stack_growth",
    "shared_anon",
    "shared_file_tables",
    "object_unshare",
    "uffd_missing",
    "uffd_wp",
    "uffd_minor",
    "uffd_unshares",
    "remap_file_pages",
    "rmap_truncate",
    "proc_views",
    "segv_repair",
    "sigstack_overflow",
    "signals_model",
    "pipe_poll",
    "unix_sockets",
    "timers_usage",
    "futex_threads",
    "posix_timers",
    "rseq",
    "fpu_switch",
    "sleep_clock",
    "big_fork",
    "family",
    "tlb_probe",
    "div_zero",
    "stack_overflow",
    "exec_garbage",
    "wild_jump",
    "privileged",
    "page_cache",
    "truncate_holes",
    "shm_attach",
    "fault_for_all",
    "cow_leave",
    "threads_tables",
    "races",
    "sysv_ipc",
    "memory_calls",
    "process_calls",
    "trace_child",
];

fn compare(built: &Artefacts, config: Config, names: &[&str]) {
    let mut programs = Programs::new();
    for name in names {
        programs.test_program(built, name);
    }
    let (outcome, results) = programs.boot(built, config);
    let differences: String =
        results.iter().zip(programs.on_host()).map(|(guest, host)| difference(guest, &host, false)).collect();
    assert!(differences.is_empty(), "{}\n{differences}{}", outcome.ending, outcome.kernel_log);
    assert_clean(&outcome);
}

#[test]
fn with_shared_pte_pages() {
    let Some(built) = guest() else { return };
    compare(&built, config(&built, "pte"), PROGRAMS);
}

#[test]
fn without_sharing() {
    let Some(built) = guest() else { return };
    compare(&built, config(&built, "none"), PROGRAMS);
}

#[test]
fn with_the_checked_kernel_judged_every_40_faults() {
    let Some(built) = checked_guest() else { return };
    let few: Vec<&str> = PROGRAMS.iter().copied().filter(|&name| name != "big_fork").collect();
    compare(&built, Config { verify: VerifyMode::Faults(40), ..config(&built, "pte") }, &few);
}

#[test]
fn programs_are_right_on_this_machine_too() {
    let Some(built) = guest() else { return };
    let mut programs = Programs::new();
    for name in PROGRAMS {
        programs.test_program(&built, name);
    }
    for (name, host) in PROGRAMS.iter().zip(programs.on_host()) {
        assert_eq!(host.wait_status, 0, "{name}: {}", String::from_utf8_lossy(&host.stderr));
    }
}
