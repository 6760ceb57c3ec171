//! Seeded corruptions: each breaks one book of an image and leaves the others right, so that one rule reports.
//!
//! They look for a victim through the census, and so work on synthetic and on captured images; one that finds none says
//! so. A corruption that fits no image of the test suite is a gap in the suite.

use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};

use ptshare_paging::{Level, Pte};
use ptshare_wire::frame::{FLAG_IN_CACHE, FrameKind, state};
use ptshare_wire::layout::KERNEL_HALF_SLOT;
use ptshare_wire::vma::{VM_EXEC, VM_HUGETLB, VM_MAYEXEC, VM_READ, VM_SHARED, VM_WRITE};
use ptshare_wire::{CensusHeader, CpuRec, FrameMeta, MmRec, VmaRec};

use super::scout::{Place, Scout};
use crate::report::Finding;
use crate::view::{Image, PhysView};
use crate::{Options, Vcpu, verify};

/// A way to break an image.
#[derive(Clone, Copy, Debug)]
pub struct Corruption {
    /// What it does, in kebab-case.
    pub name: &'static str,
    /// The rule that must report.
    pub rule: &'static str,
    /// Breaks the image whose census header is at the address; false if it finds nothing to break.
    pub apply: fn(&mut Image, u64) -> bool,
}

/// How the judge did on one corruption.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The rule reported, and no other.
    Caught,
    /// The image has nothing that this corruption could break.
    NoVictim,
    /// The rule was silent, or another reported: these are the findings.
    Wrong(Vec<Finding>),
}

/// One corruption tried on one image.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The corruption.
    pub corruption: &'static Corruption,
    /// What came of it.
    pub verdict: Verdict,
}

/// Tries every corruption on a copy of `image`, which must be clean.
pub fn run_corruptions(image: &Image, census_pa: u64, vcpus: &[Vcpu]) -> Vec<Trial> {
    let trial = |corruption: &'static Corruption| {
        let mut broken = image.clone();
        if !(corruption.apply)(&mut broken, census_pa) {
            return Trial { corruption, verdict: Verdict::NoVictim };
        }
        let report = verify(&broken, census_pa, vcpus, &Options::default());
        let rules: BTreeSet<&str> = report.findings.iter().map(|f| f.rule).collect();
        let caught = rules.len() == 1 && rules.contains(corruption.rule);
        let verdict = if caught { Verdict::Caught } else { Verdict::Wrong(report.findings) };
        Trial { corruption, verdict }
    };
    CORRUPTIONS.iter().map(trial).collect()
}

/// Every corruption; at least one for each rule.
pub fn corruptions() -> &'static [Corruption] {
    CORRUPTIONS
}

macro_rules! table {
    ($($rule:literal: $($name:ident)+;)+) => {
        const CORRUPTIONS: &[Corruption] = &[$($(
            Corruption {
                name: stringify!($name),
                rule: $rule,
                apply: |image, pa| match Scout::new(image, pa) {
                    Some(scout) => $name(image, &scout).is_some(),
                    None => false,
                },
            },
        )+)+];
    };
}

