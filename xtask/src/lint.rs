//! `cargo xtask lint`: formatting, clippy for the host's and for the guest's code, generated documents.

use crate::guest::{self, Target};
use crate::{docs, process};
use anyhow::Result;

/// The verb.
///
/// # Errors
/// The first check that fails.
pub fn run(verbose: bool) -> Result<()> {
    process::quietly("checking the format", process::cargo("fmt").args(["--all", "--check"]), verbose)?;
    let mut host = process::cargo("clippy");
    host.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
    process::quietly("linting the host's code", &mut host, verbose)?;
    process::quietly("linting the guest kernel", &mut guest::lint_kernel(Target::LinuxLto)?, verbose)?;
    process::quietly("linting init", &mut guest::lint_init(), verbose)?;
    eprintln!("checking the generated documents ...");
    docs::check_syscalls()?;
    docs::check_rules()
}
