//! Faults against whatever else happens to the same tables.

use crate::harness::{
    BASE, Case, MODES, PROT_READ, PROT_RW, SPAN, Space, cpu, exiting, exiting_after, expect, explore,
};
use crate::harness::{MAP_PRIVATE, MAP_SHARED};
use crate::harness::{map, may_segv, place, store, word};
use ptshare_mm::testing::Arena;
use ptshare_mm::{FaultOutcome, Sharing};
use ptshare_paging::PAGE_BYTES;
use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

const MADV_DONTNEED: u64 = 4;
const MREMAP_MAYMOVE_FIXED: u64 = 3;

/// A process and its child, as left by fork.
fn pair(mode: Sharing, tables: u64) -> (Case, Space, Space) {
    let case = Case::new(700);
    let parent = case.parent(tables);
    let child = parent.fork(mode, 0).unwrap();
    (case, parent, child)
}

/// Both sharers write to the same page and to different ones.
#[test]
fn sharers_write_at_once() {
    for mode in MODES {
        explore(move || {
            let (case, parent, child) = pair(mode, 1);
            let writers: Vec<_> = [(&parent, 1), (&child, 2)]
                .map(|(mm, value)| {
                    cpu(&case.arena, mm, move |arena, mm| {
                        store(arena, mm, place(0, 0), value);
                        store(arena, mm, place(0, 5), value);
                        expect(arena, mm, place(0, 0), &[value]);
                        expect(arena, mm, place(0, 1), &[word(place(0, 1))]);
                    })
                })
                .into();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            expect(&case.arena, &parent, place(0, 5), &[1]);
            expect(&case.arena, &child, place(0, 0), &[2]);
            case.finish(vec![parent, child]);
        });
    }
}

/// Two threads of one mm write below one shared table; the sharer reads, which fills in place, and exits.
#[test]
fn threads_unshare_while_a_sharer_reads_and_exits() {
    for mode in MODES {
        explore(move || {
            let (case, parent, child) = pair(mode, 1);
            let threads = [(0, 11), (1, 12)].map(|(page, value)| {
                cpu(&case.arena, &parent, move |arena, mm| {
                    store(arena, mm, place(0, page), value);
                    expect(arena, mm, place(0, 7), &[0]);
                    expect(arena, mm, place(0, page), &[value]);
                })
            });
            let reader = cpu(&case.arena, &child, |arena, mm| {
                expect(arena, mm, place(0, 0), &[word(place(0, 0))]);
                expect(arena, mm, place(0, 7), &[0]);
            });
            reader.join().unwrap();
            let exit = exiting(&case.arena, child);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            exit.join().unwrap();
            case.finish(vec![parent]);
        });
    }
}

/// A thread walks without a lock through tables that another thread unshares and the sharer, then their last user, frees.
#[test]
fn a_walk_meets_the_end_of_the_tables_it_is_in() {
    for mode in MODES {
        explore(overtaken_walk(mode, None));
    }
}

/// One case of it, perhaps on a machine with a mistake.
pub fn overtaken_walk(
    mode: Sharing,
    mistake: Option<fn(&Arena)>,
) -> impl Fn() + Send + Sync + Clone + 'static {
    move || {
        let (case, parent, child) = pair(mode, 2);
        if let Some(make) = mistake {
            make(&case.arena);
        }
        let walker = cpu(&case.arena, &parent, |arena, mm| {
            for page in 2..12 {
                expect(arena, mm, place(1, page), &[0, 5]);
            }
        });
        let writer = cpu(&case.arena, &parent, |arena, mm| {
            store(arena, mm, place(1, 3), 5);
            store(arena, mm, place(0, 3), 6);
        });
        // The sharer's faults make the walker wait for a lock, where it answers flushes.
        let exit = exiting_after(&case.arena, child, |arena, mm| {
            for page in 2..12 {
                expect(arena, mm, place(1, page), &[0]);
            }
        });
        for thread in [walker, writer, exit] {
            thread.join().unwrap();
        }
        expect(&case.arena, &parent, place(0, 3), &[6]);
        case.finish(vec![parent]);
    }
}

/// A thread writes while another forks: the child sees the word before or after, and neither sees the other's later.
#[test]
fn a_thread_writes_while_another_forks() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        explore(move || {
            let case = Case::new(500);
            let parent = case.parent(1);
            let fork = cpu(&case.arena, &parent, move |_, mm| mm.fork(mode, 0).unwrap());
            let writer = cpu(&case.arena, &parent, |arena, mm| {
                store(arena, mm, place(0, 0), 1);
                store(arena, mm, place(0, 0), 2);
            });
            let child = fork.join().unwrap();
            let seen = case.arena.user_load(&child, place(0, 0));
            assert!(seen.is_ok_and(|word_seen| [word(place(0, 0)), 1, 2].contains(&word_seen)), "{seen:x?}");
            writer.join().unwrap();
            assert_eq!(case.arena.user_load(&child, place(0, 0)), seen, "a later store of the parent shows");
            expect(&case.arena, &parent, place(0, 0), &[2]);
            case.finish(vec![parent, child]);
        });
    }
}

