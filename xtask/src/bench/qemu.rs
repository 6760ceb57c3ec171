//! One boot under QEMU's emulation. Where instructions are counted, `-icount` makes one of them a nanosecond of the guest's clock.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// What makes time instructions.
pub const CLOCK: &str = "shift=0,sleep=off";
/// Longest time that a boot may take, seconds.
const LIMIT_SECONDS: &str = "1800";

/// What the emulator says it is.
///
/// # Errors
/// It is not installed.
pub fn version() -> Result<String> {
    match crate::process::answer(PROGRAM, &["--version"]) {
        Some(text) => Ok(text.lines().next().unwrap_or_default().to_owned()),
        None => bail!("{PROGRAM} is not installed (Debian's package `qemu-system-x86`)"),
    }
}

/// How the machine runs.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// One CPU, whose instructions are the clock.
    Counted,
    /// So many CPUs, each as fast as a thread of this machine emulates it.
    Free(u32),
}

/// Boots `kernel` with `initramfs`, this command line and this much memory; gives what came out of the serial port, where
/// `program` says that it is done.
///
/// # Errors
/// The emulator cannot be started, or the benchmark did not come to its end.
pub fn boot(
    kernel: &Path,
    initramfs: &[u8],
    cmdline: &str,
    memory: &str,
    pace: Pace,
    program: &str,
) -> Result<String> {
    let archive = Scratch::new(initramfs)?;
    let mut command = Command::new("timeout");
    command.args(["-k", "5", LIMIT_SECONDS, PROGRAM, "-cpu", "max", "-m", memory]);
    match pace {
        Pace::Counted => command.args(["-accel", "tcg", "-icount", CLOCK]),
        Pace::Free(cpus) => command.args(["-accel", "tcg,thread=multi", "-smp", &cpus.to_string()]),
    };
    command.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(&archive.0).args(["-append", cmdline]);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {PROGRAM}"))?;
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    if !text.contains(&format!("{program}: done")) {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = text.lines().chain(errors.lines()).collect();
        let last = last.get(last.len().saturating_sub(4)..).unwrap_or_default().join(" | ");
        bail!("the benchmark did not come to its end ({}): {last}", output.status);
    }
    Ok(text)
}

/// A file that goes away with this value.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(data: &[u8]) -> Result<Scratch> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ptshare-bench-{}-{number}.cpio", std::process::id()));
        std::fs::write(&path, data).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is lost when it stays.
        let _ = std::fs::remove_file(&self.0);
    }
}
