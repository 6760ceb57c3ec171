//! QEMU's emulation of the whole machine: no KVM, no hypercalls, no judge. Its clock can count instructions, and its TLB keeps
//! every translation that no flush removes.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";

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

/// How an emulated machine ended.
pub struct Ended {
    /// The guest's exit status; `None` when it did not come to its end in time, or QEMU failed.
    pub status: Option<u8>,
    /// What came out of the serial port.
    pub text: String,
    /// What QEMU said, and how it ended.
    pub errors: String,
}

/// Boots `kernel` with `initramfs`, this command line, so much memory (QEMU's `-m`), and more options; kills it after
/// `limit`.
///
/// # Errors
/// The emulator cannot be started.
pub fn boot(
    kernel: &Path,
    initramfs: &[u8],
    cmdline: &str,
    memory: &str,
    more: &[&str],
    limit: Duration,
) -> Result<Ended> {
    let archive = Scratch::new(initramfs)?;
    let mut command = Command::new("timeout");
    command.args([
        "-k",
        "5",
        &limit.as_secs().to_string(),
        PROGRAM,
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        memory,
    ]);
    command.args(["-display", "none", "-serial", "stdio", "-no-reboot"]).args(more);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(&archive.0).args(["-append", cmdline]);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {PROGRAM}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    Ok(Ended {
        // isa-debug-exit makes status N (N << 1) | 1; QEMU's own failure is 1 too, and says something.
        status: output
            .status
            .code()
            .filter(|code| code & 1 == 1 && output.stderr.is_empty())
            .and_then(|code| u8::try_from(code >> 1).ok()),
        text: String::from_utf8_lossy(&output.stdout).replace('\r', ""),
        errors: format!("{}{}", errors, output.status),
    })
}

/// A file that goes away with this value.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(data: &[u8]) -> Result<Scratch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ptshare-{}-{number}.cpio", std::process::id()));
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