table! {
    "table-refs-equal-parents": table_refs_one_more shared_table_refs_one_less root_refs_zero;
    "leaf-refs-equal-maps": anon_refs_one_more anon_refs_zero cache_reference_forgotten zero_page_hold_forgotten
        leaf_cleared_without_put;
    "cow-shared-entries-read-only": shared_entry_made_writable;
    "object-shared-tables-uniform": object_entry_made_read_only;
    "sharers-agree": sharer_vma_changed sharer_vma_extended;
    "private-page-shared-not-writable": shared_private_page_made_writable zero_page_made_writable
        private_file_page_made_writable;
    "rights-within-vma": leaf_made_executable leaf_made_writable vma_made_read_only vma_made_prot_none;
    "no-entry-outside-vma": vma_shortened leaf_moved_outside;
    "frame-fits-vma": cache_index_wrong anon_page_called_cached;
    "no-user-path-to-kernel": leaf_to_kernel_frame leaf_to_table leaf_to_reserved_memory leaf_to_nowhere
        leaf_made_supervisor pointer_made_supervisor kernel_half_made_user;
    "kernel-half-identical": kernel_entry_missing;
    "free-frames-unreferenced": leaf_to_free_frame leaf_to_virgin_frame free_frame_counted mapped_frame_freed
        table_freed;
    "frame-has-one-state": kind_unknown table_called_anon second_zero_page;
    "frames-add-up": free_count_wrong kernel_count_wrong table_lost page_lost block_order_wrong;
    "table-level": level_wrong table_twice_in_mm table_in_a_cycle;
    "table-present-count": present_count_wrong;
    "mm-table-pages": table_pages_wrong;
    "entry-bits-legal": software_bit_set high_address_bit_set global_set cache_disabled high_unused_bit_set
        root_entry_huge marker_in_pmd;
    "cpu-runs-its-mm": cpu_claims_another_mm cpu_missing_from_mask;
    "vma-list-sorted": vma_count_wrong vmas_swapped vma_end_unaligned;
    "census-is-sound": magic_wrong vma_index_wild frame_array_wild slots_absurd;
}

/// A frame's `state` with another kind or level.
fn set_state(image: &mut Image, s: &Scout, pfn: u64, change: impl FnOnce(u32) -> u32) -> Option<()> {
    let old = s.frames.get(pfn)?.state;
    image.write_u32(s.meta(pfn, offset_of!(FrameMeta, state)), change(old)).then_some(())
}

/// Another kind, all else as it was.
fn set_kind(image: &mut Image, s: &Scout, pfn: u64, kind: u8) -> Option<()> {
    set_state(image, s, pfn, |old| old & !0xff | u32::from(kind))
}

fn set_refs(image: &mut Image, s: &Scout, pfn: u64, refs: u32) -> Option<()> {
    image.write_u32(s.meta(pfn, offset_of!(FrameMeta, refs)), refs).then_some(())
}

fn set_aux(image: &mut Image, s: &Scout, pfn: u64, aux: u32) -> Option<()> {
    image.write_u32(s.meta(pfn, offset_of!(FrameMeta, aux)), aux).then_some(())
}

fn set_entry(image: &mut Image, place: &Place, word: Pte) -> Option<()> {
    image.write_u64(place.pa(), word.0).then_some(())
}

/// Adds to a word of the header.
fn add_to_header(image: &mut Image, s: &Scout, field: usize, by: u64) -> Option<()> {
    let pa = s.census_pa + field as u64;
    let old = image.read_u64(pa)?;
    image.write_u64(pa, old.wrapping_add(by)).then_some(())
}

/// The first leaf that fits.
fn leaf<'a>(s: &'a Scout, fits: impl Fn(&Place) -> bool) -> Option<&'a Place> {
    s.leaves.iter().find(|p| fits(p))
}

fn first_frame(s: &Scout, fits: impl Fn(u64, &crate::frames::Frame) -> bool) -> Option<u64> {
    s.frames.iter().find(|(pfn, f)| fits(*pfn, f)).map(|(pfn, _)| pfn)
}

// table-refs-equal-parents

fn table_refs_one_more(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte && t.parents == 1)?;
    set_refs(image, s, table.pfn, table.parents + 1)
}

fn shared_table_refs_one_less(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.parents > 1)?;
    set_refs(image, s, table.pfn, table.parents - 1)
}

fn root_refs_zero(image: &mut Image, s: &Scout) -> Option<()> {
    set_refs(image, s, s.mms.first()?.root, 0)
}

// leaf-refs-equal-maps

fn anon_refs_one_more(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon) && f.maps > 0)?;
    set_refs(image, s, pfn, s.frames.get(pfn)?.refs + 1)
}

fn anon_refs_zero(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon) && f.maps > 0)?;
    set_refs(image, s, pfn, 0)
}

