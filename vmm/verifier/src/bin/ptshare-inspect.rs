//! `ptshare-inspect DUMP [--vmas] [--path PID VA]`: judges a dump again, and shows what was in it.
//!
//! Exit status: 0 no violation, 1 violations, 2 no usable dump or wrong arguments.

use std::path::Path;
use std::process::ExitCode;

use ptshare_verifier::{Options, dump, inspect, verify};

const USAGE: &str = "usage: ptshare-inspect DUMP [--vmas] [--path PID VA]";

/// What the command line asks for.
struct Request {
    dump: String,
    vmas: bool,
    path: Option<(u64, u64)>,
}

fn main() -> ExitCode {
    let Some(request) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (image, census_pa, vcpus) = match dump::read(Path::new(&request.dump)) {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("{}: {error}", request.dump);
            return ExitCode::from(2);
        }
    };
    if let Some((pid, va)) = request.path {
        print!("{}", inspect::path(&image, census_pa, pid, va));
        return ExitCode::SUCCESS;
    }
    print!("{}", inspect::summary(&image, census_pa, request.vmas));
    let report = verify(&image, census_pa, &vcpus, &Options::default());
    if report.in_critical {
        println!("a CPU is inside a critical section: the books need not add up, nothing was checked");
        return ExitCode::SUCCESS;
    }
    println!(
        "checked {} entries, {} tables ({} shared), {} frames in {} us",
        report.entries_walked, report.tables, report.tables_shared, report.frames_checked, report.micros
    );
    for finding in &report.findings {
        println!("\n{finding}");
    }
    if report.suppressed > 0 {
        println!("\nand {} more", report.suppressed);
    }
    if report.findings.is_empty() {
        println!("no violation");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Request> {
    let mut request = Request { dump: String::new(), vmas: false, path: None };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--vmas" => request.vmas = true,
            "--path" => request.path = Some((number(&args.next()?)?, number(&args.next()?)?)),
            _ if request.dump.is_empty() && !arg.starts_with('-') => request.dump = arg,
            _ => return None,
        }
    }
    (!request.dump.is_empty()).then_some(request)
}

/// A decimal number, or a hexadecimal one after `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
