//! Hugetlb memory: the pool, and mappings of it. A program that needs huge pages where the machine has none says `SKIP`
//! and succeeds.

use crate::memory::Region;
use crate::{check, errno, process};

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;
/// Bytes that one PMD page maps.
pub const GIB: usize = 1 << 30;

/// A line of /proc/meminfo, as a number.
pub fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Ends the program with `SKIP` unless this many huge pages are free and it may do all that it has to do.
pub fn need(pages: u64) {
    let spare = meminfo("HugePages_Free").saturating_sub(meminfo("HugePages_Rsvd"));
    // SAFETY: no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    if spare < pages || !root {
        println!("SKIP: {pages} free huge pages and root are needed");
        process::leave(0);
    }
}

/// Total, free and reserved pages of the pool.
pub fn pool() -> [u64; 3] {
    ["HugePages_Total", "HugePages_Free", "HugePages_Rsvd"].map(meminfo)
}

/// A memfd of huge pages, this many bytes long.
pub fn memfd(bytes: usize) -> i32 {
    let flags = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"huge".as_ptr(), flags) };
    check!(fd >= 0, "memfd_create failed: {}", errno());
    // SAFETY: no pointer.
    let result = unsafe { libc::ftruncate(fd, bytes as i64) };
    check!(result == 0, "ftruncate failed: {}", errno());
    fd
}

/// mmap(2) at `addr` (0: anywhere); `fd` -1 for anonymous memory.
///
/// # Errors
/// The error number.
pub fn map(addr: usize, len: usize, prot: i32, flags: i32, fd: i32) -> Result<Region, i32> {
    let fixed = if addr == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    let anonymous = if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    // SAFETY: a new mapping at a free address harms nobody.
    let base = unsafe { libc::mmap(addr as *mut _, len, prot, flags | fixed | anonymous, fd, 0) };
    if base == libc::MAP_FAILED { Err(errno()) } else { Ok(Region { base: base as usize, len }) }
}

/// As [`map`]; a failure ends the program.
pub fn must_map(addr: usize, len: usize, prot: i32, flags: i32, fd: i32) -> Region {
    let result = map(addr, len, prot, flags, fd);
    check!(result.is_ok(), "mmap of huge pages failed: {result:?}");
    result.unwrap_or(Region { base: 0, len: 0 })
}

/// An address at a multiple of 1 GiB, the `n`-th of the program's own.
pub const fn place(n: usize) -> usize {
    0x100_0000_0000 + n * 2 * GIB
}

/// Writes a word into each huge page: its number plus `salt`.
pub fn mark(region: &Region, salt: u32) {
    for page in 0..region.len / HUGE {
        region.set_word(page * HUGE + 64, page as u32 + salt);
    }
}

/// Whether each huge page holds what [`mark`] wrote.
pub fn is_marked(region: &Region, salt: u32) -> bool {
    (0..region.len / HUGE).all(|page| region.word(page * HUGE + 64) == page as u32 + salt)
}
