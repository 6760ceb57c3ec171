//! Everything that ends the use of a file's PTE pages in one process, while others go on reading through them (2003 paper,
//! section 5): the others keep their tables, and no byte changes for anyone.

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;

const TABLES: usize = 4;
const BYTES: usize = TABLES * TABLE;
/// The file's pages hold their number plus this.
const SALT: u32 = 1000;
const BASE: usize = 0x2000_0000_0000;
const READERS: usize = 3;
/// One page in so many is looked at.
const STEP: usize = 32;
const READ: i32 = libc::PROT_READ;

/// A process that maps the file at an address of its own and reads from all of it when asked.
struct Reader {
    pid: i32,
    go: Gate,
    done: Gate,
}

/// Where reader 0 says how many faults it has taken in its last look, in the page that all share; the next behind it.
const FAULTS: usize = 64;
/// What that page says instead of what the file holds now.
const QUIT: u32 = u32::MAX;

fn reader(i: usize, fd: i32, expected: Region) -> Reader {
    let (go, done) = (Gate::new(), Gate::new());
    let pid = process::spawn(|| {
        let region = Region::of_file_at(BASE + i * (64 << 20), fd, BYTES, RW, libc::MAP_SHARED);
        loop {
            go.pass();
            if expected.word(0) == QUIT {
                return 0;
            }
            let before = process::faults();
            check!(region.pages_are_marked(STEP, SALT), "reader {i} reads something else");
            check_eq!(region.word(4), expected.word(0));
            expected.set_word(FAULTS + 4 * i, (process::faults() - before) as u32);
            done.open();
        }
    });
    Reader { pid, go, done }
}

struct Stage {
    file: std::fs::File,
    expected: Region,
    readers: Vec<Reader>,
    steps: u32,
    sharing: bool,
}

impl Stage {
    /// All readers read everything.
    fn all_read(&self) {
        for reader in &self.readers {
            reader.go.open();
            reader.done.pass();
        }
    }

    fn map(&self, prot: i32) -> Region {
        let at = BASE + (READERS + 1) * (64 << 20);
        Region::of_file_at(at, self.file.as_raw_fd(), BYTES, prot, libc::MAP_SHARED)
    }

    /// Maps the file as the readers do, uses its tables, runs `change` on the mapping, and looks who lost what: of this
    /// process's tables `lost`, of the readers' none.
    fn step(&mut self, name: &str, lost: u64, change: impl FnOnce(Region) -> Vec<Region>) {
        let mapping = self.map(RW);
        check!(mapping.pages_are_marked(STEP, SALT), "{name}: the mapping shows something else");
        self.steps += 1;
        mapping.set_word(4, self.steps);
        self.expected.set_word(0, self.steps);
        self.all_read();

        let mut counters = [judge::Counters::new(), judge::Counters::new()];
        counters[0].read();
        let left = change(mapping);
        counters[1].read();
        let delta = |name: &str| counters[1].get(name) - counters[0].get(name);
        if self.sharing {
            check!(
                delta("object_detaches") == lost,
                "{name}: {} tables left, not {lost}",
                delta("object_detaches")
            );
        }
        self.all_read();
        if judge::present() {
            let faults: u32 = (0..READERS).map(|i| self.expected.word(FAULTS + 4 * i)).sum();
            check!(faults == 0, "{name}: the readers took {faults} faults");
        }
        for region in &left {
            region.unmap();
        }
        self.all_read();
        judge::checkpoint(name);
        println!("{name}: the readers never noticed");
    }
}

fn lock(region: Region) {
    // SAFETY: locking memory changes none of it.
    check!(unsafe { libc::mlock(region.base as *const _, region.len) } == 0, "mlock failed");
}

