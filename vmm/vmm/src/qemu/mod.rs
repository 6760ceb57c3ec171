//! The guest under QEMU's emulation: the same kernel image, memory that this process shares, and the hypercall device by
//! way of a doorbell (`ptshare_wire::hypercall`).
//!
//! ```text
//!  guest: Block in RAM, write to pvpanic ---> QEMU stops the machine, says so over QMP (its stdin and stdout)
//!                                                   |
//!  guest goes on <--- QMP `cont` <--- thread.rs: hypercall::call on the shared RAM, registers from QMP when needed
//! ```
//!
//! The machine stands still from the doorbell to `cont`, its clock included, so that a run with [`CLOCK`] is the same
//! every time and the judge sees memory at rest.

mod qmp;
mod registers;
pub(crate) mod thread;

use crate::config::Config;
use crate::error::VmmError;
use crate::ram::{self, GuestRam};
use crate::sys;
use object::{Object, ObjectSymbol};
use ptshare_wire::hypercall::{BLOCK_SYMBOL, Block};
use ptshare_wire::layout::{KERNEL_PHYS_LOAD, KERNEL_VIRT_BASE, LOW_RAM_END};
use qmp::Client;
use std::fs::File;
use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// `-icount`: a nanosecond of the guest's time is one instruction.
pub const CLOCK: &str = "shift=0,sleep=off";
/// How often a guest looks for console input, ms: there is no interrupt for it.
pub const INPUT_POLL_MS: u64 = 10;
/// Longest wait for QEMU to come up.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for QEMU to go.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Looks for the emulator.
///
/// # Errors
/// [`VmmError::NoQemu`].
pub fn find() -> Result<(), VmmError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file()) {
        true => Ok(()),
        false => Err(VmmError::NoQemu),
    }
}

/// Where the kernel keeps the block of its boot CPU, guest-physical.
///
/// # Errors
/// The image has no such symbol in RAM.
pub fn block_pa(path: &Path, image: &[u8], ram: &GuestRam) -> Result<u64, VmmError> {
    let symbol = object::File::parse(image)
        .ok()
        .and_then(|file| file.symbols().find(|s| s.name() == Ok(BLOCK_SYMBOL)).map(|s| s.address()));
    symbol
        .and_then(|va| va.checked_sub(KERNEL_VIRT_BASE))
        .filter(|&pa| {
            pa >= KERNEL_PHYS_LOAD && pa.is_multiple_of(8) && ram.contains(pa, size_of::<Block>() as u64)
        })
        .ok_or_else(|| VmmError::BadFile {
            what: "kernel",
            path: path.to_owned(),
            why: format!("has no {BLOCK_SYMBOL}, by which it talks to its host under QEMU; build it anew"),
        })
}

/// A QEMU that has come up and stands still before its first instruction.
pub struct Emulator {
    child: Child,
    client: Client,
    errors: ChildStderr,
    /// The guest's hypercall block, guest-physical.
    pub block: u64,
    /// Whether the guest's clock counts instructions.
    pub icount: bool,
}

/// Starts QEMU with this memory. Also gives what the guest writes to its serial port.
///
/// # Errors
/// [`VmmError::Host`] and [`VmmError::Qemu`].
pub fn start(
    config: &Config,
    ram: &GuestRam,
    block: u64,
    cmdline: &str,
    initramfs: &[u8],
) -> Result<(Emulator, File), VmmError> {
    let module = ram::memfd(c"ptshare-initramfs", initramfs.len() as u64)
        .and_then(|file| file.write_all_at(initramfs, 0).map(|()| file))
        .map_err(VmmError::host("make a memory file for the initramfs"))?;
    let (serial, serial_end) = io::pipe().map_err(VmmError::host("make a pipe"))?;
    let mut command = Command::new(PROGRAM);
    command.args(arguments(config, cmdline));
    // QEMU opens our files through /proc while we hold them.
    let mine = |fd: &dyn AsRawFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    command.args(["-object", &memory(config.mem_bytes, &mine(ram.file()))]);
    command.args([
        "-chardev",
        &format!("file,id=serial,path={}", mine(&serial_end)),
        "-serial",
        "chardev:serial",
    ]);
    command.arg("-kernel").arg(&config.kernel);
    if !initramfs.is_empty() {
        command.args(["-initrd", &mine(&module)]);
    }
    // A group of its own: keys on the terminal are for the guest and for us.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    sys::die_with_this_thread(&mut command);
    let mut child = command.spawn().map_err(VmmError::host("start QEMU"))?;
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(mut errors)) = streams else {
        return Err(VmmError::Qemu("its streams are missing".into()));
    };
    let mut client = Client::new(File::from(OwnedFd::from(stdout)), File::from(OwnedFd::from(stdin)));
    match client.greet(START_LIMIT) {
        Ok(()) => {
            let serial = File::from(OwnedFd::from(serial));
            Ok((Emulator { child, client, errors, block, icount: config.icount }, serial))
        }
        Err(why) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(VmmError::Qemu(with_complaint(&why.to_string(), &mut errors)))
        }
    }
}

