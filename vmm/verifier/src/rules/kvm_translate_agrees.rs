//! `kvm-translate-agrees`. The other is KVM_TRANSLATE, or QEMU's `gva2gpa`. Where it cannot be asked, the report says
//! so once and nothing is judged.

use crate::Vcpu;
use crate::census::Mm;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "kvm-translate-agrees",
    statement: "what runs the guest translates addresses as the judge's own walk does",
    reads: "of each CPU's address space, some mapped and unmapped addresses, chosen by a seed; the answers of what \
            runs the guest",
    why: "a judge with a mistake in its walk clears every guest: KVM's own audit of shadow pages (mmu_audit.c) \
          rotted until it was removed in 2022, and nobody had noticed",
    design: &[13],
    catalogue: &[60],
};

/// Compares two translations of `va` by the vCPU, which is in `mm`.
pub(crate) fn address(
    vcpu: &Vcpu,
    mm: &Mm,
    va: u64,
    ours: Option<u64>,
    theirs: Option<u64>,
    sink: &mut Sink,
) {
    if ours == theirs {
        return;
    }
    let text =
        |pa: Option<u64>| pa.map_or("not mapped".to_string(), |pa| format!("physical address {pa:#x}"));
    sink.report(&RULE, || {
        Finding::new(&RULE, format!("{}, by the judge's walk", text(ours)), text(theirs))
            .mm(mm.id)
            .va(va)
            .detail(format!("what runs the guest was asked for vCPU {}", vcpu.index))
    });
}
