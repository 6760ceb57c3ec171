//! After fork a child changes part of what it shares with its parent, in every way there is: it sees what it should, and
//! neither the parent nor a brother loses a byte (2003 paper, sections 4.2 and 5).

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const TABLES: usize = 3;
const BYTES: usize = TABLES * TABLE;
const SALT: u32 = 300;
/// One page in so many is used.
const STEP: usize = 8;
/// Argument that says: end at once.
const LEAVE: &str = "leave";

/// Pages that a change touches: inside one table, a whole one, across all.
const RANGES: [(&str, usize, usize); 3] = [
    ("a page", TABLE + STEP * PAGE, PAGE),
    ("a table", TABLE, TABLE),
    ("across tables", TABLE / 2, TABLE + TABLE / 2 + 3 * PAGE),
];

/// What the range holds after the change.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Same,
    Zero,
    Gone,
}

type Change = fn(Region) -> After;

const CHANGES: [(&str, Change); 11] = [
    ("write", |part| {
        let old = part.word(4);
        part.set_word(4, old + 1);
        After::Same
    }),
    ("munmap", |part| {
        part.unmap();
        After::Gone
    }),
    ("mprotect", |part| {
        part.protect(libc::PROT_READ);
        After::Same
    }),
    ("mprotect there and back", |part| {
        part.protect(libc::PROT_NONE);
        part.protect(RW);
        After::Same
    }),
    ("mremap there and back", |part| {
        let away = part.remap(part.len, Some(0x2000_0000_0000));
        away.remap(part.len, Some(part.base));
        After::Same
    }),
    ("mmap over it", |part| {
        part.map_over(RW);
        After::Zero
    }),
    ("MADV_DONTNEED", |part| {
        part.advise(libc::MADV_DONTNEED);
        After::Zero
    }),
    ("MADV_WIPEONFORK", |part| {
        part.advise(libc::MADV_WIPEONFORK);
        After::Same
    }),
    ("MADV_POPULATE_WRITE", |part| {
        part.advise(libc::MADV_POPULATE_WRITE);
        After::Same
    }),
    ("mlock", |part| {
        // SAFETY: locking memory changes none of it.
        check!(unsafe { libc::mlock(part.base as *const _, part.len) } == 0, "mlock failed");
        After::Same
    }),
    ("mremap that leaves it", |part| {
        const DONTUNMAP: i32 = 4;
        let flags = libc::MREMAP_MAYMOVE | DONTUNMAP;
        // SAFETY: regions give out no references.
        let to = unsafe { libc::mremap(part.base as *mut _, part.len, part.len, flags, 0_usize) };
        check!(to != libc::MAP_FAILED, "mremap failed");
        let moved = Region { base: to as usize, len: part.len };
        check!(marked(moved, part.base), "what was moved shows something else");
        After::Zero
    }),
];

/// Where the parent's region lies, for the numbers in its pages.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// Those pages of a part that was at `home` which are used.
fn used(part: Region, home: usize) -> impl Iterator<Item = usize> {
    let first = (home - BASE.load(Relaxed)) / PAGE;
    (0..part.pages()).filter(move |page| (first + page).is_multiple_of(STEP))
}

/// Does a part that was at `home` hold what the parent wrote there?
fn marked(part: Region, home: usize) -> bool {
    let first = (home - BASE.load(Relaxed)) / PAGE;
    used(part, home).all(|page| part.word(page * PAGE) == (first + page) as u32 + SALT)
}

fn change_and_look(region: Region, (offset, len): (usize, usize), change: Change) -> i32 {
    let part = region.part(offset, len);
    let before = region.part(0, offset);
    let behind = region.part(offset + len, BYTES - offset - len);
    let after = change(part);
    check!(marked(before, before.base) && marked(behind, behind.base), "the change reached beyond its range");
    match after {
        After::Same => check!(marked(part, part.base), "the range shows something else"),
        After::Zero => {
            check!(used(part, part.base).all(|p| part.word(p * PAGE) == 0), "the range is not empty")
        }
        After::Gone => {
            let mut resident = 0_u8;
            // SAFETY: one byte for one page.
            let told = unsafe { libc::mincore(part.base as *mut _, PAGE, &mut resident) };
            check!(told == -1, "the range is still mapped");
        }
    }
    judge::checkpoint("changed");
    0
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(LEAVE) {
        return;
    }
    let region = Region::aligned(BYTES);
    BASE.store(region.base, Relaxed);
    region.mark_pages(STEP, SALT);
    // A brother that shares all of it to the end.
    let leave = Gate::new();
    let brother = process::spawn(|| {
        leave.pass();
        i32::from(!marked(region, region.base))
    });
    for (name, change) in CHANGES {
        for (_, offset, len) in RANGES {
            let child = process::in_child(|| change_and_look(region, (offset, len), change));
            check_eq!(child.code(), Some(0));
            check!(region.pages_are_marked(STEP, SALT), "{name}: the parent lost something");
        }
        println!("{name}: {} ranges, nobody else noticed", RANGES.len());
    }
    let child = process::in_child(|| {
        let error = std::process::Command::new("/proc/self/exe").arg(LEAVE).exec();
        eprintln!("exec failed: {error}");
        1
    });
    println!("exec: {child}");
    check!(marked(region, region.base), "the parent lost something");
    leave.open();
    check_eq!(process::wait(brother).code(), Some(0));
    println!("done");
}
