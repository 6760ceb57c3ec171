//! Corruptions of what shared tables and shared pages allow.

use std::mem::offset_of;

use ptshare_paging::{Level, Pte};
use ptshare_wire::frame::{FLAG_HEAD, FrameKind, state};
use ptshare_wire::vma::{VM_EXEC, VM_MAYEXEC, VM_SHARED, VM_UFFD_MISSING, VM_UFFD_WP, VM_WRITE};
use ptshare_wire::{CensusHeader, FrameMeta, VmaRec};

use super::{add_to_header, leaf, set_aux, set_entry, set_refs, set_state, shared_tables_wrong};
use crate::testing::scout::{Place, Scout};
use crate::view::{Image, PhysView};

// shared tables

/// Sets R/W in a pointer to a COW-shared table over which some VMA is writable, or none is.
fn open_shared(image: &mut Image, s: &Scout, under_writable: bool) -> Option<()> {
    let victim = s.pointers.iter().find(|p| {
        let writable = s.vmas_over(p).any(|(_, v)| v.flags & VM_WRITE != 0);
        s.is_cow_shared(p) && !p.word.writable() && writable == under_writable
    })?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

pub(super) fn shared_entry_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_shared(image, s, true)
}

pub(super) fn read_only_shared_entry_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_shared(image, s, false)
}

/// Moves the entry for a shared table to the slot before it, and the VMAs over its span with it.
pub(super) fn shared_table_moved(image: &mut Image, s: &Scout) -> Option<()> {
    let (victim, span) = s.pointers.iter().find_map(|p| {
        let span = p.level.entry_bytes();
        let inside = s.vmas_over(p).all(|(_, v)| p.va <= v.start && v.end <= p.va + span);
        let before = p.va.checked_sub(span).filter(|_| p.slot > 0)?;
        let room = !s.mms[p.mm].vmas.iter().any(|v| v.start < p.va && before < v.end);
        let absent = image.read_u64(p.pa() - 8) == Some(0);
        (s.is_cow_shared(p) && !p.shared && inside && room && absent).then_some((p, span))
    })?;
    for (index, vma) in s.vmas_over(victim) {
        let pa = s.vma_pa(image, victim.mm, index)?;
        image.write_u64(pa + offset_of!(VmaRec, start) as u64, vma.start - span);
        image.write_u64(pa + offset_of!(VmaRec, end) as u64, vma.end - span);
    }
    image.write_u64(victim.pa() - 8, victim.word.0);
    set_entry(image, victim, Pte::ABSENT)
}

pub(super) fn object_entry_made_read_only(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.pointers.iter().find(|p| {
        s.table(p.word.pfn().0).is_some_and(|t| t.parents > 1) && s.is_objects(p) && p.word.writable()
    })?;
    set_entry(image, victim, victim.word.without(Pte::WRITE))
}

pub(super) fn object_table_says_another_page(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.pointers.iter().find(|p| s.is_objects(p))?;
    let pa = s.meta(victim.word.pfn().0, offset_of!(FrameMeta, b));
    image.write_u64(pa, image.read_u64(pa)? + 512).then_some(())
}

