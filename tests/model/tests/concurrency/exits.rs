//! Address spaces that end while others share with them.

use crate::harness::{Case, MODES, cpu, exiting, expect, explore, place, store, word};

/// Two last sharers both see a count above 1 and neither frees (Dickins's objection (b) of 2006), or both free.
#[test]
fn the_last_two_sharers_drop_at_once() {
    for mode in MODES {
        explore(move || {
            let case = Case::new(400);
            let parent = case.parent(2);
            let child = parent.fork(mode, 0).unwrap();
            let threads = [exiting(&case.arena, parent), exiting(&case.arena, child)];
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            case.finish(vec![]);
        });
    }
}

/// The same for three, where one of them writes first.
#[test]
fn a_sharer_writes_while_the_others_exit() {
    for mode in MODES {
        explore(move || {
            let case = Case::new(500);
            let parent = case.parent(2);
            let first = parent.fork(mode, 0).unwrap();
            let second = parent.fork(mode, 0).unwrap();
            let threads = [exiting(&case.arena, parent), exiting(&case.arena, first)];
            let writer = cpu(&case.arena, &second, |arena, mm| {
                store(arena, mm, place(0, 0), 7);
                expect(arena, mm, place(1, 1), &[word(place(1, 1))]);
                store(arena, mm, place(1, 1), 8);
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            writer.join().unwrap();
            expect(&case.arena, &second, place(0, 0), &[7]);
            expect(&case.arena, &second, place(0, 1), &[word(place(0, 1))]);
            expect(&case.arena, &second, place(1, 1), &[8]);
            case.finish(vec![second]);
        });
    }
}

/// One sharer forks while another exits: the count must not be lost on the way from 2 over 1 to 2.
#[test]
fn a_sharer_forks_while_another_exits() {
    for mode in MODES {
        explore(move || {
            let case = Case::new(500);
            let parent = case.parent(1);
            let child = parent.fork(mode, 0).unwrap();
            let exit = exiting(&case.arena, parent);
            let fork = cpu(&case.arena, &child, move |arena, mm| {
                let grandchild = mm.fork(mode, 0).unwrap();
                store(arena, mm, place(0, 0), 3);
                grandchild
            });
            exit.join().unwrap();
            let grandchild = fork.join().unwrap();
            expect(&case.arena, &child, place(0, 0), &[3]);
            expect(&case.arena, &grandchild, place(0, 0), &[word(place(0, 0))]);
            case.finish(vec![child, grandchild]);
        });
    }
}
