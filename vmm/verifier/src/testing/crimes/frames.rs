//! Corruptions of frame metadata and of the sums over it.

use std::mem::{offset_of, size_of};

use ptshare_paging::{Level, Pfn, Pte};
use ptshare_wire::census::RAM_RANGES_MAX;
use ptshare_wire::frame::{FLAG_HEAD, FLAG_IN_CACHE, FrameKind, state};
use ptshare_wire::{CensusHeader, FrameMeta, RamRange};

use super::entries::plant;
use super::{add_to_header, first_frame, leaf, set_aux, set_entry, set_kind, set_refs, set_state};
use crate::testing::scout::Scout;
use crate::view::{Image, PhysView};

// table-refs-equal-parents

pub(super) fn table_refs_one_more(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte && t.parents == 1)?;
    set_refs(image, s, table.pfn, table.parents + 1)
}

pub(super) fn shared_table_refs_one_less(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.parents > 1)?;
    set_refs(image, s, table.pfn, table.parents - 1)
}

pub(super) fn root_refs_zero(image: &mut Image, s: &Scout) -> Option<()> {
    set_refs(image, s, s.mms.first()?.root, 0)
}

// leaf-refs-equal-maps

pub(super) fn anon_refs_one_more(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon) && f.maps > 0)?;
    set_refs(image, s, pfn, s.frames.get(pfn)?.refs + 1)
}

pub(super) fn anon_refs_zero(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon) && f.maps > 0)?;
    set_refs(image, s, pfn, 0)
}

pub(super) fn cache_reference_forgotten(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Cache) && f.in_cache() && f.maps == 0)?;
    set_state(image, s, pfn, |old| old & !FLAG_IN_CACHE)
}

pub(super) fn zero_page_hold_forgotten(image: &mut Image, s: &Scout) -> Option<()> {
    set_aux(image, s, s.census.zero_page, s.frames.get(s.census.zero_page)?.aux.checked_sub(1)?)
}

pub(super) fn leaf_cleared_without_put(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.level == Level::Pte && s.maps(p, FrameKind::Anon))?;
    set_entry(image, victim, Pte::ABSENT)?;
    set_aux(image, s, victim.table, s.frames.get(victim.table)?.aux - 1)
}

pub(super) fn mapped_page_left_its_cache(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.level == Level::Pte && s.maps(p, FrameKind::Cache))?;
    let pfn = victim.word.pfn().0;
    set_refs(image, s, pfn, s.frames.get(pfn)?.refs - 1)?;
    set_state(image, s, pfn, |old| old & !FLAG_IN_CACHE)
}

// free-frames-unreferenced

pub(super) fn leaf_to_free_frame(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = fresh_frame(image, s)?;
    set_fresh(image, s, pfn, state(FrameKind::Free, 0, FLAG_HEAD))?;
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), 1)?;
    plant(image, s, pfn)
}

pub(super) fn leaf_to_virgin_frame(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.census.ram.iter().find(|r| r.virgin < r.end)?.virgin)
}

pub(super) fn free_frame_counted(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = fresh_frame(image, s)?;
    set_fresh(image, s, pfn, state(FrameKind::Free, 0, FLAG_HEAD))?;
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), 1)?;
    image.write_u32(s.meta(pfn, offset_of!(FrameMeta, refs)), 1).then_some(())
}

pub(super) fn mapped_frame_freed(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon) && f.maps > 0)?;
    set_state(image, s, pfn, |_| 0)?;
    set_refs(image, s, pfn, 0)
}

pub(super) fn table_freed(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_state(image, s, table.pfn, |_| 0)?;
    set_refs(image, s, table.pfn, 0)
}

// pointers-reach-tables

pub(super) fn pointer_to_reserved_memory(image: &mut Image, s: &Scout) -> Option<()> {
    let gap = s.gaps.iter().find(|g| g.level == Level::Pmd)?;
    set_entry(image, gap, Pte::user_table(Pfn(s.census.reserved.first()?.start >> 12)))?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

// frame-has-one-state

pub(super) fn kind_unknown(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon))?;
    set_kind(image, s, pfn, 7)
}

pub(super) fn table_called_anon(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_kind(image, s, table.pfn, FrameKind::Anon as u8)
}

pub(super) fn second_zero_page(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.maps(p, FrameKind::Anon) && !p.word.writable())?;
    set_kind(image, s, victim.word.pfn().0, FrameKind::Zero as u8)
}

// frames-add-up

pub(super) fn free_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), 1)
}

pub(super) fn kernel_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, kernel_frames), 1)
}

/// A frame that was never given out until now; its metadata is for the caller to write.
fn fresh_frame(image: &mut Image, s: &Scout) -> Option<u64> {
    let ram = s.census.ram.iter().find(|r| r.virgin < r.end)?;
    let slots = (0..RAM_RANGES_MAX).map(|i| offset_of!(CensusHeader, ram) + i * size_of::<RamRange>());
    for slot in slots {
        let start = image.read_u64(s.census_pa + (slot + offset_of!(RamRange, start)) as u64)?;
        if start == ram.start {
            add_to_header(image, s, slot + offset_of!(RamRange, virgin), 1)?;
            return Some(ram.virgin);
        }
    }
    None
}

/// Writes the `state` of a [`fresh_frame`].
fn set_fresh(image: &mut Image, s: &Scout, pfn: u64, state: u32) -> Option<()> {
    image.write_u32(s.meta(pfn, offset_of!(FrameMeta, state)), state).then_some(())
}

pub(super) fn table_lost(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = fresh_frame(image, s)?;
    set_fresh(image, s, pfn, state(FrameKind::Table, 1, 0))
}

pub(super) fn page_lost(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = fresh_frame(image, s)?;
    set_fresh(image, s, pfn, state(FrameKind::Anon, 0, 0))
}

pub(super) fn block_order_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = fresh_frame(image, s)?;
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), 1)?;
    set_fresh(image, s, pfn, state(FrameKind::Free, 1, FLAG_HEAD))
}
