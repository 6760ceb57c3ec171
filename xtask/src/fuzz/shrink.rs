//! The smallest trace that still differs. Candidates are run many at a time.

use super::Difference;
use anyhow::Result;
use ptshare_trace::{Trace, shrink};

/// Candidates in one run.
const BATCH: usize = 48;
/// Runs at most, so that a stubborn trace does not take for ever.
const RUNS: usize = 80;

/// Runs traces on both systems and tells the difference of each.
pub type Differ<'a> = dyn FnMut(&[Trace]) -> Result<Vec<Option<Difference>>> + 'a;

/// Shrinks a trace that differs.
///
/// # Errors
/// What `differ` says.
pub fn shrink(trace: &Trace, differ: &mut Differ<'_>) -> Result<Trace> {
    let mut best = trace.clone();
    let mut runs = 0;
    if differ(std::slice::from_ref(trace))?.iter().all(Option::is_none) {
        println!("alone it does not differ: what ran before it counts, or the instant of a verification");
        return Ok(best);
    }
    let mut part = best.ops.len().div_ceil(2);
    let mut arguments = false;
    while runs < RUNS {
        let candidates =
            if arguments { shrink::simpler_arguments(&best) } else { shrink::without_parts(&best, part) };
        let mut smaller = None;
        for candidates in candidates.chunks(BATCH) {
            runs += 1;
            let found = differ(candidates)?.iter().position(Option::is_some);
            smaller = found.map(|at| candidates[at].clone());
            if smaller.is_some() || runs >= RUNS {
                break;
            }
        }
        match smaller {
            Some(trace) => best = trace,
            None if part > 1 => part /= 2,
            None if arguments => break,
            None => arguments = true,
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptshare_trace::{Call, generate::generate};

    fn difference() -> Difference {
        Difference { at: String::new(), linux: String::new(), guest: String::new(), fatal: false }
    }

    #[test]
    fn a_difference_is_shrunk_to_what_makes_it() {
        let has = |trace: &Trace| trace.ops.iter().filter(|op| op.call == Call::Store).count() >= 2;
        let trace = (0..).map(generate).find(|trace| has(trace) && trace.ops.len() > 20).unwrap();
        let mut tries = 0;
        let small = shrink(&trace, &mut |traces| {
            tries += traces.len();
            Ok(traces.iter().map(|trace| has(trace).then(difference)).collect())
        });
        assert_eq!(small.unwrap().ops.len(), 2);
        assert!(tries > 0);
    }

    #[test]
    fn what_does_not_differ_alone_is_left_as_it_is() {
        let trace = generate(1);
        let same = shrink(&trace, &mut |traces| Ok(vec![None; traces.len()])).unwrap();
        assert_eq!(same, trace);
    }
}
