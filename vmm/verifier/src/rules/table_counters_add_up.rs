//! `table-counters-add-up`. The count of shared tables follows the guest's own refs: where those are wrong, that is
//! the finding (`table-refs-equal-parents`).

use ptshare_wire::FrameKind;

use crate::census::Census;
use crate::frames::Frame;
use crate::graph::Graph;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "table-counters-add-up",
    statement: "the counters tables_now and tables_shared_now are the frames of kind Table and those of them with \
                refs above 1",
    reads: "both counters in the census; kind and refs of every frame",
    why: "whoever asks whether a table is shared must ask its own count: hugetlb_pmd_shared read another one, and \
          smaps, migration and fork went wrong by it (CVE-2024-57883, 14967a9c7d24 and the fix of December 2025)",
    design: &[15],
    catalogue: &[12, 28],
};

/// Sums over all frames, by the guest's own metadata.
#[derive(Default)]
pub(crate) struct Tally {
    tables: u64,
    shared: u64,
}

impl Tally {
    /// Counts one frame.
    #[inline]
    pub(crate) fn frame(&mut self, frame: &Frame) {
        if frame.kind() == Some(FrameKind::Table) {
            self.tables += 1;
            self.shared += u64::from(frame.refs > 1);
        }
    }

    /// Compares the sums, and those of the walk, with the guest's.
    pub(crate) fn finish(&self, census: &Census, graph: &Graph, sink: &mut Sink) {
        let shared = graph.tables.iter().filter(|t| t.parents > 1).count() as u64;
        for (name, counted, walked, claimed) in [
            ("tables_now", self.tables, graph.tables.len() as u64, census.tables_now),
            ("tables_shared_now", self.shared, shared, census.tables_shared_now),
        ] {
            if !(counted.min(walked)..=counted.max(walked)).contains(&claimed) {
                sink.report(&RULE, || {
                    let expected = format!("{name} = {counted} by metadata, {walked} by the walk");
                    Finding::new(&RULE, expected, format!("{name} = {claimed}"))
                });
            }
        }
    }
}
