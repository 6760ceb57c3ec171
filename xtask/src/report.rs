//! The verdict line, and the file that `--json` names.

use anyhow::{Context, Result};
use ptshare_vmm::Outcome;
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// The judge's line.
pub fn verdict(outcome: &Outcome) -> String {
    let v = &outcome.verifier;
    format!(
        "{} checkpoints verified{}, {} entries walked, {} rules, {} violations, {:.1} ms",
        v.verified,
        if v.coalesced > 0 { format!(" (and {} exits coalesced)", v.coalesced) } else { String::new() },
        v.entries_walked,
        v.rules.len(),
        v.violations.len(),
        v.micros as f64 / 1000.0
    )
}

/// Prints to stdout; a reader that has gone away is no error.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes a report.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, report: &Value) -> Result<()> {
    std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}