pub(super) fn object_table_sticks_out(image: &mut Image, s: &Scout) -> Option<()> {
    // At the end of a VMA, where no leaf is, and of all its users, so that nobody disagrees.
    let end = |p: &Place| p.va + p.level.entry_bytes();
    let users = |pfn: u64| s.pointers.iter().filter(move |p| p.word.pfn().0 == pfn);
    let at_end = |p: &Place| s.mms[p.mm].vmas.iter().any(|v| v.end == end(p));
    let table = s.graph.tables.iter().find(|t| {
        let unused = image.read_u64(t.pfn * 4096 + 511 * 8) == Some(0);
        t.object && unused && users(t.pfn).all(at_end)
    })?;
    for user in users(table.pfn) {
        let index = s.mms[user.mm].vmas.iter().position(|v| v.end == end(user))?;
        let pa = s.vma_pa(image, user.mm, index)? + offset_of!(VmaRec, end) as u64;
        image.write_u64(pa, end(user) - 4096);
    }
    Some(())
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
        .filter(|p| s.is_cow_shared(p) && !p.word.writable())
        .find_map(|p| s.vmas_over(p).find(|(i, v)| fits(p, *i, v)).map(|(i, v)| (p.mm, i, *v)))
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

// shared-table-unchanged

/// A leaf of a COW-shared PTE page, over anonymous memory.
fn shared_leaf(s: &Scout) -> Option<&Place> {
    leaf(s, |p| {
        let table = s.table(p.table).is_some_and(|t| t.parents > 1 && !t.anywhere);
        let once = s.target(p).is_some_and(|f| f.kind() == Some(FrameKind::Anon) && f.maps == 1);
        p.level == Level::Pte && table && once && s.vma(p).is_some_and(|(_, v)| v.object == 0)
    })
}

/// A write that was answered in the shared table: another page stands there, and all counts are right.
pub(super) fn shared_table_gets_another_page(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = *shared_leaf(s)?;
    let other = *s.leaves.iter().find(|p| {
        p.table == victim.table
            && p.slot != victim.slot
            && s.maps(p, FrameKind::Anon)
            && same_vma(s, p, &victim)
    })?;
    set_entry(image, &victim, other.word)?;
    set_entry(image, &other, victim.word)?;
    // Where each says that it belongs.
    for field in [offset_of!(FrameMeta, a), offset_of!(FrameMeta, b)] {
        let (x, y) = (s.meta(victim.word.pfn().0, field), s.meta(other.word.pfn().0, field));
        let (at_x, at_y) = (image.read_u64(x)?, image.read_u64(y)?);
        image.write_u64(x, at_y);
        image.write_u64(y, at_x);
    }
    Some(())
}

fn same_vma(s: &Scout, a: &Place, b: &Place) -> bool {
    s.vma(a).map(|v| v.0) == s.vma(b).map(|v| v.0)
}

/// A page is thrown away in the shared table, and freed.
pub(super) fn shared_table_loses_a_page(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = shared_leaf(s)?;
    let pfn = victim.word.pfn().0;
    set_entry(image, victim, Pte::ABSENT)?;
    set_aux(image, s, victim.table, s.frames.get(victim.table)?.aux - 1)?;
    set_refs(image, s, pfn, 0)?;
    set_state(image, s, pfn, |_| state(FrameKind::Free, 0, FLAG_HEAD))?;
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), 1)
}

/// R/W in a leaf of the shared table, behind R/W = 0 above: harmless until a sharer takes the table back.
pub(super) fn shared_leaf_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| {
        let table = s.table(p.table).is_some_and(|t| t.parents > 1 && !t.anywhere);
        p.level == Level::Pte && table && !p.open && !p.word.writable()
    })?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

// kvm-translate-agrees

/// Two private pages of a running process change places, with what their metadata say.
pub(super) fn pages_swapped(image: &mut Image, s: &Scout) -> Option<()> {
    let running = |p: &Place| s.cpus.iter().any(|c| c.mm_slot == u64::from(s.mms[p.mm].id.slot) + 1);
    let whole = |p: &&Place| running(p) && p.level == Level::Pte && s.maps(p, FrameKind::Anon);
    let mut done = false;
    // All of them, so that a sample meets one.
    let victims: Vec<&Place> = s.leaves.iter().filter(whole).collect();
    for pair in victims.chunks_exact(2) {
        let [a, b] = pair else { continue };
        let alike = s.target(a)?.maps == 1 && s.target(b)?.maps == 1 && same_vma(s, a, b);
        if !alike
            || a.table != b.table
            || (a.word.0 ^ b.word.0) & !Pte::ADDR & !Pte::ACCESSED & !Pte::DIRTY != 0
        {
            continue;
        }
        set_entry(image, a, b.word)?;
        set_entry(image, b, a.word)?;
        for field in [offset_of!(FrameMeta, a), offset_of!(FrameMeta, b)] {
            let (x, y) = (s.meta(a.word.pfn().0, field), s.meta(b.word.pfn().0, field));
            let (at_x, at_y) = (image.read_u64(x)?, image.read_u64(y)?);
            image.write_u64(x, at_y);
            image.write_u64(y, at_x);
        }
        done = true;
    }
    done.then_some(())
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
    // One shared table more.
    shared_tables_wrong(image, s)?;
    set_refs(image, s, word.pfn().0, 2)?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

pub(super) fn table_in_a_cycle(image: &mut Image, s: &Scout) -> Option<()> {
    let (victim, gap) = lonely_pmd_entry(s)?;
    let above = s.pointers.iter().find(|p| p.mm == victim.mm && p.word.pfn().0 == gap.table)?;
    let word = above.word.without(Pte::WRITE);
    set_entry(image, above, word)?;
    set_entry(image, &gap, word)?;
    shared_tables_wrong(image, s)?;
    set_refs(image, s, gap.table, 2)?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}
