//! How a run ends is told by its exit status; stdin, stdout and stderr are the program's own.

use ptshare_boot_tests::{BUSYBOX, assert_clean, config, guest, have_busybox, run_single};
use ptshare_vmm::{Config, Ending, Engine, EngineChoice, VmmError, Watchdog, engine, exit_code};
use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn shell(script: &str, stdin: &[u8]) -> Option<ptshare_vmm::Outcome> {
    let built = guest()?;
    if !have_busybox() {
        return None;
    }
    Some(run_single(&built, config(&built, "pte"), Path::new(BUSYBOX), &["sh", "-c", script], stdin))
}

#[test]
fn the_programs_status_is_the_runs() {
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", 139), ("kill -KILL $$", 137)] {
        let Some(outcome) = shell(script, b"") else { return };
        assert_clean(&outcome);
        assert_eq!(outcome.status, status, "{script}");
    }
}

/// Runs busybox with some input in a guest and on this machine; both must print the same.
fn same_with_input(arguments: &[&str], stdin: &[u8]) {
    let Some(built) = guest() else { return };
    if !have_busybox() {
        return;
    }
    let outcome = run_single(&built, config(&built, "pte"), Path::new(BUSYBOX), arguments, stdin);
    assert_clean(&outcome);
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(stdin).unwrap();
    // Through a pipe: a shell reads a file differently.
    let mut feeder =
        Command::new(BUSYBOX).arg("cat").stdin(rewound(input)).stdout(Stdio::piped()).spawn().unwrap();
    let pipe = feeder.stdout.take().unwrap();
    let host = Command::new(BUSYBOX).args(arguments).stdin(pipe).output().unwrap();
    feeder.wait().unwrap();
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&host.stdout));
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), String::from_utf8_lossy(&host.stderr));
    assert_eq!(Some(i32::from(outcome.status)), host.status.code());
}

fn rewound(mut file: std::fs::File) -> std::fs::File {
    file.rewind().unwrap();
    file
}

#[test]
fn stdin_reaches_the_program_and_ends() {
    same_with_input(&["sh", "-c", "cat; echo end"], b"one\ntwo\nno newline");
    let long: Vec<u8> = (0..200_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    same_with_input(&["sh", "-c", "md5sum; wc -c </dev/null"], &long);
    same_with_input(&["head", "-n", "2"], b"1\n2\n3\n4\n");
}

#[test]
fn a_shell_reads_its_script_from_stdin() {
    let script = b"x=5\nwhile [ $x -gt 0 ]; do x=$((x - 1)); done\necho x is $x\n(exit 4) || echo failed >&2\nexit 3\n";
    same_with_input(&["sh"], script);
}

#[test]
fn a_time_limit_ends_the_run() {
    let Some(built) = guest() else { return };
    if !have_busybox() {
        return;
    }
    for script in ["sleep 1000", "while :; do :; done"] {
        let config = Config { timeout: Some(Duration::from_secs(4)), ..config(&built, "pte") };
        let outcome = run_single(&built, config, Path::new(BUSYBOX), &["sh", "-c", script], b"");
        assert!(matches!(outcome.ending, Ending::Timeout { .. }), "{script}: {}", outcome.ending);
        assert_eq!(outcome.status, exit_code::TIMEOUT);
    }
}

/// A program that computes moves no counter of the kernel: no hang, unless it is known never to.
#[test]
fn the_watchdog_shows_every_cpu_of_a_guest_that_hangs() {
    let Some(built) = guest() else { return };
    if !have_busybox() {
        return;
    }
    let limit = Duration::from_secs(1);
    for engine in [Engine::Kvm, Engine::Qemu].map(EngineChoice::Only) {
        if let Err(error) = engine::choose(engine) {
            eprintln!("SKIP: {error}");
            continue;
        }
        for strict in [false, true] {
            let watchdog = Some(Watchdog { limit, strict });
            let timeout = Some(Duration::from_secs(if strict { 60 } else { 5 }));
            let config = Config { engine, cpus: 2, watchdog, timeout, ..config(&built, "pte") };
            let script = "while :; do :; done";
            let outcome = run_single(&built, config, Path::new(BUSYBOX), &["sh", "-c", script], b"");
            match &outcome.ending {
                Ending::Timeout { .. } if !strict => {}
                Ending::Hang { text } if strict => {
                    let idle = text.contains(": idle, the kernel's own root\n");
                    let cpus = text.contains("\nCPU 0: ") && text.contains("\nCPU 1: ");
                    assert!(cpus && idle && text.contains(": process ") && text.contains("CPL 3"), "{text}");
                    assert_eq!(outcome.status, exit_code::HANG);
                }
                ending => panic!("strict {strict}: {ending}"),
            }
        }
    }
}

#[test]
fn a_dynamic_program_brings_its_libraries() {
    let Some(built) = guest() else { return };
    let program = Path::new("/usr/bin/sort");
    let dynamic = std::fs::read(program)
        .is_ok_and(|data| xtask::elf::needs(&data).is_ok_and(|n| n.interpreter.is_some()));
    if !dynamic {
        eprintln!("SKIP: this machine has no dynamic /usr/bin/sort");
        return;
    }
    let outcome = run_single(&built, config(&built, "pte"), program, &["-n"], b"30\n4\n100\n");
    assert!(
        matches!(outcome.ending, Ending::Exited(0)),
        "{}\n{}",
        outcome.ending,
        String::from_utf8_lossy(&outcome.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "4\n30\n100\n");
}

#[test]
fn what_cannot_begin_says_why() {
    let kernel = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kernel.path(), b"this is no kernel").unwrap();
    let config = Config { kernel: kernel.path().to_path_buf(), ..Config::default() };
    if engine::choose(EngineChoice::Auto).is_ok() {
        let error = ptshare_vmm::run(&config).unwrap_err();
        assert_eq!(exit_code::of_error(&error), exit_code::BAD_FILE, "{error}");
    }
    let error = ptshare_vmm::run(&Config { mem_bytes: 12345, ..config }).unwrap_err();
    assert!(matches!(error, VmmError::Usage(_)), "{error}");
    assert_eq!(exit_code::of_error(&error), exit_code::USAGE);
}
