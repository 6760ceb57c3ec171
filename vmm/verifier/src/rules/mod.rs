//! The rules: one file, one name, one invariant each. A file holds what there is to know about the rule as data, of which
//! `cargo xtask doc-rules` makes `docs/RULES.md`, and the functions that the walks call at the places that concern it.
//!
//! The formulations are independent of each other, so that one wrong book gives findings of one rule. Where a rule needs
//! a count it takes the judge's own (what the walk found), except the two rules whose subject is the guest's count.

use crate::report::RuleInfo;

pub(crate) mod census_is_sound;
pub(crate) mod cow_shared_closed_for_later;
pub(crate) mod cow_shared_entries_read_only;
pub(crate) mod cpu_runs_its_mm;
pub(crate) mod cpumask_has_cpu;
pub(crate) mod entry_bits_legal;
pub(crate) mod file_page_at_its_offset;
pub(crate) mod file_page_not_writable_privately;
pub(crate) mod frame_fits_vma;
pub(crate) mod frame_has_one_state;
pub(crate) mod frames_add_up;
pub(crate) mod free_blocks_disjoint;
pub(crate) mod free_frames_unreferenced;
pub(crate) mod hugetlb_leaf_aligned;
pub(crate) mod hugetlb_pmd_fits_object;
pub(crate) mod hugetlb_pmd_spans_one_vma;
pub(crate) mod hugetlb_pool_adds_up;
pub(crate) mod hugetlb_reservations_backed;
pub(crate) mod kernel_half_identical;
pub(crate) mod kvm_translate_agrees;
pub(crate) mod leaf_refs_equal_maps;
pub(crate) mod mapped_file_page_in_cache;
pub(crate) mod mm_table_pages;
pub(crate) mod no_entry_outside_vma;
pub(crate) mod no_user_path_to_kernel;
pub(crate) mod object_shared_tables_uniform;
pub(crate) mod object_table_keeps_place;
pub(crate) mod object_table_spans_one_vma;
pub(crate) mod page_tables_counted_once;
pub(crate) mod pages_reachable;
pub(crate) mod pointers_reach_tables;
pub(crate) mod private_page_shared_not_writable;
pub(crate) mod proc_numbers_equal_walk;
pub(crate) mod prot_none_closed;
pub(crate) mod reverse_map_equals_walk;
pub(crate) mod rights_within_vma;
pub(crate) mod roots_not_shared;
pub(crate) mod shared_table_unchanged;
pub(crate) mod sharers_agree;
pub(crate) mod sharers_at_one_address;
pub(crate) mod table_level;
pub(crate) mod table_once_in_mm;
pub(crate) mod table_present_count;
pub(crate) mod table_refs_equal_parents;
pub(crate) mod tables_reachable;
pub(crate) mod user_bit_by_half;
pub(crate) mod userfaultfd_owns_tables;
pub(crate) mod vma_list_sorted;
pub(crate) mod vma_rights_allowed;
pub(crate) mod zero_page_not_writable;

/// Every rule, in the order of documents and reports.
static RULES: &[RuleInfo] = &[
    table_refs_equal_parents::RULE,
    pointers_reach_tables::RULE,
    table_level::RULE,
    table_once_in_mm::RULE,
    roots_not_shared::RULE,
    tables_reachable::RULE,
    table_present_count::RULE,
    mm_table_pages::RULE,
    page_tables_counted_once::RULE,
    proc_numbers_equal_walk::RULE,
    reverse_map_equals_walk::RULE,
    cow_shared_entries_read_only::RULE,
    cow_shared_closed_for_later::RULE,
    sharers_at_one_address::RULE,
    sharers_agree::RULE,
    private_page_shared_not_writable::RULE,
    zero_page_not_writable::RULE,
    file_page_not_writable_privately::RULE,
    shared_table_unchanged::RULE,
    rights_within_vma::RULE,
    prot_none_closed::RULE,
    no_entry_outside_vma::RULE,
    frame_fits_vma::RULE,
    file_page_at_its_offset::RULE,
    mapped_file_page_in_cache::RULE,
    object_shared_tables_uniform::RULE,
    object_table_spans_one_vma::RULE,
    object_table_keeps_place::RULE,
    hugetlb_leaf_aligned::RULE,
    hugetlb_pmd_spans_one_vma::RULE,
    hugetlb_pmd_fits_object::RULE,
    hugetlb_pool_adds_up::RULE,
    hugetlb_reservations_backed::RULE,
    userfaultfd_owns_tables::RULE,
    no_user_path_to_kernel::RULE,
    user_bit_by_half::RULE,
    kernel_half_identical::RULE,
    entry_bits_legal::RULE,
    leaf_refs_equal_maps::RULE,
    free_frames_unreferenced::RULE,
    frame_has_one_state::RULE,
    frames_add_up::RULE,
    free_blocks_disjoint::RULE,
    pages_reachable::RULE,
    cpu_runs_its_mm::RULE,
    cpumask_has_cpu::RULE,
    kvm_translate_agrees::RULE,
    vma_list_sorted::RULE,
    vma_rights_allowed::RULE,
    census_is_sound::RULE,
];

/// Every rule that [`crate::verify`] checks.
pub fn rules() -> &'static [RuleInfo] {
    RULES
}
