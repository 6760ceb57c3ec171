//! What a run is asked to do, and the checks that need no KVM. Nothing here touches the host.

use crate::engine::{Engine, EngineChoice};
use crate::error::VmmError;
use ptshare_wire::layout::{HIGH_RAM_START, LINEAR_MAX_BYTES, LOW_RAM_END};
use std::path::PathBuf;
use std::time::Duration;

/// Smallest guest memory: below it the kernel image, its frame array and an initramfs have no room. Bytes.
pub const MEM_MIN_BYTES: u64 = 16 << 20;
/// Largest guest memory: the linear map's reach less the device hole. Bytes.
pub const MEM_MAX_BYTES: u64 = LINEAR_MAX_BYTES - (HIGH_RAM_START - LOW_RAM_END);
/// Guest memory comes in multiples of this. Bytes.
pub const MEM_STEP_BYTES: u64 = 2 << 20;
/// Most virtual CPUs.
pub const CPUS_MAX: u32 = ptshare_wire::census::CPUS_MAX as u32;

/// The root file system archive, handed to the guest as a PVH module.
#[derive(Clone, Debug)]
pub enum Initramfs {
    /// The archive itself (newc cpio); empty for none.
    Bytes(Vec<u8>),
    /// A file that holds it.
    File(PathBuf),
}

/// When the verifier walks the guest's page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyMode {
    /// Never; checkpoints are only counted.
    Off,
    /// At process exits, on request of a program, and at shutdown. While verifying takes more than a third of the run
    /// (hundreds of processes that end together), exits are counted as coalesced and left to the next checkpoint.
    Exit,
    /// As [`VerifyMode::Exit`], and no exit is left out.
    EveryExit,
    /// As [`VerifyMode::Exit`], and every so many page faults.
    Faults(u64),
}

/// The judge at random instants.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RandomVerify {
    /// How often in a second of running, on average.
    pub hz: f64,
    /// Of the times between two instants.
    pub seed: u64,
}

/// What `--verify` takes: when to verify, in terms of the guest and of time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Verify {
    /// At which of the guest's checkpoints.
    pub mode: VerifyMode,
    /// At random instants too.
    pub random: Option<RandomVerify>,
}

/// When a run is ended because nothing goes on in it: see [`crate::watchdog`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watchdog {
    /// Time in which no counter of the guest's moves.
    pub limit: Duration,
    /// A guest that is idle, or computes, hangs too.
    pub strict: bool,
}

impl std::str::FromStr for Watchdog {
    type Err = String;

    /// `SECS` or `SECS,strict`; a limit of 0 stands for none.
    fn from_str(text: &str) -> Result<Self, String> {
        let (seconds, strict) = match text.split_once(',') {
            None => (text, false),
            Some((seconds, "strict")) => (seconds, true),
            Some(_) => ("", false),
        };
        seconds
            .parse()
            .ok()
            .map(|seconds| Watchdog { limit: Duration::from_secs(seconds), strict })
            .ok_or_else(|| format!("`{text}` is not a number of seconds, or one and `,strict`"))
    }
}

/// How the values of `--verify` are written.
const VERIFY_VALUES: &str = "off, exit, every-exit, every-fault, faults:N, random:HZ or random:HZ,SEED, or one of the last two \
                             behind another and a plus sign";
/// Most verdicts asked for in a second.
const HZ_MAX: f64 = 1e5;

impl std::str::FromStr for VerifyMode {
    type Err = String;

    /// `off`, `exit`, `every-exit`, `every-fault`, or `faults:N` with N above 0 (also `faults=N`).
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(VerifyMode::Off),
            "exit" => Ok(VerifyMode::Exit),
            "every-exit" => Ok(VerifyMode::EveryExit),
            "every-fault" => Ok(VerifyMode::Faults(1)),
            _ => text
                .strip_prefix("faults:")
                .or_else(|| text.strip_prefix("faults="))
                .and_then(|n| n.parse().ok())
                .filter(|&n| n > 0)
                .map(VerifyMode::Faults)
                .ok_or_else(|| format!("`{text}` is not one of {VERIFY_VALUES}")),
        }
    }
}

impl std::str::FromStr for RandomVerify {
    type Err = String;

