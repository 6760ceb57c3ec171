//! The operations.

use crate::world::*;
use ptshare_abi::sys::general as abi;
use ptshare_mm::testing::Op;
use ptshare_paging::PAGE_BYTES;

/// An operation in the state of `world.rs`.
pub struct Case {
    pub name: &'static str,
    pub pid: u32,
    pub op: Op,
    /// It may succeed although an allocation failed: what it brings in ahead of use is brought in later.
    pub tolerates: bool,
    /// Pages that it has brought in stay, in the process or in a file's cache.
    pub fills: bool,
    /// The flags of mappings may have changed although the call failed: a lock stays when pages cannot be brought in, and a
    /// stack that has grown.
    pub mapping_stays: bool,
    /// What a failure may leave unmapped, as on Linux: the target of MREMAP_FIXED, what MAP_FIXED makes room for huge pages in.
    pub may_lose: Option<(u64, u64)>,
}

impl Case {
    fn new(name: &'static str, op: Op) -> Case {
        Case { name, pid: 1, op, tolerates: false, fills: false, mapping_stays: false, may_lose: None }
    }

    fn by(mut self, pid: u32) -> Case {
        self.pid = pid;
        self
    }

    fn tolerates(mut self) -> Case {
        self.tolerates = true;
        self.fills()
    }

    fn fills(mut self) -> Case {
        self.fills = true;
        self
    }

    fn may_grow(mut self) -> Case {
        self.mapping_stays = true;
        self
    }

    fn locks(self) -> Case {
        self.may_grow().fills()
    }

    fn may_lose(mut self, start: u64, len: u64) -> Case {
        self.may_lose = Some((start, start + len));
        self
    }
}

const P: u64 = PAGE_BYTES;

fn load(name: &'static str, addr: u64) -> Case {
    Case::new(name, Op::Load { addr })
}

fn store(name: &'static str, addr: u64) -> Case {
    Case::new(name, Op::Store { addr, value: 9 })
}

fn mmap(name: &'static str, addr: u64, len: u64, flags: u64, file: Option<(usize, u64)>) -> Case {
    Case::new(name, Op::Mmap { addr, len, prot: RW, flags, file })
}

fn munmap(name: &'static str, addr: u64, len: u64) -> Case {
    Case::new(name, Op::Munmap { addr, len })
}

fn mprotect(name: &'static str, addr: u64, len: u64, prot: u64) -> Case {
    Case::new(name, Op::Mprotect { addr, len, prot })
}

fn madvise(name: &'static str, addr: u64, len: u64, advice: u32) -> Case {
    Case::new(name, Op::Madvise { addr, len, advice: advice.into() })
}

fn mremap(name: &'static str, (old, old_len): (u64, u64), new_len: u64, to: Option<u64>) -> Case {
    let fixed = if to.is_some() { abi::MREMAP_FIXED } else { 0 };
    let flags = u64::from(abi::MREMAP_MAYMOVE | fixed);
    Case::new(name, Op::Mremap { old, old_len, new_len, flags, new_addr: to.unwrap_or(0) })
}

fn duplicate(name: &'static str, old: u64, old_len: u64, new_addr: u64) -> Case {
    let flags = u64::from(abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED | abi::MREMAP_DONTUNMAP);
    Case::new(name, Op::Mremap { old, old_len, new_len: old_len, flags, new_addr })
}

/// All of them.
pub fn cases(_: &World) -> Vec<Case> {
    let mut cases = faults();
    cases.extend(mappings());
    cases.extend(changes());
    cases.extend(moves());
    cases.extend(advice());
    cases.extend(objects());
    cases
}

