//! `cargo xtask test`: builds everything, then runs every test of the workspace.

use crate::guest::{self, Options, Target};
use crate::process;
use anyhow::{Context, Result};
use ptshare_vmm::{EngineChoice, engine};

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, clap::Args)]
pub struct TestArgs {
    /// Only tests whose name contains this
    pub filter: Option<String>,
    /// Cargo's output while the guest is built
    #[arg(short, long)]
    pub verbose: bool,
}

/// The verb. Returns the exit status.
///
/// # Errors
/// Something cannot be built or the test runner cannot be started.
pub fn run(args: &TestArgs) -> Result<u8> {
    let options = Options { verbose: args.verbose, ..Options::default() };
    guest::build_all(&options)?;
    guest::build_kernel(&Options { checked: true, ..options })?;
    if Target::None.available() {
        guest::build_kernel(&Options { target: Target::None, ..options })?;
    } else {
        eprintln!(
            "SKIP: the kernel is not built for x86_64-unknown-none, which is not installed here (`rustup target add \
             x86_64-unknown-none`)"
        );
    }
    match engine::choose(EngineChoice::Auto) {
        Ok((engine, notice)) => {
            let why = notice.map(|notice| format!(" ({notice})")).unwrap_or_default();
            eprintln!("guests run on {engine}{why}");
        }
        Err(error) => eprintln!("SKIP: tests that boot a guest are left out: {error}"),
    }
    if !std::path::Path::new("/bin/busybox").exists() {
        eprintln!(
            "SKIP: /bin/busybox does not exist, so tests that compare busybox are left out: install Debian's package \
             `busybox-static`"
        );
    }
    let nextest = process::installed("cargo-nextest");
    let mut command = process::cargo(if nextest { "nextest" } else { "test" });
    if nextest {
        command.arg("run");
    }
    command.args(["--workspace"]).args(&args.filter);
    eprintln!("running the tests with {} ...", if nextest { "cargo-nextest" } else { "cargo test" });
    let status = command.status().context("cannot run cargo")?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}
