//! Huge pages: the programs in a guest with a pool, in every sharing mode, and what sharing PMD pages saves.

use ptshare_boot_tests::{Programs, assert_clean, checked_guest, config, difference, guest};
use ptshare_vmm::{Config, Engine, EngineChoice, Outcome, VerifyMode, engine};
use std::time::Duration;
use xtask::batch::JobResult;
use xtask::guest::{Artefacts, Options, find_built};

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

/// Far more than clearing and copying some twenty GiB takes under emulation.
const GIB_LIMIT: Duration = Duration::from_secs(600);

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

/// QEMU's processor has pages of 1 GiB, whatever KVM's has. (What Linux says to the same program, on a machine that has them, is
/// what each line asserts.)
#[test]
fn pages_of_1_gib_in_every_sharing_mode() {
    let qemu = EngineChoice::Only(Engine::Qemu);
    if let Err(error) = engine::choose(qemu) {
        eprintln!("SKIP: {error}");
        return;
    }
    let built = find_built(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let programs = programs(&built, &["hugetlb_gib", "hugetlb_sizes"]);
    for sharing in ["pte", "none", "tree"] {
        let config = Config {
            engine: qemu,
            mem_bytes: 5 << 30,
            cmdline_extra: "hugepages=4 hugepagesz=1G hugepages=2".into(),
            verify: VerifyMode::Faults(20),
            timeout: Some(GIB_LIMIT),
            ..config(&built, sharing)
        };
        let (outcome, results) = programs.boot(&built, config);
        assert_passed(&outcome, &results);
        let said = String::from_utf8_lossy(&results[0].stdout).into_owned();
        assert_eq!(said, include_str!("hugetlb_gib.txt"), "sharing={sharing}");
    }
}

/// `default_hugepagesz=1G`: what is meant where nobody names a size.
#[test]
fn the_default_size_is_what_the_command_line_says() {
    let qemu = EngineChoice::Only(Engine::Qemu);
    if engine::choose(qemu).is_err() || !ptshare_boot_tests::have_busybox() {
        eprintln!("SKIP: QEMU and busybox are needed");
        return;
    }
    let built = find_built(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let script = "grep -e HugePages_ -e Hugepagesize /proc/meminfo | tr -s ' '; cat /proc/sys/vm/nr_hugepages; \
                  cat /sys/kernel/mm/hugepages/hugepages-*/nr_hugepages; \
                  mount -t hugetlbfs none /tmp && stat -f -c %S /tmp; echo 0 > /proc/sys/vm/nr_hugepages; \
                  cat /sys/kernel/mm/hugepages/hugepages-*/nr_hugepages; \
                  echo 1 > /proc/sys/vm/nr_overcommit_hugepages || echo refused";
    let mut programs = Programs::new();
    programs.script("default", script);
    let config = Config {
        engine: qemu,
        mem_bytes: 4 << 30,
        cmdline_extra: "hugepages=1 default_hugepagesz=1G hugepagesz=2M hugepages=3 hugepagesz=4M".into(),
        ..config(&built, "pte")
    };
    let (outcome, results) = programs.boot(&built, config);
    assert_clean(&outcome);
    let text = String::from_utf8_lossy(&results[0].stdout).into_owned();
    let expected = "HugePages_Total: 1\nHugePages_Free: 1\nHugePages_Rsvd: 0\nHugePages_Surp: 0\n\
                    Hugepagesize: 1048576 kB\n1\n1\n3\n1073741824\n0\n3\nrefused\n";
    assert_eq!(text, expected);
}

/// The pool of pages of 1 GiB at run time: grown as far as there is contiguous memory, shrunk, never surplus.
#[test]
fn the_pool_of_1_gib_follows_the_memory() {
    let qemu = EngineChoice::Only(Engine::Qemu);
    if engine::choose(qemu).is_err() || !ptshare_boot_tests::have_busybox() {
        eprintln!("SKIP: QEMU and busybox are needed");
        return;
    }
    let built = find_built(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let script = "cd /sys/kernel/mm/hugepages/hugepages-1048576kB && for n in 1 0 9 1; do echo $n > nr_hugepages; \
                  cat nr_hugepages free_hugepages resv_hugepages surplus_hugepages; done; \
                  echo 3 > nr_overcommit_hugepages; cat nr_overcommit_hugepages; \
                  grep -e HugePages_Total -e Hugetlb: /proc/meminfo";
    let mut programs = Programs::new();
    programs.script("resize", script);
    let config = Config { engine: qemu, mem_bytes: 4 << 30, ..config(&built, "pte") };
    let (outcome, results) = programs.boot(&built, config);
    assert_passed(&outcome, &results);
    let text = String::from_utf8_lossy(&results[0].stdout).into_owned();
    let words: Vec<u64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // Of four GiB, the first holds the kernel.
    let most = words[8];
    assert!((2..4).contains(&most), "{text}");
    assert_eq!(words, [1, 1, 0, 0, 0, 0, 0, 0, most, most, 0, 0, 1, 1, 0, 0, 0], "{text}");
    assert!(text.contains("HugePages_Total:       0\n"), "{text}");
    assert!(text.contains("Hugetlb:         1048576 kB\n"), "{text}");
}

/// The engine that is the default here: where its processor has no such pages, every way to them is refused.
#[test]
fn without_pages_of_1_gib_they_are_refused() {
    let Some(built) = guest() else { return };
    let mut programs = programs(&built, &["hugetlb_gib"]);
    programs.script("sizes", "ls /sys/kernel/mm/hugepages");
    if !ptshare_boot_tests::have_busybox() {
        return;
    }
    let config = Config { cmdline_extra: "hugepagesz=1G hugepages=1".into(), ..config(&built, "pte") };
    let (outcome, results) = programs.boot(&built, config);
    assert_clean(&outcome);
    let said = String::from_utf8_lossy(&results[0].stdout).into_owned();
    let sizes = String::from_utf8_lossy(&results[1].stdout).into_owned();
    assert!(results.iter().all(JobResult::passed), "{said}{sizes}");
    if sizes == "hugepages-2048kB\n" {
        assert_eq!(said, "SKIP: no pages of 1 GiB; they are refused in every way\n");
    } else {
        // There are such pages, and no GiB of the memory is free.
        assert_eq!(said, "SKIP: 2 free huge pages of 1 GiB and root are needed\n", "{sizes}");
    }
}
