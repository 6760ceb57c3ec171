//! The search for a page's mappings against processes that come, change and go.

use crate::harness::{Case, MODES, cpu, exiting, explore, place};
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
