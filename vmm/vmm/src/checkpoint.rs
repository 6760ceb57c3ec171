//! A checkpoint: pauses nothing (every vCPU is in the VMM or parked when one is served), hands guest memory and the
//! vCPUs' CR3 to the verifier, and ends the run on a finding.

use crate::config::VerifyMode;
use crate::cpu::Cpu;
use crate::device::hypercall::Caller;
use crate::machine::Machine;
use crate::outcome::Ending;
use crate::ram::{GuestRam, ranges};
use kvm_bindings::kvm_sregs;
use log::{debug, warn};
use ptshare_paging::{ENTRIES, PAGE_BYTES};
use ptshare_verifier::dump::DumpError;
use ptshare_verifier::{Options, PhysView, Report, Vcpu};
use ptshare_wire::hypercall::CheckpointReason;
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Findings printed in full; the rest is counted.
const SHOWN_MAX: usize = 8;

impl PhysView for GuestRam {
    fn read_bytes(&self, pa: u64, out: &mut [u8]) -> bool {
        match self.read(pa, out.len() as u64) {
            Some(bytes) => {
                out.copy_from_slice(&bytes);
                true
            }
            None => false,
        }
    }

    fn read_u64(&self, pa: u64) -> Option<u64> {
        GuestRam::read_u64(self, pa)
    }

    fn read_page(&self, pfn: u64, out: &mut [u64; ENTRIES]) -> bool {
        let Some(page) = pfn.checked_mul(PAGE_BYTES).and_then(|pa| self.page(pa)) else { return false };
        for (word, source) in out.iter_mut().zip(page) {
            *word = source.load(Ordering::Relaxed);
        }
        true
    }

    fn extents(&self) -> Vec<Range<u64>> {
        ranges(self.bytes()).into_iter().map(|r| r.start / PAGE_BYTES..r.end / PAGE_BYTES).collect()
    }
}

fn reason_text(reason: CheckpointReason, label: &str) -> String {
    let text = match reason {
        CheckpointReason::ProcessExit => "after a process exit",
        CheckpointReason::Request => "on request of a program",
        CheckpointReason::Shutdown => "at shutdown",
        CheckpointReason::Faults => "after a number of faults",
    };
    if label.is_empty() { text.to_owned() } else { format!("{text} (`{label}`)") }
}

/// Verifying after every exit costs the square of the number of processes that end together: once it has taken this
/// long and a third of the run, exits wait for the next checkpoint.
const GRACE_MICROS: u64 = 2_000_000;

fn overloaded(machine: &Machine) -> bool {
    let spent = machine.record().verifier.micros;
    spent > GRACE_MICROS && spent > machine.micros() / 3
}

/// Serves a checkpoint. `Some` ends the run.
pub fn run(machine: &Machine, caller: &Caller<'_>, reason: CheckpointReason, label: &str) -> Option<Ending> {
    machine.record().verifier.checkpoints += 1;
    if machine.verify == VerifyMode::Off {
        return None;
    }
    if reason == CheckpointReason::ProcessExit && machine.verify == VerifyMode::Exit && overloaded(machine) {
        machine.record().verifier.coalesced += 1;
        return None;
    }
    let when = reason_text(reason, label);
    let Some(census) = machine.census() else {
        let text = format!("the guest asks for a verification {when} before it has published its census");
        return Some(Ending::GuestPanic { text });
    };
    let vcpus: Vec<Vcpu> = match caller.cpu.map(Cpu::state) {
        None => Vec::new(),
        Some(Ok(state)) => vec![vcpu_of(caller.index, &state.sregs)],
        Some(Err(text)) => return Some(Ending::InternalError { text }),
    };
    let report = ptshare_verifier::verify(&machine.ram, census, &vcpus, &Options::default());
    note(machine, &report);
    debug!(
        "verified {when}: {} address spaces, {} tables ({} shared), {} entries, {} us",
        report.mms, report.tables, report.tables_shared, report.entries_walked, report.micros
    );
    if report.in_critical {
        let text = format!("the guest asks for a verification {when} inside a critical section");
        return Some(Ending::GuestPanic { text });
    }
    if report.findings.is_empty() {
        if let Some(path) = machine.dump_path.as_ref().filter(|_| dump_wanted(machine, reason, label)) {
            match dump(machine, path, census, &vcpus) {
                Ok(()) => machine.record().verifier.dumps += 1,
                Err(e) => warn!("the dump {} cannot be written: {e}", path.display()),
            }
        }
        return None;
    }
    Some(Ending::Violation { report: violation_text(machine, &report, census, &vcpus, &when) })
}

