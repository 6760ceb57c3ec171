//! Smaller traces to try when one fails: delta debugging over operations (Zeller and Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002), then over arguments.

use crate::call::NONE;
use crate::{Call, Kind, Op, PAGE, Place, Trace};
use alloc::vec::Vec;

/// The trace with parts of its operations left out: parts of half its length first, single operations at last. A trace
/// without a process that others come from makes no sense, but costs only a try.
pub fn without_parts(trace: &Trace, part: usize) -> Vec<Trace> {
    let part = part.max(1);
    (0..trace.ops.len())
        .step_by(part)
        // From the end: what comes after the failure goes first.
        .rev()
        .map(|from| {
            let ops = trace.ops.iter().enumerate();
            let kept = ops.filter(|(at, _)| !(from..from + part).contains(at)).map(|(_, op)| *op);
            Trace { ops: kept.collect(), ..*trace }
        })
        .collect()
}

/// The trace with one argument made simpler.
pub fn simpler_arguments(trace: &Trace) -> Vec<Trace> {
    let mut found = Vec::new();
    for (at, op) in trace.ops.iter().enumerate() {
        for simpler in simpler_ops(op) {
            let mut candidate = trace.clone();
            if let Some(place) = candidate.ops.get_mut(at) {
                *place = simpler;
            }
            found.push(candidate);
        }
    }
    found.extend(merged_processes(trace));
    found
}

fn simpler_ops(op: &Op) -> Vec<Op> {
    let mut found = Vec::new();
    for (index, (kind, arg)) in op.arguments().enumerate() {
        let mut values: Vec<u64> = match kind {
            Kind::Bytes if arg > PAGE => [PAGE, arg / PAGE / 2 * PAGE, arg - PAGE].into(),
            Kind::Bytes if arg > 0 => [0].into(),
            Kind::Count => [1, arg / 2].into(),
            Kind::Value => [1].into(),
            Kind::Prot => [3].into(),
            Kind::Flags(_) => (0..32).map(|bit| arg & !(1 << bit)).collect(),
            Kind::Addr if arg == Place::NULL.0 => Vec::new(),
            Kind::Addr => {
                let place = Place(arg);
                let table = place.offset() & !((PAGE << 9) - 1);
                [place.at(table).0, place.page().0].into()
            }
            Kind::Handle => [NONE].into(),
            Kind::Bytes | Kind::Fd | Kind::Segment | Kind::Proc => Vec::new(),
        };
        values.retain(|&value| value != arg && (value < arg || !matches!(kind, Kind::Count | Kind::Bytes)));
        values.dedup();
        for value in values {
            let mut simpler = *op;
            simpler.args[index] = value;
            found.push(simpler);
        }
    }
    found
}

/// The trace with what a child does done by its parent, and the fork left out.
fn merged_processes(trace: &Trace) -> Vec<Trace> {
    let forks = trace.ops.iter().filter(|op| op.call == Call::Fork);
    forks
        .map(|fork| {
            let child = fork.args[0] as u8;
            let kept = trace.ops.iter().filter(|op| *op != fork);
            let kept = kept.filter(|op| !(op.proc == child && matches!(op.call, Call::Exit | Call::Kill)));
            let moved = kept.map(|op| if op.proc == child { Op { proc: fork.proc, ..*op } } else { *op });
            Trace { ops: moved.collect(), ..*trace }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;

    /// Shrinks with a predicate as `cargo xtask fuzz` does with two systems.
    fn shrink(mut trace: Trace, fails: impl Fn(&Trace) -> bool) -> Trace {
        let mut part = trace.ops.len() / 2;
        loop {
            if let Some(smaller) = without_parts(&trace, part).into_iter().find(&fails) {
                trace = smaller;
            } else if part > 1 {
                part /= 2;
            } else if let Some(simpler) = simpler_arguments(&trace).into_iter().find(&fails) {
                trace = simpler;
            } else {
                return trace;
            }
        }
    }

    #[test]
    fn what_does_not_matter_goes() {
        for seed in 0..50 {
            let trace = generate(seed);
            let has = |trace: &Trace, call| trace.ops.iter().any(|op| op.call == call);
            if has(&trace, Call::Fork) && has(&trace, Call::Store) {
                let small = shrink(trace, |t| has(t, Call::Fork) && has(t, Call::Store));
                assert_eq!(small.ops.len(), 2, "{small}");
            }
        }
    }

    #[test]
    fn shrinking_ends() {
        for seed in 0..50 {
            let small = shrink(generate(seed), |t| t.ops.len() >= 3);
            assert_eq!(small.ops.len(), 3);
        }
    }
}
