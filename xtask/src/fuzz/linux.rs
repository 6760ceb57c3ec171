//! The interpreter on this machine.

use super::batch::{self, Verdict};
use crate::guest::Artefacts;
use anyhow::{Context, Result, bail};
use ptshare_trace::Trace;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Huge pages that traces need at most, and the guest's pool.
pub const HUGE_PAGES: u64 = 64;
/// Said when they are missing.
pub const NO_POOL: &str =
    "traces with huge pages are left out: raise /proc/sys/vm/nr_hugepages until 64 are free to have them";
/// Seconds that a trace may take.
const DEADLINE: &str = "20";

/// The oracle.
pub struct Linux {
    program: PathBuf,
    /// On tmpfs, as the guest's files are.
    folder: PathBuf,
}

impl Linux {
    /// The interpreter, with a folder to run in.
    ///
    /// # Errors
    /// There is no tmpfs at /dev/shm.
    pub fn new(built: &Artefacts) -> Result<Linux> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new("/dev/shm").join(format!("ptshare-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{}: traces need files on tmpfs", folder.display()))?;
        Ok(Linux { program: built.program("trace_run"), folder })
    }

    /// Whether traces with huge pages can be run: some of them make Linux lose reservations, so it may be over with that.
    pub fn has_huge_pages(&self) -> bool {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let number = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse::<u64>().ok()
        };
        match (number("HugePages_Free"), number("HugePages_Rsvd")) {
            (Some(free), Some(reserved)) => free.saturating_sub(reserved) >= HUGE_PAGES,
            _ => false,
        }
    }

    /// Runs traces.
    ///
    /// # Errors
    /// The interpreter cannot be run, or does not end by itself: Linux is the oracle, so that is nobody's finding.
    pub fn run(&self, traces: &[Trace], verbose: bool) -> Result<Vec<Verdict>> {
        let file = self.folder.join("traces");
        std::fs::write(&file, batch::file_of(traces)).with_context(|| file.display().to_string())?;
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder).env_clear().stdin(Stdio::null());
        command.args(["--deadline", DEADLINE]).args(verbose.then_some("-v")).arg("traces");
        let output = command.output().with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!(
                "the interpreter failed on this machine (status {:#x}): {}",
                output.status.into_raw(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let verdicts = batch::split(&String::from_utf8_lossy(&output.stdout), traces.len(), "");
        match verdicts.iter().position(|verdict| !matches!(verdict, Verdict::Report(_))) {
            Some(at) => bail!("the interpreter did not run trace {at} of {}", traces.len()),
            None => Ok(verdicts),
        }
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