fn faults() -> Vec<Case> {
    vec![
        load("a read where no table is", BARE),
        store("a write where no table is", BARE + P),
        load("a read of private memory that is not there", ANON + 3 * P),
        store("a write to it", ANON + 3 * P),
        store("a write to a page that fork shares", ANON + P),
        store("the child's write to it", ANON + P).by(2),
        store("a write in the last table", ANON + 2 * SPAN + 511 * P).by(2),
        load("a read of a private file page that is not there", PRIVATE + 20 * P),
        // The file's page may be there before the private one cannot be had.
        store("a write to a private file page that is not there", PRIVATE + 20 * P).fills(),
        store("a write to a private file page that was read", PRIVATE + P),
        store("a write to one that was written", PRIVATE),
        load("a read of code that is not there", CODE + SPAN + 30 * P),
        load("a read of a shared file page that is not there", SHARED + 30 * P),
        store("a write to it", SHARED + SPAN + 40 * P),
        store("a write by a process with its own mapping", ELSEWHERE + SHARED + 30 * P).by(3),
        load("a read of a shared view", VIEW + 50 * P),
        store("a write to a segment", SEGMENT + 9 * P),
        load("a read of the initramfs", START + P),
        store("a write to the initramfs", START),
        Case::new("a fetch that is not allowed needs no memory", Op::Load { addr: CODE }),
        store("the stack grows", STACK - 2 * P).may_grow(),
        store("the stack grows into another table", STACK - 300 * P).may_grow(),
        Case::new("the kernel reads", Op::Peek { addr: PRIVATE + 21 * P }),
        Case::new("the kernel writes", Op::Poke { addr: ANON + 7 * P, value: 1 }),
        load("a read of a shared huge page that is not there", HUGE_SHARED + 5 * HUGE),
        store("a write to one, from elsewhere", ELSEWHERE + HUGE_SHARED + 6 * HUGE).by(3),
        load("a read of a private huge page that is not there", HUGE_PRIVATE + HUGE),
        store("a write to it", HUGE_PRIVATE + HUGE).by(2),
        store("a write to a huge page that fork shares", HUGE_PRIVATE),
        store("the child's write to it", HUGE_PRIVATE + 2 * HUGE).by(2),
        store("a private copy of a file's huge page", HUGE_COPY),
        store("a private huge page beside it", HUGE_COPY + HUGE),
    ]
}

fn mappings() -> Vec<Case> {
    let anon = FIXED_PRIVATE | ANONYMOUS;
    let populate = u64::from(abi::MAP_POPULATE);
    let locked = u64::from(abi::MAP_LOCKED);
    let huge = anon | u64::from(abi::MAP_HUGETLB);
    vec![
        mmap("mmap of nothing else", EMPTY, 4 * P, anon, None),
        mmap("mmap beside a shared table", ANON + 3 * SPAN, 4 * P, anon, None),
        mmap("mmap over the middle of a shared table", ANON + 2 * P, 2 * P, anon, None),
        mmap("mmap over a whole table", ANON + SPAN, SPAN, anon, None),
        mmap("mmap over parts of two", ANON + SPAN - 3 * P, 9 * P, anon, None).by(2),
        mmap("mmap of a file over it", ANON + SPAN - 3 * P, 9 * P, FIXED_SHARED, Some((FILE, 0))),
        mmap("mmap over the middle of an object's table", SHARED + 5 * P, 2 * P, anon, None),
        mmap("mmap of shared memory", EMPTY, SPAN, FIXED_SHARED | ANONYMOUS, None),
        mmap("mmap that populates", EMPTY, 5 * P, anon | populate, None).tolerates(),
        mmap("mmap of a file that populates", EMPTY, 20 * P, FIXED_PRIVATE | populate, Some((FILE, SPAN)))
            .tolerates(),
        mmap("mmap that locks", ANON + 7 * P, 5 * P, anon | locked, None).tolerates(),
        mmap("mmap of huge pages", EMPTY, 2 * HUGE, huge, None),
        mmap("mmap of shared huge pages", EMPTY, 3 * HUGE, FIXED_SHARED, Some((HUGE_FILE, 7 * HUGE))),
        mmap("mmap of huge pages over some", HUGE_PRIVATE, 2 * HUGE, huge, None)
            .may_lose(HUGE_PRIVATE, 2 * HUGE),
        mmap("mmap of huge pages over small ones", ANON + SPAN, SPAN, huge, None).may_lose(ANON + SPAN, SPAN),
        mmap("mmap of huge pages that populates", EMPTY, 2 * HUGE, huge | populate, None).tolerates(),
        mmap("mmap over the middle of a GiB", HUGE_SHARED + 5 * HUGE, HUGE, anon, None),
        Case::new("brk up", Op::Brk { addr: HEAP_END + 600 * P }),
        Case::new("brk down", Op::Brk { addr: HEAP + P }).by(2),
        Case::new("fork", Op::Fork),
        Case::new("the child forks", Op::Fork).by(2),
        Case::new("a process of objects forks", Op::Fork).by(3),
    ]
}

