//! The CPUs that firmware names: the local APICs of the MADT (ACPI specification, "Multiple APIC Description Table").
//!
//! Read where our VMM has not made the machine. What is not there, or is no table, names no CPU.

use crate::phys;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_wire::layout::LINEAR_MAX_BYTES;

/// Bytes of the header that every table begins with; its length stands in the second word.
const HEADER_BYTES: u64 = 36;
/// Where the MADT's entries begin: behind the header, the APICs' address and flags.
const MADT_ENTRIES: u64 = 44;
/// A longer table is none.
const TABLE_MAX: u64 = 1 << 20;
/// Kind of an entry: a processor's local APIC.
const LOCAL_APIC: u8 = 0;
/// Its flag: the processor can be used.
const ENABLED: u32 = 1;

/// Guest-physical address of the RSDP, 0 when the loader names none.
static RSDP: AtomicU64 = AtomicU64::new(0);

/// Notes where the loader says that the tables begin.
pub(crate) fn init(rsdp_pa: u64) {
    RSDP.store(rsdp_pa, Relaxed);
}

fn bytes<const N: usize>(pa: u64) -> Option<[u8; N]> {
    let mut out = [0; N];
    (pa != 0 && pa < LINEAR_MAX_BYTES - TABLE_MAX).then(|| phys::read(pa, &mut out))?;
    Some(out)
}

fn word(pa: u64) -> Option<u32> {
    bytes(pa).map(u32::from_le_bytes)
}

/// Length of the table at `pa`, if it is plausible.
fn length(pa: u64) -> Option<u64> {
    word(pa + 4).map(u64::from).filter(|len| (HEADER_BYTES..TABLE_MAX).contains(len))
}

/// The table with this signature, by way of the root table: XSDT, or RSDT where the RSDP is of the first revision.
fn table(signature: [u8; 4]) -> Option<u64> {
    let rsdp = RSDP.load(Relaxed);
    if &bytes::<8>(rsdp)? != b"RSD PTR " {
        return None;
    }
    let (root, step) = match bytes::<1>(rsdp + 15)? {
        [0 | 1] => (u64::from(word(rsdp + 16)?), 4),
        _ => (u64::from_le_bytes(bytes(rsdp + 24)?), 8),
    };
    let end = root + length(root)?;
    let mut at = root + HEADER_BYTES;
    while at + step <= end {
        let high = if step == 8 { word(at + 4)? } else { 0 };
        let pa = u64::from(high) << 32 | u64::from(word(at)?);
        if bytes(pa) == Some(signature) {
            return Some(pa);
        }
        at += step;
    }
    None
}

/// Identifier of the local APIC of the CPU that is number `index` among those that are not `own`; 0 is the first.
pub(crate) fn other_cpu(own: u8, index: usize) -> Option<u8> {
    let madt = table(*b"APIC")?;
    let end = madt + length(madt)?;
    let (mut at, mut left) = (madt + MADT_ENTRIES, index);
    while at + 2 <= end {
        let [kind, len] = bytes(at)?;
        if kind == LOCAL_APIC {
            let [id] = bytes(at + 3)?;
            if word(at + 4)? & ENABLED != 0 && id != own {
                if left == 0 {
                    return Some(id);
                }
                left -= 1;
            }
        }
        at += u64::from(len.max(2));
    }
    None
}
