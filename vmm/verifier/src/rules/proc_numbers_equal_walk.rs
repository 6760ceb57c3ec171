//! `proc-numbers-equal-walk`. The zero page is in no resident set, and hugetlb pages are counted apart, as on Linux.
//! A table is shared if some table on the way to it, itself included, has more than one parent; its proportional part
//! is divided among the parents at each level.

use crate::answers::Usage;
use crate::census::Mm;
use crate::recount::Below;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "proc-numbers-equal-walk",
    statement: "VmRSS, VmPTE and what is shared of it are what the page tables hold",
    reads: "what the guest says that /proc shows of a process (`ptshare_wire::answers`); the same sums over what \
            the walk finds from its root",
    why: "people and OOM killers act on these numbers; the 2006 review of shared page tables found no file_rss and \
          a VmPTE of 0, and COW-PTE had wrong RSS on its list of things to do",
    design: &[15],
    catalogue: &[28],
};

/// What rounding may take from the proportional sum: under a byte at each table.
fn close(said: u64, found: f64, tables: u64) -> bool {
    (said as f64 - found).abs() <= 1.0 + tables as f64
}

/// Compares what is said of the process with what lies below its root.
pub(crate) fn usage(said: &Usage, mm: Option<&Mm>, found: &Below, sink: &mut Sink) {
    let Some(mm) = mm else {
        return sink.report(&RULE, || {
            Finding::new(&RULE, "numbers of a live mm", format!("numbers of mm slot {}", said.slot))
        });
    };
    let bytes = found.tables_part * 4096.0;
    for (what, said, found) in [
        ("RssAnon", said.rss_anon, found.anon),
        ("RssFile + RssShmem", said.rss_object, found.object),
        ("HugetlbPages", said.hugetlb, found.hugetlb),
        ("VmPTE", said.tables, found.tables),
        ("VmPTEShared", said.tables_shared, found.tables_shared),
    ] {
        if said != found {
            report(mm, format!("{what} of {found} pages"), format!("{said} pages"), sink);
        }
    }
    if !close(said.tables_prop, bytes, found.tables) {
        let expected = format!("VmPTEProp of {bytes:.0} bytes");
        report(mm, expected, format!("{} bytes", said.tables_prop), sink);
    }
}

fn report(mm: &Mm, expected: String, found: String, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(&RULE, expected, found).mm(mm.id).detail("the kernel was asked what /proc shows of it")
    });
}
