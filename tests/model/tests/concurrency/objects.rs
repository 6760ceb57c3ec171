//! Tables that belong to objects: truncate, the search for a sharer, and the end of the last one.

use crate::harness::{
    Case, MAP_FIXED, MAP_PRIVATE, PROT_RW, SPAN, Space, cpu, exiting, expect, explore, map_object, may_segv,
    store,
};
use ptshare_mm::testing::Arena;
use ptshare_mm::{MapRequest, Mm, Object, Sharing};
use ptshare_paging::PAGE_BYTES;
use std::sync::Arc;

/// Two processes map the object at these addresses: different ones, congruent modulo a PTE page's span.
const FIRST: u64 = 0x20_0000_0000;
const SECOND: u64 = 0x30_0020_0000;

fn pair() -> (Case, Arc<Object<Arena>>, Space, Space) {
    let case = Case::new(700);
    let object = Object::shared_anonymous(case.arena.clone(), 2 * SPAN);
    let (first, second) = (case.space(), case.space());
    map_object(&first, FIRST, 2 * SPAN, &object);
    map_object(&second, SECOND, 2 * SPAN, &object);
    (case, object, first, second)
}

fn finish(case: Case, object: Arc<Object<Arena>>, alive: Vec<Space>) {
    // The object's pages go with it, and only then do the frames add up.
    let refs: Vec<&Mm<Arena>> = alive.iter().map(|mm| &**mm).collect();
    case.arena.audit(&refs);
    drop(alive);
    drop(object);
    case.finish(vec![]);
}

