//! Reverse maps and the numbers of /proc.

use std::mem::{offset_of, size_of};

use ptshare_wire::answers::{FrameAnswer, PlaceAnswer, UsageAnswer};
use ptshare_wire::{Answers, CensusHeader, FrameKind, FrameMeta, MmRec, Stats};

use super::{add_to_header, leaf};
use crate::testing::scout::Scout;
use crate::view::{Image, PhysView};

/// Where the answers are, in a guest that has such a place.
fn area(s: &Scout) -> Option<u64> {
    (s.census.answers != 0).then_some(s.census.answers)
}

fn add(image: &mut Image, pa: u64, by: u64) -> Option<()> {
    let old = image.read_u64(pa)?;
    image.write_u64(pa, old.wrapping_add(by)).then_some(())
}

// reverse-map-equals-walk

pub(super) fn page_index_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.maps(p, FrameKind::Anon))?;
    add(image, s.meta(victim.word.pfn().0, offset_of!(FrameMeta, b)), 1)
}

pub(super) fn page_family_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    let victim = leaf(s, |p| s.maps(p, FrameKind::Anon))?;
    add(image, s.meta(victim.word.pfn().0, offset_of!(FrameMeta, a)), 1 << 40)
}

pub(super) fn mm_family_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    // An mm whose tables are shared: the other sharers are as they should be.
    let victim = leaf(s, |p| p.shared && s.maps(p, FrameKind::Anon))?;
    add(image, s.mm_field(victim.mm, offset_of!(MmRec, family)), 1 << 40)
}

/// The first answer for a frame with places: its number, and where its record is.
fn answered(image: &Image, s: &Scout) -> Option<u64> {
    let area = area(s)?;
    let frames = image.read_u64(area + offset_of!(Answers, frames) as u64)?;
    let record = |i: u64| area + offset_of!(Answers, frame) as u64 + i * size_of::<FrameAnswer>() as u64;
    let places = |at: u64| image.read_u64(at + offset_of!(FrameAnswer, places) as u64).unwrap_or(0);
    (0..frames).map(record).find(|at| places(*at) > 0)
}

pub(super) fn answer_misses_a_place(image: &mut Image, s: &Scout) -> Option<()> {
    let at = answered(image, s)?;
    add(image, at + offset_of!(FrameAnswer, places) as u64, u64::MAX)
}

pub(super) fn answer_invents_a_place(image: &mut Image, s: &Scout) -> Option<()> {
    let at = answered(image, s)?;
    let first = image.read_u64(at + offset_of!(FrameAnswer, first) as u64)?;
    let place =
        s.census.answers + offset_of!(Answers, place) as u64 + first * size_of::<PlaceAnswer>() as u64;
    add(image, place + offset_of!(PlaceAnswer, va) as u64, 1 << 12)
}

// proc-numbers-equal-walk

fn usage(image: &mut Image, s: &Scout, field: usize) -> Option<()> {
    let area = area(s)?;
    let usages = image.read_u64(area + offset_of!(Answers, usages) as u64)?;
    (usages > 0).then_some(())?;
    add(image, area + (offset_of!(Answers, usage) + field) as u64, 1 << 20)
}

pub(super) fn rss_anon_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    usage(image, s, offset_of!(UsageAnswer, rss_anon))
}

pub(super) fn rss_object_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    usage(image, s, offset_of!(UsageAnswer, rss_object))
}

pub(super) fn hugetlb_pages_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    usage(image, s, offset_of!(UsageAnswer, hugetlb))
}

pub(super) fn vmpte_shared_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    usage(image, s, offset_of!(UsageAnswer, tables_shared))
}

pub(super) fn vmpte_prop_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    usage(image, s, offset_of!(UsageAnswer, tables_prop))
}

pub(super) fn numbers_of_nobody(image: &mut Image, s: &Scout) -> Option<()> {
    usage(image, s, offset_of!(UsageAnswer, slot))
}

// page-tables-counted-once

pub(super) fn page_tables_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, stats) + offset_of!(Stats, tables_now), 1)
}

pub(super) fn shared_tables_wrong(image: &mut Image, s: &Scout) -> Option<()> {
    add_to_header(image, s, offset_of!(CensusHeader, stats) + offset_of!(Stats, tables_shared_now), 1)
}

// census-is-sound

pub(super) fn answers_absurd(image: &mut Image, s: &Scout) -> Option<()> {
    add(image, area(s)? + offset_of!(Answers, frames) as u64, 1 << 32)
}
