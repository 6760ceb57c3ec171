//! The traces on the core alone (`tests/model`): no guest, and none of what is above the core.

use super::batch::{self, Verdict};
use crate::run::Sharing;
use crate::{paths, process};
use anyhow::{Context, Result};
use ptshare_trace::Trace;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the program that replays traces.
///
/// # Errors
/// Cargo fails.
pub fn build(verbose: bool) -> Result<()> {
    let mut cargo = process::cargo("build");
    cargo.args(["--package", "ptshare-model-tests", "--bin", "trace_model"]);
    process::quietly("building the core for this machine", &mut cargo, verbose)
}

/// Where it is then.
pub fn program() -> PathBuf {
    paths::target().join("debug/trace_model")
}

/// Runs traces.
///
/// # Errors
/// The program cannot be started.
pub fn run(program: &Path, traces: &[Trace], sharing: Sharing) -> Result<Vec<Verdict>> {
    let file = std::env::temp_dir().join(format!("ptshare-model-{}.trace", std::process::id()));
    std::fs::write(&file, batch::file_of(traces)).with_context(|| file.display().to_string())?;
    let output = Command::new(program).arg(sharing.name()).arg(&file).output();
    let _ = std::fs::remove_file(&file);
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let ending = String::from_utf8_lossy(&output.stderr);
    Ok(batch::split(&String::from_utf8_lossy(&output.stdout), traces.len(), &ending))
}