fn cache_reference_forgotten(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Cache) && f.in_cache() && f.maps > 0)?;
    set_state(image, s, pfn, |old| old & !FLAG_IN_CACHE)
}

fn zero_page_hold_forgotten(image: &mut Image, s: &Scout) -> Option<()> {
    set_aux(image, s, s.census.zero_page, s.frames.get(s.census.zero_page)?.aux.checked_sub(1)?)
}

fn leaf_cleared_without_put(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.level == Level::Pte && s.maps(p, FrameKind::Anon))?;
    set_entry(image, victim, Pte::ABSENT)?;
    set_aux(image, s, victim.table, s.frames.get(victim.table)?.aux - 1)
}

// shared tables

/// A pointer to a table with several parents.
fn shared_pointer(s: &Scout, objects: bool, writable: bool) -> Option<&Place> {
    s.pointers.iter().find(|p| {
        s.table(p.word.pfn().0).is_some_and(|t| t.parents > 1)
            && s.is_objects(p) == objects
            && p.word.writable() == writable
    })
}

fn shared_entry_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = shared_pointer(s, false, false)?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

fn object_entry_made_read_only(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = shared_pointer(s, true, true)?;
    set_entry(image, victim, victim.word.without(Pte::WRITE))
}

/// A VMA (mm, index, record) over a COW-shared table.
fn sharer_vma(s: &Scout, fits: impl Fn(&Place, usize, &VmaRec) -> bool) -> Option<(usize, usize, VmaRec)> {
    s.pointers
        .iter()
        .filter(|p| s.table(p.word.pfn().0).is_some_and(|t| t.parents > 1) && !p.word.writable())
        .find_map(|p| {
            let end = p.va + p.level.entry_bytes();
            let over = s.mms[p.mm].vmas.iter().enumerate().filter(|(_, v)| v.start < end && p.va < v.end);
            over.into_iter().find(|(i, v)| fits(p, *i, v)).map(|(i, v)| (p.mm, i, *v))
        })
}

fn sharer_vma_changed(image: &mut Image, s: &Scout) -> Option<()> {
    let (mm, index, vma) = sharer_vma(s, |_, _, v| v.flags & VM_EXEC == 0)?;
    let pa = s.vma_pa(image, mm, index)? + offset_of!(VmaRec, flags) as u64;
    image.write_u64(pa, vma.flags ^ VM_MAYEXEC).then_some(())
}

fn sharer_vma_extended(image: &mut Image, s: &Scout) -> Option<()> {
    let (mm, index, vma) = sharer_vma(s, |p, i, v| {
        let next = s.mms[p.mm].vmas.get(i + 1).map_or(u64::MAX, |n| n.start);
        next > v.end && v.end < p.va + p.level.entry_bytes() && v.end < ptshare_paging::USER_END
    })?;
    let pa = s.vma_pa(image, mm, index)? + offset_of!(VmaRec, end) as u64;
    image.write_u64(pa, vma.end + 4096).then_some(())
}

// private-page-shared-not-writable

/// Sets R/W in a leaf of this kind under a private writable VMA and an open path.
fn open_private_leaf(image: &mut Image, s: &Scout, fits: impl Fn(&Place) -> bool) -> Option<()> {
    let victim = leaf(s, |p| {
        p.open && !p.word.writable() && !p.shared && s.vma_has(p, VM_WRITE, VM_SHARED) && fits(p)
    })?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}

fn shared_private_page_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_private_leaf(image, s, |p| {
        s.target(p).is_some_and(|f| f.kind() == Some(FrameKind::Anon) && f.maps > 1)
    })
}

fn zero_page_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_private_leaf(image, s, |p| s.maps(p, FrameKind::Zero))
}

fn private_file_page_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    open_private_leaf(image, s, |p| s.maps(p, FrameKind::Cache))
}

// rights-within-vma

