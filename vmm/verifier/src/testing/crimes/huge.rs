//! Corruptions of hugetlb pages and of the tables that map them.

use std::mem::{offset_of, size_of};

use ptshare_paging::{Level, Pfn, Pte};
use ptshare_wire::frame::{FLAG_OBJECT_PMD, FLAG_POOL_FREE, FrameKind, OBJECT_PMD_RIGHTS_SHIFT, state};
use ptshare_wire::vma::{VM_EXEC, VM_HUGE_1GB, VM_HUGETLB, VM_MAYSHARE};
use ptshare_wire::{CensusHeader, FrameMeta, HugeSize, HugetlbCounts, MmRec, VmaRec};

use super::entries::plant;
use super::{add_to_header, first_frame, leaf, set_aux, set_entry, set_refs, set_state};
use crate::testing::scout::{Place, Scout};
use crate::view::{Image, PhysView};

/// The head of a hugetlb page, free in the pool or in use.
fn head(s: &Scout, free: bool) -> Option<u64> {
    first_frame(s, |_, f| {
        f.kind() == Some(FrameKind::Hugetlb)
            && (f.state & FLAG_POOL_FREE != 0) == free
            && (free || f.maps > 0)
    })
}

pub(super) fn small_leaf_to_huge_page(image: &mut Image, s: &Scout) -> Option<()> {
    let head = head(s, false)?;
    plant(image, s, head)?;
    set_refs(image, s, head, s.frames.get(head)?.refs + 1)
}

/// A PMD page of an object that several mms share.
fn object_pmd(s: &Scout) -> Option<u64> {
    let objects = |pfn| s.frames.get(pfn).is_some_and(|f| f.state & FLAG_OBJECT_PMD != 0);
    s.graph.tables.iter().find(|t| t.level == Level::Pmd && t.parents > 1 && objects(t.pfn)).map(|t| t.pfn)
}

/// The last 2 MiB of the GiB leave every VMA over the table.
pub(super) fn object_pmd_sticks_out(image: &mut Image, s: &Scout) -> Option<()> {
    let table = object_pmd(s)?;
    if image.read_u64(table * 4096 + 511 * 8) != Some(0) {
        return None;
    }
    for user in s.pointers.iter().filter(|p| p.word.pfn().0 == table) {
        let end = user.va + user.level.entry_bytes();
        let (index, _) = s.vmas_over(user).find(|(_, v)| v.end == end)?;
        let pa = s.vma_pa(image, user.mm, index)? + offset_of!(VmaRec, end) as u64;
        image.write_u64(pa, end - (2 << 20));
    }
    Some(())
}

pub(super) fn object_pmd_key_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let pa = s.meta(object_pmd(s)?, offset_of!(FrameMeta, a));
    let key = image.read_u64(pa)?;
    image.write_u64(pa, key + 1).then_some(())
}

pub(super) fn object_pmd_rights_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, object_pmd(s)?, |old| old ^ (VM_EXEC as u32) << OBJECT_PMD_RIGHTS_SHIFT)
}

pub(super) fn object_pmd_called_ordinary(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, object_pmd(s)?, |old| old & !FLAG_OBJECT_PMD)
}

/// Where the header has a count of the pool of this size.
fn count(size: HugeSize, field: usize) -> usize {
    offset_of!(CensusHeader, hugetlb) + size.index() * size_of::<HugetlbCounts>() + field
}

pub(super) fn hugetlb_total_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, count(HugeSize::Mib2, offset_of!(HugetlbCounts, total)), 1)
}

fn reserve_too_many(image: &mut Image, s: &Scout, size: HugeSize) -> Option<()> {
    let pool = s.census.hugetlb[size.index()];
    let by = pool.free - pool.reserved + 1;
    add_to_header(image, s, count(size, offset_of!(HugetlbCounts, reserved)), by)
}

pub(super) fn hugetlb_reserved_too_many(image: &mut Image, s: &Scout) -> Option<()> {
    reserve_too_many(image, s, HugeSize::Mib2)
}

pub(super) fn hugetlb_reserved_for_nobody(image: &mut Image, s: &Scout) -> Option<()> {
    let pool = s.census.hugetlb[0];
    (pool.reserved < pool.free || pool.promised > 0).then_some(())?;
    add_to_header(image, s, count(HugeSize::Mib2, offset_of!(HugetlbCounts, promised)), 1)
}

