//! `cpumask-has-cpu`. More bits than CPUs that run the mm are allowed: they cost a flush.

use crate::Vcpu;
use crate::census::Mm;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "cpumask-has-cpu",
    statement: "the cpumask of an mm has every CPU whose CR3 holds its root",
    reads: "each vCPU's CR3; its CPU record; cpumask of the mm that the record names",
    why: "TLB shootdowns go to the CPUs of the mask, so one that is missing keeps stale rights (mshare v1 to v3 \
          flushed by the mask of a host mm that runs nowhere; Dickins on shared tables, 2006)",
    design: &[13],
    catalogue: &[20, 34],
};

/// Judges a vCPU whose CR3 holds the root of `mm`.
pub(crate) fn check(vcpu: &Vcpu, mm: &Mm, sink: &mut Sink) {
    if mm.cpumask & 1u64.checked_shl(vcpu.index).unwrap_or(0) == 0 {
        sink.report(&RULE, || {
            let expected = format!("bit {} in the cpumask", vcpu.index);
            Finding::new(&RULE, expected, format!("cpumask {:#x}", mm.cpumask))
                .mm(mm.id)
                .frame(mm.root)
                .detail(format!("vCPU {}, CR3 {:#x}", vcpu.index, vcpu.cr3))
        });
    }
}
