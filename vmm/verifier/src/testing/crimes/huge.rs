//! Corruptions of hugetlb pages and of the tables that map them.

use std::mem::offset_of;

use ptshare_paging::Level;
use ptshare_wire::frame::{FLAG_OBJECT_PMD, FLAG_POOL_FREE, FrameKind, OBJECT_PMD_RIGHTS_SHIFT, state};
use ptshare_wire::vma::{VM_EXEC, VM_HUGETLB, VM_MAYSHARE};
use ptshare_wire::{CensusHeader, FrameMeta, MmRec, VmaRec};

use super::entries::plant;
use super::{add_to_header, first_frame, set_refs, set_state};
use crate::testing::scout::Scout;
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

pub(super) fn hugetlb_total_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, hugetlb_total), 1)
}

pub(super) fn hugetlb_reserved_too_many(image: &mut Image, s: &Scout) -> Option<()> {
    let [_, free, reserved, _] = s.census.hugetlb;
    add_to_header(image, s, offset_of!(CensusHeader, hugetlb_reserved), free - reserved + 1)
}

pub(super) fn hugetlb_reserved_for_nobody(image: &mut Image, s: &Scout) -> Option<()> {
    let [_, free, reserved, _] = s.census.hugetlb;
    (reserved < free || s.census.hugetlb_promised > 0).then_some(())?;
    add_to_header(image, s, offset_of!(CensusHeader, hugetlb_promised), 1)
}

/// An object's promise becomes that of an mm that has nothing to reserve.
pub(super) fn hugetlb_reserved_beyond_mappings(image: &mut Image, s: &Scout) -> Option<()> {
    (s.census.hugetlb_promised > 0).then_some(())?;
    let mm = s
        .mms
        .iter()
        .position(|mm| mm.vmas.iter().all(|vma| vma.flags & (VM_HUGETLB | VM_MAYSHARE) != VM_HUGETLB))?;
    let at = s.mm_field(mm, offset_of!(MmRec, hugetlb_reserved));
    add_to_header(image, s, offset_of!(CensusHeader, hugetlb_promised), u64::MAX)?;
    image.write_u64(at, s.mms[mm].hugetlb_reserved + 1).then_some(())
}

pub(super) fn pool_page_lost(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, head(s, true)?, |old| old & !FLAG_POOL_FREE)
}

pub(super) fn huge_tail_has_state(image: &mut Image, s: &Scout) -> Option<()> {
    set_state(image, s, head(s, true)? + 7, |_| state(FrameKind::Cache, 0, 0))
}