/// A table that a process has left is its last user's alone: what that one puts there, no CPU of the other finds.
#[test]
fn nobody_walks_through_a_table_that_was_left() {
    for mode in MODES {
        explore(move || {
            let (case, parent, child) = pair(mode, 1);
            let reader = cpu(&case.arena, &parent, |arena, mm| {
                for page in 6..9 {
                    expect(arena, mm, place(0, 0), &[word(place(0, 0)), 5]);
                    expect(arena, mm, place(0, page), &[0]);
                }
            });
            let writer = cpu(&case.arena, &parent, |arena, mm| store(arena, mm, place(0, 0), 5));
            let sharer = cpu(&case.arena, &child, |arena, mm| {
                for page in 6..9 {
                    store(arena, mm, place(0, page), 9);
                }
            });
            for thread in [reader, writer, sharer] {
                thread.join().unwrap();
            }
            case.finish(vec![parent, child]);
        });
    }
}

/// A page that a thread drops is given out again, to another process, only when the other threads have forgotten it.
#[test]
fn a_page_is_reused_while_others_write() {
    explore(|| {
        let case = Case::new(500);
        let (parent, other) = (case.parent(1), case.space());
        map(&other, BASE, SPAN, MAP_PRIVATE);
        let dropper = cpu(&case.arena, &parent, |_, mm| {
            for page in 0..2 {
                mm.madvise(place(0, page), PAGE_BYTES, MADV_DONTNEED).unwrap();
            }
        });
        let writer = cpu(&case.arena, &parent, |arena, mm| {
            for value in 1..4 {
                store(arena, mm, place(0, 0), value);
                store(arena, mm, place(0, 1), value);
            }
        });
        let taker = cpu(&case.arena, &other, |arena, mm| {
            for page in 4..8 {
                store(arena, mm, place(0, page), 100);
                expect(arena, mm, place(0, page), &[100]);
            }
        });
        for thread in [dropper, writer, taker] {
            thread.join().unwrap();
        }
        (4..8).for_each(|page| expect(&case.arena, &other, place(0, page), &[100]));
        case.finish(vec![parent, other]);
    });
}

/// A thread reads a page that another writes to for the first time since a fork: once the write is over, it reads that.
#[test]
fn a_thread_reads_what_another_has_copied() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        explore(move || {
            let (case, parent, child) = pair(mode, 1);
            let at = place(0, 0);
            let written = Arc::new(AtomicBool::new(false));
            let reader = {
                let written = written.clone();
                cpu(&case.arena, &parent, move |arena, mm| {
                    let words = [3, word(at)];
                    for _ in 0..4 {
                        let after = written.load(SeqCst);
                        expect(arena, mm, at, if after { &words[..1] } else { &words });
                    }
                })
            };
            let writer = cpu(&case.arena, &parent, move |arena, mm| {
                store(arena, mm, at, 3);
                written.store(true, SeqCst);
            });
            reader.join().unwrap();
            writer.join().unwrap();
            expect(&case.arena, &child, at, &[word(at)]);
            case.finish(vec![parent, child]);
        });
    }
}

