//! Programs that misbehave in every way: each ends as on Linux, the kernel lives, the judge finds nothing, no frame is
//! lost.

use ptshare_boot_tests::{Programs, config, difference, guest};
use ptshare_vmm::{Config, Ending};
use xtask::batch::JobResult;
use xtask::guest::Artefacts;

/// Runs a program some times in one boot and compares each with this machine.
fn repeat(built: &Artefacts, name: &str, times: usize, sharing: &str, mem_bytes: u64) -> Vec<JobResult> {
    let mut programs = Programs::new();
    let path = format!("/usr/bin/{name}");
    for time in 1..=times {
        programs.add(&format!("{name}.{time}"), &built.program(name), &path, &[]);
    }
    let (outcome, results) = programs.boot(built, Config { mem_bytes, ..config(built, sharing) });
    assert!(matches!(outcome.ending, Ending::Exited(_)), "{}\n{}", outcome.ending, outcome.kernel_log);
    assert!(outcome.verifier.violations.is_empty(), "{:?}", outcome.verifier.violations);
    let host = programs.on_host();
    for (guest, host) in results.iter().zip(&host) {
        let difference = difference(guest, host, false);
        assert!(difference.is_empty(), "{difference}{}", outcome.kernel_log);
    }
    results
}

macro_rules! robust {
    ($($test:ident: $name:literal, $mem:expr;)+) => {
        $(#[test]
        fn $test() {
            let Some(built) = guest() else { return };
            // The first runs fill page caches and the kernel's heap. The judge accounts for every frame but those of the
            // heap; two more runs must leave as much of that behind, but for the table of PIDs, which grows by two
            // frames every 256 processes as long as the numbers are new, and one frame that is broken into.
            let results = repeat(&built, $name, 4, "pte", $mem);
            let free: Vec<u64> = results.iter().map(|r| r.metric("frames_free_after")).collect();
            let forks: u64 = results[2..].iter().map(|r| r.metric("forks")).sum();
            let allowed = 1 + 2 * (forks / 256 + 1);
            assert!(free[3] > 0 && free[3] + allowed >= free[1], "frames were lost: {free:?} free after each run");
            repeat(&built, $name, 1, "none", $mem);
        })+
    };
}

robust! {
    forking_until_it_fails: "fork_until_fail", 24 << 20;
    allocating_until_it_fails: "alloc_until_fail", 32 << 20;
    jumping_into_the_kernel: "wild_jump", 512 << 20;
    privileged_instructions: "privileged", 512 << 20;
    wild_pointers_in_every_call: "wild_pointers", 512 << 20;
    overflowing_the_stack: "stack_overflow", 512 << 20;
    dividing_by_zero: "div_zero", 512 << 20;
}
