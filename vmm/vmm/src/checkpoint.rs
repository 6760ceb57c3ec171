//! A verdict: with every CPU stopped, hands guest memory and the CPUs' CR3 to the verifier, and ends the run on a finding.
//! At checkpoints, which the guest asks for, and at any instant.

use crate::config::VerifyMode;
use crate::device::hypercall::{Answer, Caller};
use crate::engine::Engine;
use crate::machine::Machine;
use crate::outcome::Ending;
use crate::pause::Stopped;
use crate::ram::{GuestRam, ranges};
use kvm_bindings::kvm_sregs;
use log::{debug, info, warn};
use ptshare_paging::{ENTRIES, PAGE_BYTES};
use ptshare_verifier::dump::DumpError;
use ptshare_verifier::{Aids, Options, PhysView, Report, Vcpu};
use ptshare_wire::hypercall::{CHECKPOINT_AGAIN, CheckpointReason};
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

/// Serves a checkpoint.
pub fn run(machine: &Machine, caller: &Caller<'_>, reason: CheckpointReason, label: &str) -> Answer {
    let served = serve(machine, caller, reason, label);
    machine.record().verifier.checkpoints += u64::from(served != Ok(CHECKPOINT_AGAIN));
    served.map_or_else(Answer::End, Answer::Result)
}

fn serve(
    machine: &Machine,
    caller: &Caller<'_>,
    reason: CheckpointReason,
    label: &str,
) -> Result<u64, Ending> {
    if machine.verify == VerifyMode::Off {
        return Ok(0);
    }
    if reason == CheckpointReason::ProcessExit && machine.verify == VerifyMode::Exit && overloaded(machine) {
        machine.record().verifier.coalesced += 1;
        return Ok(0);
    }
    let when = reason_text(reason, label);
    if machine.census().is_none() {
        let text = format!("the guest asks for a verification {when} before it has published its census");
        return Err(Ending::GuestPanic { text });
    }
    // The run ends: nobody asks for a verdict any more.
    let Some(stopped) = machine.pause.stop(caller.cpu.map(|cpu| (caller.member, cpu))) else { return Ok(0) };
    match judge(machine, &stopped, &when) {
        Judged::Clean { .. } => {}
        // Another CPU's section may end only when this one has answered it: the guest is to ask again.
        Judged::Critical if stopped.cpus().is_ok_and(|cpus| cpus.len() > 1) => return Ok(CHECKPOINT_AGAIN),
        Judged::Critical => {
            let text = format!("the guest asks for a verification {when} inside a critical section");
            return Err(Ending::GuestPanic { text });
        }
        Judged::Ended(ending) => return Err(ending),
    }
    if let Some(path) = machine.dump_path.as_ref().filter(|_| dump_wanted(machine, reason, label)) {
        let census = machine.census().unwrap_or(0);
        let written =
            vcpus_of(&stopped).and_then(|v| dump(machine, path, census, &v).map_err(|e| e.to_string()));
        match written {
            Ok(()) => machine.record().verifier.dumps += 1,
            Err(why) => warn!("the dump {} cannot be written: {why}", path.display()),
        }
    }
    Ok(0)
}

/// What came of looking at a guest that stands still.
pub enum Judged {
    /// Nothing is wrong.
    Clean {
        /// Every CPU was in user mode.
        user: bool,
    },
    /// A CPU is inside a critical section: there is nothing to judge.
    Critical,
    /// The run must end so.
    Ended(Ending),
}

/// Judges a guest that has published its census.
pub fn judge(machine: &Machine, stopped: &Stopped<'_>, when: &str) -> Judged {
    let vcpus = match vcpus_of(stopped) {
        Ok(vcpus) => vcpus,
        Err(text) => return Judged::Ended(Ending::InternalError { text }),
    };
    let census = machine.census().unwrap_or(0);
    let mut translate = |index: u32, addresses: &[u64]| stopped.translate(index, addresses);
    let report = {
        let mut notes = machine.notes();
        notes.seed = notes.seed.wrapping_add(1);
        // QEMU's monitor takes a millisecond for each address.
        let asks = machine.engine == Engine::Kvm || notes.seed.is_multiple_of(16);
        let asks = asks && machine.second_opinions();
        let aids = Aids {
            seed: notes.seed,
            history: Some(&mut notes.history),
            translate: asks.then_some(&mut translate),
        };
        ptshare_verifier::verify_with(&machine.ram, census, &vcpus, &Options::default(), aids)
    };
    if let Some(why) = &report.translate_refused {
        machine.no_second_opinions();
        info!("addresses are translated by the judge alone: {why}");
    }
    if report.in_critical {
        return Judged::Critical;
    }
    note(machine, &report);
    debug!(
        "verified {when}: {} address spaces, {} tables ({} shared), {} entries, {} us",
        report.mms, report.tables, report.tables_shared, report.entries_walked, report.micros
    );
    if report.findings.is_empty() {
        return Judged::Clean { user: vcpus.iter().all(|vcpu| vcpu.user) };
    }
    Judged::Ended(Ending::Violation { report: violation_text(machine, &report, census, &vcpus, when) })
}

fn vcpus_of(stopped: &Stopped<'_>) -> Result<Vec<Vcpu>, String> {
    Ok(stopped.cpus()?.iter().map(|(index, state)| vcpu_of(*index, &state.sregs)).collect())
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
    totals.tables_walked += report.tables;
    totals.tables_compared += report.tables_compared;
    totals.translated += report.addresses_compared;
    totals.micros += report.micros;
    totals.nanos += report.nanos;
    if totals.rules.is_empty() {
        totals.rules = ptshare_verifier::rules().iter().map(|r| r.name.to_owned()).collect();
    }
    totals.violations.extend(report.findings.iter().map(|f| f.to_string()));
    for finding in &report.findings {
        if !totals.broken.iter().any(|rule| rule == finding.rule) {
            totals.broken.push(finding.rule.to_owned());
        }
    }
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
        assert!(matches!(early, Answer::End(Ending::GuestPanic { .. })), "{early:?}");
        machine.set_census(0x8000);
        let Answer::End(Ending::Violation { report }) =
            run(&machine, &caller, CheckpointReason::Request, "here")
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
