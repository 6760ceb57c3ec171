//! The search for a page's mappings against processes that come, change and go.

use crate::harness::{
    BASE, Case, MAP_PRIVATE, MODES, SPAN, Space, cpu, exiting, explore, map, map_object, place, store,
};
use ptshare_mm::rmap::{for_each_mapping, for_each_mm};
use ptshare_mm::testing::Arena;
use ptshare_mm::{Mm, Object};
use ptshare_paging::{PAGE_BYTES, Pfn};

/// (slot, address) of everything that maps a frame, in order.
fn who(arena: &Arena, pfn: Pfn) -> Vec<(u32, u64)> {
    let mut places = vec![];
    let count = for_each_mapping(arena, pfn, &mut |mm, va| places.push((mm.slot(), va)));
    assert_eq!(count, Ok(places.len()));
    places.sort_unstable();
    places
}

/// Whoever maps the page all the time is found each time, whatever the others do; and in the end nobody else.
#[test]
fn a_search_meets_fork_unmap_and_exit() {
    for mode in MODES {
        explore(move || {
            let case = Case::new(700);
            let (parent, searcher) = (case.parent(1), case.space());
            let (stays, leaves) = (parent.fork(mode, 0).unwrap(), parent.fork(mode, 0).unwrap());
            let (at, slot) = (place(0, 0), stays.slot());
            let pfn = stays.translate(at, false).unwrap();
            let exit = exiting(&case.arena, parent);
            let change = cpu(&case.arena, &leaves, move |_, mm| mm.munmap(at, PAGE_BYTES).unwrap());
            let fork = cpu(&case.arena, &stays, move |_, mm| mm.fork(mode, 0).unwrap());
            let search = cpu(&case.arena, &searcher, move |arena, _| {
                for _ in 0..2 {
                    let found = who(arena, pfn);
                    assert!(found.contains(&(slot, at)), "{found:x?}, without slot {slot}");
                    assert!(found.iter().all(|place| place.1 == at), "{found:x?}");
                }
            });
            exit.join().unwrap();
            change.join().unwrap();
            let child = fork.join().unwrap();
            search.join().unwrap();
            let mut expected = vec![(slot, at), (child.slot(), at)];
            expected.sort_unstable();
            assert_eq!(who(&case.arena, pfn), expected);
            case.finish(vec![stays, leaves, child, searcher]);
        });
    }
}

/// Where everybody maps the program's file.
const PROGRAM: u64 = 0x20_0000_0000;

/// exec: an address space is built, which maps the same file as the old one and the same addresses, the CPU goes over to it,
/// and the old one ends, on whichever CPU drops it last; a search may be in it just then.
fn exec(arena: &Arena, old: Space, object: &std::sync::Arc<Object<Arena>>) -> Space {
    let running = arena.run(&old);
    running.user();
    let new = Mm::new(arena.clone()).unwrap();
    map(&new, BASE, SPAN, MAP_PRIVATE);
    map_object(&new, PROGRAM, PAGE_BYTES, object);
    drop(running);
    let running = arena.run(&new);
    drop(old);
    store(arena, &new, place(0, 0), 9);
    arena.user_load(&new, PROGRAM).unwrap();
    running.user();
    drop(running);
    new
}