/// Both look for a table that neither has: one must win, and the other find it or have its own.
#[test]
fn two_first_faults_find_one_table() {
    explore(|| {
        let (case, object, first, second) = pair();
        let threads = [(&first, FIRST, 1), (&second, SECOND, 2)].map(|(mm, base, value)| {
            cpu(&case.arena, mm, move |arena, mm| {
                store(arena, mm, base + value * PAGE_BYTES, value);
                expect(arena, mm, base + (3 - value) * PAGE_BYTES, &[0, 3 - value]);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        expect(&case.arena, &first, FIRST + 2 * PAGE_BYTES, &[2]);
        expect(&case.arena, &second, SECOND + PAGE_BYTES, &[1]);
        finish(case, object, vec![first, second]);
    });
}

/// A VMA that is torn down must not be found by a search (H3 of hugetlb's history), nor its table after its end.
#[test]
fn a_search_meets_the_end_of_the_last_user() {
    explore(|| {
        let (case, object, first, second) = pair();
        store(&case.arena, &first, FIRST, 1);
        let exit = exiting(&case.arena, first);
        let search = cpu(&case.arena, &second, |arena, mm| {
            expect(arena, mm, SECOND, &[1]);
            store(arena, mm, SECOND + PAGE_BYTES, 2);
        });
        exit.join().unwrap();
        search.join().unwrap();
        expect(&case.arena, &second, SECOND + PAGE_BYTES, &[2]);
        finish(case, object, vec![second]);
    });
}

/// One leaves the table (a partial munmap) while the other fills it and a third takes it over.
#[test]
fn one_leaves_while_others_fill_and_find() {
    explore(|| {
        let (case, object, first, second) = pair();
        store(&case.arena, &first, FIRST, 1);
        let third = case.space();
        map_object(&third, FIRST, 2 * SPAN, &object);
        let leaver = cpu(&case.arena, &first, |arena, mm| {
            mm.munmap(FIRST + 8 * PAGE_BYTES, PAGE_BYTES).unwrap();
            expect(arena, mm, FIRST, &[1]);
        });
        let filler = cpu(&case.arena, &second, |arena, mm| {
            store(arena, mm, SECOND + 8 * PAGE_BYTES, 8);
            expect(arena, mm, SECOND, &[1]);
        });
        let finder = cpu(&case.arena, &third, |arena, mm| expect(arena, mm, FIRST, &[1]));
        for thread in [leaver, filler, finder] {
            thread.join().unwrap();
        }
        expect(&case.arena, &third, FIRST + 8 * PAGE_BYTES, &[8]);
        finish(case, object, vec![first, second, third]);
    });
}

/// No leaf survives truncate, whoever faults meanwhile.
#[test]
fn faults_meet_truncate() {
    explore(|| {
        let (case, object, first, second) = pair();
        store(&case.arena, &first, FIRST, 1);
        store(&case.arena, &second, SECOND + SPAN, 2);
        let faulters = [(&first, FIRST), (&second, SECOND)].map(|(mm, base)| {
            cpu(&case.arena, mm, move |arena, mm| {
                may_segv(arena.user_load(mm, base + SPAN), &[2]);
                may_segv(arena.user_store(mm, base + SPAN + PAGE_BYTES, 5).map(|()| 5), &[5]);
                expect(arena, mm, base, &[1]);
            })
        });
        let shrink = {
            let object = object.clone();
            shuttle::thread::spawn(move || object.truncate(SPAN).unwrap())
        };
        faulters.into_iter().for_each(|thread| thread.join().unwrap());
        shrink.join().unwrap();
        for (mm, base) in [(&first, FIRST), (&second, SECOND)] {
            assert_eq!(
                case.arena.user_load(mm, base + SPAN),
                Err(ptshare_mm::FaultOutcome::BusAdrErr),
                "a page beyond the end is still mapped"
            );
        }
        finish(case, object, vec![first, second]);
    });
}

/// A fork hands the table on while truncate clears it.
#[test]
fn fork_meets_truncate() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        explore(move || {
            let (case, object, first, second) = pair();
            store(&case.arena, &first, FIRST + SPAN, 1);
            let fork = cpu(&case.arena, &first, move |_, mm| mm.fork(mode, 0).unwrap());
            let shrink = {
                let object = object.clone();
                shuttle::thread::spawn(move || object.truncate(PAGE_BYTES).unwrap())
            };
            let child = fork.join().unwrap();
            shrink.join().unwrap();
            for mm in [&first, &child] {
                assert!(case.arena.user_load(mm, FIRST + SPAN).is_err(), "a truncated page is still mapped");
            }
            finish(case, object, vec![first, second, child]);
        });
    }
}

/// A fork copies private pages of a file while truncate goes through those who map it: the child is on the list before it has
/// a page, and truncate looks at the list again.
#[test]
fn fork_of_private_pages_meets_truncate() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        explore(move || {
            let (case, object, first, second) = pair();
            let third = case.space();
            let private = MapRequest {
                addr: FIRST,
                flags: MAP_PRIVATE | MAP_FIXED,
                object: Some((object.clone(), 0)),
                ..MapRequest::anonymous(2 * SPAN, PROT_RW)
            };
            assert_eq!(third.mmap(private), Ok(FIRST));
            store(&case.arena, &third, FIRST + SPAN, 1);
            let fork = cpu(&case.arena, &third, move |_, mm| mm.fork(mode, 0).unwrap());
            let shrink = {
                let object = object.clone();
                shuttle::thread::spawn(move || object.truncate(PAGE_BYTES).unwrap())
            };
            let child = fork.join().unwrap();
            shrink.join().unwrap();
            for mm in [&third, &child] {
                assert!(
                    case.arena.user_load(mm, FIRST + SPAN).is_err(),
                    "a private page behind the end is still mapped"
                );
            }
            finish(case, object, vec![first, second, third, child]);
        });
    }
}

/// After a hole has been punched, nobody sees what was in it, whoever faulted meanwhile.
#[test]
fn faults_meet_a_punched_hole() {
    explore(|| {
        let (case, object, first, second) = pair();
        store(&case.arena, &first, FIRST, 1);
        store(&case.arena, &first, FIRST + PAGE_BYTES, 2);
        let readers = [(&first, FIRST), (&second, SECOND)].map(|(mm, base)| {
            cpu(&case.arena, mm, move |arena, mm| {
                expect(arena, mm, base, &[0, 1]);
                expect(arena, mm, base + PAGE_BYTES, &[2]);
                expect(arena, mm, base, &[0, 1]);
            })
        });
        let punch = {
            let object = object.clone();
            shuttle::thread::spawn(move || object.punch_hole(0, PAGE_BYTES).unwrap())
        };
        readers.into_iter().for_each(|thread| thread.join().unwrap());
        punch.join().unwrap();
        expect(&case.arena, &first, FIRST, &[0]);
        expect(&case.arena, &second, SECOND, &[0]);
        finish(case, object, vec![first, second]);
    });
}