/// What an ended QEMU wrote to stderr, behind a reason.
fn with_complaint(why: &str, errors: &mut ChildStderr) -> String {
    let mut text = String::new();
    // What cannot be read is not said.
    let _ = errors.read_to_string(&mut text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { why.to_owned() } else { format!("{why}; it says: {}", lines.join("; ")) }
}

/// The memory backend: the file of our RAM, in the same order of pieces.
fn memory(bytes: u64, path: &str) -> String {
    format!("memory-backend-file,id=ram,size={bytes},mem-path={path},share=on,prealloc=off,reserve=off")
}

/// Everything that names no file.
fn arguments(config: &Config, cmdline: &str) -> Vec<String> {
    // The PC machine without firmware settings of the user's, RAM split where `ram::ranges` splits it, everything that
    // would end the machine only stopping it.
    let low = LOW_RAM_END >> 30;
    let mut all: Vec<String> =
        ["-S", "-name", "ptshare", "-nodefaults", "-no-user-config", "-display", "none"]
            .map(String::from)
            .to_vec();
    let mut add = |name: &str, value: String| all.extend([name.to_owned(), value]);
    add("-machine", format!("pc,memory-backend=ram,max-ram-below-4g={low}G,usb=off,vmport=off"));
    // A thread for each of several CPUs, which share nothing but memory, as on a real machine.
    add("-accel", if config.cpus > 1 { "tcg,thread=multi" } else { "tcg" }.into());
    add("-cpu", "max".into());
    add("-smp", config.cpus.to_string());
    add("-m", format!("size={}M", config.mem_bytes >> 20));
    add("-chardev", "stdio,id=qmp,signal=off".into());
    add("-mon", "chardev=qmp,mode=control".into());
    add("-device", "pvpanic".into());
    add("-action", "reboot=shutdown,shutdown=pause,panic=pause".into());
    add("-append", cmdline.to_owned());
    if config.icount {
        add("-icount", CLOCK.into());
        // What RDRAND gives.
        add("-seed", "1".into());
    }
    all
}

impl Emulator {
    /// Makes QEMU leave.
    fn shut_down(mut self) {
        // One that has gone already does not answer.
        let _ = self.client.command("quit", None);
        let deadline = Instant::now() + END_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_block_is_refused() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for image in [&b"no elf"[..], &image] {
            let error = block_pa(Path::new("k"), image, &ram).unwrap_err();
            assert!(error.to_string().contains(BLOCK_SYMBOL), "{error}");
        }
    }

    #[test]
    fn the_clock_counts_instructions_only_when_asked() {
        let plain = arguments(&Config::default(), "a=b");
        assert!(plain.windows(2).any(|pair| pair == ["-m", "size=512M"]), "{plain:?}");
        assert!(plain.windows(2).any(|pair| pair == ["-append", "a=b"]), "{plain:?}");
        assert!(!plain.contains(&"-icount".to_owned()));
        let counted = arguments(&Config { icount: true, ..Config::default() }, "");
        assert!(counted.windows(2).any(|pair| pair == ["-icount", CLOCK]), "{counted:?}");
    }
}
