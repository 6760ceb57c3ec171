//! Seeded corruptions: each breaks one book of an image and leaves the others right, so that one rule reports.
//!
//! They look for a victim through the census, and so work on synthetic and on captured images; one that finds none says
//! so. A corruption that fits no image of the test suite is a gap in the suite.

mod answers;
mod books;
mod entries;
mod frames;
mod huge;
mod sharing;

use std::collections::BTreeSet;
use std::mem::offset_of;

use ptshare_paging::Pte;
use ptshare_wire::FrameMeta;

use super::scout::{Place, Scout};
use crate::report::Finding;
use crate::view::{Image, PhysView};
use crate::{Aids, History, Options, Vcpu, verify_with};
use answers::*;
use books::*;
use entries::*;
use frames::*;
use huge::*;
use sharing::*;

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

/// Most samples of addresses taken.
const SAMPLES: u64 = 200;

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
    CORRUPTIONS.iter().map(|corruption| corrupt(corruption, image, census_pa, vcpus)).collect()
}

/// Tries one corruption on a copy of `image`, which must be clean.
pub fn corrupt(corruption: &'static Corruption, image: &Image, census_pa: u64, vcpus: &[Vcpu]) -> Trial {
    let mut broken = image.clone();
    if !(corruption.apply)(&mut broken, census_pa) {
        return Trial { corruption, verdict: Verdict::NoVictim };
    }
    let options = Options::default();
    let mut history = History::default();
    let mut translate = translator(image, vcpus);
    let mut aids = Aids::default();
    match corruption.rule {
        "shared-table-unchanged" => {
            let first = Aids { history: Some(&mut history), ..Aids::default() };
            verify_with(image, census_pa, vcpus, &options, first);
            aids.history = Some(&mut history);
        }
        "kvm-translate-agrees" => aids.translate = Some(&mut translate),
        _ => {}
    }
    let mut report = verify_with(&broken, census_pa, vcpus, &options, aids);
    // A sample may miss the one address that is wrong; many do not.
    for seed in 1..SAMPLES {
        if corruption.rule != "kvm-translate-agrees" || !report.findings.is_empty() {
            break;
        }
        let aids = Aids { translate: Some(&mut translate), seed, ..Aids::default() };
        report = verify_with(&broken, census_pa, vcpus, &options, aids);
    }
    let rules: BTreeSet<&str> = report.findings.iter().map(|f| f.rule).collect();
    let caught = rules.len() == 1 && rules.contains(corruption.rule);
    let verdict = if caught { Verdict::Caught } else { Verdict::Wrong(report.findings) };
    Trial { corruption, verdict }
}

