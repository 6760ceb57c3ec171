//! From a page to everybody who maps it (2003 paper, section 5, `mm_chain`): punching a hole and truncating reach every
//! mapping, at whatever address and through whatever shared table.
//!
//! Four processes map one file: at addresses that let them share its PTE pages, at one that does not, and privately, with
//! copies of some pages. In a ptshare guest the kernel is also asked where single pages are mapped.

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge, views};
use std::os::fd::AsRawFd;

const PAGES: usize = 2 * TABLE / PAGE;
const BYTES: usize = 2 * TABLE;
const SALT: u32 = 1000;
const BASE: usize = 0x2000_0000_0000;
/// What is punched out, in pages; the private copies are at both ends of it.
const HOLE: std::ops::Range<usize> = 5..700;
/// Pages left by truncate.
const LEFT: usize = 256;
const PROCESSES: usize = 4;

/// Is this page used? Of most of the file one in 32 is; all are at both ends of the hole, of what truncate leaves, and
/// of the file.
fn is_used(page: usize) -> bool {
    let near = |edge: usize| page + 2 > edge && page < edge + 2;
    page.is_multiple_of(32) || [HOLE.start, HOLE.end, LEFT, PAGES].into_iter().any(near) || page < 8
}

/// How a process maps the file: where, from which page on, and whether privately with copies.
#[derive(Clone, Copy)]
struct Mapping {
    region: Region,
    first: usize,
    copies: bool,
}

