//! Large synthetic guests, to measure the judge on.

use ptshare_paging::{Level, PAGE_BYTES, Pte};
use ptshare_wire::vma::{VM_MAYREAD, VM_MAYSHARE, VM_MAYWRITE, VM_READ, VM_SHARED, VM_WRITE};

use super::builder::{Builder, Guest};

const RW: u64 = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE;
const HEAP: u64 = 0x10_0000_0000;
const FILE: u64 = 0x7000_0000_0000;
const TABLE: u64 = Level::Pte.span_bytes();

/// What a large guest is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Tables of private memory that the first process has.
    pub tables: u64,
    /// Pages present in each: 1 to 512.
    pub pages: u64,
    /// Processes that it forks, which share its tables.
    pub children: u64,
    /// Tables that the last child has made its own.
    pub unshared: u64,
    /// Tables over a file that all map, present as the others.
    pub file: u64,
}

/// A guest of this shape.
pub fn large(shape: &Shape) -> Guest {
    let pages = shape.pages.clamp(1, 512);
    let frames =
        (shape.tables + shape.file) * (pages + 2) + shape.unshared * 2 + shape.children * 64 + 0x2000;
    let mut b = Builder::with_frames(frames * 9 / 8);
    let parent = b.mm(1);
    b.vma(parent, HEAP, HEAP + shape.tables * TABLE, RW, 0, HEAP >> 12);
    if shape.file > 0 {
        b.vma(parent, FILE, FILE + shape.file * TABLE, RW | VM_SHARED | VM_MAYSHARE, 1, 0);
    }
    for table in 0..shape.tables {
        for page in 0..pages {
            let va = HEAP + table * TABLE + page * (512 / pages) * PAGE_BYTES;
            b.map_anon(parent, va, Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC);
        }
    }
    for table in 0..shape.file {
        for page in 0..pages {
            let index = table * 512 + page * (512 / pages);
            let frame = b.cache_frame(1, index);
            let flags = Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC;
            b.map(parent, FILE + index * PAGE_BYTES, Level::Pte, frame, flags);
        }
    }
    let mut last = parent;
    for child in 0..shape.children {
        last = b.fork(parent, 2 + child);
    }
    for table in 0..shape.unshared.min(shape.tables) {
        b.unshare(last, HEAP + table * TABLE);
    }
    b.vcpu(Some(parent));
    b.finish()
}
