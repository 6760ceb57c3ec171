//! The state in which a vCPU starts, as data: PVH's 32-bit protected mode without paging (Xen documentation, "x86/HVM
//! direct boot ABI"), and the CPUID table. Descriptor bits: Intel SDM volume 3A, "Segment Descriptors".

use crate::boot::{GDT_PA, START_INFO_PA};
use kvm_bindings::{CpuId, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// The boot GDT: null, flat 32-bit code, flat data, 32-bit TSS.
pub const GDT: [u64; 4] = [
    0,
    descriptor(0, 0xf_ffff, CODE_32, GRANULARITY_4K | SIZE_32),
    descriptor(0, 0xf_ffff, DATA, GRANULARITY_4K | SIZE_32),
    descriptor(0, 0x67, TSS_BUSY, 0),
];

const CODE_32: u8 = 0x9b;
const DATA: u8 = 0x93;
const TSS_BUSY: u8 = 0x8b;
const GRANULARITY_4K: u8 = 0x8;
const SIZE_32: u8 = 0x4;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const RFLAGS_RESERVED: u64 = 2;

/// Packs a segment descriptor; `limit` in bytes or pages as `flags` say.
const fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

/// The segment register that GDT entry `index` describes.
fn segment(index: usize) -> kvm_segment {
    let d = GDT[index];
    let flags = (d >> 52) as u8 & 0xf;
    let access = (d >> 40) as u8;
    let limit = (d & 0xffff | (d >> 32) & 0xf_0000) as u32;
    let granular = flags & GRANULARITY_4K != 0;
    kvm_segment {
        base: (d >> 16 & 0xff_ffff) | (d >> 56) << 24,
        limit: if granular { limit << 12 | 0xfff } else { limit },
        selector: (index * 8) as u16,
        type_: access & 0xf,
        s: access >> 4 & 1,
        dpl: access >> 5 & 3,
        present: access >> 7,
        avl: flags & 1,
        l: flags >> 1 & 1,
        db: flags >> 2 & 1,
        g: granular as u8,
        unusable: 0,
        padding: 0,
    }
}

/// General registers at the first instruction.
pub fn entry_regs(entry: u32) -> kvm_regs {
    kvm_regs { rip: entry.into(), rbx: START_INFO_PA, rflags: RFLAGS_RESERVED, ..Default::default() }
}

/// System registers at the first instruction; what is not set here stays as KVM's reset left it in `reset`.
pub fn entry_sregs(reset: kvm_sregs) -> kvm_sregs {
    let data = segment(2);
    kvm_sregs {
        cs: segment(1),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(3),
        gdt: kvm_dtable { base: GDT_PA, limit: (GDT.len() * 8 - 1) as u16, ..Default::default() },
        idt: kvm_dtable::default(),
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..reset
    }
}

/// KVM's table of supported features made into that of vCPU `cpu` of `cpus`: topology and APIC ids, hypervisor bit.
pub fn adjust_cpuid(table: &mut CpuId, cpu: u32, cpus: u32) {
    const HYPERVISOR: u32 = 1 << 31;
    for entry in table.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | cpus.min(255) << 16 | cpu << 24;
                entry.ecx |= HYPERVISOR;
            }
            0xb | 0x1f => entry.edx = cpu,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn segments_are_flat_and_32_bit() {
        assert_eq!(GDT[1], 0x00cf_9b00_0000_ffff);
        assert_eq!(GDT[2], 0x00cf_9300_0000_ffff);
        let (code, data, tss) = (segment(1), segment(2), segment(3));
        assert_eq!((code.base, code.limit, code.selector, code.type_), (0, u32::MAX, 8, 0xb));
        assert_eq!((code.s, code.present, code.db, code.l, code.g, code.dpl), (1, 1, 1, 0, 1, 0));
        assert_eq!((data.base, data.limit, data.selector, data.type_), (0, u32::MAX, 0x10, 3));
        assert_eq!((tss.limit, tss.type_, tss.s, tss.present), (0x67, 0xb, 0, 1));
    }

    #[test]
    fn the_entry_is_protected_mode_without_paging() {
        let sregs = entry_sregs(kvm_sregs { apic_base: 0xfee0_0900, ..Default::default() });
        assert_eq!(sregs.cr0 & (1 | 1 << 31), 1);
        assert_eq!((sregs.cr3, sregs.cr4, sregs.efer), (0, 0, 0));
        assert_eq!(sregs.apic_base, 0xfee0_0900, "the rest is left alone");
        let regs = entry_regs(0x10_0040);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x10_0040, START_INFO_PA, 2));
    }

    #[test]
    fn cpuid_carries_the_apic_id() {
        let leaf = |function| kvm_cpuid_entry2 { function, ebx: 0xffff_ffff, ..Default::default() };
        let mut table = CpuId::from_entries(&[leaf(0), leaf(1), leaf(0xb)]).unwrap();
        adjust_cpuid(&mut table, 3, 4);
        let entries = table.as_slice();
        assert_eq!(entries[0].ebx, 0xffff_ffff);
        assert_eq!(entries[1].ebx, 0x0304_ffff);
        assert_eq!(entries[1].ecx >> 31, 1);
        assert_eq!(entries[2].edx, 3);
    }
}