fn leaf_made_executable(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.word.has(Pte::NO_EXEC) && s.vma_has(p, VM_READ, VM_EXEC))?;
    set_entry(image, victim, victim.word.without(Pte::NO_EXEC))
}

fn leaf_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
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

fn vma_made_read_only(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.writable() && s.vma_has(p, VM_WRITE | VM_READ, 0) && alone(s, p))?;
    narrow_vma(image, s, victim, VM_WRITE)
}

fn vma_made_prot_none(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.vma(p).is_some() && alone(s, p))?;
    narrow_vma(image, s, victim, VM_READ | VM_WRITE | VM_EXEC)
}

// no-entry-outside-vma

fn vma_shortened(image: &mut Image, s: &Scout) -> Option<()> {
    let victim =
        s.leaves.iter().rev().find(|p| {
            p.level == Level::Pte && s.vma(p).is_some_and(|(_, v)| v.start < p.va) && alone(s, p)
        })?;
    let (index, _) = s.vma(victim)?;
    let pa = s.vma_pa(image, victim.mm, index)? + offset_of!(VmaRec, end) as u64;
    image.write_u64(pa, victim.va).then_some(())
}

fn leaf_moved_outside(image: &mut Image, s: &Scout) -> Option<()> {
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

fn cache_index_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.maps(p, FrameKind::Cache))?;
    let pa = s.meta(victim.word.pfn().0, offset_of!(FrameMeta, b));
    let old = image.read_u64(pa)?;
    image.write_u64(pa, old + 1).then_some(())
}

fn anon_page_called_cached(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| {
        s.maps(p, FrameKind::Anon) && !p.word.writable() && s.vma(p).is_some_and(|(_, v)| v.object == 0)
    })?;
    set_kind(image, s, victim.word.pfn().0, FrameKind::Cache as u8)
}

// no-user-path-to-kernel, free-frames-unreferenced

/// Puts a read-only leaf for `pfn` into an absent entry under a VMA, with the table's books right.
fn plant(image: &mut Image, s: &Scout, pfn: u64) -> Option<()> {
    let gap = s.gaps.iter().find(|g| g.level == Level::Pte && s.vma_has(g, VM_READ, VM_HUGETLB))?;
    let flags = Pte::PRESENT | Pte::USER | Pte::ACCESSED | Pte::NO_EXEC;
    set_entry(image, gap, Pte::new(ptshare_paging::Pfn(pfn), flags))?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

fn leaf_to_kernel_frame(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, first_frame(s, |_, f| f.kind() == Some(FrameKind::Kernel))?)
}

fn leaf_to_table(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.graph.tables.last()?.pfn)
}

fn leaf_to_reserved_memory(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.census.reserved.first()?.start >> 12)
}

fn leaf_to_nowhere(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.census.phys_mask() >> 12)
}

fn leaf_made_supervisor(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.leaves.first()?;
    set_entry(image, victim, victim.word.without(Pte::USER))
}

fn pointer_made_supervisor(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.pointers.iter().find(|p| p.level == Level::Pmd)?;
    set_entry(image, victim, victim.word.without(Pte::USER))
}

fn kernel_half_made_user(image: &mut Image, s: &Scout) -> Option<()> {
    let slot = (KERNEL_HALF_SLOT as u64..512)
        .find(|slot| image.read_u64(s.census.kernel_root * 4096 + slot * 8).is_some_and(|w| w != 0))?;
    for root in s.mms.iter().map(|mm| mm.root).chain([s.census.kernel_root]) {
        let pa = root * 4096 + slot * 8;
        let word = image.read_u64(pa)?;
        image.write_u64(pa, word | Pte::USER);
    }
    Some(())
}

fn kernel_entry_missing(image: &mut Image, s: &Scout) -> Option<()> {
    let root = s.mms.last()?.root * 4096;
    let slot = (KERNEL_HALF_SLOT as u64..512)
        .find(|slot| image.read_u64(root + slot * 8).is_some_and(|w| w != 0))?;
    image.write_u64(root + slot * 8, 0).then_some(())
}

