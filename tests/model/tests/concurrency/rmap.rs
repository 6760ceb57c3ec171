//! The search for a page's mappings against processes that come, change and go.

use crate::harness::{Case, MODES, cpu, exiting, explore, place, store};
use ptshare_mm::rmap::for_each_mapping;
use ptshare_mm::testing::Arena;
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
