//! The schedules find what is wrong: with flushes that do not reach the other processors, or that nobody waits for, some
//! case fails.

use crate::faults::overtaken_walk;
use crate::harness::{Case, PROT_READ, cpu, explore, explore_by_priority, place, store};
use ptshare_mm::testing::Arena;
use ptshare_mm::{FaultOutcome, Sharing};
use ptshare_paging::PAGE_BYTES;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A thread writes to a page whose right to write another takes.
fn written_after_mprotect(mistake: Option<fn(&Arena)>) {
    explore(move || {
        let case = Case::new(500);
        let mm = case.parent(1);
        if let Some(make) = mistake {
            make(&case.arena);
        }
        let at = place(0, 0);
        let writer = cpu(&case.arena, &mm, move |arena, mm| {
            for value in 1..100 {
                match arena.user_store(mm, at, value) {
                    Ok(()) => {}
                    Err(FaultOutcome::SegvAccErr) => return,
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        let protector = cpu(&case.arena, &mm, move |arena, mm| {
            mm.mprotect(at, PAGE_BYTES, PROT_READ).unwrap();
            let frozen = arena.user_load(mm, at);
            for _ in 0..3 {
                assert_eq!(arena.user_load(mm, at), frozen, "written after mprotect");
            }
        });
        writer.join().unwrap();
        protector.join().unwrap();
        case.finish(vec![mm]);
    });
}

/// A thread writes while another drops the page: its frame may be reused only when nobody can write to it any more.
fn reused_while_cached(mistake: Option<fn(&Arena)>) {
    explore(move || {
        let case = Case::new(500);
        let mm = case.parent(1);
        if let Some(make) = mistake {
            make(&case.arena);
        }
        let writer = cpu(&case.arena, &mm, |arena, mm| {
            for value in 1..100 {
                store(arena, mm, place(0, 0), value);
            }
        });
        let recycler = cpu(&case.arena, &mm, |arena, mm| {
            mm.madvise(place(0, 0), PAGE_BYTES, 4).unwrap();
            for page in 4..8 {
                store(arena, mm, place(0, page), 100);
            }
            for page in 4..8 {
                assert_eq!(arena.user_load(mm, place(0, page)), Ok(100), "somebody else wrote here");
            }
        });
        writer.join().unwrap();
        recycler.join().unwrap();
        case.finish(vec![mm]);
    });
}

fn fails(case: impl Fn()) -> bool {
    catch_unwind(AssertUnwindSafe(case)).is_err()
}

#[test]
fn without_a_mistake_they_pass() {
    written_after_mprotect(None);
    reused_while_cached(None);
}

#[test]
fn a_lost_flush_is_found() {
    assert!(fails(|| written_after_mprotect(Some(Arena::lose_remote_flushes))));
    assert!(fails(|| reused_while_cached(Some(Arena::lose_remote_flushes))));
}

#[test]
fn a_flush_that_nobody_waits_for_is_found() {
    assert!(fails(|| written_after_mprotect(Some(Arena::ignore_answers))));
    assert!(fails(|| reused_while_cached(Some(Arena::ignore_answers))));
}

/// Two threads write to pages that are still a child's too, each in a table of its own: both flush each other at once, with
/// the locks of their tables held.
fn flush_each_other(mistake: Option<fn(&Arena)>) {
    explore(move || {
        let case = Case::new(700);
        let parent = case.parent(2);
        let child = parent.fork(Sharing::Pte, 0).unwrap();
        if let Some(make) = mistake {
            make(&case.arena);
        }
        let threads = [0, 1].map(|table| {
            cpu(&case.arena, &parent, move |arena, mm| {
                for page in 0..2 {
                    store(arena, mm, place(table, page), 7);
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        case.finish(vec![parent, child]);
    });
}

#[test]
fn cpus_flush_each_other_at_once() {
    flush_each_other(None);
}

#[test]
fn cpus_that_wait_and_do_not_answer_are_found() {
    assert!(fails(|| flush_each_other(Some(Arena::answer_in_user_mode_only))));
}

#[test]
fn a_walk_that_forgets_about_answers_is_found() {
    // It takes four things in one order: the walk, the unshare, the wait for a lock, the end of the sharer.
    let case = overtaken_walk(Sharing::Tree, Some(Arena::hide_answers));
    assert!(fails(|| explore_by_priority(8000, case.clone())));
}
