//! The rules: one file, one name, one invariant each. A file holds the rule's statement, why it matters, what it reads,
//! and the functions that the walks call at the places that concern it.
//!
//! The formulations are independent of each other, so that one wrong book gives findings of one rule. Where a rule needs
//! a count it takes the judge's own (what the walk found), except the two rules whose subject is the guest's count.

use crate::report::RuleInfo;

pub(crate) mod census_is_sound;
pub(crate) mod cow_shared_entries_read_only;
pub(crate) mod cpu_runs_its_mm;
pub(crate) mod entry_bits_legal;
pub(crate) mod frame_fits_vma;
pub(crate) mod frame_has_one_state;
pub(crate) mod frames_add_up;
pub(crate) mod free_frames_unreferenced;
pub(crate) mod hugetlb_leaf_aligned;
pub(crate) mod hugetlb_pmd_fits_object;
pub(crate) mod hugetlb_pool_adds_up;
pub(crate) mod kernel_half_identical;
pub(crate) mod leaf_refs_equal_maps;
pub(crate) mod mm_table_pages;
pub(crate) mod no_entry_outside_vma;
pub(crate) mod no_user_path_to_kernel;
pub(crate) mod object_shared_tables_uniform;
pub(crate) mod private_page_shared_not_writable;
pub(crate) mod rights_within_vma;
pub(crate) mod sharers_agree;
pub(crate) mod table_level;
pub(crate) mod table_present_count;
pub(crate) mod table_refs_equal_parents;
pub(crate) mod userfaultfd_owns_tables;
pub(crate) mod vma_list_sorted;

/// Every rule, in the order of design and report.
static RULES: [RuleInfo; 25] = [
    table_refs_equal_parents::RULE,
    leaf_refs_equal_maps::RULE,
    cow_shared_entries_read_only::RULE,
    object_shared_tables_uniform::RULE,
    sharers_agree::RULE,
    private_page_shared_not_writable::RULE,
    rights_within_vma::RULE,
    no_entry_outside_vma::RULE,
    frame_fits_vma::RULE,
    no_user_path_to_kernel::RULE,
    kernel_half_identical::RULE,
    free_frames_unreferenced::RULE,
    frame_has_one_state::RULE,
    frames_add_up::RULE,
    table_level::RULE,
    table_present_count::RULE,
    mm_table_pages::RULE,
    entry_bits_legal::RULE,
    hugetlb_leaf_aligned::RULE,
    hugetlb_pmd_fits_object::RULE,
    hugetlb_pool_adds_up::RULE,
    userfaultfd_owns_tables::RULE,
    cpu_runs_its_mm::RULE,
    vma_list_sorted::RULE,
    census_is_sound::RULE,
];

/// Every rule that [`crate::verify`] checks.
pub fn rules() -> &'static [RuleInfo] {
    &RULES
}
