//! The shortest script that still goes wrong: leaves steps out, in ever smaller groups (Zeller, "Yesterday, my program
//! worked", 1999).

use super::{Failed, replay};

/// Scripts that are tried at most.
const TRIES: usize = 3000;

/// A failure with as short a script as can be found.
pub fn shrink(failed: Box<Failed>) -> Box<Failed> {
    // Every step checked, so that the script ends where it goes wrong.
    let mut plan = failed.plan;
    plan.audit_every = 1;
    let Err(mut best) = replay(plan, &failed.script) else { return failed };
    let mut group = best.script.len() / 2;
    let mut tries = 0;
    while group > 0 && tries < TRIES {
        let mut at = 0;
        let before = best.script.len();
        while at < best.script.len() && tries < TRIES {
            let mut script = best.script.clone();
            script.drain(at..(at + group).min(script.len()));
            tries += 1;
            match replay(plan, &script) {
                Err(shorter) => best = shorter,
                Ok(()) => at += group,
            }
        }
        if best.script.len() == before || group > 1 {
            group /= 2;
        }
    }
    best
}