/// Is this a moment for a dump of a guest in which nothing is wrong?
fn dump_wanted(machine: &Machine, reason: CheckpointReason, label: &str) -> bool {
    let at = machine.dump_at.as_deref();
    match reason {
        CheckpointReason::Request => label == "dump" || at == Some(label),
        CheckpointReason::Shutdown => at == Some("end"),
        _ => false,
    }
}

/// Adds a report to the run's totals.
fn note(machine: &Machine, report: &Report) {
    let mut record = machine.record();
    let totals = &mut record.verifier;
    totals.verified += 1;
    totals.entries_walked += report.entries_walked;
    totals.micros += report.micros;
    if totals.rules.is_empty() {
        totals.rules = ptshare_verifier::rules().iter().map(|r| r.name.to_owned()).collect();
    }
    totals.violations.extend(report.findings.iter().map(|f| f.to_string()));
}

fn violation_text(machine: &Machine, report: &Report, census: u64, vcpus: &[Vcpu], when: &str) -> String {
    let count = report.findings.len() as u64 + report.suppressed;
    let mut text = format!("the verifier found {count} violation(s) {when}\n");
    for finding in report.findings.iter().take(SHOWN_MAX) {
        let _ = writeln!(text, "{finding}");
    }
    let left = count.saturating_sub(SHOWN_MAX as u64);
    if left > 0 {
        let _ = writeln!(text, "and {left} more");
    }
    if let Some(path) = &machine.dump_path {
        match dump(machine, path, census, vcpus) {
            Ok(()) => {
                let _ = writeln!(text, "guest memory was written to {}", path.display());
            }
            Err(e) => warn!("the dump {} cannot be written: {e}", path.display()),
        }
    }
    text
}

fn vcpu_of(index: u32, sregs: &kvm_sregs) -> Vcpu {
    Vcpu { index, cr3: sregs.cr3, user: sregs.cs.selector & 3 == 3 }
}

/// Writes the populated pages of guest memory.
fn dump(machine: &Machine, path: &Path, census: u64, vcpus: &[Vcpu]) -> Result<(), DumpError> {
    let pages = machine.ram.populated()?.into_iter().flat_map(|r| r.start / PAGE_BYTES..r.end / PAGE_BYTES);
    ptshare_verifier::dump::write(path, &machine.ram, census, vcpus, pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::machine;

    #[test]
    fn the_verifier_sees_guest_memory() {
        let ram = GuestRam::new(4 << 30).unwrap();
        ram.write_u64(0x5008, 77);
        let view: &dyn PhysView = &ram;
        let mut page = [1; ENTRIES];
        assert!(view.read_page(5, &mut page));
        assert_eq!((page[0], page[1], page[2]), (0, 77, 0));
        assert!(!view.read_page((3 << 30) / PAGE_BYTES, &mut page));
        assert!(!view.read_page(u64::MAX, &mut page));
        assert_eq!(view.read_u64(0x5008), Some(77));
        assert_eq!(view.extents(), [0..3 << 18, 1 << 20..(1 << 20) + (1 << 18)]);
    }

    #[test]
    fn a_broken_census_ends_the_run_with_a_report_and_a_dump() {
        let mut machine = machine(b"");
        let dir = tempfile::tempdir().unwrap();
        machine.verify = VerifyMode::Exit;
        machine.dump_path = Some(dir.path().join("dump"));
        let caller = Caller::default();
        let early = run(&machine, &caller, CheckpointReason::Request, "");
        assert!(matches!(early, Some(Ending::GuestPanic { .. })), "{early:?}");
        machine.set_census(0x8000);
        let Some(Ending::Violation { report }) = run(&machine, &caller, CheckpointReason::Request, "here")
        else {
            panic!("an empty census passed");
        };
        assert!(report.contains("on request of a program (`here`)"), "{report}");
        assert!(report.contains("was written to"), "{report}");
        let (_, census, _) = ptshare_verifier::dump::read(&dir.path().join("dump")).unwrap();
        assert_eq!(census, 0x8000);
        let record = machine.record();
        assert_eq!((record.verifier.checkpoints, record.verifier.verified), (2, 1));
        assert!(!record.verifier.violations.is_empty());
        assert!(!record.verifier.rules.is_empty());
    }
}
