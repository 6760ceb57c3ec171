//! The same image under QEMU's emulation: another loader, another interrupt controller, no hypercall device.

use std::process::{Command, Stdio};
use xtask::guest::{Options, find_built};
use xtask::image::{Image, Job, Mode};

/// isa-debug-exit ends QEMU with this for exit status 0: (0 << 1) | 1.
const CLEAN_EXIT: i32 = 1;
/// Far more than the two seconds that it takes; the emulator is killed after that.
const LIMIT_SECONDS: &str = "120";

#[test]
fn the_image_boots_under_emulation_in_every_sharing_mode() {
    if !xtask::process::installed("qemu-system-x86_64") {
        eprintln!("SKIP: install Debian's package `qemu-system-x86` to boot the guest under emulation");
        return;
    }
    // KVM is not needed here, so its absence is no reason to skip.
    let built = find_built(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let mut image = Image::new(&built.init).unwrap();
    image.executable("/usr/bin/fork_chain", &built.program("fork_chain")).unwrap();
    let job = Job::new("program", &["/usr/bin/fork_chain"]);
    let archive = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(archive.path(), image.finish(Mode::Single, &[job])).unwrap();
    for (sharing, clock) in [("none", None), ("pte", None), ("tree", Some("shift=0,sleep=off"))] {
        let mut qemu = Command::new("timeout");
        qemu.args([
            "-k",
            "5",
            LIMIT_SECONDS,
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "512M",
        ]);
        qemu.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        qemu.arg("-kernel").arg(&built.kernel).arg("-initrd").arg(archive.path());
        qemu.args(["-append", &format!("sharing={sharing}")]);
        if let Some(clock) = clock {
            qemu.args(["-icount", clock]);
        }
        let output = qemu.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(CLEAN_EXIT), "sharing={sharing}: {text}");
        assert!(text.contains("the last generation answers 20"), "sharing={sharing}: {text}");
    }
}
