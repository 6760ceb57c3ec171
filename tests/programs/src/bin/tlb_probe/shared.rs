//! Objects' tables: two mappings of one file in one process (and in two) use one PTE page.

use crate::{BUS, Probe, SEGV, expect, join, verdict};
use ptshare_programs::memory::{PAGE, RW, Region, TABLE, memfd};
use ptshare_programs::process::{Gate, spawn};
use ptshare_programs::{check, errno, probe};
use std::fs::File;
use std::os::fd::AsRawFd;

pub const PROBES: &[Probe] = &[
    ("file-punch-hole", punch),
    ("file-truncate", truncate),
    ("file-private-truncate", private_truncate),
    ("object-mprotect", protect_one),
    ("object-munmap", unmap_one),
    ("object-truncate-child", truncate_in_child),
    ("segment-detach", detach),
];

const PAGES: usize = 5;
const LEN: usize = 2 * TABLE;

/// A file with two mappings at addresses that are congruent modulo what a PTE page maps, all of it used.
fn twice() -> (File, [Region; 2]) {
    let file = memfd(LEN);
    let maps = [0, 1].map(|_| {
        let place = Region::aligned(LEN);
        place.unmap();
        Region::of_file_at(place.base, file.as_raw_fd(), LEN, RW, libc::MAP_SHARED)
    });
    for (at, byte) in each() {
        maps[0].set(at, byte);
    }
    for (at, byte) in each() {
        check!(maps[1].get(at) == byte, "two mappings of a file differ");
        maps[1].set(at, byte);
    }
    (file, maps)
}

fn each() -> impl Iterator<Item = (usize, u8)> {
    [0, TABLE].into_iter().flat_map(|base| (0..PAGES).map(move |p| (base + p * PAGE, p as u8 + 1)))
}

fn release(maps: &[Region]) {
    maps.iter().for_each(Region::unmap);
}

fn set_len(file: &File, len: usize) {
    check!(file.set_len(len as u64).is_ok(), "ftruncate failed");
}

fn punch(name: &str) {
    let (file, maps) = twice();
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointer.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, LEN as i64) };
    check!(result == 0, "fallocate failed: {}", errno());
    for map in &maps {
        for (at, _) in each() {
            expect(name, "a read of the hole", probe::read(map.base + at), Ok(0));
        }
    }
    release(&maps);
}

fn truncate(name: &str) {
    let (file, maps) = twice();
    set_len(&file, PAGE);
    for map in &maps {
        for (at, byte) in each() {
            let right = if at < PAGE { Ok(byte) } else { Err(BUS) };
            expect(name, "a read beyond the end", probe::read(map.base + at), right);
        }
    }
    set_len(&file, LEN);
    for map in &maps {
        for (at, _) in each().skip(1) {
            expect(name, "a read of the file made longer", probe::read(map.base + at), Ok(0));
        }
    }
    release(&maps);
}

/// Truncation takes private copies too (mmap(2)).
fn private_truncate(name: &str) {
    let file = memfd(LEN);
    let map = Region::of_file(file.as_raw_fd(), LEN, RW, libc::MAP_PRIVATE);
    for (at, byte) in each() {
        map.set(at, byte);
    }
    set_len(&file, 0);
    for (at, _) in each() {
        expect(name, "a read beyond the end", probe::read(map.base + at), Err(BUS));
    }
    map.unmap();
}

/// One user of the table loses a right, the other keeps it.
fn protect_one(name: &str) {
    let (_file, maps) = twice();
    maps[0].protect(libc::PROT_READ);
    for (at, byte) in each() {
        expect(name, "a write", probe::write(maps[0].base + at, 99), Err(SEGV));
        expect(name, "a read", probe::read(maps[0].base + at), Ok(byte));
        expect(name, "the other mapping's write", probe::write(maps[1].base + at, byte + 1), Ok(()));
        expect(name, "a read of that", probe::read(maps[0].base + at), Ok(byte + 1));
    }
    release(&maps);
}

fn unmap_one(name: &str) {
    let (_file, maps) = twice();
    maps[0].unmap();
    for (at, byte) in each() {
        expect(name, "a read", probe::read(maps[0].base + at), Err(SEGV));
        expect(name, "the other mapping's read", probe::read(maps[1].base + at), Ok(byte));
    }
    maps[0].map_over(RW);
    for (at, _) in each() {
        expect(name, "a read of what was mapped next", probe::read(maps[0].base + at), Ok(0));
    }
    release(&maps);
}

/// A child changes the object: every sharer of its tables is concerned.
fn truncate_in_child(name: &str) {
    let (file, maps) = twice();
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = spawn(|| {
        for (at, byte) in each() {
            expect(name, "the child's read", probe::read(maps[0].base + at), Ok(byte));
        }
        set_len(&file, 0);
        for (at, _) in each() {
            expect(name, "the child's read beyond the end", probe::read(maps[0].base + at), Err(BUS));
        }
        to_parent.open();
        to_child.pass();
        for (at, _) in each() {
            expect(name, "the child's read of the longer file", probe::read(maps[1].base + at), Ok(0));
        }
        verdict()
    });
    to_parent.pass();
    for (at, _) in each() {
        expect(name, "the parent's read beyond the end", probe::read(maps[0].base + at), Err(BUS));
        expect(name, "the parent's write beyond the end", probe::write(maps[1].base + at, 9), Err(BUS));
    }
    set_len(&file, LEN);
    to_child.open();
    join(child);
    for (at, _) in each() {
        expect(name, "the parent's read of the longer file", probe::read(maps[0].base + at), Ok(0));
    }
    release(&maps);
}

fn detach(name: &str) {
    // SAFETY: no pointer.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, LEN, 0o600) };
    check!(id >= 0, "shmget failed: {}", errno());
    // SAFETY: a new attachment at a free address harms nobody.
    let base = unsafe { libc::shmat(id, std::ptr::null(), 0) } as usize;
    check!(base != usize::MAX, "shmat failed: {}", errno());
    // SAFETY: as above; IPC_RMID takes no buffer.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    let map = Region { base, len: LEN };
    for (at, byte) in each() {
        map.set(at, byte);
    }
    // SAFETY: regions give out no references that could dangle.
    check!(unsafe { libc::shmdt(base as *const _) } == 0, "shmdt failed: {}", errno());
    for (at, _) in each() {
        expect(name, "a read", probe::read(base + at), Err(SEGV));
    }
}