impl Mapping {
    fn make(fd: i32, at: usize, first: usize, copies: bool) -> Mapping {
        let len = BYTES - first * PAGE;
        let kind = if copies { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        // SAFETY: a new mapping at a free address harms nobody.
        let base = unsafe {
            let flags = kind | libc::MAP_FIXED_NOREPLACE;
            libc::mmap(at as *mut _, len, RW, flags, fd, (first * PAGE) as i64)
        };
        check!(base as usize == at, "mmap of a file at {at:#x} failed");
        Mapping { region: Region { base: at, len }, first, copies }
    }

    /// The file's page, which this mapping has.
    fn word(&self, page: usize) -> u32 {
        self.region.word((page - self.first) * PAGE)
    }

    /// A private copy?
    fn is_copy(&self, page: usize) -> bool {
        self.copies && (page == HOLE.start || page == HOLE.end - 1)
    }

    fn pages(&self) -> std::ops::Range<usize> {
        self.first..PAGES
    }

    /// Does reading this page end a process with SIGBUS?
    fn is_beyond(&self, page: usize) -> bool {
        let end = process::in_child(|| {
            std::hint::black_box(self.word(page));
            0
        });
        check!(end.signal().is_some() || end.code() == Some(0), "a reader ended with {end}");
        end.signal() == Some(libc::SIGBUS)
    }

    /// Looks at every page in use after step `step`.
    fn look(&self, step: usize) {
        for page in self.pages().filter(|page| is_used(*page) && (step < 2 || *page < LEFT)) {
            let copy = if self.is_copy(page) { 7 } else { 0 };
            let zero = step > 0 && HOLE.contains(&page) && copy == 0;
            let expected = if zero { 0 } else { page as u32 + SALT + copy };
            check!(self.word(page) == expected, "step {step}, page {page}: {}", self.word(page));
        }
        let beyond = [LEFT, HOLE.end - 1, PAGES - 1];
        match step {
            2 => beyond.iter().for_each(|&page| check!(self.is_beyond(page), "page {page} is there")),
            // The file has grown again: even the copies are gone.
            3 => beyond.iter().for_each(|&page| check_eq!(self.word(page), 0)),
            _ => {}
        }
    }
}

/// Where a page is mapped, the kernel says, must be where it is.
fn ask(address: usize, what: &str, expected: &mut Vec<(i32, usize)>) {
    if !judge::present() {
        return;
    }
    let pfn = views::frame(views::pagemap(address));
    check!(pfn != 0, "{what}: no frame number at {address:#x}");
    judge::reverse_map(pfn);
    let mut counters = judge::Counters::new();
    counters.read();
    let mut found = counters.mapped();
    found.sort_unstable();
    expected.sort_unstable();
    check!(found == *expected, "{what}: mapped at {found:x?}, not at {expected:x?}");
}

/// A file's page at four addresses, with holes and ends.
fn objects() {
    let file = memory::memfd(BYTES);
    let fd = file.as_raw_fd();
    let mappings = |i: usize| {
        let at = BASE + i * (256 << 20);
        match i {
            // The same PTE pages as the first; but not congruent, and then private with copies.
            2 => vec![Mapping::make(fd, at + 5 * PAGE, 3, false)],
            3 => vec![Mapping::make(fd, at, 0, false), Mapping::make(fd, at + (64 << 20), 0, true)],
            _ => vec![Mapping::make(fd, at, 0, false)],
        }
    };
    let own = mappings(0);
    for page in own[0].pages().filter(|page| is_used(*page)) {
        own[0].region.set_word(page * PAGE, page as u32 + SALT);
    }
    let (go, done): (Vec<Gate>, Vec<Gate>) = (0..PROCESSES).map(|_| (Gate::new(), Gate::new())).unzip();
    let children: Vec<i32> = (1..PROCESSES)
        .map(|i| {
            process::spawn(|| {
                let own = mappings(i);
                for mapping in &own {
                    for page in mapping.pages().filter(|page| mapping.is_copy(*page)) {
                        mapping.region.set_word(page * PAGE, page as u32 + SALT + 7);
                    }
                }
                for step in 0..4 {
                    go[i].pass();
                    own.iter().for_each(|mapping| mapping.look(step));
                    done[i].open();
                }
                0
            })
        })
        .collect();
    let look = |step: usize, what: &str| {
        own[0].look(step);
        for i in 1..PROCESSES {
            go[i].open();
            done[i].pass();
        }
        judge::answer(what);
        println!("{what}: every mapping shows it");
    };

    look(0, "a file in four processes");
    let at = |i: usize| BASE + i * (256 << 20);
    let mut all = vec![(std::process::id() as i32, at(0) + 3 * PAGE)];
    all.extend([(children[0], at(1) + 3 * PAGE), (children[1], at(2) + 5 * PAGE)]);
    all.extend([(children[2], at(3) + 3 * PAGE), (children[2], at(3) + (64 << 20) + 3 * PAGE)]);
    // The children's copies of this process's mapping, which fork gave them.
    all.extend(children.iter().filter(|_| inherited(at(0))).map(|&pid| (pid, at(0) + 3 * PAGE)));
    ask(at(0) + 3 * PAGE, "a page of the file", &mut all);

    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (start, len) = (HOLE.start * PAGE, HOLE.len() * PAGE);
    // SAFETY: changes the file alone.
    check!(unsafe { libc::fallocate(fd, punch, start as i64, len as i64) } == 0, "punching a hole failed");
    look(1, "a hole");
    check!(file.set_len((LEFT * PAGE) as u64).is_ok(), "truncate failed");
    look(2, "a nearer end");
    check!(file.set_len(BYTES as u64).is_ok(), "truncate failed");
    look(3, "a farther end");
    for child in children {
        println!("child: {}", process::wait(child));
    }
}

/// Does a child of fork have the page at an address without a fault of its own? Where fork shares tables.
fn inherited(address: usize) -> bool {
    process::in_child(|| i32::from(views::pagemap(address + 3 * PAGE) & views::PRESENT != 0)).code()
        == Some(1)
}

/// A private page that fork shares, and what a write and a move make of it.
fn private() {
    let region = Region::aligned(8 * TABLE);
    region.mark_pages(128, 3);
    let at = region.base + TABLE;
    let (ready, write, move_on) = (Gate::new(), Gate::new(), Gate::new());
    let (wrote, moved, leave) = (Gate::new(), Gate::new(), Gate::new());
    let to = 0x2800_0000_0000 + 7 * PAGE;
    let writer = process::spawn(|| {
        ready.open();
        write.pass();
        region.set_word(TABLE, 99);
        wrote.open();
        leave.pass();
        i32::from(region.word(TABLE) != 99)
    });
    let mover = process::spawn(|| {
        ready.open();
        move_on.pass();
        let there = region.part(TABLE, TABLE).remap(TABLE, Some(to));
        check_eq!(there.word(0), 512 + 3);
        moved.open();
        leave.pass();
        i32::from(there.word(0) != 512 + 3)
    });
    let me = std::process::id() as i32;
    ready.pass();
    ready.pass();
    ask(at, "shared by fork", &mut vec![(me, at), (writer, at), (mover, at)]);
    write.open();
    wrote.pass();
    ask(at, "one has written", &mut vec![(me, at), (mover, at)]);
    move_on.open();
    moved.pass();
    ask(at, "one has moved it", &mut vec![(me, at), (mover, to)]);
    judge::answer("private-pages");
    region.set_word(TABLE, 4);
    ask(at, "a page of one's own", &mut vec![(me, at)]);
    leave.open();
    leave.open();
    println!("writer: {}", process::wait(writer));
    println!("mover: {}", process::wait(mover));
    check_eq!(region.word(TABLE), 4);
}

fn main() {
    objects();
    private();
    println!("done");
}
