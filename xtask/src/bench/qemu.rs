//! One boot under QEMU's emulation, where `-icount` makes a nanosecond of the guest's clock one instruction.

use crate::emulator;
pub use crate::emulator::{PROGRAM, version};
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Duration;

/// What makes time instructions.
pub const CLOCK: &str = "shift=0,sleep=off";
/// The guest's memory: the same for every kernel.
pub const MEMORY: &str = "2G";
/// Longest time that a boot may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Boots `kernel` with `initramfs` and this command line; gives what came out of the serial port.
///
/// # Errors
/// The emulator cannot be started, or the benchmark did not come to its end.
pub fn boot(kernel: &Path, initramfs: &[u8], cmdline: &str) -> Result<String> {
    let ended = emulator::boot(kernel, initramfs, cmdline, MEMORY, &["-icount", CLOCK], LIMIT)?;
    if !ended.text.contains("forkbench: done") {
        let last: Vec<&str> = ended.text.lines().chain(ended.errors.lines()).collect();
        let last = last.get(last.len().saturating_sub(4)..).unwrap_or_default().join(" | ");
        bail!("the benchmark did not come to its end: {last}");
    }
    Ok(ended.text)
}
