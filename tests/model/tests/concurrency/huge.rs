//! A hugetlb object's PMD page: searched for, handed on and taken out at the same time.

use crate::harness::{
    Case, MAP_FIXED, MAP_NORESERVE, MAP_SHARED, PROT_READ, PROT_RW, Space, cpu, exiting, expect, explore,
    may_segv, store,
};
use ptshare_mm::hugetlb::{self, HugeSize};
use ptshare_mm::testing::Arena;
use ptshare_mm::{MapRequest, Mm, Object, ObjectInfo, Sharing};
use std::sync::Arc;

const GIB: u64 = 1 << 30;
const HUGE: u64 = 2 << 20;
/// Pages that the pool holds; the mapping covers a GiB of an object that may have more.
const POOL: u64 = 3;
const FIRST: u64 = 0x20_0000_0000;
const SECOND: u64 = 0x30_0000_0000;

struct Huge {
    case: Case,
    object: Arc<Object<Arena>>,
}

impl Huge {
    fn new() -> Huge {
        let case = Case::new(600 + 512 * (POOL as usize + 1));
        hugetlb::resize(&case.arena, HugeSize::Mib2, POOL);
        let info = ObjectInfo::new(7, 1, "/memfd:huge".into());
        let object = Object::hugetlb(case.arena.clone(), HugeSize::Mib2, info, GIB, None);
        Huge { case, object }
    }

    /// A process that maps the object at `addr`, with no promise of pages.
    fn mapper(&self, addr: u64) -> Space {
        let mm = self.case.space();
        let request = MapRequest {
            addr,
            flags: MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
            object: Some((self.object.clone(), 0)),
            ..MapRequest::anonymous(GIB, PROT_RW)
        };
        assert_eq!(mm.mmap(request), Ok(addr));
        mm
    }

    fn finish(self, alive: Vec<Space>) {
        let refs: Vec<&Mm<Arena>> = alive.iter().map(|mm| &**mm).collect();
        self.case.arena.audit(&refs);
        drop(alive);
        drop(self.object);
        assert_eq!(hugetlb::counts(&self.case.arena, HugeSize::Mib2), [POOL, POOL, 0, 0]);
        hugetlb::resize(&self.case.arena, HugeSize::Mib2, 0);
        self.case.finish(vec![]);
    }
}

/// Finding a sharer and pointing to its table is one step (eb48c0714647), and a table at its end is not found (H3).
#[test]
fn a_search_meets_the_end_of_the_last_user() {
    explore(|| {
        let huge = Huge::new();
        let (first, second) = (huge.mapper(FIRST), huge.mapper(SECOND));
        store(&huge.case.arena, &first, FIRST, 1);
        let exit = exiting(&huge.case.arena, first);
        let search = cpu(&huge.case.arena, &second, |arena, mm| {
            expect(arena, mm, SECOND, &[1]);
            store(arena, mm, SECOND + HUGE, 2);
        });
        exit.join().unwrap();
        search.join().unwrap();
        huge.finish(vec![second]);
    });
}

/// mprotect takes the table out of one mm while another takes it over and a third forks with it.
#[test]
fn one_takes_out_while_others_take_over_and_fork() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        explore(move || {
            let huge = Huge::new();
            let (first, second, third) = (huge.mapper(FIRST), huge.mapper(SECOND), huge.mapper(FIRST));
            store(&huge.case.arena, &first, FIRST, 1);
            store(&huge.case.arena, &third, FIRST + HUGE, 2);
            let leaver = cpu(&huge.case.arena, &first, |arena, mm| {
                mm.mprotect(FIRST + 4 * HUGE, HUGE, PROT_READ).unwrap();
                expect(arena, mm, FIRST, &[1]);
                store(arena, mm, FIRST + HUGE, 3);
            });
            let finder = cpu(&huge.case.arena, &second, |arena, mm| expect(arena, mm, SECOND, &[1]));
            let forker = cpu(&huge.case.arena, &third, move |arena, mm| {
                let child = mm.fork(mode, 0).unwrap();
                expect(arena, mm, FIRST + HUGE, &[2, 3]);
                child
            });
            leaver.join().unwrap();
            finder.join().unwrap();
            let child = forker.join().unwrap();
            expect(&huge.case.arena, &child, FIRST + HUGE, &[3]);
            huge.finish(vec![first, second, third, child]);
        });
    }
}