fn leaf_to_free_frame(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, first_frame(s, |_, f| f.kind() == Some(FrameKind::Free) && f.is_head())?)
}

fn leaf_to_virgin_frame(image: &mut Image, s: &Scout) -> Option<()> {
    plant(image, s, s.census.ram.iter().find(|r| r.virgin < r.end)?.virgin)
}

fn free_frame_counted(image: &mut Image, s: &Scout) -> Option<()> {
    set_refs(image, s, first_frame(s, |_, f| f.kind() == Some(FrameKind::Free))?, 1)
}

fn mapped_frame_freed(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon) && f.maps > 0)?;
    set_state(image, s, pfn, |_| 0)?;
    set_refs(image, s, pfn, 0)
}

fn table_freed(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_state(image, s, table.pfn, |_| 0)?;
    set_refs(image, s, table.pfn, 0)
}

// frame-has-one-state

fn kind_unknown(image: &mut Image, s: &Scout) -> Option<()> {
    let pfn = first_frame(s, |_, f| f.kind() == Some(FrameKind::Anon))?;
    set_kind(image, s, pfn, 7)
}

fn table_called_anon(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_kind(image, s, table.pfn, FrameKind::Anon as u8)
}

fn second_zero_page(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.maps(p, FrameKind::Anon) && !p.word.writable())?;
    set_kind(image, s, victim.word.pfn().0, FrameKind::Zero as u8)
}

// frames-add-up

fn free_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), 1)
}

fn kernel_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, kernel_frames), 1)
}

/// A free block of one frame.
fn free_page(s: &Scout) -> Option<u64> {
    first_frame(s, |_, f| f.kind() == Some(FrameKind::Free) && f.is_head() && f.level() == 0)
}

fn table_lost(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, free_page(s)?, |_| state(FrameKind::Table, 1, 0))?;
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), u64::MAX)
}

fn page_lost(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, free_page(s)?, |_| state(FrameKind::Anon, 0, 0))?;
    add_to_header(image, s, offset_of!(CensusHeader, free_frames), u64::MAX)
}

fn block_order_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, free_page(s)?, |old| old | 1 << 8)
}

// table-level

fn level_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_state(image, s, table.pfn, |_| state(FrameKind::Table, Level::Pmd as u8, 0))
}

/// A pointer to a table of one parent, with an absent entry of a PMD page behind it in the same table.
fn lonely_pmd_entry(s: &Scout) -> Option<(Place, Place)> {
    s.pointers.iter().filter(|p| p.level == Level::Pmd && !p.shared).find_map(|p| {
        let table = s.table(p.word.pfn().0)?;
        let gap = s.gaps.iter().find(|g| g.table == p.table && g.slot > p.slot)?;
        (table.parents == 1).then_some((*p, *gap))
    })
}

fn table_twice_in_mm(image: &mut Image, s: &Scout) -> Option<()> {
    let (victim, gap) = lonely_pmd_entry(s)?;
    let word = victim.word.without(Pte::WRITE);
    set_entry(image, &victim, word)?;
    set_entry(image, &gap, word)?;
    set_refs(image, s, word.pfn().0, 2)?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

fn table_in_a_cycle(image: &mut Image, s: &Scout) -> Option<()> {
    let (victim, gap) = lonely_pmd_entry(s)?;
    let above = s.pointers.iter().find(|p| p.mm == victim.mm && p.word.pfn().0 == gap.table)?;
    let word = above.word.without(Pte::WRITE);
    set_entry(image, above, word)?;
    set_entry(image, &gap, word)?;
    set_refs(image, s, gap.table, 2)?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

// counters of tables and mms

fn present_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let table = s.graph.tables.iter().find(|t| t.level == Level::Pte)?;
    set_aux(image, s, table.pfn, u32::from(table.nonzero) + 1)
}

fn table_pages_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let pages = s.mms.first()?.table_pages;
    image.write_u64(s.mm_field(0, offset_of!(MmRec, table_pages)), pages + 1).then_some(())
}