fn main() {
    let file = memory::memfd(BYTES);
    let expected = Region::shared(PAGE);
    let readers: Vec<Reader> = (0..READERS).map(|i| reader(i, file.as_raw_fd(), expected)).collect();
    let mut stage = Stage { file, expected, readers, steps: 0, sharing: false };
    let first = stage.map(RW);
    first.touch_file();
    first.mark_pages(STEP, SALT);
    stage.all_read();
    first.unmap();
    let mut counters = judge::Counters::new();
    counters.read();
    stage.sharing = counters.get("object_tables_shared") != 0;

    let two_and_a_half = |r: Region| r.part(TABLE / 2, 2 * TABLE + TABLE / 4);
    let one = |r: Region| r.part(TABLE, TABLE);
    let page = |r: Region| r.part(TABLE + 7 * PAGE, PAGE);

    stage.step("munmap of a page", 1, |r| {
        page(r).unmap();
        vec![r]
    });
    stage.step("munmap of a table's span", 1, |r| {
        one(r).unmap();
        vec![r]
    });
    stage.step("munmap across tables", 3, |r| {
        two_and_a_half(r).unmap();
        vec![r]
    });
    stage.step("mprotect of a page", 1, |r| {
        page(r).protect(READ);
        check!(r.pages_are_marked(STEP, SALT), "mprotect changed something");
        vec![r]
    });
    stage.step("mprotect across tables, and back", 3, |r| {
        two_and_a_half(r).protect(READ);
        two_and_a_half(r).protect(RW);
        check!(r.pages_are_marked(STEP, SALT), "mprotect changed something");
        vec![r]
    });
    stage.step("mprotect to nothing", 4, |r| {
        r.protect(libc::PROT_NONE);
        vec![r]
    });
    stage.step("mremap to another place", 4, |r| {
        let moved = r.remap(BYTES, Some(r.base + (1 << 30)));
        check!(moved.pages_are_marked(STEP, SALT), "mremap lost something");
        vec![moved]
    });
    stage.step("mremap to a place that is not congruent", 4, |r| {
        let moved = r.remap(BYTES, Some(r.base + (1 << 30) + 5 * PAGE));
        check!(moved.pages_are_marked(STEP, SALT), "mremap lost something");
        vec![moved]
    });
    stage.step("mremap of a part", 2, |r| {
        let part = r.part(TABLE + TABLE / 2, TABLE);
        let moved = part.remap(TABLE, Some(r.base + (1 << 30)));
        check!(
            (0..TABLE / PAGE).step_by(STEP).all(|p| moved.word(p * PAGE) == (768 + p) as u32 + SALT),
            "mremap lost something"
        );
        vec![r, moved]
    });
    stage.step("mremap that shrinks", 3, |r| vec![r.remap(TABLE + TABLE / 2, None)]);
    stage.step("mremap onto a part of it", 2, |r| {
        let other = Region::shared(TABLE);
        other.mark_pages(STEP, 7);
        let target = r.base + TABLE + TABLE / 2;
        check_eq!(other.remap(TABLE, Some(target)).base, target);
        check!(r.part(TABLE + TABLE / 2, TABLE).pages_are_marked(STEP, 7), "mremap lost something");
        vec![r]
    });
    stage.step("mmap over a page", 1, |r| {
        page(r).map_over(RW);
        check_eq!(page(r).word(0), 0);
        page(r).set_word(0, 5);
        vec![r]
    });
    stage.step("mmap over tables", 3, |r| {
        two_and_a_half(r).map_over(RW);
        check_eq!(two_and_a_half(r).word(TABLE), 0);
        vec![r]
    });
    stage.step("MADV_DONTNEED", 3, |r| {
        two_and_a_half(r).advise(libc::MADV_DONTNEED);
        check!(r.pages_are_marked(STEP, SALT), "MADV_DONTNEED of shared memory lost something");
        vec![r]
    });
    stage.step("MADV_DONTFORK", 3, |r| {
        two_and_a_half(r).advise(libc::MADV_DONTFORK);
        vec![r]
    });
    stage.step("advice that splits the mapping", 2, |r| {
        two_and_a_half(r).advise(libc::MADV_SEQUENTIAL);
        check!(r.pages_are_marked(STEP, SALT), "advice changed something");
        vec![r]
    });
    stage.step("mlock of a page", 1, |r| {
        lock(page(r));
        check!(r.pages_are_marked(STEP, SALT), "mlock changed something");
        vec![r]
    });
    let fd = stage.file.as_raw_fd();
    // The munmap, and a child's exit.
    stage.step("exit", 8, |r| {
        r.unmap();
        let child = process::in_child(|| {
            let own = Region::of_file_at(r.base, fd, BYTES, RW, libc::MAP_SHARED);
            i32::from(!own.pages_are_marked(STEP, SALT))
        });
        check_eq!(child.code(), Some(0));
        vec![]
    });

    stage.expected.set_word(0, QUIT);
    for reader in &stage.readers {
        reader.go.open();
        check_eq!(process::wait(reader.pid).code(), Some(0));
    }
    println!("done");
}
