//! Corruptions of the records of mms, CPUs and the census.

use std::mem::{offset_of, size_of};

use ptshare_paging::Level;
use ptshare_wire::vma::{VM_MAYREAD, VM_READ};
use ptshare_wire::{CensusHeader, CpuRec, MmRec, VmaRec};

use super::{add_to_header, set_aux, set_refs, shared_tables_wrong};
use crate::testing::scout::Scout;
use crate::view::{Image, PhysView};

// counters of tables and mms

pub(super) fn present_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_aux(image, s, table.pfn, u32::from(table.nonzero) + 1)
}

pub(super) fn table_pages_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let pages = s.mms.first()?.table_pages;
    image.write_u64(s.mm_field(0, offset_of!(MmRec, table_pages)), pages + 1).then_some(())
}

// roots-not-shared

/// A record more, for an mm that exists: with its root, counted twice, and its VMAs.
pub(super) fn two_records_name_one_root(image: &mut Image, s: &Scout) -> Option<()> {
    let used = |slot: u64| s.mms.iter().any(|mm| u64::from(mm.id.slot) == slot);
    let slot = (0..=s.census.mm_high).find(|slot| !used(*slot))?;
    let (from, to) = (s.mm_field(with_vmas(s)?, 0), s.census.mm_table + slot * size_of::<MmRec>() as u64);
    for field in (0..size_of::<MmRec>() as u64).step_by(8) {
        let word = image.read_u64(from + field)?;
        image.write_u64(to + field, word);
    }
    image.write_u64(to + offset_of!(MmRec, cpumask) as u64, 0);
    if slot == s.census.mm_high {
        add_to_header(image, s, offset_of!(CensusHeader, mm_high), 1)?;
    }
    shared_tables_wrong(image, s)?;
    set_refs(image, s, s.mms[with_vmas(s)?].root, 2)
}

// vma-rights-allowed

pub(super) fn vma_right_not_allowed(image: &mut Image, s: &Scout) -> Option<()> {
    let (mm, index, flags) = s.mms.iter().enumerate().find_map(|(m, mm)| {
        let fits = |v: &VmaRec| v.flags & VM_READ != 0 && !s.touches_shared(m, v.start, v.end);
        mm.vmas.iter().position(fits).map(|i| (m, i, mm.vmas[i].flags))
    })?;
    let pa = s.vma_pa(image, mm, index)? + offset_of!(VmaRec, flags) as u64;
    image.write_u64(pa, flags & !VM_MAYREAD).then_some(())
}

// cpu-runs-its-mm

pub(super) fn cpu_claims_another_mm(image: &mut Image, s: &Scout) -> Option<()> {
    let index = s.cpus.iter().position(|c| c.online)?;
    let pa = s.census.cpu_table + (index * size_of::<CpuRec>() + offset_of!(CpuRec, mm_slot)) as u64;
    let now = s.cpus[index].mm_slot;
    let other = s.mms.iter().map(|mm| u64::from(mm.id.slot) + 1).find(|slot| *slot != now).unwrap_or(0);
    (other != now && image.write_u64(pa, other)).then_some(())
}

pub(super) fn cpu_missing_from_mask(image: &mut Image, s: &Scout) -> Option<()> {
    let index = s.cpus.iter().position(|c| c.online && c.mm_slot != 0)?;
    let mm = s.mms.iter().position(|mm| u64::from(mm.id.slot) + 1 == s.cpus[index].mm_slot)?;
    let mask = s.mms[mm].cpumask & !(1 << index);
    image.write_u64(s.mm_field(mm, offset_of!(MmRec, cpumask)), mask).then_some(())
}

// vma-list-sorted

/// An mm that maps something; a kernel's own mm need not.
fn with_vmas(s: &Scout) -> Option<usize> {
    s.mms.iter().position(|mm| !mm.vmas.is_empty())
}

pub(super) fn vma_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let mm = with_vmas(s)?;
    let count = s.mms[mm].vmas.len() as u64;
    image.write_u64(s.mm_field(mm, offset_of!(MmRec, vma_count)), count + 1).then_some(())
}

pub(super) fn vmas_swapped(image: &mut Image, s: &Scout) -> Option<()> {
    let mm = s.mms.iter().position(|mm| mm.vmas.len() > 1)?;
    let (a, b) = (s.vma_pa(image, mm, 0)?, s.vma_pa(image, mm, 1)?);
    for field in (0..size_of::<VmaRec>() as u64).step_by(8) {
        let (x, y) = (image.read_u64(a + field)?, image.read_u64(b + field)?);
        image.write_u64(a + field, y);
        image.write_u64(b + field, x);
    }
    Some(())
}

pub(super) fn vma_end_unaligned(image: &mut Image, s: &Scout) -> Option<()> {
    let mm = with_vmas(s)?;
    let end = s.mms[mm].vmas.first()?.end;
    let pa = s.vma_pa(image, mm, 0)? + offset_of!(VmaRec, end) as u64;
    image.write_u64(pa, end - 1).then_some(())
}

// census-is-sound

pub(super) fn magic_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, magic), 1)
}

pub(super) fn vma_index_wild(image: &mut Image, s: &Scout) -> Option<()> {
    image.write_u64(s.mm_field(with_vmas(s)?, offset_of!(MmRec, vma_index)), 0xdead_beef).then_some(())
}

pub(super) fn frame_array_wild(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, frame_array), 1 << 50)
}

pub(super) fn slots_absurd(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, mm_high), 1 << 40)
}
