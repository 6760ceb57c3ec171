//! The same image under QEMU's emulation: another loader, another interrupt controller, no hypercall device.

use std::process::{Command, Stdio};
use xtask::guest::{Options, find_built};
use xtask::image::{Image, Job, Mode};

/// isa-debug-exit ends QEMU with this for exit status 0: (0 << 1) | 1.
const CLEAN_EXIT: i32 = 1;
/// Far more than the two seconds that it takes; the emulator is killed after that.
const LIMIT_SECONDS: &str = "120";

/// Boots one test program, and demands that it exits with 0; gives what it printed.
fn emulate(program: &str, sharing: &str, more: &[&str]) -> String {
    // KVM is not needed here, so its absence is no reason to skip.
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
    let installed = xtask::process::installed("qemu-system-x86_64");
    if !installed {
        eprintln!("SKIP: install Debian's package `qemu-system-x86` to boot the guest under emulation");
    }
    installed
}

#[test]
fn the_image_boots_under_emulation_in_every_sharing_mode() {
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
