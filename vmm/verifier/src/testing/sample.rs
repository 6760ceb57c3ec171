//! A guest with one of everything.

use ptshare_paging::{Level, Pte};
use ptshare_wire::HugeSize;
use ptshare_wire::vma::{
    VM_EXEC, VM_GROWSDOWN, VM_HUGE_1GB, VM_HUGETLB, VM_MAYEXEC, VM_MAYREAD, VM_MAYSHARE, VM_MAYWRITE,
    VM_READ, VM_SHARED, VM_UFFD_WP, VM_WRITE,
};

use super::builder::{Builder, Guest, MmIndex};

const MAY: u64 = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC;
const RW: u64 = VM_READ | VM_WRITE | MAY;
const PAGE: u64 = 0x1000;
const GIB: u64 = 1 << 30;

const TEXT: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;
const HEAP: u64 = 0x100_0000;
const MMAP: u64 = 0x7f00_0000_0000;
const LIBRARY: u64 = 0x7f10_0000_0000;
const STACK_END: u64 = 0x7fff_ffff_f000;

/// Five processes: a parent (pid 1) with text, data, heap, PROT_NONE memory, a shared file, hugetlb memory and a stack;
/// its child by fork (pid 2) that has unshared and written some of it; a grandchild (pid 3); and two strangers (pids 4
/// and 5) that share objects' tables at different addresses. vCPU 0 runs pid 1, vCPU 1 idles.
pub fn sample() -> Guest {
    let mut b = Builder::new();
    let parent = b.mm(1);
    let text: Vec<u64> = (0..4).map(|i| b.cache_frame(1, i)).collect();
    let data: Vec<u64> = (4..7).map(|i| b.cache_frame(1, i)).collect();
    // In the cache, mapped by nobody.
    b.cache_frame(1, 99);

    b.vma(parent, TEXT, TEXT + 4 * PAGE, VM_READ | VM_EXEC | MAY, 1, 0);
    b.vma(parent, DATA, DATA + 3 * PAGE, RW, 1, 4);
    b.vma(parent, DATA + 3 * PAGE, DATA + 5 * PAGE, VM_READ | MAY, 0, 0);
    b.vma(parent, HEAP, HEAP + (6 << 20), RW, 0, HEAP >> 12);
    for (i, frame) in text.iter().enumerate() {
        b.map(parent, TEXT + i as u64 * PAGE, Level::Pte, *frame, 0);
    }
    b.map_anon(parent, DATA, Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC);
    b.map(parent, DATA + PAGE, Level::Pte, data[1], Pte::NO_EXEC);
    // Written, then made read-only.
    b.map_anon(parent, DATA + 3 * PAGE, Pte::DIRTY | Pte::NO_EXEC);
    for page in [0, 1, 2, 300, 512, 600, 1100] {
        b.map_anon(parent, HEAP + page * PAGE, Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC);
    }
    b.map(parent, HEAP + 5 * PAGE, Level::Pte, b.zero_page(), Pte::NO_EXEC);
    b.map(parent, HEAP + 601 * PAGE, Level::Pte, b.zero_page(), Pte::NO_EXEC);
    high_memory(&mut b, parent);

    let child = b.fork(parent, 2);
    // The child writes to its heap: it gets a PTE page of its own there, and two pages.
    b.unshare(child, HEAP);
    b.cow(child, HEAP);
    b.cow(child, HEAP + 5 * PAGE);
    // The parent is the last user of the old PTE page, and takes it back.
    take_back(&mut b, parent, HEAP);
    let grandchild = b.fork(child, 3);
    b.unshare(child, MMAP);
    b.unshare(child, STACK_END - PAGE);
    b.unshare(child, DATA);
    strangers(&mut b);
    b.answer_frame(text[0], &[parent, child, grandchild].map(|mm| (mm, TEXT)));
    let page = b.frame_at(parent, HEAP + PAGE);
    b.answer_frame(page, &[parent, child, grandchild].map(|mm| (mm, HEAP + PAGE)));
    b.vcpu(Some(parent));
    b.vcpu(None);
    b.finish()
}

/// PROT_NONE, a shared file, hugetlb and the stack.
fn high_memory(b: &mut Builder, mm: MmIndex) {
    let shared = VM_SHARED | VM_MAYSHARE;
    b.vma(mm, MMAP, MMAP + 4 * PAGE, MAY, 0, 0);
    b.vma(mm, MMAP + 8 * PAGE, MMAP + 12 * PAGE, RW | shared, 2, 3);
    b.vma(mm, MMAP + (1 << 30), MMAP + (1 << 30) + (4 << 20), RW | shared | VM_HUGETLB, 3, 0);
    b.vma(mm, STACK_END - 16 * PAGE, STACK_END, RW | VM_GROWSDOWN, 0, 0);
    b.map_no_access(mm, MMAP);
    for page in 0..2 {
        let frame = b.cache_frame(2, 3 + page);
        b.map(mm, MMAP + (8 + page) * PAGE, Level::Pte, frame, Pte::WRITE | Pte::NO_EXEC);
    }
    let huge = b.hugetlb_frame(3, 0);
    b.map(mm, MMAP + (1 << 30), Level::Pmd, huge, Pte::HUGE | Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC);
    for page in 1..4 {
        b.map_anon(mm, STACK_END - page * PAGE, Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC);
    }
}

