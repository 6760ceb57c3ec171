//! How fast the judge is.

use super::engines::{clock_config, ptshare_image, told};
use super::measure::{Hole, Run};
use crate::guest::Artefacts;
use anyhow::bail;
use ptshare_vmm::{Config, Ending, VerifyMode};
use std::path::Path;

/// Runs a guest with much to walk, judged at every exit. The judge is a program of the host, so the figures are the host's.
pub fn measure(quick: bool, built: &Artefacts, program: &Path, runs: &mut [Run]) {
    let wanted: &[&str] = if quick { &["scattered=1G"] } else { &["scattered=4G"] };
    let measured = told("the judge", || {
        let image = ptshare_image(built, program, wanted)?;
        let config = Config { verify: VerifyMode::EveryExit, ..clock_config(built, "tree", image, "")? };
        let outcome = ptshare_vmm::run(&config)?;
        if outcome.ending != Ending::Exited(0) || outcome.verifier.micros == 0 {
            bail!("{}", outcome.ending);
        }
        let v = outcome.verifier;
        Ok((v.entries_walked * 1_000_000 / v.micros, v.micros / v.verified.max(1)))
    });
    let Some(run) = runs.iter_mut().find(|run| run.engine == "host") else { return };
    match (measured, &mut run.figures) {
        (Ok((rate, each)), Ok(figures)) => {
            figures.insert(("judge_entries_per_s".into(), 0), rate);
            figures.insert(("judge_us".into(), 0), each);
        }
        (Err(why), _) => run.holes.push(Hole { what: "the judge".into(), why }),
        _ => {}
    }
}
