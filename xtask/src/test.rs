//! `cargo xtask test`: builds everything, then runs every test of the workspace.

use crate::guest::{self, Options, Target};
use crate::process;
use anyhow::{Context, Result};
use ptshare_vmm::{EngineChoice, RandomVerify, config, engine};

/// Tells the tests that boot a guest how many CPUs it has, as `--cpus` does.
pub const CPUS_VARIABLE: &str = "PTSHARE_TEST_CPUS";
/// Tells them how often the judge looks at random instants, as `--random` does.
pub const RANDOM_VARIABLE: &str = "PTSHARE_TEST_RANDOM";

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, clap::Args)]
pub struct TestArgs {
    /// Only tests whose name contains this
    pub filter: Option<String>,
    /// Virtual CPUs of each guest whose test needs no certain number [default: as many as this machine has, at most 4]
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub cpus: Option<u32>,
    /// Judge the guests at random instants too, so often a second on average, as `run --verify random:HZ[,SEED]` does; not
    /// where a test needs to know when the judge looks
    #[arg(long, value_name = "HZ[,SEED]", value_parser = parse_random)]
    pub random: Option<RandomVerify>,
    /// Run all tests even when one has failed
    #[arg(long)]
    pub keep_going: bool,
    /// Cargo's output while the guest is built
    #[arg(short, long)]
    pub verbose: bool,
}

/// What `--cpus` and [`CPUS_VARIABLE`] may say.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse_cpus(text: &str) -> Result<u32, String> {
    let cpus = text.parse().ok().filter(|cpus| (1..=config::CPUS_MAX).contains(cpus));
    cpus.ok_or_else(|| format!("`{text}` is not a number of CPUs, between 1 and {}", config::CPUS_MAX))
}

/// What `--random` and [`RANDOM_VARIABLE`] may say: `HZ` or `HZ,SEED`.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse_random(text: &str) -> Result<RandomVerify, String> {
    format!("random:{text}")
        .parse()
        .map_err(|_| format!("`{text}` is not HZ or HZ,SEED, such as 20 or 0.5,7"))
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
    if args.keep_going {
        command.arg("--no-fail-fast");
    }
    if let Some(cpus) = args.cpus {
        command.env(CPUS_VARIABLE, cpus.to_string());
    }
    if let Some(RandomVerify { hz, seed }) = args.random {
        command.env(RANDOM_VARIABLE, format!("{hz},{seed}"));
    }
    eprintln!("running the tests with {} ...", if nextest { "cargo-nextest" } else { "cargo test" });
    let status = command.status().context("cannot run cargo")?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_cpus_and_rates_are_read() {
        assert_eq!(parse_cpus("1"), Ok(1));
        assert_eq!(parse_cpus("64"), Ok(64));
        for text in ["", "0", "65", "-1", "two", "1.5"] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
        assert_eq!(parse_random("20"), Ok(RandomVerify { hz: 20.0, seed: 0 }));
        assert_eq!(parse_random("0.5,7"), Ok(RandomVerify { hz: 0.5, seed: 7 }));
        for text in ["", "0", "often", "20,", "20,x", "exit", "NaN"] {
            assert!(parse_random(text).is_err(), "{text}");
        }
    }
}
