//! Booting costs the same whatever the size of memory, and little.

use ptshare_boot_tests::{assert_clean, config, guest, run_single};
use ptshare_vmm::{Config, Outcome};
use xtask::guest::Artefacts;

fn boot(built: &Artefacts, config: Config) -> Outcome {
    let outcome = run_single(built, config, &built.program("hello"), &[], b"");
    assert_clean(&outcome);
    outcome
}

#[test]
fn kernel_instructions_before_the_first_program_do_not_depend_on_memory_size() {
    let Some(built) = guest() else { return };
    // One CPU: while it waits for another to come up it counts instructions, as many as that takes.
    let boot = |mem_bytes| boot(&built, Config { cpus: 1, mem_bytes, ..config(&built, "pte") });
    let (small, large) = (boot(512 << 20), boot(64 << 30));
    let (Some(small), Some(large)) = (small.insn_emulation_at_first_user, large.insn_emulation_at_first_user)
    else {
        eprintln!("SKIP: this KVM does not count the guest's kernel instructions");
        return;
    };
    eprintln!("instructions to the first user instruction: {small} at 512 MiB, {large} at 64 GiB");
    assert!(small > 0 && large.abs_diff(small) * 20 <= small, "{small} at 512 MiB, {large} at 64 GiB");
}

#[test]
fn the_first_user_instruction_comes_within_half_a_second() {
    let Some(built) = guest() else { return };
    // The best of a few: other tests run at the same time.
    let times: Vec<u64> =
        (0..5).filter_map(|_| boot(&built, config(&built, "pte")).first_user_instruction_us).collect();
    let best = times.iter().copied().min();
    assert!(best.is_some_and(|us| us < 500_000), "microseconds to the first user instruction: {times:?}");
}
