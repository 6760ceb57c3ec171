//! One thread of one process: every call that takes rights or pages away.

use crate::{Probe, SEGV, expect};
use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::{check, probe};

/// In the order of what they need.
pub const PROBES: &[Probe] = &[
    ("mprotect-read-only", read_only),
    ("mprotect-none", none),
    ("mprotect-no-exec", no_exec),
    ("mprotect-many", many),
    ("munmap", munmap),
    ("munmap-table", munmap_table),
    ("mmap-over", map_over),
    ("madvise-dontneed", dont_need),
    ("mremap-away", remap_away),
    ("mremap-table-away", remap_table_away),
    ("mremap-onto", remap_onto),
    ("mremap-shrink", remap_shrink),
    ("brk-shrink", brk_shrink),
    ("zero-page-written", zero_page),
];

const PAGES: usize = 5;

/// Pages with a number each, written to a moment ago.
fn used() -> Region {
    let region = Region::private(PAGES * PAGE);
    fill(&region);
    region
}

fn fill(region: &Region) {
    for page in 0..region.pages().min(PAGES) {
        region.set(page * PAGE, 10 + page as u8);
    }
}

fn each(region: &Region) -> impl Iterator<Item = (usize, u8)> {
    let base = region.base;
    (0..region.pages().min(PAGES)).map(move |page| (base + page * PAGE, 10 + page as u8))
}

fn read_only(name: &str) {
    let region = used();
    region.protect(libc::PROT_READ);
    for (address, byte) in each(&region) {
        expect(name, "a write", probe::write(address, 99), Err(SEGV));
        expect(name, "a read", probe::read(address), Ok(byte));
    }
}

fn none(name: &str) {
    let region = used();
    region.protect(libc::PROT_NONE);
    for (address, _) in each(&region) {
        expect(name, "a read", probe::read(address), Err(SEGV));
    }
    region.protect(libc::PROT_READ);
    for (address, byte) in each(&region) {
        expect(name, "a read once allowed again", probe::read(address), Ok(byte));
    }
}

fn no_exec(name: &str) {
    let region = Region::private(PAGE);
    for (i, byte) in probe::code(7).into_iter().enumerate() {
        region.set(i, byte);
    }
    region.protect(libc::PROT_READ | libc::PROT_EXEC);
    expect(name, "a call", probe::call(region.base), Ok(7));
    region.protect(libc::PROT_READ);
    expect(name, "a call of data", probe::call(region.base), Err(SEGV));
}

/// More pages than a kernel flushes one by one.
fn many(name: &str) {
    let region = Region::aligned(2 * TABLE);
    let pages = (0..region.pages()).step_by(7);
    pages.clone().for_each(|page| region.set(page * PAGE, 1));
    region.protect(libc::PROT_READ);
    for page in pages {
        expect(name, "a write", probe::write(region.base + page * PAGE, 2), Err(SEGV));
    }
    region.unmap();
}

fn munmap(name: &str) {
    let region = used();
    region.unmap();
    for (address, _) in each(&region) {
        expect(name, "a read", probe::read(address), Err(SEGV));
    }
    region.map_over(RW);
    for (address, _) in each(&region) {
        expect(name, "a read of what was mapped next", probe::read(address), Ok(0));
    }
}

/// A whole PTE page goes: what pointed to it may be cached too.
fn munmap_table(name: &str) {
    let region = Region::aligned(TABLE);
    fill(&region);
    region.unmap();
    for (address, _) in each(&region) {
        expect(name, "a read", probe::read(address), Err(SEGV));
    }
    // Its frame is a PTE page again, of other memory.
    let other = Region::aligned(TABLE);
    for page in 0..PAGES {
        other.set(page * PAGE, 77);
    }
    region.map_over(RW);
    for (address, _) in each(&region) {
        expect(name, "a read of what was mapped next", probe::read(address), Ok(0));
    }
    other.unmap();
    region.unmap();
}

fn map_over(name: &str) {
    let region = used();
    region.map_over(libc::PROT_READ);
    for (address, _) in each(&region) {
        expect(name, "a read", probe::read(address), Ok(0));
        expect(name, "a write", probe::write(address, 9), Err(SEGV));
    }
}

