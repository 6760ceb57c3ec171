//! What each job of a batch printed, how it ended, and what it did to the guest's counters.

use crate::image::Job;
use ptshare_vmm::Outcome;
use ptshare_vmm::scenario::{self, Scenario};
use std::collections::BTreeMap;

/// One job of a run in [`crate::image::Mode::Batch`].
#[derive(Clone, Debug)]
pub struct JobResult {
    /// Its name.
    pub name: String,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
    /// Its end and its numbers; `None` when it was never started.
    pub scenario: Option<Scenario>,
}

impl JobResult {
    /// Whether it ended with status 0.
    pub fn passed(&self) -> bool {
        self.wait_status() == Some(0)
    }

    /// Its wait status as wait(2) gives it; `None` when the run ended before it did.
    pub fn wait_status(&self) -> Option<i64> {
        self.scenario.as_ref().and_then(|s| s.wait_status)
    }

    /// A number that its program reported, or by how much a counter grew while it ran; 0 when there is none.
    pub fn metric(&self, name: &str) -> u64 {
        self.scenario.as_ref().and_then(|s| s.metric(name)).and_then(|n| n.as_u64()).unwrap_or(0)
    }

    /// From start to end, microseconds.
    pub fn micros(&self) -> u64 {
        self.scenario.as_ref().and_then(|s| s.micros).unwrap_or(0)
    }

    /// Its end in words.
    pub fn ending(&self) -> String {
        match self.wait_status() {
            None => "did not end".into(),
            Some(0) => "ok".into(),
            Some(status) if status & 0x7f == 0 => format!("exit {}", (status >> 8) & 0xff),
            Some(status) => format!("signal {}", status & 0x7f),
        }
    }
}

/// Takes a batch's outcome apart: one result for each job, in order, also for those that never ran.
pub fn results(outcome: &Outcome, jobs: &[Job]) -> Vec<JobResult> {
    let mut stdout = sections(&outcome.stdout);
    let mut stderr = sections(&outcome.stderr);
    let scenarios = scenario::assemble(&outcome.events);
    jobs.iter()
        .map(|job| JobResult {
            name: job.name.clone(),
            stdout: stdout.remove(&job.name).unwrap_or_default(),
            stderr: stderr.remove(&job.name).unwrap_or_default(),
            scenario: scenarios.iter().find(|s| s.name == job.name).cloned(),
        })
        .collect()
}

/// Splits a stream at init's marks: `\x01begin NAME\n` ... `\x01end NAME\n`. A section without its end goes to the end of
/// the stream.
fn sections(stream: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut rest = stream;
    while let Some(at) = find(rest, b"\x01begin ") {
        rest = rest.get(at + 7..).unwrap_or_default();
        let line_end = find(rest, b"\n").unwrap_or(rest.len());
        let name = String::from_utf8_lossy(rest.get(..line_end).unwrap_or_default()).into_owned();
        rest = rest.get(line_end + 1..).unwrap_or_default();
        let end = find(rest, format!("\x01end {name}\n").as_bytes()).unwrap_or(rest.len());
        found.insert(name, rest.get(..end).unwrap_or_default().to_vec());
        rest = rest.get(end..).unwrap_or_default();
    }
    found
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_split_at_their_marks() {
        let sections =
            sections(b"x\x01begin a\none\ntwo\x01end a\n\x01begin b\n\x01end b\n\x01begin c\nhalf");
        assert_eq!(sections["a"], b"one\ntwo");
        assert_eq!(sections["b"], b"");
        assert_eq!(sections["c"], b"half");
        assert_eq!(sections.len(), 3);
    }
}
