//! Starting other programs, above all Cargo, with progress and without noise.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// The Cargo that runs this program, or the one on the PATH.
pub fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Cargo, to be run at the root of the repository, free of what an outer Cargo set for its own build.
pub fn cargo(verb: &str) -> Command {
    let mut command = Command::new(cargo_program());
    command.arg(verb).current_dir(crate::paths::root());
    for name in
        ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"]
    {
        command.env_remove(name);
    }
    command
}

/// A command that takes longer than this is worth a line.
const PATIENCE: Duration = Duration::from_millis(800);

/// Runs a command to its end, saying `what` on stderr if it takes a while; its output is shown with `verbose` or when it
/// fails.
///
/// # Errors
/// The command cannot be started, or fails.
pub fn quietly(what: &str, command: &mut Command, verbose: bool) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    if verbose {
        eprintln!("{what} ...");
        let status = command.status().with_context(|| format!("cannot run {program}"))?;
        if !status.success() {
            bail!("{what} failed ({status})");
        }
        return Ok(());
    }
    let (done, wait) = mpsc::channel::<()>();
    let notice = format!("{what} ...");
    let teller = thread::spawn(move || {
        if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{notice}");
        }
    });
    let output = command.stdin(Stdio::null()).output();
    drop(done);
    // The thread only prints, and has seen that it need not.
    let _ = teller.join();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{what} failed ({})", output.status);
    }
    Ok(())
}

/// What a command prints on stdout, trimmed; `None` when it cannot be run or fails.
pub fn answer(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a program of this name is in PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}