/// After mprotect has returned, no thread writes any more.
#[test]
fn a_thread_writes_while_another_takes_the_right() {
    for mode in MODES {
        explore(move || {
            let (case, parent, child) = pair(mode, 1);
            let (at, len) = (place(0, 0), 2 * PAGE_BYTES);
            let writer = cpu(&case.arena, &parent, move |arena, mm| {
                for value in 1..4 {
                    match arena.user_store(mm, at, value) {
                        Ok(()) => {}
                        Err(FaultOutcome::SegvAccErr) => return,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
            let protector = cpu(&case.arena, &parent, move |arena, mm| {
                mm.mprotect(at, len, PROT_READ).unwrap();
                let frozen = arena.user_load(mm, at).unwrap();
                shuttle::thread::yield_now();
                assert_eq!(arena.user_load(mm, at), Ok(frozen), "written after mprotect");
                mm.mprotect(at, len, PROT_RW).unwrap();
                store(arena, mm, at + PAGE_BYTES, 9);
            });
            writer.join().unwrap();
            protector.join().unwrap();
            expect(&case.arena, &child, at, &[word(at)]);
            case.finish(vec![parent, child]);
        });
    }
}

/// munmap of part of a shared table, and a new mapping in its place, under the feet of a reader and a sharer.
#[test]
fn a_thread_reads_while_another_unmaps_and_maps() {
    for mode in MODES {
        explore(move || {
            let (case, parent, child) = pair(mode, 2);
            let at = place(0, 1);
            let reader = cpu(&case.arena, &parent, move |arena, mm| {
                for _ in 0..2 {
                    may_segv(arena.user_load(mm, at), &[word(at), 0, 4]);
                }
                expect(arena, mm, place(1, 1), &[word(place(1, 1))]);
            });
            let changer = cpu(&case.arena, &parent, move |arena, mm| {
                mm.munmap(BASE + PAGE_BYTES, SPAN - PAGE_BYTES).unwrap();
                map(mm, at, PAGE_BYTES, MAP_PRIVATE);
                store(arena, mm, at, 4);
            });
            let sharer = cpu(&case.arena, &child, move |arena, mm| {
                expect(arena, mm, at, &[word(at)]);
                store(arena, mm, at, 5);
            });
            for thread in [reader, changer, sharer] {
                thread.join().unwrap();
            }
            expect(&case.arena, &child, at, &[5]);
            expect(&case.arena, &parent, at, &[4]);
            case.finish(vec![parent, child]);
        });
    }
}

/// mremap moves a whole PTE page that a sharer writes to.
#[test]
fn a_sharer_writes_while_a_table_moves() {
    for mode in MODES {
        explore(move || {
            let (case, parent, child) = pair(mode, 1);
            let target = BASE + 4 * SPAN;
            let mover = cpu(&case.arena, &parent, move |arena, mm| {
                assert_eq!(mm.mremap(BASE, SPAN, SPAN, MREMAP_MAYMOVE_FIXED, target), Ok(target));
                expect(arena, mm, target, &[word(BASE), 6]);
                store(arena, mm, target + PAGE_BYTES, 3);
            });
            let toucher = cpu(&case.arena, &parent, move |arena, mm| {
                may_segv(arena.user_load(mm, BASE), &[word(BASE)]);
                may_segv(arena.user_store(mm, target, 6).map(|()| 6), &[6]);
            });
            let sharer = cpu(&case.arena, &child, |arena, mm| {
                store(arena, mm, place(0, 0), 5);
                expect(arena, mm, place(0, 1), &[word(place(0, 1))]);
            });
            for thread in [mover, toucher, sharer] {
                thread.join().unwrap();
            }
            expect(&case.arena, &child, place(0, 0), &[5]);
            expect(&case.arena, &parent, target + PAGE_BYTES, &[3]);
            case.finish(vec![parent, child]);
        });
    }
}

/// MADV_DONTNEED detaches a whole shared table while threads of the same mm refill it.
#[test]
fn a_thread_writes_while_another_discards() {
    for mode in MODES {
        explore(move || {
            let (case, parent, child) = pair(mode, 1);
            let at = place(0, 0);
            let discard = cpu(&case.arena, &parent, |_, mm| mm.madvise(BASE, SPAN, MADV_DONTNEED).unwrap());
            let writer = cpu(&case.arena, &parent, move |arena, mm| {
                store(arena, mm, at, 1);
                expect(arena, mm, at, &[1, 0]);
            });
            let sharer = cpu(&case.arena, &child, move |arena, mm| expect(arena, mm, at, &[word(at)]));
            discard.join().unwrap();
            writer.join().unwrap();
            sharer.join().unwrap();
            expect(&case.arena, &parent, place(0, 1), &[0]);
            expect(&case.arena, &child, at, &[word(at)]);
            case.finish(vec![parent, child]);
        });
    }
}

/// A first fault of two threads, and of two processes on shared memory, at one page.
#[test]
fn first_faults_meet() {
    explore(|| {
        let case = Case::new(500);
        let parent = case.space();
        map(&parent, BASE, SPAN, MAP_SHARED);
        map(&parent, BASE + SPAN, SPAN, MAP_PRIVATE);
        let child = parent.fork(Sharing::Pte, 0).unwrap();
        let threads = [(&parent, 1), (&parent, 2), (&child, 3)].map(|(mm, value)| {
            cpu(&case.arena, mm, move |arena, mm| {
                store(arena, mm, BASE, value);
                store(arena, mm, BASE + SPAN, value);
                expect(arena, mm, BASE, &[1, 2, 3]);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let last = case.arena.user_load(&parent, BASE).unwrap();
        expect(&case.arena, &child, BASE, &[last]);
        expect(&case.arena, &parent, BASE + SPAN, &[1, 2]);
        expect(&case.arena, &child, BASE + SPAN, &[3]);
        case.finish(vec![parent, child]);
    });
}