/// Two that leave at once: the second finds itself alone and keeps the table as an ordinary one.
#[test]
fn the_last_two_users_leave_at_once() {
    explore(|| {
        let huge = Huge::new();
        let (first, second) = (huge.mapper(FIRST), huge.mapper(SECOND));
        store(&huge.case.arena, &first, FIRST, 1);
        expect(&huge.case.arena, &second, SECOND, &[1]);
        let threads = [(&first, FIRST), (&second, SECOND)].map(|(mm, base)| {
            cpu(&huge.case.arena, mm, move |arena, mm| {
                mm.munmap(base + 8 * HUGE, HUGE).unwrap();
                expect(arena, mm, base, &[1]);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        huge.finish(vec![first, second]);
    });
}

/// Two ends at once, and a fault behind one of them: each page that goes takes its own promise with it, once (Linux: `inode_lock`
/// over the whole of `hugetlb_vmtruncate`).
#[test]
fn truncates_meet_each_other_and_faults() {
    explore(|| {
        let huge = Huge::new();
        let mm = huge.case.space();
        let request = MapRequest {
            addr: FIRST,
            flags: MAP_SHARED | MAP_FIXED,
            object: Some((huge.object.clone(), 0)),
            ..MapRequest::anonymous(POOL * HUGE, PROT_RW)
        };
        assert_eq!(mm.mmap(request), Ok(FIRST));
        store(&huge.case.arena, &mm, FIRST + HUGE, 1);
        let truncates = [0, 2 * HUGE, 0].map(|bytes| {
            let object = huge.object.clone();
            shuttle::thread::spawn(move || object.truncate(bytes).unwrap())
        });
        let faults = cpu(&huge.case.arena, &mm, |arena, mm| {
            for _ in 0..2 {
                may_segv(arena.user_load(mm, FIRST + HUGE), &[0, 1]);
            }
        });
        truncates.into_iter().for_each(|thread| thread.join().unwrap());
        faults.join().unwrap();
        huge.finish(vec![mm]);
    });
}

/// A hole is punched while both sharers fault at it.
#[test]
fn faults_meet_a_punched_hole() {
    explore(|| {
        let huge = Huge::new();
        let (first, second) = (huge.mapper(FIRST), huge.mapper(SECOND));
        store(&huge.case.arena, &first, FIRST, 1);
        store(&huge.case.arena, &first, FIRST + HUGE, 2);
        let readers = [(&first, FIRST), (&second, SECOND)].map(|(mm, base)| {
            cpu(&huge.case.arena, mm, move |arena, mm| {
                expect(arena, mm, base, &[0, 1]);
                expect(arena, mm, base + HUGE, &[2]);
                expect(arena, mm, base, &[0, 1]);
            })
        });
        let punch = {
            let object = huge.object.clone();
            shuttle::thread::spawn(move || object.punch_hole(0, HUGE).unwrap())
        };
        readers.into_iter().for_each(|thread| thread.join().unwrap());
        punch.join().unwrap();
        expect(&huge.case.arena, &first, FIRST, &[0]);
        expect(&huge.case.arena, &second, SECOND, &[0]);
        huge.finish(vec![first, second]);
    });
}

/// No leaf survives truncate, whoever has found the page before it went.
#[test]
fn faults_meet_truncate_of_huge_pages() {
    explore(|| {
        let huge = Huge::new();
        let (first, second) = (huge.mapper(FIRST), huge.mapper(SECOND));
        store(&huge.case.arena, &first, FIRST, 1);
        store(&huge.case.arena, &first, FIRST + HUGE, 2);
        first.madvise(FIRST + HUGE, HUGE, 4).unwrap();
        let faulter = cpu(&huge.case.arena, &second, |arena, mm| {
            may_segv(arena.user_load(mm, SECOND + HUGE), &[2]);
            expect(arena, mm, SECOND, &[1]);
        });
        let shrink = {
            let object = huge.object.clone();
            shuttle::thread::spawn(move || object.truncate(HUGE).unwrap())
        };
        faulter.join().unwrap();
        shrink.join().unwrap();
        for (mm, at) in [(&first, FIRST + HUGE), (&second, SECOND + HUGE)] {
            let found = huge.case.arena.user_load(mm, at);
            assert_eq!(found, Err(ptshare_mm::FaultOutcome::BusAdrErr), "a page beyond the end is mapped");
        }
        huge.finish(vec![first, second]);
    });
}
