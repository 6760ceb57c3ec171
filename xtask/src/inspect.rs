//! `cargo xtask inspect DUMP`: what a guest in a dump looked like, and the judge's verdict on it.

use crate::report;
use clap::{Args, Subcommand};
use ptshare_verifier::inspect::tree::Depth;
use ptshare_verifier::inspect::{Guest, InspectError};
use ptshare_verifier::{Options, Report, dump, verify};
use ptshare_vmm::exit_code;
use serde::Serialize;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Options of `cargo xtask inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// A dump, as `run --dump FILE` writes it at a violation, and with `--dump-at WHEN` without one
    #[arg(value_name = "DUMP")]
    dump: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

/// What to show. Numbers are decimal, or hexadecimal after 0x.
#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Judge the guest again, by every rule (the default); exit status 104 if a rule is broken
    Verdict,
    /// Memory, CPUs and processes
    Summary {
        /// Every VMA too
        #[arg(long)]
        vmas: bool,
    },
    /// The page tables of a process: counts, and who shares them
    Tree {
        /// The process
        #[arg(value_parser = number)]
        pid: u64,
        /// Levels of tables: 1 is the root alone, 4 goes down to the PTE pages
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=4))]
        depth: u8,
        /// What the tables map, too
        #[arg(long)]
        leaves: bool,
    },
    /// Which processes use a page table, and at which address
    Sharers {
        /// Frame number of the table
        #[arg(value_parser = number)]
        pfn: u64,
    },
    /// Which processes map a frame, and at which addresses
    Who {
        /// The frame's number
        #[arg(value_parser = number)]
        pfn: u64,
    },
    /// The path that translates an address, entry by entry
    Walk {
        /// The process
        #[arg(value_parser = number)]
        pid: u64,
        /// The address
        #[arg(value_parser = number)]
        va: u64,
    },
    /// What is different in a second dump: VMAs, entries, counts, counters; exit status 1 if anything is
    Diff {
        /// The dump to compare with
        #[arg(value_name = "DUMP2")]
        other: PathBuf,
    },
}

/// A decimal number, or a hexadecimal one after `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not a number: give decimal digits, or hexadecimal ones after 0x"))
}

/// The verb. Returns the exit status; what cannot be read or found is said on stderr.
pub fn run(args: &InspectArgs) -> u8 {
    match show(args) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("ptshare: {error}");
            exit_code::BAD_FILE
        }
    }
}

fn show(args: &InspectArgs) -> Result<u8, String> {
    let what = args.what.clone().unwrap_or(What::Verdict);
    if let What::Verdict = what {
        return verdict(args);
    }
    let guest = open(&args.dump)?;
    let fail = |error: InspectError| error.to_string();
    match what {
        What::Verdict => {}
        What::Summary { vmas } => print(args, &guest.summary(vmas)),
        What::Tree { pid, depth, leaves } => {
            print_all(args, &guest.tree(pid, Depth { levels: depth, leaves }).map_err(fail)?);
        }
        What::Sharers { pfn } => print(args, &guest.sharers(pfn).map_err(fail)?),
        What::Who { pfn } => print(args, &guest.who(pfn)),
        What::Walk { pid, va } => print_all(args, &guest.walk(pid, va).map_err(fail)?),
        What::Diff { other } => {
            let diff = guest.diff(&open(&other)?);
            print(args, &diff);
            return Ok(u8::from(!diff.is_empty()));
        }
    }
    Ok(0)
}

fn open(path: &Path) -> Result<Guest, String> {
    Guest::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn print(args: &InspectArgs, shown: &(impl Display + Serialize)) {
    if args.json {
        print_json(shown);
    } else {
        report::print(&shown.to_string());
    }
}

fn print_all(args: &InspectArgs, shown: &[impl Display + Serialize]) {
    if args.json {
        print_json(shown);
    } else {
        shown.iter().for_each(|one| report::print(&one.to_string()));
    }
}

fn print_json(shown: &(impl Serialize + ?Sized)) {
    if let Ok(text) = serde_json::to_string_pretty(shown) {
        report::print(&(text + "\n"));
    }
}

/// Judges a dump, also one whose census is broken.
fn verdict(args: &InspectArgs) -> Result<u8, String> {
    let path = &args.dump;
    let (image, census, vcpus) = dump::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let verdict = verify(&image, census, &vcpus, &Options::default());
    if args.json {
        print_json(&verdict);
    } else {
        report::print(&verdict_text(&verdict));
    }
    Ok(if verdict.findings.is_empty() { 0 } else { exit_code::VIOLATION })
}

fn verdict_text(report: &Report) -> String {
    if report.in_critical {
        return "a CPU is inside a critical section: the books need not add up, nothing was checked\n".into();
    }
    let mut text = format!(
        "checked {} address spaces, {} tables ({} shared), {} entries, {} frames in {} us\n",
        report.mms,
        report.tables,
        report.tables_shared,
        report.entries_walked,
        report.frames_checked,
        report.micros
    );
    for finding in &report.findings {
        text += &format!("\n{finding}\n");
    }
    if report.suppressed > 0 {
        text += &format!("\nand {} more\n", report.suppressed);
    }
    if report.findings.is_empty() {
        text += "no violation\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_marked() {
        assert_eq!(number("12"), Ok(12));
        assert_eq!(number("0x7f4"), Ok(0x7f4));
        for text in ["", "0x", "7f4", "-1", "0xfffffffffffffffff"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