fn changes() -> Vec<Case> {
    vec![
        munmap("munmap of a part of a shared table", ANON + P, P),
        munmap("munmap of a whole table", ANON + SPAN, SPAN),
        munmap("munmap from one table into another", ANON + SPAN + 7 * P, SPAN).by(2),
        munmap("munmap of everything", ANON, 3 * SPAN),
        munmap("munmap of a part of an object's table", SHARED + 3 * P, P),
        munmap("munmap of a part of private file memory", PRIVATE + SPAN - P, 2 * P),
        munmap("munmap in the middle of a GiB", HUGE_SHARED + 100 * HUGE, HUGE),
        munmap("munmap of a private huge page", HUGE_PRIVATE + 2 * HUGE, HUGE).by(2),
        mprotect("mprotect of a part of a shared table", ANON + P, 6 * P, READ),
        mprotect("mprotect of several tables", ANON, 3 * SPAN, 0).by(2),
        mprotect("mprotect across mappings", ANON + 5 * P, 2 * SPAN, READ | 4),
        mprotect("mprotect of private file memory", PRIVATE + P, SPAN, READ),
        mprotect("mprotect of an object's table", SHARED + SPAN, SPAN, READ),
        mprotect("mprotect of code to writable", CODE + 3 * P, P, RW),
        mprotect("mprotect of a part of a GiB", HUGE_SHARED + 2 * HUGE, HUGE, READ),
        mprotect("mprotect of private huge pages", HUGE_PRIVATE, 3 * HUGE, READ).by(2),
        Case::new("mlock", Op::Mlock { addr: ANON + 5 * P, len: 5 * P, flags: 0 }).locks(),
        Case::new("mlock of a part of an object's table", Op::Mlock { addr: VIEW + P, len: P, flags: 1 }),
        Case::new("mlock of private file memory", Op::Mlock { addr: PRIVATE, len: 3 * P, flags: 0 }).locks(),
        Case::new("mlockall", Op::Mlockall { flags: u64::from(abi::MCL_CURRENT | abi::MCL_ONFAULT) }),
    ]
}

fn moves() -> Vec<Case> {
    let target = EMPTY + 4 * SPAN;
    vec![
        mremap("mremap shrinks", (ANON, 3 * SPAN), SPAN + 3 * P, None),
        mremap("mremap grows in place", (ANON, 3 * SPAN), 3 * SPAN + 9 * P, None),
        mremap("mremap grows the heap away", (HEAP + P, 3 * P), 9 * P, None),
        mremap("mremap moves whole tables", (ANON, 3 * SPAN), 3 * SPAN, Some(target)),
        mremap("the child moves whole tables", (ANON, 3 * SPAN), 3 * SPAN, Some(target)).by(2),
        mremap("mremap moves out of step", (ANON, 3 * SPAN), 3 * SPAN, Some(target + 3 * P)),
        mremap("mremap moves a part", (ANON + SPAN - 2 * P, 5 * P), 5 * P, Some(target + 510 * P)).by(2),
        mremap("mremap moves over a mapping", (ANON, 8 * P), 8 * P, Some(PRIVATE + SPAN - 4 * P))
            .may_lose(PRIVATE + SPAN - 4 * P, 8 * P),
        mremap("mremap moves and grows", (ANON + P, 8 * P), 600 * P, Some(target)),
        mremap("mremap moves and shrinks", (ANON, SPAN), 9 * P, Some(target))
            .may_lose(ANON + 9 * P, SPAN - 9 * P),
        mremap("mremap moves objects' tables", (SHARED, 2 * SPAN), 2 * SPAN, Some(target)),
        mremap("mremap moves a part of one", (SHARED + P, 8 * P), 8 * P, Some(target + P)),
        mremap("mremap maps a second time", (SHARED, 0), 2 * SPAN, Some(target)),
        mremap("mremap moves private file memory", (PRIVATE, 2 * SPAN), 2 * SPAN, Some(target)),
        duplicate("mremap leaves the old range", ANON, 3 * SPAN, target),
        duplicate("mremap leaves a part", ANON + P, SPAN, target + P).by(2),
        mremap("mremap moves private huge pages", (HUGE_PRIVATE, 3 * HUGE), 3 * HUGE, Some(EMPTY)),
        mremap("mremap moves a huge page", (HUGE_PRIVATE, HUGE), HUGE, Some(EMPTY)).by(2),
        mremap("mremap moves a GiB", (HUGE_SHARED, GIB), GIB, Some(EMPTY)),
        mremap("mremap moves a part of a GiB", (HUGE_SHARED, HUGE), HUGE, Some(EMPTY)),
    ]
}

