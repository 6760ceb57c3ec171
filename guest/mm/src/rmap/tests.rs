//! Who maps a page, through tables that several mms share, at whatever address.

use super::*;
use crate::testing::Arena;
use crate::{MapRequest, ObjectInfo, ObjectKind, Sharing};
use alloc::vec;

const SPAN: u64 = Level::Pte.span_bytes();
const BASE: u64 = 0x10_0000_0000;
const RW: u64 = 3;
const SHARED: u64 = 1;
const PRIVATE: u64 = 2;
const FIXED: u64 = 0x10;
const ANONYMOUS: u64 = 0x20;
const HUGETLB: u64 = 0x4_0000;
const MODES: [Sharing; 3] = [Sharing::None, Sharing::Pte, Sharing::Tree];

fn map(mm: &Mm<Arena>, addr: u64, len: u64, flags: u64, object: Option<&Arc<Object<Arena>>>) {
    let mut request = MapRequest::anonymous(len, RW);
    request.addr = addr;
    request.flags = flags | FIXED | if object.is_none() { ANONYMOUS } else { 0 };
    request.object = object.map(|object| (object.clone(), 0));
    (request.file_readable, request.file_writable) = (true, true);
    assert_eq!(mm.mmap(request), Ok(addr));
}

fn space(arena: &Arena) -> Arc<Mm<Arena>> {
    Mm::new(arena.clone()).unwrap()
}

fn frame(mm: &Mm<Arena>, va: u64) -> Pfn {
    mm.translate(va, false).unwrap()
}

/// (slot, address) of everything that maps a frame, in order.
fn who(arena: &Arena, pfn: Pfn) -> Vec<(u32, u64)> {
    let mut places = vec![];
    let count = for_each_mapping(arena, pfn, &mut |mm, va| places.push((mm.slot(), va))).unwrap();
    assert_eq!(count, places.len());
    places.sort_unstable();
    places
}

#[test]
fn a_private_page_is_found_in_every_process_that_shares_its_table() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = space(&arena);
        map(&parent, BASE, 8 * SPAN, PRIVATE, None);
        arena.user_store(&parent, BASE, 1).unwrap();
        let page = frame(&parent, BASE);
        let child = parent.fork(mode, 0).unwrap();
        let grandchild = child.fork(mode, 0).unwrap();
        // Another program: it has a page with the same number.
        let stranger = space(&arena);
        map(&stranger, BASE, SPAN, PRIVATE, None);
        arena.user_store(&stranger, BASE, 1).unwrap();
        let all = [&parent, &child, &grandchild].map(|mm| (mm.slot(), BASE));
        assert_eq!(who(&arena, page), all, "{mode:?}");
        // A write gives the child a page of its own, with the same number in the same family.
        arena.user_store(&child, BASE, 2).unwrap();
        assert_eq!(who(&arena, page), [all[0], all[2]], "{mode:?}");
        assert_eq!(who(&arena, frame(&child, BASE)), [all[1]], "{mode:?}");
        drop(parent);
        assert_eq!(who(&arena, page), [all[2]], "{mode:?}");
    }
}

#[test]
fn a_page_is_found_where_mremap_put_it() {
    for mode in MODES {
        let arena = Arena::new(4096);
        let parent = space(&arena);
        map(&parent, BASE, 4 * SPAN, PRIVATE, None);
        let page_at = BASE + SPAN + 0x3000;
        arena.user_store(&parent, page_at, 1).unwrap();
        let page = frame(&parent, page_at);
        let child = parent.fork(mode, 0).unwrap();
        let to = BASE + 64 * SPAN;
        // The middle moves in the child alone, twice; the second time not by whole tables.
        assert_eq!(child.mremap(BASE + SPAN, SPAN, SPAN, 3, to), Ok(to));
        assert_eq!(who(&arena, page), [(parent.slot(), page_at), (child.slot(), to + 0x3000)]);
        assert_eq!(child.mremap(to, SPAN, SPAN, 3, to + 0x7f_1000), Ok(to + 0x7f_1000));
        let moved = to + 0x7f_1000 + 0x3000;
        assert_eq!(who(&arena, page), [(parent.slot(), page_at), (child.slot(), moved)]);
        // A page made after the move is found by the same rule.
        arena.user_store(&child, moved + 0x1000, 2).unwrap();
        let made = frame(&child, moved + 0x1000);
        assert_eq!(who(&arena, made), [(child.slot(), moved + 0x1000)]);
        arena.audit(&[&parent, &child]);
    }
}

