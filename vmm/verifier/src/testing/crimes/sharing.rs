//! Corruptions of what shared tables and shared pages allow.

use std::mem::offset_of;

use ptshare_paging::{Level, Pte};
use ptshare_wire::frame::{FrameKind, state};
use ptshare_wire::vma::{VM_EXEC, VM_MAYEXEC, VM_SHARED, VM_UFFD_MISSING, VM_UFFD_WP, VM_WRITE};
use ptshare_wire::{FrameMeta, VmaRec};

use super::{leaf, set_aux, set_entry, set_refs, set_state};
use crate::testing::scout::{Place, Scout};
use crate::view::{Image, PhysView};

// shared tables

/// A pointer to a table with several parents.
fn shared_pointer(s: &Scout, objects: bool, writable: bool) -> Option<&Place> {
    s.pointers.iter().find(|p| {
        s.table(p.word.pfn().0).is_some_and(|t| t.parents > 1)
            && s.is_objects(p) == objects
            && p.word.writable() == writable
    })
}

pub(super) fn shared_entry_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = shared_pointer(s, false, false)?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

pub(super) fn object_entry_made_read_only(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = shared_pointer(s, true, true)?;
    set_entry(image, victim, victim.word.without(Pte::WRITE))
}

pub(super) fn object_table_says_another_page(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.pointers.iter().find(|p| s.is_objects(p))?;
    let pa = s.meta(victim.word.pfn().0, offset_of!(FrameMeta, b));
    image.write_u64(pa, image.read_u64(pa)? + 512).then_some(())
}

pub(super) fn object_table_sticks_out(image: &mut Image, s: &Scout) -> Option<()> {
    // Of one user, so that nobody disagrees; at the end of a VMA, where no leaf is.
    let last = |p: &Place| p.va + p.level.entry_bytes() - 4096;
    let (victim, index) = s.pointers.iter().find_map(|p| {
        let table = s.table(p.word.pfn().0).filter(|t| t.object && t.parents == 1)?;
        let end = s.mms[p.mm].vmas.iter().position(|v| v.end == last(p) + 4096)?;
        let used = s.leaves.iter().any(|l| l.table == table.pfn && l.slot == 511);
        (!used && !p.shared).then_some((p, end))
    })?;
    let pa = s.vma_pa(image, victim.mm, index)? + offset_of!(VmaRec, end) as u64;
    image.write_u64(pa, last(victim)).then_some(())
}

/// A page in an object's table of a private mapping becomes a private page.
pub(super) fn object_table_maps_a_private_page(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| {
        let cached = s.target(p).is_some_and(|f| f.kind() == Some(FrameKind::Cache) && f.maps == 1);
        cached && s.vma_has(p, 0, VM_SHARED) && s.table(p.table).is_some_and(|t| t.object)
    })?;
    let pfn = victim.word.pfn().0;
    let frame = s.frames.get(pfn)?;
    let refs = frame.refs - u32::from(frame.in_cache());
    set_state(image, s, pfn, |_| state(FrameKind::Anon, 0, 0))?;
    set_refs(image, s, pfn, refs)
}

/// A VMA (mm, index, record) over a COW-shared table.
fn sharer_vma(s: &Scout, fits: impl Fn(&Place, usize, &VmaRec) -> bool) -> Option<(usize, usize, VmaRec)> {
    s.pointers
        .iter()
        .filter(|p| {
            s.table(p.word.pfn().0).is_some_and(|t| t.parents > 1 && !t.anywhere) && !p.word.writable()
        })
        .find_map(|p| {
            let end = p.va + p.level.entry_bytes();
            let over = s.mms[p.mm].vmas.iter().enumerate().filter(|(_, v)| v.start < end && p.va < v.end);
            over.into_iter().find(|(i, v)| fits(p, *i, v)).map(|(i, v)| (p.mm, i, *v))
        })
}

pub(super) fn sharer_vma_changed(image: &mut Image, s: &Scout) -> Option<()> {
    let (mm, index, vma) = sharer_vma(s, |_, _, v| v.flags & VM_EXEC == 0)?;
    let pa = s.vma_pa(image, mm, index)? + offset_of!(VmaRec, flags) as u64;
    image.write_u64(pa, vma.flags ^ VM_MAYEXEC).then_some(())
}