    /// `random:HZ` or `random:HZ,SEED`; the seed is 0 unless given.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (hz, seed) = text.strip_prefix("random:")?.split_once(',').unwrap_or((&text[7..], "0"));
            let hz = hz.parse().ok().filter(|hz| *hz > 0.0 && *hz <= HZ_MAX)?;
            Some(RandomVerify { hz, seed: seed.parse().ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` is not one of {VERIFY_VALUES}"))
    }
}

impl std::str::FromStr for Verify {
    type Err = String;

    /// A [`VerifyMode`], a [`RandomVerify`] (with exits, as without it), or the one, a plus sign and the other.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mode, random) = match text.split_once('+') {
            Some((mode, random)) => (mode.parse()?, Some(random.parse()?)),
            None if text.starts_with("random") => (VerifyMode::Exit, Some(text.parse()?)),
            None => (text.parse()?, None),
        };
        Ok(Verify { mode, random })
    }
}

/// What the guest's console is connected to.
#[derive(Clone, Debug)]
pub enum Console {
    /// This process's stdin, stdout and stderr; a terminal on stdin is put into raw mode for the run. SIGINT, SIGTERM
    /// and SIGHUP end the run.
    Inherit,
    /// Nothing of the host's: stdin is these bytes, stdout and stderr are collected into the outcome.
    Captured {
        /// All input there will be; its end is the end of the file.
        stdin: Vec<u8>,
    },
}

/// One run of one guest.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guest kernel: an ELF file with a PVH note.
    pub kernel: PathBuf,
    /// The root file system.
    pub initramfs: Initramfs,
    /// What runs the guest.
    pub engine: EngineChoice,
    /// Under QEMU the guest's clock counts instructions (`-icount`), and the same run takes the same number each time.
    pub icount: bool,
    /// Words put at the end of the kernel's command line.
    pub cmdline_extra: String,
    /// Guest memory, bytes; costs nothing until touched.
    pub mem_bytes: u64,
    /// Virtual CPUs. The guest's boot CPU starts the others.
    pub cpus: u32,
    /// `sharing=`: `none`, `pte` or `tree`.
    pub sharing: String,
    /// At which of the guest's checkpoints to verify.
    pub verify: VerifyMode,
    /// Verify at random instants too.
    pub random: Option<RandomVerify>,
    /// Longest time that the run may take, from the call on.
    pub timeout: Option<Duration>,
    /// Ends a run in which nothing goes on.
    pub watchdog: Option<Watchdog>,
    /// The guest's console.
    pub console: Console,
    /// Where a dump of guest memory goes; no dump without it.
    pub dump_path: Option<PathBuf>,
    /// When a dump is written though nothing is wrong: `end` (at shutdown), or the label of a checkpoint that a program asks
    /// for; the last one stays. A checkpoint with the label `dump` always writes one.
    pub dump_at: Option<String>,
    /// Most verbose level of the guest's log lines, passed on as `loglevel=`.
    pub log_level: log::LevelFilter,
    /// Sample where the guest spends its time; the table is in the outcome.
    pub profile: bool,
}

impl Default for Config {
    /// 512 MiB, one CPU, `sharing=pte`, verification at exits, captured console without input, no time limit.
    fn default() -> Self {
        Config {
            kernel: PathBuf::new(),
            initramfs: Initramfs::Bytes(Vec::new()),
            engine: EngineChoice::Auto,
            icount: false,
            cmdline_extra: String::new(),
            mem_bytes: 512 << 20,
            cpus: 1,
            sharing: "pte".into(),
            verify: VerifyMode::Exit,
            random: None,
            timeout: None,
            watchdog: None,
            console: Console::Captured { stdin: Vec::new() },
            dump_path: None,
            dump_at: None,
            log_level: log::LevelFilter::Warn,
            profile: false,
        }
    }
}

impl Config {
    /// Checks every value that can be judged without the host.
    ///
    /// # Errors
    /// [`VmmError::Usage`] with one sentence that names the option and the values it takes.
    pub fn check(&self) -> Result<(), VmmError> {
        let usage = |text: String| Err(VmmError::Usage(text));
        if !(MEM_MIN_BYTES..=MEM_MAX_BYTES).contains(&self.mem_bytes) {
            return usage(format!(
                "--mem {}: guest memory must be between {} and {}",
                show_size(self.mem_bytes),
                show_size(MEM_MIN_BYTES),
                show_size(MEM_MAX_BYTES)
            ));
        }
        if !self.mem_bytes.is_multiple_of(MEM_STEP_BYTES) {
            return usage(format!("--mem {}: guest memory must be a multiple of 2M", self.mem_bytes));
        }
        if self.icount && self.engine != EngineChoice::Only(Engine::Qemu) {
            return usage("--icount: only QEMU counts instructions; give --engine qemu as well".into());
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return usage(format!("--cpus {}: between 1 and {CPUS_MAX} CPUs are possible", self.cpus));
        }
        if self.icount && self.cpus != 1 {
            return usage(format!(
                "--cpus {}: with --icount QEMU has one CPU, for only one counts instructions; give --cpus 1",
                self.cpus
            ));
        }
        if !["none", "pte", "tree"].contains(&self.sharing.as_str()) {
            return usage(format!("--sharing {}: must be one of none, pte, tree", self.sharing));
        }
        if self.dump_at.is_some() && (self.verify == VerifyMode::Off || self.dump_path.is_none()) {
            return usage(
                "--dump-at: needs a file (--dump) and a verification to come with (not --verify off)".into(),
            );
        }
        if self.cmdline_extra.contains(['\0', '\n']) {
            return usage("--append: the command line may not contain NUL or newline".into());
        }
        Ok(())
    }
}

/// Parses a size: a number of bytes, or one with the suffix K, M, G or T (powers of 1024).
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size: give bytes, or a number followed by K, M, G or T");
    let (digits, shift) = match text.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        t if t.ends_with('K') => (t[..t.len() - 1].to_owned(), 10),
        t if t.ends_with('M') => (t[..t.len() - 1].to_owned(), 20),
        t if t.ends_with('G') => (t[..t.len() - 1].to_owned(), 30),
        t if t.ends_with('T') => (t[..t.len() - 1].to_owned(), 40),
        t => (t.to_owned(), 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Bytes as a person writes them: `512M`, `64G`, `1234`.
pub fn show_size(bytes: u64) -> String {
    for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_suffix() {
        for (text, bytes) in
            [("4096", 4096), ("64K", 65536), ("512m", 512 << 20), ("64GiB", 64 << 30), ("1T", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "99999999999T", "é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(show_size(512 << 20), "512M");
        assert_eq!(show_size(4097), "4097");
    }

    #[test]
    fn watchdogs_are_read() {
        let limit = Duration::from_secs(30);
        assert_eq!("30".parse(), Ok(Watchdog { limit, strict: false }));
        assert_eq!("0".parse(), Ok(Watchdog { limit: Duration::ZERO, strict: false }));
        assert_eq!("30,strict".parse(), Ok(Watchdog { limit, strict: true }));
        for text in ["", "x", "30,", "30,lax", ",strict"] {
            assert!(text.parse::<Watchdog>().is_err(), "{text}");
        }
    }

    #[test]
    fn verify_modes_are_read() {
        assert_eq!("off".parse(), Ok(VerifyMode::Off));
        assert_eq!("exit".parse(), Ok(VerifyMode::Exit));
        assert_eq!("every-exit".parse(), Ok(VerifyMode::EveryExit));
        assert_eq!("every-fault".parse(), Ok(VerifyMode::Faults(1)));
        assert_eq!("faults=100".parse(), Ok(VerifyMode::Faults(100)));
        let random = |hz, seed| Some(RandomVerify { hz, seed });
        for (text, mode, random) in [
            ("faults:100", VerifyMode::Faults(100), None),
            ("random:50", VerifyMode::Exit, random(50.0, 0)),
            ("off+random:0.5,7", VerifyMode::Off, random(0.5, 7)),
            ("every-fault+random:50,1", VerifyMode::Faults(1), random(50.0, 1)),
        ] {
            assert_eq!(text.parse(), Ok(Verify { mode, random }), "{text}");
        }
        for text in [
            "",
            "on",
            "faults=0",
            "faults=",
            "faults=x",
            "random:0",
            "random:-1",
            "random:x",
            "random:1,x",
            "random:NaN",
            "random",
            "exit+",
            "+exit",
            "exit+exit",
        ] {
            assert!(text.parse::<Verify>().is_err(), "{text}");
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let good = Config::default();
        good.check().unwrap();
        for (config, word) in [
            (Config { mem_bytes: 1 << 20, ..good.clone() }, "--mem"),
            (Config { mem_bytes: 1 << 50, ..good.clone() }, "--mem"),
            (Config { mem_bytes: (512 << 20) + 4096, ..good.clone() }, "--mem"),
            (Config { icount: true, ..good.clone() }, "--icount"),
            (
                Config { icount: true, engine: EngineChoice::Only(Engine::Qemu), cpus: 2, ..good.clone() },
                "--cpus",
            ),
            (Config { cpus: 0, ..good.clone() }, "--cpus"),
            (Config { cpus: 65, ..good.clone() }, "--cpus"),
            (Config { sharing: "pmd".into(), ..good.clone() }, "--sharing"),
            (Config { dump_at: Some("end".into()), ..good.clone() }, "--dump-at"),
            (Config { cmdline_extra: "a\0b".into(), ..good.clone() }, "--append"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
