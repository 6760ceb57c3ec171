//! Page caches: content, holes, growth, and what truncate does to those who map them.

use super::*;
use crate::testing::Arena;
use crate::{FaultOutcome, MapRequest};
use alloc::vec;
use ptshare_abi::sys::general as abi;

const AT: u64 = 0x6000_0000_0000;

fn object(arena: &Arena, kind: ObjectKind) -> Arc<Object<Arena>> {
    Object::new(arena.clone(), kind, ObjectInfo::new(1, 5, "/file".into()))
}

fn map(mm: &Mm<Arena>, object: &Arc<Object<Arena>>, at: u64, pages: u64, kind: u32) {
    let request = MapRequest {
        addr: at,
        len: pages * PAGE_BYTES,
        prot: u64::from(abi::PROT_READ | abi::PROT_WRITE),
        flags: u64::from(kind | abi::MAP_FIXED),
        object: Some((object.clone(), 0)),
        file_readable: true,
        file_writable: true,
    };
    assert_eq!(mm.mmap(request), Ok(at));
}

#[test]
fn bytes_are_read_as_written_and_holes_as_zero() {
    let arena = Arena::new(256);
    let free = arena.free_frames();
    let file = object(&arena, ObjectKind::Tmpfs);
    assert_eq!(file.write_at(PAGE_BYTES * 3 - 2, b"hello"), Ok(5));
    assert_eq!((file.size_bytes(), file.pages()), (PAGE_BYTES * 3 + 3, 2));
    let mut out = [9; 8];
    assert_eq!(file.read_at(PAGE_BYTES * 3 - 4, &mut out), 7);
    assert_eq!(&out, b"\0\0hello\x09");
    assert_eq!(file.read_at(PAGE_BYTES * 3 + 3, &mut out), 0);
    assert_eq!(file.read_at(0, &mut out), 8);
    assert_eq!((out, file.pages()), ([0; 8], 2));
    assert_eq!(file.write_at(MAX_OBJECT_BYTES, b"x"), Err(ObjectError::BeyondEnd));
    // Far apart, for the other half of the index.
    assert_eq!(file.write_at(1 << 40, b"far"), Ok(3));
    file.truncate(PAGE_BYTES).unwrap();
    assert_eq!(file.pages(), 0);
    drop(file);
    assert_eq!(arena.free_frames(), free);
    arena.audit(&[]);
}

