//! The same image under QEMU's emulation: another loader, another interrupt controller, no hypercall device; alone, and
//! with the judge at the doorbell.

use ptshare_boot_tests::{BUSYBOX, Programs, assert_clean, config, have_busybox, run_single};
use ptshare_vmm::{Config, Ending, Engine, EngineChoice, VerifyMode, engine, exit_code};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use xtask::guest::Artefacts;
use xtask::guest::{Options, find_built};
use xtask::image::{Image, Job, Mode};

/// isa-debug-exit ends QEMU with this for exit status 0: (0 << 1) | 1.
const CLEAN_EXIT: i32 = 1;
/// Far more than the two seconds that it takes; the emulator is killed after that.
const LIMIT_SECONDS: &str = "120";

const QEMU: EngineChoice = EngineChoice::Only(Engine::Qemu);

/// The built guest, where QEMU is installed. KVM is not needed here, so its absence is no reason to skip.
fn emulated() -> Option<Artefacts> {
    if let Err(error) = engine::choose(QEMU) {
        eprintln!("SKIP: {error}");
        return None;
    }
    Some(find_built(&Options::default()).unwrap_or_else(|error| panic!("{error}")))
}

fn qemu_config(built: &Artefacts, sharing: &str) -> Config {
    Config { engine: QEMU, ..config(built, sharing) }
}

#[test]
fn programs_are_judged_under_emulation() {
    let Some(built) = emulated() else { return };
    let mut programs = Programs::new();
    for name in ["fork_cow", "shared_anon", "signals_model", "object_unshare"] {
        programs.test_program(&built, name);
    }
    for sharing in ["none", "pte", "tree"] {
        let verify = VerifyMode::Faults(50);
        let (outcome, results) = programs.boot(&built, Config { verify, ..qemu_config(&built, sharing) });
        assert_clean(&outcome);
        assert_eq!(outcome.engine, Engine::Qemu);
        assert!(outcome.verifier.entries_walked > 0 && outcome.first_user_instruction_us.is_some());
        assert!(outcome.verifier.verified > outcome.stat("forks"), "faults are checkpoints too");
        for result in &results {
            assert!(result.passed(), "sharing={sharing}, {}: {}", result.name, result.ending());
        }
    }
}

#[test]
fn with_a_clock_of_instructions_two_runs_are_one() {
    let Some(built) = emulated() else { return };
    let mut programs = Programs::new();
    programs.test_program(&built, "fork_chain").test_program(&built, "futex_threads");
    let run = || {
        let (outcome, _) = programs.boot(&built, Config { icount: true, ..qemu_config(&built, "tree") });
        assert_clean(&outcome);
        outcome
    };
    let (first, second) = (run(), run());
    assert!(first.insn_emulation_at_first_user.is_some_and(|n| n > 1000), "{first:?}");
    assert_eq!(first.insn_emulation_at_first_user, second.insn_emulation_at_first_user);
    assert_eq!(first.last, second.last, "a counter, fork_ns among them, differs");
    assert_eq!((first.stdout, first.stderr), (second.stdout, second.stderr));
}

#[test]
fn input_status_and_time_limit_are_the_same_under_emulation() {
    let Some(built) = emulated() else { return };
    if !have_busybox() {
        return;
    }
    let shell = |script: &str, limit: u64, stdin: &[u8]| {
        let timeout = Some(Duration::from_secs(limit));
        let config = Config { timeout, ..qemu_config(&built, "pte") };
        run_single(&built, config, Path::new(BUSYBOX), &["sh", "-c", script], stdin)
    };
    let outcome = shell("cat; echo wrong >&2; exit 7", 600, b"one\ntwo");
    assert_clean(&outcome);
    assert_eq!(
        (outcome.status, &outcome.stdout[..], &outcome.stderr[..]),
        (7, &b"one\ntwo"[..], &b"wrong\n"[..])
    );
    let outcome = shell("while :; do :; done", 5, b"");
    assert!(
        matches!(&outcome.ending, Ending::Timeout { text } if text.contains("CPL")),
        "{}",
        outcome.ending
    );
    assert_eq!(outcome.status, exit_code::TIMEOUT);
}

/// Boots one test program, and demands that it exits with 0; gives what it printed.
fn emulate(program: &str, sharing: &str, more: &[&str]) -> String {
    let built = find_built(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let mut image = Image::new(&built.init).unwrap();
    let path = format!("/usr/bin/{program}");
    image.executable(&path, &built.program(program)).unwrap();
    let archive = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(archive.path(), image.finish(Mode::Single, &[Job::new("program", &[&path])])).unwrap();
    let mut qemu = Command::new("timeout");
    qemu.args(["-k", "5", LIMIT_SECONDS, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512M"]);
    qemu.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
    qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    qemu.arg("-kernel").arg(&built.kernel).arg("-initrd").arg(archive.path());
    qemu.args(["-append", &format!("sharing={sharing}")]).args(more);
    let output = qemu.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(CLEAN_EXIT), "{program}, sharing={sharing}: {text}");
    text
}

fn have_qemu() -> bool {
    emulated().is_some()
}

#[test]
fn the_image_boots_without_a_host_in_every_sharing_mode() {
    if !have_qemu() {
        return;
    }
    for (sharing, clock) in [("none", &[][..]), ("pte", &[]), ("tree", &["-icount", "shift=0,sleep=off"])] {
        let text = emulate("fork_chain", sharing, clock);
        assert!(text.contains("the last generation answers 20"), "sharing={sharing}: {text}");
    }
}

/// The emulator's TLB keeps every translation that no flush removes; a KVM that shadows page tables forgets some.
#[test]
fn no_stale_translation_is_used_under_emulation() {
    if !have_qemu() {
        return;
    }
    for sharing in ["none", "pte", "tree"] {
        let text = emulate("tlb_probe", sharing, &[]);
        assert!(text.contains("thread-fork: no stale translation"), "sharing={sharing}: {text}");
    }
}