/// Two processes exec, with a third that keeps the pages and forks, while their pages are searched for: a slot that an old
/// address space has left may be a new one's at once. Whoever maps a page all the time is found, a new program's pages are
/// the new program's alone, and an old one is nobody's.
///
/// Fails when a search ends at an mm that is on its way out (mutant `rmap-stops-at-dead`).
#[test]
fn a_search_meets_exec() {
    for mode in MODES {
        explore(move || {
            let case = Case::new(1000);
            let object = Object::shared_anonymous(case.arena.clone(), 4 * PAGE_BYTES);
            let (parent, searcher) = (case.parent(1), case.space());
            map_object(&parent, PROGRAM, PAGE_BYTES, &object);
            case.arena.user_store(&parent, PROGRAM, 77).unwrap();
            let (stays, other) = (parent.fork(mode, 0).unwrap(), parent.fork(mode, 0).unwrap());
            let (at, slot) = (place(0, 0), stays.slot());
            let private = stays.translate(at, false).unwrap();
            let cached = stays.translate(PROGRAM, false).unwrap();
            let execs = [parent, other].map(|old| {
                let (arena, object) = (case.arena.clone(), object.clone());
                shuttle::thread::spawn(move || exec(&arena, old, &object))
            });
            let fork = cpu(&case.arena, &stays, move |_, mm| mm.fork(mode, 0).unwrap());
            let search = cpu(&case.arena, &searcher, move |arena, _| {
                for _ in 0..2 {
                    for (pfn, at) in [(private, at), (cached, PROGRAM)] {
                        let found = who(arena, pfn);
                        assert!(found.contains(&(slot, at)), "{found:x?}, without slot {slot}");
                        assert!(found.iter().all(|place| place.1 == at), "{found:x?}");
                    }
                }
            });
            let new = execs.map(|thread| thread.join().unwrap());
            let child = fork.join().unwrap();
            search.join().unwrap();
            let places = |mms: &[&Space], at: u64| {
                let mut places: Vec<(u32, u64)> = mms.iter().map(|mm| (mm.slot(), at)).collect();
                places.sort_unstable();
                places
            };
            assert_eq!(who(&case.arena, private), places(&[&stays, &child], at));
            assert_eq!(who(&case.arena, cached), places(&[&stays, &child, &new[0], &new[1]], PROGRAM));
            for mm in &new {
                let own = mm.translate(at, false).unwrap();
                assert_eq!(who(&case.arena, own), places(&[mm], at));
            }
            let [first, second] = new;
            case.judge(&[&first, &second, &stays, &child, &searcher]);
            drop(object);
            case.finish(vec![first, second, stays, child, searcher]);
        });
    }
}

/// A new address space takes the slot that another leaves. Fails when `Mm::drop` strikes the mm off the list of all mms after
/// it has given its slot back: that takes the new one off.
#[test]
fn a_slot_changes_hands() {
    explore(|| {
        let case = Case::new(200);
        let exits = [case.space(), case.space()].map(|old| exiting(&case.arena, old));
        let arena = case.arena.clone();
        let starts = shuttle::thread::spawn(move || [(); 2].map(|()| Mm::new(arena.clone()).unwrap()));
        exits.into_iter().for_each(|thread| thread.join().unwrap());
        let new = starts.join().unwrap();
        let mut listed = vec![];
        for_each_mm(&case.arena, &mut |mm| listed.push(mm.slot()));
        let mut slots: Vec<u32> = new.iter().map(|mm| mm.slot()).collect();
        slots.sort_unstable();
        assert_eq!(listed, slots);
        case.finish(new.into());
    });
}

/// Whoever reads another process's /proc files runs on a CPU that its flushes do not wait for: `page_table_lock` alone keeps
/// the tables under the look (without it: walker-against-free).
#[test]
fn a_look_from_outside_meets_unsharing_and_exit() {
    for mode in MODES {
        explore(move || {
            let case = Case::new(700);
            let (parent, looker) = (case.parent(1), case.space());
            let seen = parent.fork(mode, 0).unwrap();
            let at = place(0, 0);
            let exit = exiting(&case.arena, parent);
            let change = cpu(&case.arena, &seen, move |arena, mm| {
                store(arena, mm, at, 9);
                mm.munmap(at, PAGE_BYTES).unwrap();
            });
            let other = seen.clone();
            let look = cpu(&case.arena, &looker, move |_, _| {
                let mut rss = 0;
                other.for_each_smap(&mut |_, entry| rss += entry.rss);
                assert!([1, 2].contains(&(rss / PAGE_BYTES)), "{rss}");
                assert!([1, 2].contains(&other.usage().rss_anon));
                assert!([1, 2].contains(&other.resident_estimate()));
                assert!(other.release_estimate() > 4);
                assert!(other.page_view(at + PAGE_BYTES).is_some());
            });
            for thread in [exit, change, look] {
                thread.join().unwrap();
            }
            case.finish(vec![seen, looker]);
        });
    }
}