pub(super) fn sharer_vma_extended(image: &mut Image, s: &Scout) -> Option<()> {
    let (mm, index, vma) = sharer_vma(s, |p, i, v| {
        let next = s.mms[p.mm].vmas.get(i + 1).map_or(u64::MAX, |n| n.start);
        next > v.end && v.end < p.va + p.level.entry_bytes() && v.end < ptshare_paging::USER_END
    })?;
    let pa = s.vma_pa(image, mm, index)? + offset_of!(VmaRec, end) as u64;
    image.write_u64(pa, vma.end + 4096).then_some(())
}

// userfaultfd-owns-tables

pub(super) fn shared_table_watched(image: &mut Image, s: &Scout) -> Option<()> {
    let (mm, index, vma) = sharer_vma(s, |_, _, _| true)?;
    let pa = s.vma_pa(image, mm, index)? + offset_of!(VmaRec, flags) as u64;
    image.write_u64(pa, vma.flags | VM_UFFD_MISSING).then_some(())
}

pub(super) fn protect_mark_outside(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| !p.word.writable() && !p.shared && s.vma_has(p, 0, VM_UFFD_WP))?;
    set_entry(image, victim, victim.word.with(Pte::UFFD_WP))
}

pub(super) fn protect_mark_writable(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.word.has(Pte::UFFD_WP) && s.vma_has(p, VM_WRITE, 0))?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

pub(super) fn protect_marker_outside(image: &mut Image, s: &Scout) -> Option<()> {
    let gap = s.gaps.iter().find(|g| g.level == Level::Pte && !g.shared && s.vma_has(g, 0, VM_UFFD_WP))?;
    set_entry(image, gap, Pte(Pte::UFFD_WP))?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

// private-page-shared-not-writable

/// Sets R/W in a leaf of this kind under a private writable VMA and an open path.
fn open_private_leaf(image: &mut Image, s: &Scout, fits: impl Fn(&Place) -> bool) -> Option<()> {
    let victim = leaf(s, |p| {
        p.open && !p.word.writable() && !p.shared && s.vma_has(p, VM_WRITE, VM_SHARED) && fits(p)
    })?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

pub(super) fn shared_private_page_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_private_leaf(image, s, |p| {
        s.target(p).is_some_and(|f| f.kind() == Some(FrameKind::Anon) && f.maps > 1)
    })
}

pub(super) fn zero_page_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_private_leaf(image, s, |p| s.maps(p, FrameKind::Zero))
}

pub(super) fn private_file_page_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_private_leaf(image, s, |p| s.maps(p, FrameKind::Cache))
}

// table-level

pub(super) fn level_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_state(image, s, table.pfn, |_| state(FrameKind::Table, Level::Pmd as u8, 0))
}

/// A pointer to a table of one parent, with an absent entry of a PMD page behind it in the same table.
fn lonely_pmd_entry(s: &Scout) -> Option<(Place, Place)> {
    s.pointers.iter().filter(|p| p.level == Level::Pmd && !p.shared && !s.is_objects(p)).find_map(|p| {
        let table = s.table(p.word.pfn().0)?;
        let gap = s.gaps.iter().find(|g| g.table == p.table && g.slot > p.slot)?;
        (table.parents == 1).then_some((*p, *gap))
    })
}

pub(super) fn table_twice_in_mm(image: &mut Image, s: &Scout) -> Option<()> {
    let (victim, gap) = lonely_pmd_entry(s)?;
    let word = victim.word.without(Pte::WRITE);
    set_entry(image, &victim, word)?;
    set_entry(image, &gap, word)?;
    set_refs(image, s, word.pfn().0, 2)?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

pub(super) fn table_in_a_cycle(image: &mut Image, s: &Scout) -> Option<()> {
    let (victim, gap) = lonely_pmd_entry(s)?;
    let above = s.pointers.iter().find(|p| p.mm == victim.mm && p.word.pfn().0 == gap.table)?;
    let word = above.word.without(Pte::WRITE);
    set_entry(image, above, word)?;
    set_entry(image, &gap, word)?;
    set_refs(image, s, gap.table, 2)?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}