fn advice() -> Vec<Case> {
    vec![
        madvise("DONTNEED of a part of a shared table", ANON + P, 3 * P, abi::MADV_DONTNEED),
        madvise("DONTNEED from table to table", ANON + 7 * P, 2 * SPAN, abi::MADV_DONTNEED).by(2),
        madvise("DONTNEED of private file memory", PRIVATE + P, SPAN, abi::MADV_DONTNEED),
        madvise("DONTNEED of an object's table", SHARED + P, SPAN, abi::MADV_DONTNEED),
        madvise("DONTNEED of a huge page", HUGE_PRIVATE, HUGE, abi::MADV_DONTNEED).by(2),
        madvise("DONTNEED in a GiB", HUGE_SHARED, HUGE, abi::MADV_DONTNEED),
        madvise("FREE", ANON + P, SPAN, abi::MADV_FREE),
        madvise("REMOVE", SHARED + P, 9 * P, abi::MADV_REMOVE),
        madvise("DONTFORK", ANON + P, SPAN, abi::MADV_DONTFORK),
        madvise("DONTFORK of a part of an object's table", SHARED + P, 4 * P, abi::MADV_DONTFORK),
        madvise("WIPEONFORK", ANON + SPAN, SPAN + P, abi::MADV_WIPEONFORK).by(2),
        madvise("RANDOM", ANON + P, SPAN, abi::MADV_RANDOM),
        madvise("SEQUENTIAL of a part of an object's table", CODE + P, 4 * P, abi::MADV_SEQUENTIAL),
        madvise("DONTDUMP in a GiB", HUGE_SHARED + HUGE, HUGE, abi::MADV_DONTDUMP),
        madvise("POPULATE_READ", ANON + SPAN - 5 * P, 10 * P, abi::MADV_POPULATE_READ).fills(),
        madvise("POPULATE_WRITE", ANON + SPAN - 5 * P, 10 * P, abi::MADV_POPULATE_WRITE).fills(),
        madvise("POPULATE_READ of a file", CODE + SPAN + 30 * P, 20 * P, abi::MADV_POPULATE_READ).fills(),
        madvise("POPULATE_WRITE of private file memory", PRIVATE, 9 * P, abi::MADV_POPULATE_WRITE).fills(),
        madvise("POPULATE_WRITE of huge pages", HUGE_PRIVATE, 3 * HUGE, abi::MADV_POPULATE_WRITE)
            .by(2)
            .fills(),
    ]
}

fn objects() -> Vec<Case> {
    let truncate = |name, file, bytes| Case::new(name, Op::Ftruncate { file, bytes });
    vec![
        truncate("truncate to less", FILE, SPAN + 3 * P + 100),
        truncate("truncate to nothing", FILE, 0),
        truncate("truncate to more", FILE, 8 * SPAN),
        truncate("truncate of huge pages", HUGE_FILE, HUGE),
        Case::new("a hole", Op::Punch { file: FILE, offset: P / 2, len: SPAN }),
        Case::new("a hole in huge pages", Op::Punch { file: HUGE_FILE, offset: 0, len: 3 * HUGE }),
        Case::new(
            "a part of a page of the initramfs",
            Op::Punch { file: INITRAMFS, offset: P + 100, len: 500 },
        ),
        Case::new("a hole in the initramfs", Op::Punch { file: INITRAMFS, offset: P, len: 2 * P }).fills(),
        Case::new("fallocate", Op::Fallocate { file: FILE, offset: SPAN - 3 * P, len: 9 * P }).fills(),
        Case::new("fallocate of huge pages", Op::Fallocate { file: HUGE_FILE, offset: HUGE, len: 3 * HUGE })
            .fills(),
        Case::new("pwrite beyond the end", Op::Pwrite { file: FILE, offset: 3 * SPAN, value: 3 }),
        Case::new("pwrite to the initramfs", Op::Pwrite { file: INITRAMFS, offset: 4096, value: 3 }),
    ]
}
