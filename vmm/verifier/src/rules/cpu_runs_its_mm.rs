//! `cpu-runs-its-mm`.

use ptshare_paging::Pte;

use super::cpumask_has_cpu;
use crate::Vcpu;
use crate::census::{Census, Cpu, Mm};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "cpu-runs-its-mm",
    statement: "each CPU's CR3 holds the root of the mm that its record names, and user mode runs in an mm",
    reads: "each vCPU's CR3 and privilege; its CPU record; the root of the mm that the record names",
    why: "a CPU that still walks a root after the mm is gone walks freed memory (the hazard of lazy TLB switching, \
          arch/x86/mm/tlb.c)",
    design: &[13],
    catalogue: &[60],
};

/// Judges every vCPU whose record says that it is online.
pub(crate) fn check(census: &Census, cpus: &[Cpu], mms: &[Mm], vcpus: &[Vcpu], sink: &mut Sink) {
    for vcpu in vcpus {
        let Some(cpu) = cpus.get(vcpu.index as usize).filter(|c| c.online) else { continue };
        let root = Pte(vcpu.cr3).pfn().0;
        let mut bad = |mm: Option<&Mm>, expected: String, found: String| {
            sink.report(&RULE, || {
                let finding = Finding::new(&RULE, expected, found).frame(root);
                let finding = finding.detail(format!("vCPU {}, CR3 {:#x}", vcpu.index, vcpu.cr3));
                if let Some(mm) = mm { finding.mm(mm.id) } else { finding }
            });
        };
        let Some(slot) = cpu.mm_slot.checked_sub(1) else {
            if root != census.kernel_root {
                bad(
                    None,
                    format!("CR3 at the kernel's root {:#x}", census.kernel_root),
                    format!("{root:#x}"),
                );
            } else if vcpu.user {
                bad(None, "user mode only in an mm".into(), "user mode in the kernel's root".into());
            }
            continue;
        };
        match mms.iter().find(|mm| u64::from(mm.id.slot) == slot) {
            None => {
                bad(None, "a record that names a live mm".into(), format!("mm slot {slot}, which is free"))
            }
            Some(mm) if mm.root != root => {
                bad(Some(mm), format!("CR3 at the mm's root {:#x}", mm.root), format!("{root:#x}"));
            }
            Some(mm) => cpumask_has_cpu::check(vcpu, mm, sink),
        }
    }
}