/// An object's promise becomes that of an mm that has nothing to reserve.
pub(super) fn hugetlb_reserved_beyond_mappings(image: &mut Image, s: &Scout) -> Option<()> {
    (s.census.hugetlb[0].promised > 0).then_some(())?;
    let mm = s
        .mms
        .iter()
        .position(|mm| mm.vmas.iter().all(|vma| vma.flags & (VM_HUGETLB | VM_MAYSHARE) != VM_HUGETLB))?;
    let at = s.mm_field(mm, offset_of!(MmRec, hugetlb_reserved));
    add_to_header(image, s, count(HugeSize::Mib2, offset_of!(HugetlbCounts, promised)), u64::MAX)?;
    image.write_u64(at, s.mms[mm].hugetlb_reserved[0] + 1).then_some(())
}

pub(super) fn pool_page_lost(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, head(s, true)?, |old| old & !FLAG_POOL_FREE)
}

pub(super) fn huge_tail_has_state(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, head(s, true)? + 7, |_| state(FrameKind::Cache, 0, 0))
}

pub(super) fn hugetlb_page_of_no_size(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, head(s, true)?, |old| old + (1 << 8))
}

// Pages of 1 GiB

/// The head of a page of 1 GiB in use, an object's or not.
fn gib_head(s: &Scout, cached: bool) -> Option<u64> {
    first_frame(s, |_, f| f.huge_size() == Some(HugeSize::Gib1) && f.maps > 0 && f.in_cache() == cached)
}

/// A leaf of 2 MiB, next to another one, maps part of an object's page of 1 GiB.
pub(super) fn middle_leaf_to_larger_page(image: &mut Image, s: &Scout) -> Option<()> {
    let head = gib_head(s, true)?;
    let is_neighbour = |p: &&Place| p.level == Level::Pmd && p.word.has(Pte::HUGE);
    let gap = s.gaps.iter().find(|gap| {
        gap.level == Level::Pmd
            && s.vma_has(gap, VM_HUGETLB, VM_HUGE_1GB)
            && s.leaves.iter().filter(is_neighbour).any(|leaf| leaf.table == gap.table)
    })?;
    let model = s.leaves.iter().filter(is_neighbour).find(|leaf| leaf.table == gap.table)?;
    set_entry(image, gap, Pte::new(Pfn(head), model.word.0 & !Pte::ADDR))?;
    set_refs(image, s, head, s.frames.get(head)?.refs + 1)?;
    set_aux(image, s, gap.table, s.frames.get(gap.table)?.aux + 1)
}

/// A VMA of pages of 1 GiB says that they are of 2 MiB.
pub(super) fn vma_of_1_gib_called_2_mib(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| p.level == Level::Pud && s.vma_has(p, VM_HUGE_1GB, 0))?;
    let (index, vma) = s.vma(victim)?;
    let pa = s.vma_pa(image, victim.mm, index)? + offset_of!(VmaRec, flags) as u64;
    image.write_u64(pa, vma.flags & !VM_HUGE_1GB).then_some(())
}

pub(super) fn gib_pool_total_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    gib_head(s, true)?;
    add_to_header(image, s, count(HugeSize::Gib1, offset_of!(HugetlbCounts, total)), 1)
}

pub(super) fn gib_page_reserved_without_one(image: &mut Image, s: &Scout) -> Option<()> {
    gib_head(s, true)?;
    reserve_too_many(image, s, HugeSize::Gib1)
}

pub(super) fn gib_page_refs_one_more(image: &mut Image, s: &Scout) -> Option<()> {
    let head = gib_head(s, false)?;
    set_refs(image, s, head, s.frames.get(head)?.refs + 1)
}

/// A private page of 1 GiB that two processes have is opened for one.
pub(super) fn shared_private_gib_made_writable(image: &mut Image, s: &Scout) -> Option<()> {
    let private = |p: &Place| s.target(p).is_some_and(|f| !f.in_cache() && f.maps > 1);
    let victim = leaf(s, |p| p.level == Level::Pud && p.open && private(p))?;
    set_entry(image, victim, victim.word.with(Pte::WRITE))
}