/// Sets R/W again in the PMD entry of `mm` over `va`.
fn take_back(b: &mut Builder, mm: MmIndex, va: u64) {
    let pmd = b.table(mm, va, Level::Pmd);
    b.set_bits(pmd, Level::Pmd.slot(va), Pte::WRITE);
}

/// Two processes that map one file shared, 2 MiB of it through one PTE page, and another one's code; the second also has
/// private memory.
fn strangers(b: &mut Builder) {
    let (first, second) = (b.mm(4), b.mm(5));
    let shared = RW | VM_SHARED | VM_MAYSHARE;
    b.vma(first, MMAP, MMAP + (2 << 20), shared, 4, 0);
    for page in [0, 7, 511] {
        let frame = b.cache_frame(4, page);
        b.map(first, MMAP + page * PAGE, Level::Pte, frame, Pte::WRITE | Pte::NO_EXEC);
    }
    b.vma(second, HEAP, HEAP + 8 * PAGE, RW, 0, 0);
    b.vma(second, HEAP + 8 * PAGE, HEAP + 10 * PAGE, VM_READ | MAY, 0, 0);
    let watched = HEAP + (4 << 20);
    b.vma(second, watched, watched + 4 * PAGE, RW | VM_UFFD_WP, 0, 0);
    b.vma(second, MMAP + (64 << 20), MMAP + (66 << 20), shared, 4, 0);
    b.own_by_object(first, MMAP);
    b.share_object_table(first, MMAP, second, MMAP + (64 << 20));
    let huge = VM_HUGETLB | shared;
    b.vma(first, MMAP + (4 << 30), MMAP + (5 << 30), huge, 6, 0);
    b.vma(second, MMAP + (8 << 30), MMAP + (9 << 30), huge, 6, 0);
    b.vma(second, MMAP + (16 << 30), MMAP + (16 << 30) + (2 << 20), RW | VM_HUGETLB, 7, 0);
    let page = b.hugetlb_frame(6, 3 * 512);
    let leaf = Pte::HUGE | Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC;
    b.map(first, MMAP + (4 << 30) + (6 << 20), Level::Pmd, page, leaf);
    b.share_object_pmd(first, MMAP + (4 << 30), second, MMAP + (8 << 30));
    // The same with a private mapping that cannot be written to; and a table that one process alone uses so far.
    let text = VM_READ | VM_EXEC | MAY;
    b.vma(first, LIBRARY, LIBRARY + (2 << 20), text, 5, 0x40);
    b.vma(first, LIBRARY + (4 << 20), LIBRARY + (6 << 20), text, 5, 0x400);
    for page in [0, 300] {
        for (at, pgoff) in [(LIBRARY, 0x40), (LIBRARY + (4 << 20), 0x400)] {
            let frame = b.cache_frame(5, pgoff + page);
            b.map(first, at + page * PAGE, Level::Pte, frame, 0);
        }
    }
    b.own_by_object(first, LIBRARY);
    b.own_by_object(first, LIBRARY + (4 << 20));
    b.vma(second, LIBRARY + (32 << 20), LIBRARY + (34 << 20), text, 5, 0x40);
    b.share_object_table(first, LIBRARY, second, LIBRARY + (32 << 20));
    for page in 0..3 {
        b.map_anon(second, HEAP + page * PAGE, Pte::WRITE | Pte::DIRTY | Pte::NO_EXEC);
    }
    // A page under write protection, and a marker.
    b.map_anon(second, watched, Pte::DIRTY | Pte::NO_EXEC | Pte::UFFD_WP);
    b.map_marker(second, watched + PAGE);
    b.pool_frame();
    b.pool_frame();
    // One of the free pages is promised to the second process, the other to an object.
    b.reserve_huge(second, 1);
    b.map(second, HEAP + 4 * PAGE, Level::Pte, b.zero_page(), Pte::NO_EXEC);
    b.map_anon(second, HEAP + 8 * PAGE, Pte::NO_EXEC);
    // Two PTE pages and a PMD page are shared.
    b.answer_usage(second, [5, 5, 512], 3);
}

/// Two processes with pages of 1 GiB, a parent and its child by fork: one of an object, which both may write to, and a
/// private one, to be copied by whoever writes first; and a page of 2 MiB of another object.
pub fn sample_gib() -> Guest {
    let mut b = Builder::with_gib_pages();
    let parent = b.mm(1);
    let shared = VM_SHARED | VM_MAYSHARE;
    let gib = VM_HUGETLB | VM_HUGE_1GB;
    b.vma(parent, MMAP, MMAP + GIB, RW | shared | gib, 3, 0);
    b.vma(parent, MMAP + 2 * GIB, MMAP + 3 * GIB, RW | gib, 4, 0);
    b.vma(parent, MMAP + 4 * GIB, MMAP + 4 * GIB + (4 << 20), RW | shared | VM_HUGETLB, 5, 0);
    let leaf = Pte::HUGE | Pte::DIRTY | Pte::NO_EXEC;
    let page = b.huge_frame(HugeSize::Gib1, 3, 0);
    let private = b.private_huge_frame(parent, HugeSize::Gib1, MMAP + 2 * GIB);
    b.map(parent, MMAP, Level::Pud, page, leaf | Pte::WRITE);
    b.map(parent, MMAP + 2 * GIB, Level::Pud, private, leaf);
    let page = b.hugetlb_frame(5, 0);
    b.map(parent, MMAP + 4 * GIB, Level::Pmd, page, leaf | Pte::WRITE);
    b.fork(parent, 2);
    b.vcpu(Some(parent));
    b.finish()
}
