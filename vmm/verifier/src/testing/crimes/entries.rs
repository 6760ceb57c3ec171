//! Corruptions of single entries, and of the VMAs over them.

use std::mem::offset_of;

use ptshare_paging::{Level, Pfn, Pte};
use ptshare_wire::frame::FrameKind;
use ptshare_wire::layout::KERNEL_HALF_SLOT;
use ptshare_wire::vma::{VM_EXEC, VM_HUGETLB, VM_READ, VM_SHARED, VM_WRITE};
use ptshare_wire::{FrameMeta, VmaRec};

use super::{first_frame, leaf, set_aux, set_entry, set_kind};
use crate::testing::scout::{Place, Scout};
use crate::view::{Image, PhysView};

// rights-within-vma

pub(super) fn leaf_made_executable(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.word.has(Pte::NO_EXEC) && s.vma_has(p, VM_READ, VM_EXEC))?;
    set_entry(image, victim, victim.word.without(Pte::NO_EXEC))
}

pub(super) fn leaf_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| {
        p.open
            && s.vma_has(p, VM_READ, VM_WRITE | VM_SHARED)
            && s.target(p).is_some_and(|f| f.kind() == Some(FrameKind::Anon) && f.maps == 1)
    })?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

/// Takes rights from a VMA that covers the victim leaf and no shared table.
fn narrow_vma(image: &mut Image, s: &Scout, victim: &Place, rights: u64) -> Option<()> {
    let (index, vma) = s.vma(victim)?;
    let pa = s.vma_pa(image, victim.mm, index)? + offset_of!(VmaRec, flags) as u64;
    image.write_u64(pa, vma.flags & !rights).then_some(())
}

/// Is the VMA over a place without shared tables?
fn alone(s: &Scout, place: &Place) -> bool {
    s.vma(place).is_some_and(|(_, v)| !s.touches_shared(place.mm, v.start, v.end))
}

pub(super) fn vma_made_read_only(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.writable() && s.vma_has(p, VM_WRITE | VM_READ, 0) && alone(s, p))?;
    narrow_vma(image, s, victim, VM_WRITE)
}

pub(super) fn vma_made_prot_none(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.vma(p).is_some() && alone(s, p))?;
    narrow_vma(image, s, victim, VM_READ | VM_WRITE | VM_EXEC)
}

// no-entry-outside-vma

pub(super) fn vma_shortened(image: &mut Image, s: &Scout) -> Option<()> {
    let victim =
        s.leaves.iter().rev().find(|p| {
            p.level == Level::Pte && s.vma(p).is_some_and(|(_, v)| v.start < p.va) && alone(s, p)
        })?;
    let (index, _) = s.vma(victim)?;
    let pa = s.vma_pa(image, victim.mm, index)? + offset_of!(VmaRec, end) as u64;
    image.write_u64(pa, victim.va).then_some(())
}

pub(super) fn leaf_moved_outside(image: &mut Image, s: &Scout) -> Option<()> {
    let (victim, gap) =
        s.gaps.iter().filter(|g| g.level == Level::Pte && !g.shared && s.vma(g).is_none()).find_map(
            |gap| {
                let victim = leaf(s, |p| p.table == gap.table && s.maps(p, FrameKind::Anon));
                victim.map(|v| (*v, *gap))
            },
        )?;
    set_entry(image, &victim, Pte::ABSENT)?;
    set_entry(image, &gap, victim.word)
}

// frame-fits-vma

pub(super) fn cache_index_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.maps(p, FrameKind::Cache))?;
    let pa = s.meta(victim.word.pfn().0, offset_of!(FrameMeta, b));
    let old = image.read_u64(pa)?;
    image.write_u64(pa, old + 1).then_some(())
}

pub(super) fn anon_page_called_cached(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| {
        s.maps(p, FrameKind::Anon) && !p.word.writable() && s.vma(p).is_some_and(|(_, v)| v.object == 0)
    })?;
    set_kind(image, s, victim.word.pfn().0, FrameKind::Cache as u8)
}

// no-user-path-to-kernel

/// Puts a read-only leaf for `pfn` into an absent entry under a VMA, with the table's books right.
pub(super) fn plant(image: &mut Image, s: &Scout, pfn: u64) -> Option<()> {
    let gap = s.gaps.iter().find(|g| g.level == Level::Pte && s.vma_has(g, VM_READ, VM_HUGETLB))?;
    let flags = Pte::PRESENT | Pte::USER | Pte::ACCESSED | Pte::NO_EXEC;
    set_entry(image, gap, Pte::new(Pfn(pfn), flags))?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

pub(super) fn leaf_to_kernel_frame(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, first_frame(s, |_, f| f.kind() == Some(FrameKind::Kernel))?)
}

pub(super) fn leaf_to_table(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.graph.tables.last()?.pfn)
}

pub(super) fn leaf_to_reserved_memory(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.census.reserved.first()?.start >> 12)
}

pub(super) fn leaf_to_nowhere(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.census.phys_mask() >> 12)
}

pub(super) fn leaf_made_supervisor(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.leaves.first()?;
    set_entry(image, victim, victim.word.without(Pte::USER))
}

pub(super) fn pointer_made_supervisor(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.pointers.iter().find(|p| p.level == Level::Pmd)?;
    set_entry(image, victim, victim.word.without(Pte::USER))
}

pub(super) fn kernel_half_made_user(image: &mut Image, s: &Scout) -> Option<()> {
    let slot = (KERNEL_HALF_SLOT as u64..512)
        .find(|slot| image.read_u64(s.census.kernel_root * 4096 + slot * 8).is_some_and(|w| w != 0))?;
    for root in s.mms.iter().map(|mm| mm.root).chain([s.census.kernel_root]) {
        let pa = root * 4096 + slot * 8;
        let word = image.read_u64(pa)?;
        image.write_u64(pa, word | Pte::USER);
    }
    Some(())
}

pub(super) fn kernel_entry_missing(image: &mut Image, s: &Scout) -> Option<()> {
    let root = s.mms.last()?.root * 4096;
    let slot = (KERNEL_HALF_SLOT as u64..512)
        .find(|slot| image.read_u64(root + slot * 8).is_some_and(|w| w != 0))?;
    image.write_u64(root + slot * 8, 0).then_some(())
}

// entry-bits-legal

fn set_leaf_bits(image: &mut Image, s: &Scout, bits: u64) -> Option<()> {
    let victim = s.leaves.first()?;
    set_entry(image, victim, victim.word.with(bits))
}

pub(super) fn software_bit_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, 1 << 9)
}

pub(super) fn high_address_bit_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, 1 << 51)
}

pub(super) fn global_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, Pte::GLOBAL)
}

pub(super) fn cache_disabled(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, Pte::NO_CACHE)
}

pub(super) fn high_unused_bit_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, 1 << 58)
}

pub(super) fn root_entry_huge(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.pointers.iter().find(|p| p.level == Level::Pgd)?;
    set_entry(image, victim, victim.word.with(Pte::HUGE))
}

pub(super) fn marker_in_pmd(image: &mut Image, s: &Scout) -> Option<()> {
    let gap = s.gaps.iter().find(|g| g.level == Level::Pmd)?;
    set_entry(image, gap, Pte(Pte::WRITE))?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}
