//! Deliberate bugs stay out of the kernels that people run.

use ptshare_boot_tests::{config, guest};
use ptshare_vmm::{Config, Ending};
use xtask::guest::{Options, find_built};

fn holds(data: &[u8], word: &str) -> bool {
    data.windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn release_kernels_hold_no_mutant() {
    for checked in [false, true] {
        let built = find_built(&Options { checked, ..Options::default() }).unwrap_or_else(|e| panic!("{e}"));
        let data = std::fs::read(&built.kernel).unwrap();
        // That names would be found if they were there.
        assert!(holds(&data, "small_tables"), "the kernel holds no strings at all");
        for mutant in ptshare_mutants::all() {
            let symbol = mutant.name.to_uppercase().replace('-', "_");
            for word in [mutant.name, mutant.what, &symbol] {
                assert!(!holds(&data, word), "{} holds `{word}`", built.kernel.display());
            }
        }
    }
}

#[test]
fn a_kernel_without_mutants_refuses_to_run_with_one() {
    let Some(built) = guest() else { return };
    let mut programs = ptshare_boot_tests::Programs::new();
    programs.test_program(&built, "hello");
    let words = format!("mutant={}", ptshare_mutants::all().next().unwrap().name);
    let (outcome, _) = programs.boot(&built, Config { cmdline_extra: words, ..config(&built, "pte") });
    assert_eq!(outcome.ending, Ending::Exited(125), "{}", outcome.kernel_log);
    assert!(outcome.kernel_log.contains("no such deliberate bug"), "{}", outcome.kernel_log);
}
