//! The same image under QEMU's emulation: another loader, another interrupt controller, no hypercall device; alone, and
//! with the judge at the doorbell.

use ptshare_boot_tests::{BUSYBOX, Programs, assert_clean, config, have_busybox, run_single};
use ptshare_verifier::{dump, verify};
use ptshare_vmm::{Config, Ending, Engine, EngineChoice, RandomVerify, VerifyMode, engine, exit_code};
use ptshare_wire::CensusHeader;
use ptshare_wire::census::{CENSUS_MAGIC, CENSUS_VERSION};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
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

/// CPUs that firmware names, started by INIT and SIPI, with the doorbell that they share and the judge who looks at all.
#[test]
fn several_cpus_are_started_and_judged_under_emulation() {
    let Some(built) = emulated() else { return };
    let mut programs = Programs::new();
    for name in ["futex_threads", "threads_tables", "fork_cow"] {
        programs.test_program(&built, name);
    }
    // Two threads that never rest, so that each has a CPU, and one flushes: those of the others may take turns.
    let probe = built.program("tlb_probe");
    programs.add("tlb_probe", &probe, "/usr/bin/tlb_probe", &["thread-mprotect"]);
    if have_busybox() {
        let script = "nproc; grep -c ^cpu[0-9] /proc/stat; cd /sys/devices/system/cpu; cat online possible present; \
                      ls -d cpu[0-9]* | wc -l; cat cpu2/topology/core_id cpu2/topology/thread_siblings; cd ../node; \
                      cat online node0/cpulist node0/cpumap; \
                      [ \"`sed -n 's/.*MemTotal: *//p' node0/meminfo`\" = \"`sed -n 's/MemTotal: *//p' /proc/meminfo`\" ]";
        programs.script("count", script);
    }
    let random = Some(RandomVerify { hz: 20.0, seed: 1 });
    let (outcome, results) = programs.boot(&built, Config { cpus: 3, random, ..qemu_config(&built, "pte") });
    assert_clean(&outcome);
    assert!(!outcome.kernel_log.contains("is left out"), "{}", outcome.kernel_log);
    let [ipis, shootdowns] = ["ipis", "tlb_shootdowns"].map(|name| outcome.stat(name));
    assert!(ipis > 0 && shootdowns > 0, "{ipis} IPIs, {shootdowns} shootdowns");
    for result in &results {
        assert!(result.passed(), "{}: {}", result.name, result.ending());
        if result.name == "count" {
            assert_eq!(String::from_utf8_lossy(&result.stdout), "3\n3\n0-2\n0-2\n0-2\n3\n2\n4\n0\n0-2\n7\n");
        }
    }
}

#[test]
fn with_a_clock_of_instructions_two_runs_are_one() {
    let Some(built) = emulated() else { return };
    let mut programs = Programs::new();
    programs.test_program(&built, "fork_chain").test_program(&built, "futex_threads");
    let run = || {
        // QEMU counts the instructions of one CPU, and nothing may depend on when the judge looks.
        let config = Config { icount: true, cpus: 1, random: None, ..qemu_config(&built, "tree") };
        let (outcome, _) = programs.boot(&built, config);
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
        for cpus in ["1", "2"] {
            let text = emulate("tlb_probe", sharing, &["-smp", cpus]);
            assert!(
                text.contains("thread-fork: no stale translation"),
                "sharing={sharing}, {cpus} CPUs: {text}"
            );
        }
    }
}

/// Guest memory of this size marks the guest that [`a_crime_from_outside_is_seen`] wrongs.
const VICTIM_BYTES: u64 = 300 << 20;
/// The kernel's image, its census in it, ends below this.
const IMAGE_END: usize = 32 << 20;

/// The memory file of the victim, once it runs.
fn victim() -> Option<std::fs::File> {
    let ours = std::fs::read_dir("/proc/self/fd").ok()?.filter_map(Result::ok);
    let open = |path: std::path::PathBuf| {
        std::fs::read_link(&path).ok()?.to_str()?.contains("ptshare-ram").then_some(())?;
        let file = std::fs::File::options().read(true).write(true).open(path).ok()?;
        (file.metadata().ok()?.len() == VICTIM_BYTES).then_some(file)
    };
    ours.filter_map(|entry| open(entry.path())).next()
}

/// Makes the census of a running guest count more free frames than there are. False while it has none.
fn miscount() -> bool {
    let Some(file) = victim() else { return false };
    let mut image = vec![0; IMAGE_END];
    if file.read_exact_at(&mut image, 0).is_err() {
        return false;
    }
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    let header = (0..IMAGE_END - 8).step_by(8).find(|&at| {
        word(at) == CENSUS_MAGIC
            && word(at + offset_of!(CensusHeader, version)) as u32 == CENSUS_VERSION
            && word(at + offset_of!(CensusHeader, free_frames)) != 0
    });
    let Some(header) = header else { return false };
    let at = header + offset_of!(CensusHeader, free_frames);
    file.write_all_at(&(word(at) + 5).to_le_bytes(), at as u64).unwrap();
    true
}

#[test]
fn a_crime_from_outside_is_seen() {
    if !have_busybox() {
        return;
    }
    for engine in [Engine::Kvm, Engine::Qemu].map(EngineChoice::Only) {
        if let Err(error) = engine::choose(engine) {
            eprintln!("SKIP: {error}");
            continue;
        }
        let built = find_built(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
        let folder = tempfile::tempdir().unwrap();
        let dump_path = Some(folder.path().join("dump"));
        let config = Config { engine, mem_bytes: VICTIM_BYTES, dump_path, ..config(&built, "pte") };
        let outcome = std::thread::scope(|scope| {
            let script = "echo ready; sleep 4; true; sleep 1";
            let run = scope
                .spawn(|| run_single(&built, config.clone(), Path::new(BUSYBOX), &["sh", "-c", script], b""));
            // While the program sleeps nothing counts frames.
            std::thread::sleep(Duration::from_secs(1));
            while !run.is_finished() && !miscount() {
                std::thread::sleep(Duration::from_millis(100));
            }
            run.join().unwrap()
        });
        let Ending::Violation { report } = &outcome.ending else {
            panic!("{engine:?}: {}", outcome.ending);
        };
        assert!(report.contains("violation of frames-add-up"), "{engine:?}: {report}");
        assert_eq!(outcome.status, exit_code::VIOLATION);
        let (image, census, cpus) = dump::read(&folder.path().join("dump")).unwrap();
        let again = verify(&image, census, &cpus, &ptshare_verifier::Options::default());
        assert!(again.findings.iter().any(|found| found.rule == "frames-add-up"), "{:?}", again.findings);
    }
}