#[test]
fn what_moved_without_pages_merges_like_fresh_memory_and_what_has_pages_does_not() {
    let arena = Arena::new(1024);
    let mm = space(&arena);
    for touched in [false, true] {
        let base = BASE + u64::from(touched) * 64 * SPAN;
        map(&mm, base, SPAN, PRIVATE, None);
        map(&mm, base + 8 * SPAN, SPAN, PRIVATE, None);
        if touched {
            arena.user_store(&mm, base + 8 * SPAN, 1).unwrap();
        }
        assert_eq!(mm.mremap(base + 8 * SPAN, SPAN, SPAN, 3, base + SPAN), Ok(base + SPAN));
        let set = mm.vmas.read();
        assert_eq!(set.find(base).unwrap().end() == base + 2 * SPAN, !touched);
    }
    arena.audit(&[&mm]);
}

#[test]
fn a_page_of_an_object_is_found_at_every_address_by_its_list() {
    let arena = Arena::new(4096);
    let info = ObjectInfo::new(1, 1, "file".into());
    let file = Object::new(arena.clone(), ObjectKind::Tmpfs, info);
    file.truncate(2 * SPAN).unwrap();
    let (a, b) = (space(&arena), space(&arena));
    // Through one PTE page at two addresses of one mm, and at a third in another; and through one that does not fit.
    map(&a, BASE, 2 * SPAN, SHARED, Some(&file));
    map(&a, BASE + 8 * SPAN, 2 * SPAN, SHARED, Some(&file));
    map(&b, BASE + 4 * SPAN, 2 * SPAN, SHARED, Some(&file));
    map(&b, BASE + 16 * SPAN + 0x5000, 0x10_000, PRIVATE, Some(&file));
    for (mm, va) in
        [(&a, BASE), (&a, BASE + 8 * SPAN), (&b, BASE + 4 * SPAN), (&b, BASE + 16 * SPAN + 0x5000)]
    {
        arena.user_load(mm, va + 0x2000).unwrap();
    }
    let page = frame(&a, BASE + 0x2000);
    let expected = [
        (a.slot(), BASE + 0x2000),
        (a.slot(), BASE + 8 * SPAN + 0x2000),
        (b.slot(), BASE + 4 * SPAN + 0x2000),
        (b.slot(), BASE + 16 * SPAN + 0x7000),
    ];
    assert_eq!(who(&arena, page), expected);
    // A private copy is a page of its own.
    arena.user_store(&b, BASE + 16 * SPAN + 0x7000, 5).unwrap();
    assert_eq!(who(&arena, page), expected[..3]);
    assert_eq!(who(&arena, frame(&b, BASE + 16 * SPAN + 0x7000)), expected[3..]);
    // What truncate goes through reaches all of them.
    file.truncate(0x2000).unwrap();
    for (mm, va) in [(&a, expected[0].1), (&a, expected[1].1), (&b, expected[2].1), (&b, expected[3].1)] {
        assert_eq!(mm.translate(va, false), None, "{va:#x}");
    }
    arena.audit(&[&a, &b]);
}

#[test]
fn every_part_of_a_huge_page_is_found() {
    let arena = Arena::new(1 << 14);
    crate::hugetlb::resize(&arena, crate::hugetlb::HugeSize::Mib2, 4);
    let parent = space(&arena);
    map(&parent, BASE, 2 << 21, PRIVATE | HUGETLB, None);
    map(&parent, BASE + (1 << 30), 1 << 21, SHARED | HUGETLB, None);
    arena.user_store(&parent, BASE, 1).unwrap();
    arena.user_store(&parent, BASE + (1 << 30), 1).unwrap();
    let child = parent.fork(Sharing::Tree, 0).unwrap();
    for va in [BASE, BASE + (1 << 30)] {
        assert_eq!(arena.user_load(&child, va), Ok(1));
        let page = frame(&parent, va);
        assert_eq!(who(&arena, page), [(parent.slot(), va), (child.slot(), va)]);
        let part = va + 0x1_3000;
        assert_eq!(who(&arena, page.add(0x13)), [(parent.slot(), part), (child.slot(), part)]);
    }
}

#[test]
fn other_frames_have_no_reverse_map() {
    let arena = Arena::new(256);
    let mm = space(&arena);
    map(&mm, BASE, SPAN, PRIVATE, None);
    assert_eq!(arena.user_load(&mm, BASE), Ok(0));
    let nobody = |pfn| for_each_mapping(&arena, pfn, &mut |_, _| panic!("somebody maps {pfn:?}"));
    assert_eq!(nobody(mm.root()), Err(NoReverseMap::NoPage));
    assert_eq!(nobody(arena.zero_page()), Err(NoReverseMap::NoPage));
    for outside in [0, 255 + 16, 1 << 30, u64::MAX] {
        assert_eq!(nobody(Pfn(outside)), Err(NoReverseMap::NoFrame));
    }
}