fn dont_need(name: &str) {
    let region = used();
    region.advise(libc::MADV_DONTNEED);
    for (address, _) in each(&region) {
        expect(name, "a read", probe::read(address), Ok(0));
    }
    fill(&region);
    for (address, byte) in each(&region) {
        expect(name, "a read of what was written next", probe::read(address), Ok(byte));
    }
}

/// The pages move to `to`, where other translations are cached; both sides must change.
fn moved(name: &str, from: Region, to: Region) {
    fill(&from);
    for (address, _) in each(&to) {
        check!(probe::read(address) == Ok(0), "fresh memory is not zero");
    }
    let new = from.remap(from.len, Some(to.base));
    for (address, byte) in each(&new) {
        expect(name, "a read at the new address", probe::read(address), Ok(byte));
    }
    for (address, _) in each(&from) {
        expect(name, "a read at the old address", probe::read(address), Err(SEGV));
        expect(name, "a write at the old address", probe::write(address, 66), Err(SEGV));
    }
    from.map_over(RW);
    for (address, _) in each(&from) {
        expect(name, "a read of what was mapped there next", probe::read(address), Ok(0));
        check!(probe::write(address, 55).is_ok(), "fresh memory cannot be written to");
    }
    for (address, byte) in each(&new) {
        expect(name, "a read after a write to the old address", probe::read(address), Ok(byte));
    }
    from.unmap();
    new.unmap();
}

fn remap_away(name: &str) {
    let from = used();
    moved(name, from, Region::private(PAGES * PAGE));
}

fn remap_table_away(name: &str) {
    moved(name, Region::aligned(TABLE), Region::aligned(TABLE));
}

fn remap_onto(name: &str) {
    let (from, to) = (used(), Region::private(PAGES * PAGE));
    for page in 0..PAGES {
        to.set(page * PAGE, 200);
    }
    from.remap(from.len, Some(to.base));
    for (address, byte) in each(&to) {
        expect(name, "a read of what came there", probe::read(address), Ok(byte));
        check!(probe::write(address, byte + 1).is_ok(), "moved memory cannot be written to");
        expect(name, "a read of what was written there", probe::read(address), Ok(byte + 1));
    }
}

fn remap_shrink(name: &str) {
    let region = used();
    region.remap(PAGE, None);
    for (address, _) in each(&region).skip(1) {
        expect(name, "a read beyond the end", probe::read(address), Err(SEGV));
    }
}

fn brk_shrink(name: &str) {
    // SAFETY: sbrk moves the end of the heap; glibc's allocator copes with a stranger's use of it, and nothing is
    // allocated before the end is back where it was.
    let start = unsafe { libc::sbrk((PAGES * PAGE) as isize) } as usize;
    check!(start != usize::MAX, "sbrk failed");
    let heap = Region { base: start.next_multiple_of(PAGE), len: (PAGES - 1) * PAGE };
    fill(&heap);
    // SAFETY: as above.
    unsafe { libc::sbrk(-((PAGES * PAGE) as isize)) };
    let seen: [_; PAGES - 1] = std::array::from_fn(|page| probe::read(heap.base + page * PAGE));
    // SAFETY: as above.
    unsafe { libc::sbrk((PAGES * PAGE) as isize) };
    let again: [_; PAGES - 1] = std::array::from_fn(|page| probe::read(heap.base + page * PAGE));
    // The first page may hold the old end.
    for (before, after) in seen.into_iter().zip(again).skip(1) {
        expect(name, "a read beyond the end", before, Err(SEGV));
        expect(name, "a read of the new heap", after, Ok(0));
    }
}

fn zero_page(name: &str) {
    let region = Region::private(PAGES * PAGE);
    for page in 0..PAGES {
        let address = region.base + page * PAGE;
        check!(probe::read(address) == Ok(0), "fresh memory is not zero");
        check!(probe::write(address, 5).is_ok(), "fresh memory cannot be written to");
        expect(name, "a read after the first write", probe::read(address), Ok(5));
    }
}