/// Translates as the vCPUs would in `image`.
fn translator(image: &Image, vcpus: &[Vcpu]) -> impl FnMut(u32, &[u64]) -> Result<Vec<Option<u64>>, String> {
    move |index, addresses| {
        let vcpu = vcpus.iter().find(|vcpu| vcpu.index == index).ok_or("there is no such vCPU")?;
        let root = Pte(vcpu.cr3).pfn().0;
        Ok(addresses.iter().map(|va| crate::opinion::translate(image, root, *va)).collect())
    }
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
    "pointers-reach-tables": table_freed table_called_anon pointer_to_reserved_memory;
    "table-level": level_wrong table_in_a_cycle;
    "table-once-in-mm": table_twice_in_mm;
    "roots-not-shared": two_records_name_one_root;
    "tables-reachable": table_lost;
    "table-present-count": present_count_wrong;
    "mm-table-pages": table_pages_wrong;
    "page-tables-counted-once": page_tables_wrong shared_tables_wrong;
    "proc-numbers-equal-walk": rss_anon_wrong rss_object_wrong hugetlb_pages_wrong vmpte_shared_wrong vmpte_prop_wrong
        numbers_of_nobody;
    "reverse-map-equals-walk": page_index_wrong page_family_wrong mm_family_wrong answer_misses_a_place
        answer_invents_a_place;
    "cow-shared-entries-read-only": shared_entry_made_writable;
    "cow-shared-closed-for-later": read_only_shared_entry_made_writable;
    "sharers-at-one-address": shared_table_moved;
    "sharers-agree": sharer_vma_changed sharer_vma_extended;
    "private-page-shared-not-writable": shared_private_page_made_writable shared_private_gib_made_writable;
    "zero-page-not-writable": zero_page_made_writable;
    "file-page-not-writable-privately": private_file_page_made_writable;
    "shared-table-unchanged": shared_table_gets_another_page shared_table_loses_a_page shared_leaf_made_writable;
    "rights-within-vma": leaf_made_executable leaf_made_writable vma_made_read_only;
    "prot-none-closed": vma_made_prot_none;
    "no-entry-outside-vma": vma_shortened leaf_moved_outside;
    "frame-fits-vma": anon_page_called_cached vma_of_1_gib_called_2_mib;
    "file-page-at-its-offset": cache_index_wrong;
    "mapped-file-page-in-cache": mapped_page_left_its_cache;
    "object-shared-tables-uniform": object_entry_made_read_only object_table_maps_a_private_page;
    "object-table-spans-one-vma": object_table_sticks_out;
    "object-table-keeps-place": object_table_says_another_page;
    "hugetlb-leaf-aligned": small_leaf_to_huge_page middle_leaf_to_larger_page;
    "hugetlb-pmd-spans-one-vma": object_pmd_sticks_out;
    "hugetlb-pmd-fits-object": object_pmd_key_wrong object_pmd_rights_wrong object_pmd_called_ordinary;
    "hugetlb-pool-adds-up": hugetlb_total_wrong pool_page_lost huge_tail_has_state hugetlb_page_of_no_size
        gib_pool_total_wrong;
    "hugetlb-reservations-backed": hugetlb_reserved_too_many hugetlb_reserved_for_nobody
        hugetlb_reserved_beyond_mappings gib_page_reserved_without_one;
    "userfaultfd-owns-tables": shared_table_watched protect_mark_outside protect_mark_writable
        protect_marker_outside;
    "no-user-path-to-kernel": leaf_to_kernel_frame leaf_to_table leaf_to_reserved_memory leaf_to_nowhere;
    "user-bit-by-half": leaf_made_supervisor pointer_made_supervisor kernel_half_made_user;
    "kernel-half-identical": kernel_entry_missing;
    "entry-bits-legal": software_bit_set high_address_bit_set global_set cache_disabled high_unused_bit_set
        root_entry_huge marker_in_pmd;
    "leaf-refs-equal-maps": anon_refs_one_more anon_refs_zero cache_reference_forgotten zero_page_hold_forgotten
        leaf_cleared_without_put gib_page_refs_one_more;
    "free-frames-unreferenced": leaf_to_free_frame leaf_to_virgin_frame free_frame_counted mapped_frame_freed;
    "frame-has-one-state": kind_unknown second_zero_page;
    "frames-add-up": free_count_wrong kernel_count_wrong;
    "free-blocks-disjoint": block_order_wrong;
    "pages-reachable": page_lost;
    "cpu-runs-its-mm": cpu_claims_another_mm;
    "cpumask-has-cpu": cpu_missing_from_mask;
    "kvm-translate-agrees": pages_swapped;
    "vma-list-sorted": vma_count_wrong vmas_swapped vma_end_unaligned;
    "vma-rights-allowed": vma_right_not_allowed;
    "census-is-sound": magic_wrong vma_index_wild frame_array_wild slots_absurd answers_absurd;
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
fn leaf(s: &Scout, fits: impl Fn(&Place) -> bool) -> Option<&Place> {
    s.leaves.iter().find(|p| fits(p))
}

fn first_frame(s: &Scout, fits: impl Fn(u64, &crate::frames::Frame) -> bool) -> Option<u64> {
    s.frames.iter().find(|(pfn, f)| fits(*pfn, f)).map(|(pfn, _)| pfn)
}