// entry-bits-legal

fn set_leaf_bits(image: &mut Image, s: &Scout, bits: u64) -> Option<()> {
    let victim = s.leaves.first()?;
    set_entry(image, victim, victim.word.with(bits))
}

fn software_bit_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, 1 << 10)
}

fn high_address_bit_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, 1 << 51)
}

fn global_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, Pte::GLOBAL)
}

fn cache_disabled(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, Pte::NO_CACHE)
}

fn high_unused_bit_set(image: &mut Image, s: &Scout) -> Option<()> {
    set_leaf_bits(image, s, 1 << 58)
}

fn root_entry_huge(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = s.pointers.iter().find(|p| p.level == Level::Pgd)?;
    set_entry(image, victim, victim.word.with(Pte::HUGE))
}

fn marker_in_pmd(image: &mut Image, s: &Scout) -> Option<()> {
    let gap = s.gaps.iter().find(|g| g.level == Level::Pmd)?;
    set_entry(image, gap, Pte(Pte::WRITE))?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

// cpu-runs-its-mm

/// An online CPU in an mm: its number, and the address of its record.
fn busy_cpu(s: &Scout) -> Option<(usize, u64)> {
    let index = s.cpus.iter().position(|c| c.online && c.mm_slot != 0)?;
    Some((index, s.census.cpu_table + (index * size_of::<CpuRec>()) as u64))
}

fn cpu_claims_another_mm(image: &mut Image, s: &Scout) -> Option<()> {
    let (index, pa) = busy_cpu(s)?;
    let now = s.cpus[index].mm_slot;
    let other = s.mms.iter().map(|mm| u64::from(mm.id.slot) + 1).find(|slot| *slot != now).unwrap_or(0);
    image.write_u64(pa + offset_of!(CpuRec, mm_slot) as u64, other).then_some(())
}

fn cpu_missing_from_mask(image: &mut Image, s: &Scout) -> Option<()> {
    let (index, _) = busy_cpu(s)?;
    let mm = s.mms.iter().position(|mm| u64::from(mm.id.slot) + 1 == s.cpus[index].mm_slot)?;
    let mask = s.mms[mm].cpumask & !(1 << index);
    image.write_u64(s.mm_field(mm, offset_of!(MmRec, cpumask)), mask).then_some(())
}

// vma-list-sorted

fn vma_count_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let count = s.mms.first()?.vmas.len() as u64;
    image.write_u64(s.mm_field(0, offset_of!(MmRec, vma_count)), count + 1).then_some(())
}

fn vmas_swapped(image: &mut Image, s: &Scout) -> Option<()> {
    let mm = s.mms.iter().position(|mm| mm.vmas.len() > 1)?;
    let (a, b) = (s.vma_pa(image, mm, 0)?, s.vma_pa(image, mm, 1)?);
    for field in (0..size_of::<VmaRec>() as u64).step_by(8) {
        let (x, y) = (image.read_u64(a + field)?, image.read_u64(b + field)?);
        image.write_u64(a + field, y);
        image.write_u64(b + field, x);
    }
    Some(())
}

fn vma_end_unaligned(image: &mut Image, s: &Scout) -> Option<()> {
    let end = s.mms.first()?.vmas.first()?.end;
    let pa = s.vma_pa(image, 0, 0)? + offset_of!(VmaRec, end) as u64;
    image.write_u64(pa, end - 1).then_some(())
}

// census-is-sound

fn magic_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, magic), 1)
}

fn vma_index_wild(image: &mut Image, s: &Scout) -> Option<()> {
    image.write_u64(s.mm_field(0, offset_of!(MmRec, vma_index)), 0xdead_beef).then_some(())
}

fn frame_array_wild(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, frame_array), 1 << 50)
}

fn slots_absurd(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, mm_high), 1 << 40)
}
