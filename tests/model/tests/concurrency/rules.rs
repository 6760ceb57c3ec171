//! Which rule of the locking protocol which case is about, and that each of these cases exists.
//!
//! The rules are those of ARCHITECTURE.md ("Lock order", "Several CPUs"), of `guest/sync/src/rank.rs`, and of the comments
//! that rely on them. Next to each stand the cases that fail when it is broken, and how that was seen: a mutant of
//! `shared/mutants` that some case here must find, a mistake of the arena's (`mistakes.rs`), or a change that was tried by
//! hand.

/// A rule: what it says, the cases, what breaks it.
type Rule = (&'static str, &'static [&'static str], &'static str);

const RULES: &[Rule] = &[
    (
        "locks are taken in the order of their ranks, on every processor",
        &[
            "faults::sharers_write_at_once",
            "objects::fork_meets_truncate",
            "huge::faults_meet_a_punched_hole",
        ],
        "any lock taken out of order: the check in `ptshare_sync::rank` is on in every case",
    ),
    (
        "`mmap_lock` is held over a whole change of VMAs with their tables, and over fork",
        &["faults::a_thread_reads_while_another_unmaps_and_maps", "userfault::registration_meets_fork"],
        "mutant uffd-marks-later",
    ),
    (
        "who begins to map an object is on its list, under `i_mmap`, before it has a leaf, and truncate looks at the list again",
        &["objects::fork_of_private_pages_meets_truncate", "objects::fork_meets_truncate"],
        "mutant truncate-trusts-first-list",
    ),
    (
        "a fault on an object looks at its size again when its leaf is in place, or under the lock that truncate needs",
        &["objects::faults_meet_truncate", "huge::faults_meet_truncate_of_huge_pages"],
        "the huge fault without its second look left a page mapped behind the end",
    ),
    (
        "a huge page that truncate takes from its object takes its own promise with it, in one step",
        &["huge::truncates_meet_each_other_and_faults"],
        "the promises counted apart from the pages, as they were before this case",
    ),
    (
        "an upper entry changes under `page_table_lock`, and two threads that unshare one table make one copy",
        &["faults::threads_unshare_while_a_sharer_reads_and_exits", "faults::sharers_write_at_once"],
        "`Mm::build_path` without the lock",
    ),
    (
        "a leaf is looked at and written under the lock of its table, whoever shares the table",
        &["faults::first_faults_meet", "faults::a_thread_writes_while_another_discards"],
        "mutant leaf-written-after-unlock",
    ),
    (
        "a table's count is changed in one step, and who brings it to 0 frees it",
        &[
            "exits::the_last_two_sharers_drop_at_once",
            "exits::a_sharer_writes_while_the_others_exit",
            "exits::a_sharer_forks_while_another_exits",
        ],
        "mutant table-count-not-atomic",
    ),
    (
        "a table of an object is found, and counted, under the registry's lock, and so is its last reference dropped",
        &[
            "objects::two_first_faults_find_one_table",
            "objects::a_search_meets_the_end_of_the_last_user",
            "objects::one_leaves_while_others_fill_and_find",
        ],
        "mutants object-found-unlocked, object-left-unlocked",
    ),
    (
        "a PMD page whose count is 0 is not taken over",
        &[
            "huge::a_search_meets_the_end_of_the_last_user",
            "huge::one_takes_out_while_others_take_over_and_fork",
            "huge::the_last_two_users_leave_at_once",
        ],
        "mutant pmd-takes-dying-table",
    ),
    (
        "a flush reaches every processor on which the mm runs",
        &["mistakes::a_lost_flush_is_found"],
        "`Arena::lose_remote_flushes`",
    ),
    (
        "who asks for a flush goes on when all have answered",
        &["mistakes::a_flush_that_nobody_waits_for_is_found"],
        "`Arena::ignore_answers`",
    ),
    (
        "a processor that waits for a lock, or for an answer, answers",
        &["mistakes::cpus_flush_each_other_at_once", "mistakes::cpus_that_wait_and_do_not_answer_are_found"],
        "`Arena::answer_in_user_mode_only`",
    ),
    (
        "a page or table is free after the flush, not before",
        &["faults::a_page_is_reused_while_others_write"],
        "mutant freed-before-flush",
    ),
    (
        "unsharing a table flushes the mm that has a copy now",
        &[
            "faults::nobody_walks_through_a_table_that_was_left",
            "faults::a_sharer_writes_while_a_table_moves",
        ],
        "mutant unshare-flush-skipped",
    ),
    (
        "copying a page flushes the mm that has a copy now",
        &["faults::a_thread_reads_what_another_has_copied"],
        "mutant cow-flush-skipped",
    ),
    (
        "a right that is taken away is gone on every processor when mprotect or fork returns",
        &[
            "faults::a_thread_writes_while_another_takes_the_right",
            "faults::a_thread_writes_while_another_forks",
        ],
        "`Arena::lose_remote_flushes`",
    ),
    (
        "a walk without a lock begins anew if its processor has answered since",
        &[
            "faults::a_walk_meets_the_end_of_the_tables_it_is_in",
            "mistakes::a_walk_that_forgets_about_answers_is_found",
        ],
        "mutant walk-ignores-answers, `Arena::hide_answers`",
    ),
    (
        "who looks at the tables of an mm that its CPU does not run holds `page_table_lock`, for no flush waits for that CPU",
        &["rmap::a_look_from_outside_meets_unsharing_and_exit"],
        "the look without the lock",
    ),
    (
        "truncate and hole punching clear an object's tables in place, once for all, and flush every processor",
        &["objects::faults_meet_a_punched_hole", "huge::faults_meet_a_punched_hole"],
        "mutant truncate-flush-skipped",
    ),
    (
        "a search for mappings passes over mms that are on their way out, and misses none that maps the page all the time",
        &["rmap::a_search_meets_fork_unmap_and_exit", "rmap::a_search_meets_exec"],
        "mutant rmap-stops-at-dead",
    ),
    (
        "an mm is off the list of all mms before its slot can be another's",
        &["rmap::a_slot_changes_hands"],
        "`Mm::drop` with `mms().lock().remove` behind `return_mm_slot`",
    ),
];

/// The files of this test, by module.
const FILES: &[(&str, &str)] = &[
    ("exits", include_str!("exits.rs")),
    ("faults", include_str!("faults.rs")),
    ("huge", include_str!("huge.rs")),
    ("mistakes", include_str!("mistakes.rs")),
    ("objects", include_str!("objects.rs")),
    ("rmap", include_str!("rmap.rs")),
    ("userfault", include_str!("userfault.rs")),
];

/// The cases of a file: functions that are marked as tests.
fn cases(text: &str) -> Vec<&str> {
    let after_mark = text.split("#[test]\nfn ").skip(1);
    after_mark.filter_map(|rest| rest.split('(').next()).collect()
}

#[test]
fn every_case_that_a_rule_names_exists() {
    for (rule, named, _) in RULES {
        assert!(!named.is_empty(), "no case for: {rule}");
        for name in *named {
            let (module, case) = name.split_once("::").unwrap();
            let file = FILES.iter().find(|file| file.0 == module);
            assert!(
                file.is_some_and(|file| cases(file.1).contains(&case)),
                "{rule}: there is no case {name}"
            );
        }
    }
}

#[test]
fn every_case_is_about_a_rule() {
    for (module, text) in FILES {
        for case in cases(text).into_iter().filter(|case| *case != "without_a_mistake_they_pass") {
            let name = format!("{module}::{case}");
            assert!(RULES.iter().any(|rule| rule.1.contains(&name.as_str())), "{name} is about no rule");
        }
    }
}

/// A mutant that the table names is one, and those that are played under the scheduler name a case of their rule.
#[test]
fn mutants_that_rules_name_exist() {
    for (rule, named, broken) in RULES {
        let words = broken.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        for word in words.filter(|word| word.contains('-')) {
            let mutant = ptshare_mutants::all().find(|mutant| mutant.name == word);
            assert!(mutant.is_some(), "{rule}: there is no mutant {word}");
            let played = mutant.into_iter().flat_map(|m| m.runs).filter(|run| run.0.schedules);
            for program in played.flat_map(|run| run.1) {
                assert!(named.contains(program), "{rule}: {word} is found by {program}");
            }
        }
    }
}

/// Every mutant that is played under the scheduler breaks a rule of the table.
#[test]
fn every_mutant_of_the_schedules_breaks_a_rule() {
    let played = |mutant: &&ptshare_mutants::Mutant| mutant.runs.iter().any(|run| run.0.schedules);
    for mutant in ptshare_mutants::all().filter(played) {
        assert!(RULES.iter().any(|rule| rule.2.contains(mutant.name)), "{} breaks no rule", mutant.name);
    }
}
