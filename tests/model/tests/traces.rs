//! Random traces on the core alone, with the judge looking on; and the traces of tests/traces.

use ptshare_mm::Sharing;
use ptshare_mm::testing::FlatKernel;
use ptshare_model_tests::judge;
use ptshare_model_tests::trace::replay;
use ptshare_trace::generate::generate;
use ptshare_trace::{Trace, text};
use std::path::Path;

const MODES: [Sharing; 3] = [Sharing::None, Sharing::Pte, Sharing::Tree];
/// Traces of each mode.
const TRACES: u64 = 1000;
/// The judge looks after every so many operations.
const EVERY: usize = 16;

/// Replays a trace with the judge after every sixteenth operation.
fn judged(trace: &Trace, sharing: Sharing) -> Vec<String> {
    let name = trace.seed;
    replay(trace, sharing, &mut |at, kernel: &FlatKernel| {
        if at % EVERY == EVERY - 1 && !kernel.pids().is_empty() {
            let report = judge(kernel.arena(), &kernel.mms());
            assert!(report.is_clean(), "seed {name} after operation {at}: {:?}", report.findings);
        }
    })
}

#[test]
fn random_traces_break_no_rule_and_give_the_same_in_every_mode() {
    let mut replayed = 0;
    for trace in (0..).map(generate).filter(Trace::is_for_the_core).take(TRACES as usize) {
        let [none, pte, tree] = MODES.map(|sharing| judged(&trace, sharing));
        let results = |report: &[String]| -> Vec<String> {
            // What mincore sees of zero pages depends on the sharing, as it may.
            let mincore = |line: &String| {
                let at = line.split_whitespace().next().and_then(|word| word.parse::<usize>().ok());
                at.and_then(|at| trace.ops.get(at)).is_some_and(|op| op.call == ptshare_trace::Call::Mincore)
            };
            report.iter().filter(|line| !mincore(line)).cloned().collect()
        };
        assert_eq!(results(&none), results(&pte), "none and pte, {trace}");
        assert_eq!(results(&none), results(&tree), "none and tree, {trace}");
        replayed += 1;
    }
    assert_eq!(replayed, TRACES);
}

#[test]
fn the_traces_that_were_kept_are_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces");
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "trace") {
            continue;
        }
        let content = std::fs::read_to_string(&path).unwrap();
        for trace in text::parse_all(&content).unwrap().iter().filter(|trace| trace.is_for_the_core()) {
            for sharing in MODES {
                let report = judged(trace, sharing);
                assert!(report.len() >= trace.ops.len(), "{}: {report:?}", path.display());
            }
            replayed += 1;
        }
    }
    assert!(replayed >= 5, "{} has {replayed} traces for the core", folder.display());
}
