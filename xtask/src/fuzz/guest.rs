//! The interpreter in the guest. A trace that ends the boot costs the others another one.

use super::batch::{self, Verdict};
use super::linux::HUGE_PAGES;
use crate::batch::results;
use crate::guest::Artefacts;
use crate::image::{Image, Job, Mode};
use crate::run::Sharing;
use anyhow::{Context, Result};
use ptshare_trace::Trace;
use ptshare_vmm::{Config, Ending, EngineChoice, Initramfs, Outcome, Verify};
use std::time::Duration;

/// Guest memory: traces map GiBs and touch little. Bytes.
const MEM_BYTES: u64 = 16 << 30;
/// Seconds that a trace may take where the guest's kernel is interpreted.
const DEADLINE: u64 = 60;
/// Where interpreter and traces are in the guest.
const PROGRAM: &str = "/usr/bin/trace_run";
const TRACES: &str = "/etc/traces";

/// The guest with its options.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// What to boot.
    pub built: &'a Artefacts,
    /// With what.
    pub engine: EngineChoice,
    /// `sharing=`.
    pub sharing: Sharing,
    /// Virtual CPUs.
    pub cpus: u32,
    /// When to verify.
    pub verify: Verify,
    /// The content of each page.
    pub verbose: bool,
}

/// How much it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Boots {
    /// Guests booted.
    pub boots: u64,
    /// Checkpoints that the judge has verified.
    pub verified: u64,
}

impl Guest<'_> {
    /// Runs traces, those with huge pages in boots of their own.
    ///
    /// # Errors
    /// The guest cannot be started, or ends before the first trace.
    pub fn run(&self, traces: &[Trace]) -> Result<(Vec<Verdict>, Boots)> {
        let mut verdicts = vec![Verdict::NotRun; traces.len()];
        let mut boots = Boots::default();
        for huge in [false, true] {
            loop {
                let rest: Vec<usize> = (0..traces.len())
                    .filter(|&at| traces[at].huge == huge && verdicts[at] == Verdict::NotRun)
                    .collect();
                if rest.is_empty() {
                    break;
                }
                let chosen: Vec<Trace> = rest.iter().map(|&at| traces[at].clone()).collect();
                let found = self.boot(&chosen, huge, &mut boots)?;
                for (at, verdict) in rest.into_iter().zip(found) {
                    verdicts[at] = verdict;
                }
            }
        }
        Ok((verdicts, boots))
    }

    fn boot(&self, traces: &[Trace], huge: bool, boots: &mut Boots) -> Result<Vec<Verdict>> {
        let mut image = Image::new(&self.built.init)?;
        image.executable(PROGRAM, &self.built.program("trace_run"))?;
        image.file(TRACES, 0o644, batch::file_of(traces).as_bytes());
        let deadline = DEADLINE.to_string();
        let mut argv = vec![PROGRAM, "--deadline", &deadline];
        argv.extend(self.verbose.then_some("-v"));
        argv.push(TRACES);
        let jobs = [Job::new("fuzz", &argv)];
        let config = Config {
            kernel: self.built.kernel.clone(),
            initramfs: Initramfs::Bytes(image.finish(Mode::Batch, &jobs)),
            // Small processes share their tables too.
            cmdline_extra: if huge {
                format!("small_tables=0 hugepages={HUGE_PAGES}")
            } else {
                "small_tables=0".into()
            },
            engine: self.engine,
            mem_bytes: MEM_BYTES,
            cpus: self.cpus,
            sharing: self.sharing.name().into(),
            verify: self.verify.mode,
            random: self.verify.random,
            timeout: Some(Duration::from_secs(DEADLINE * (2 + traces.len() as u64 / 8))),
            ..Config::default()
        };
        let outcome = ptshare_vmm::run(&config).context("cannot run the guest")?;
        boots.boots += 1;
        boots.verified += outcome.verifier.verified;
        let stdout = results(&outcome, &jobs).remove(0).stdout;
        let mut verdicts = batch::split(&String::from_utf8_lossy(&stdout), traces.len(), &ending(&outcome));
        let healthy = matches!(outcome.ending, Ending::Exited(_));
        let somebody_died = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Died(_)));
        // The end may come between two traces, or after the last: then it is the fault of what ran before.
        let last = verdicts.iter().rposition(|verdict| matches!(verdict, Verdict::Report(_)));
        let unfinished = verdicts.contains(&Verdict::NotRun);
        if !somebody_died && (!healthy || unfinished) {
            let at = last.unwrap_or(0);
            verdicts[at] = Verdict::Died(ending(&outcome));
        }
        Ok(verdicts)
    }
}

/// How a boot ended, with the kernel's last words.
fn ending(outcome: &Outcome) -> String {
    let log: Vec<&str> = outcome.kernel_log.lines().collect();
    let tail = log.get(log.len().saturating_sub(8)..).unwrap_or_default().join("\n");
    let stderr = String::from_utf8_lossy(&outcome.stderr).into_owned();
    format!("{}\n{}{stderr}{tail}", outcome.ending, outcome.verifier.violations.join("\n"))
}