#[test]
fn initramfs_content_is_copied_only_when_it_must_be() {
    let arena = Arena::new(256);
    let pa = 8 * PAGE_BYTES;
    arena.write_phys(pa, b"first");
    arena.write_phys(pa + PAGE_BYTES, b"second");
    let file = object(&arena, ObjectKind::Initramfs { pa, bytes: PAGE_BYTES + 6 });
    let mut out = [0; 16];
    assert_eq!(file.read_at(PAGE_BYTES, &mut out), 6);
    assert_eq!((&out[..6], file.pages()), (&b"second"[..], 0));
    assert!(file.resident(1) && !file.resident(2));
    file.write_at(PAGE_BYTES + 6, b"!").unwrap();
    assert_eq!(file.read_at(PAGE_BYTES, &mut out), 7);
    assert_eq!((&out[..7], file.pages()), (&b"second!"[..], 1));
    // What has been cut off does not come back.
    file.truncate(2).unwrap();
    file.truncate(PAGE_BYTES * 2).unwrap();
    assert_eq!(file.read_at(0, &mut out), 16);
    assert_eq!(&out, b"fi\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(file.read_at(PAGE_BYTES, &mut out), 16);
    assert_eq!(out, [0; 16]);
    // Nor does what a hole has hidden.
    file.punch_hole(0, PAGE_BYTES).unwrap();
    assert_eq!(file.read_at(0, &mut out), 16);
    assert_eq!(out, [0; 16]);
}

#[test]
fn a_hole_for_which_there_is_no_page_clears_nothing() {
    let arena = Arena::new(64);
    let bytes = 4 * PAGE_BYTES;
    // Frames that the arena does not manage.
    let pa = 8 * PAGE_BYTES;
    arena.write_phys(pa, &vec![7; bytes as usize]);
    // From the middle of the first page to the middle of the last, and whole pages in the middle.
    for (off, len, needed) in [(PAGE_BYTES / 2, 3 * PAGE_BYTES, 4), (PAGE_BYTES, 2 * PAGE_BYTES, 2)] {
        for frames in 0..needed {
            let file = object(&arena, ObjectKind::Initramfs { pa, bytes });
            arena.budget(frames);
            assert_eq!(file.punch_hole(off, len), Err(ObjectError::NoMemory));
            let mut out = vec![0; bytes as usize];
            file.read_at(0, &mut out);
            assert!(out.iter().all(|&byte| byte == 7), "{frames} frames for a hole at {off}");
            arena.unlimited();
            file.punch_hole(off, len).unwrap();
            file.read_at(0, &mut out);
            let zeros = out.iter().filter(|&&byte| byte == 0).count();
            assert_eq!(zeros as u64, len);
        }
    }
    arena.audit(&[]);
}

#[test]
fn truncate_takes_pages_from_all_who_map_them() {
    let arena = Arena::new(512);
    let file = object(&arena, ObjectKind::Tmpfs);
    file.truncate(4 * PAGE_BYTES).unwrap();
    let mm = Mm::new(arena.clone()).unwrap();
    map(&mm, &file, AT, 4, abi::MAP_SHARED);
    map(&mm, &file, AT + 0x10_0000, 4, abi::MAP_PRIVATE);
    for page in 0..4 {
        arena.user_store(&mm, AT + page * PAGE_BYTES, page + 1).unwrap();
        arena.user_store(&mm, AT + 0x10_0000 + page * PAGE_BYTES + 8, page + 10).unwrap();
    }
    let child = mm.fork(crate::Sharing::Pte, 0).unwrap();
    assert_eq!(file.mapping_count(), 4);
    file.truncate(2 * PAGE_BYTES - 16).unwrap();
    for mm in [&mm, &child] {
        for base in [AT, AT + 0x10_0000] {
            assert_eq!(arena.user_load(mm, base + PAGE_BYTES), Ok(2));
            assert_eq!(arena.user_load(mm, base + 2 * PAGE_BYTES), Err(FaultOutcome::BusAdrErr));
        }
    }
    assert_eq!(arena.user_load(&child, AT + 0x10_0000 + PAGE_BYTES + 8), Ok(11));
    file.truncate(4 * PAGE_BYTES).unwrap();
    assert_eq!(arena.user_load(&child, AT + 2 * PAGE_BYTES), Ok(0));
    assert_eq!(arena.user_load(&mm, AT + 0x10_0000 + 2 * PAGE_BYTES + 8), Ok(0));
    arena.audit(&[&mm, &child]);
    // A hole leaves private copies alone.
    file.punch_hole(0, 4 * PAGE_BYTES).unwrap();
    assert_eq!(arena.user_load(&mm, AT), Ok(0));
    assert_eq!(arena.user_load(&mm, AT + 0x10_0000 + 8), Ok(10));
    assert_eq!(file.size_bytes(), 4 * PAGE_BYTES);
    arena.audit(&[&mm, &child]);
}

#[test]
fn a_shortage_leaves_the_size_alone() {
    let arena = Arena::new(64);
    let file = object(&arena, ObjectKind::Tmpfs);
    arena.budget(2);
    assert_eq!(file.allocate(0, 10 * PAGE_BYTES, true), Err(ObjectError::NoMemory));
    assert_eq!((file.size_bytes(), file.pages()), (0, 0));
    let long = vec![7; 5 * PAGE_BYTES as usize];
    assert_eq!(file.write_at(0, &long), Ok(2 * PAGE_BYTES as usize));
    assert_eq!(file.size_bytes(), 2 * PAGE_BYTES);
    assert_eq!(file.write_at(2 * PAGE_BYTES, b"x"), Err(ObjectError::NoMemory));
    arena.unlimited();
    assert_eq!(file.allocate(0, 3 * PAGE_BYTES, false), Ok(()));
    assert_eq!((file.size_bytes(), file.pages()), (2 * PAGE_BYTES, 3));
    assert_eq!(file.allocate(0, 3 * PAGE_BYTES, true), Ok(()));
    assert_eq!(file.size_bytes(), 3 * PAGE_BYTES);
    arena.audit(&[]);
}

#[test]
fn a_write_that_fails_at_once_ends_the_file_where_it_was_to_begin() {
    let arena = Arena::new(64);
    let file = object(&arena, ObjectKind::Tmpfs);
    assert_eq!(file.write_chunks(PAGE_BYTES - 8, 10, &mut |_, _| 0), Ok(0));
    assert_eq!((file.size_bytes(), file.pages()), (PAGE_BYTES - 8, 1));
    // The memory to write from may be the file's own: it is there at the second try.
    let mut tries = 0;
    let mut second = |_, len: u64| {
        tries += 1;
        if tries == 1 { 0 } else { len }
    };
    assert_eq!(file.write_chunks(PAGE_BYTES, 10, &mut second), Ok(10));
    assert_eq!((file.size_bytes(), tries), (PAGE_BYTES + 10, 2));
    file.truncate(0).unwrap();
    // And so may the rest of a write that came to an end half-way.
    let mut left = 3;
    let mut three = |_, len: u64| {
        let took = len.min(left);
        left -= took;
        took
    };
    assert_eq!(file.write_chunks(PAGE_BYTES - 5, 10, &mut three), Ok(3));
    assert_eq!(file.size_bytes(), PAGE_BYTES - 2);
}
