//! Parents and children: what fork, and the copying that it puts off, must flush.

use crate::{Probe, SEGV, expect, join, verdict};
use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{Gate, spawn};
use ptshare_programs::{check, probe};

pub const PROBES: &[Probe] = &[
    ("fork-parent-writes", parent_writes),
    ("fork-child-writes", child_writes),
    ("unshare-neighbours", neighbours),
    ("unshare-mprotect", protect_in_child),
    ("detach-munmap", unmap_shared),
    ("fork-dontneed", dont_need_in_child),
    ("fork-mremap", remap_shared),
    ("take-back", take_back),
];

const PAGES: usize = 6;
/// Enough PTE pages that fork shares them.
const TABLES: usize = 5;

/// Memory in several PTE pages, the first pages of each written a moment ago.
fn used() -> Region {
    let region = Region::aligned(TABLES * TABLE);
    for (at, byte) in each() {
        region.set(at, byte);
    }
    region
}

/// Offsets, and what [`used`] wrote there.
fn each() -> impl Iterator<Item = (usize, u8)> {
    (0..TABLES).flat_map(|t| (0..PAGES).map(move |p| (t * TABLE + p * PAGE, (10 * t + p + 1) as u8)))
}

/// The parent's translations are writable when it forks; writing through one of them afterwards reaches the child.
fn parent_writes(name: &str) {
    let (region, gate) = (used(), Gate::new());
    let child = spawn(|| {
        gate.pass();
        for (at, byte) in each() {
            expect(name, "the child's read", probe::read(region.base + at), Ok(byte));
        }
        verdict()
    });
    for (at, _) in each() {
        check!(probe::write(region.base + at, 200).is_ok(), "the parent cannot write");
        expect(name, "the parent's read of its write", probe::read(region.base + at), Ok(200));
    }
    gate.open();
    join(child);
    region.unmap();
}

fn child_writes(name: &str) {
    let region = used();
    join(spawn(|| {
        for (at, byte) in each() {
            expect(name, "the child's first read", probe::read(region.base + at), Ok(byte));
        }
        for (at, _) in each() {
            check!(probe::write(region.base + at, 201).is_ok(), "the child cannot write");
        }
        for (at, _) in each() {
            expect(name, "the child's read of its write", probe::read(region.base + at), Ok(201));
        }
        verdict()
    }));
    for (at, byte) in each() {
        expect(name, "the parent's read", probe::read(region.base + at), Ok(byte));
    }
    region.unmap();
}

/// One write gives the child a PTE page of its own. Its cached way to the old one must go: the parent changes that in
/// place, while both read in turns.
fn neighbours(name: &str) {
    let (region, to_parent, to_child) = (used(), Gate::new(), Gate::new());
    let child = spawn(|| {
        let read_all = |first: u8| {
            for (at, byte) in each() {
                let right = if at == 0 { first } else { byte };
                expect(name, "the child's read", probe::read(region.base + at), Ok(right));
            }
        };
        read_all(1);
        check!(probe::write(region.base, 202).is_ok(), "the child cannot write");
        read_all(202);
        for _ in 0..2 {
            to_parent.open();
            to_child.pass();
            read_all(202);
        }
        verdict()
    });
    for round in 0..2 {
        to_parent.pass();
        for (at, _) in each() {
            check!(probe::write(region.base + at, 100 + round).is_ok(), "the parent cannot write");
        }
        to_child.open();
    }
    join(child);
    for (at, _) in each() {
        expect(name, "the parent's read of its write", probe::read(region.base + at), Ok(101));
    }
    region.unmap();
}

/// mprotect of part of a shared table: the child's rights go, its cached ones with them, and the parent's stay.
fn protect_in_child(name: &str) {
    let region = used();
    join(spawn(|| {
        for (at, byte) in each() {
            expect(name, "the child's read", probe::read(region.base + at), Ok(byte));
        }
        region.part(0, 2 * PAGE).protect(libc::PROT_NONE);
        region.part(TABLE, TABLE).protect(libc::PROT_NONE);
        for (at, byte) in each() {
            let closed = at < 2 * PAGE || (TABLE..2 * TABLE).contains(&at);
            let right = if closed { Err(SEGV) } else { Ok(byte) };
            expect(name, "the child's read afterwards", probe::read(region.base + at), right);
        }
        verdict()
    }));
    for (at, byte) in each() {
        expect(name, "the parent's read", probe::read(region.base + at), Ok(byte));
    }
    region.unmap();
}

/// munmap of whole spans of shared tables is a count and a cleared entry: the mm's cached way there must go all the same.
fn unmap_shared(name: &str) {
    let (region, gate) = (used(), Gate::new());
    let child = spawn(|| {
        gate.pass();
        for (at, byte) in each() {
            expect(name, "the child's read", probe::read(region.base + at), Ok(byte));
        }
        verdict()
    });
    for (at, byte) in each() {
        expect(name, "the parent's read", probe::read(region.base + at), Ok(byte));
    }
    region.unmap();
    for (at, _) in each() {
        expect(name, "the parent's read after munmap", probe::read(region.base + at), Err(SEGV));
    }
    region.map_over(RW);
    for (at, _) in each() {
        expect(name, "the parent's read of what was mapped next", probe::read(region.base + at), Ok(0));
    }
    gate.open();
    join(child);
    region.unmap();
}

fn dont_need_in_child(name: &str) {
    let region = used();
    join(spawn(|| {
        for (at, byte) in each() {
            expect(name, "the child's read", probe::read(region.base + at), Ok(byte));
        }
        region.part(0, TABLE + 2 * PAGE).advise(libc::MADV_DONTNEED);
        for (at, byte) in each() {
            let right = if at < TABLE + 2 * PAGE { 0 } else { byte };
            expect(name, "the child's read afterwards", probe::read(region.base + at), Ok(right));
        }
        verdict()
    }));
    for (at, byte) in each() {
        expect(name, "the parent's read", probe::read(region.base + at), Ok(byte));
    }
    region.unmap();
}

/// Whole spans of shared tables move with their entries.
fn remap_shared(name: &str) {
    let region = used();
    join(spawn(|| {
        for (at, byte) in each() {
            expect(name, "the child's read", probe::read(region.base + at), Ok(byte));
        }
        let target = Region::aligned(TABLES * TABLE);
        let new = region.remap(region.len, Some(target.base));
        for (at, byte) in each() {
            expect(name, "a read at the old address", probe::read(region.base + at), Err(SEGV));
            expect(name, "a read at the new address", probe::read(new.base + at), Ok(byte));
        }
        for (at, _) in each() {
            check!(probe::write(new.base + at, 203).is_ok(), "the child cannot write");
            expect(name, "a read of a write", probe::read(new.base + at), Ok(203));
        }
        verdict()
    }));
    for (at, byte) in each() {
        expect(name, "the parent's read", probe::read(region.base + at), Ok(byte));
    }
    region.unmap();
}

/// When the child is gone the parent gets its tables back, and forks again: R/W goes a second time.
fn take_back(name: &str) {
    let region = used();
    for round in 0..3 {
        join(spawn(verdict));
        for (at, _) in each() {
            check!(probe::write(region.base + at, 50 + round).is_ok(), "the parent cannot write");
        }
        let gate = Gate::new();
        let child = spawn(|| {
            gate.pass();
            for (at, _) in each() {
                expect(name, "the child's read", probe::read(region.base + at), Ok(50 + round));
            }
            verdict()
        });
        for (at, _) in each() {
            check!(probe::write(region.base + at, 90).is_ok(), "the parent cannot write");
        }
        gate.open();
        join(child);
    }
    region.unmap();
}
