//! Mappings as values, with accesses that the compiler neither removes nor reorders.

use crate::{check, errno};
use std::fs::File;
use std::os::fd::FromRawFd;
use std::ptr;

/// One page, bytes.
pub const PAGE: usize = 4096;
/// What one PTE page maps, bytes.
pub const TABLE: usize = 2 << 20;
/// Read and write.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// An unnamed file in memory of this length, all of it allocated; a failure ends the program.
pub fn memfd(len: usize) -> File {
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"tables".as_ptr(), 0) };
    check!(fd >= 0, "memfd_create failed: {}", errno());
    // SAFETY: no pointer.
    check!(unsafe { libc::fallocate(fd, 0, 0, len as i64) } == 0, "fallocate failed: {}", errno());
    // SAFETY: the descriptor is open, and nobody else's.
    unsafe { File::from_raw_fd(fd) }
}

/// A range of this process's address space. It is not unmapped when dropped: programs do that by themselves where it is
/// their point.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Its first address.
    pub base: usize,
    /// Its length, bytes.
    pub len: usize,
}

impl Region {
    /// mmap(2) of anonymous memory at an address of the kernel's choice; `flags` go on top of MAP_ANONYMOUS.
    ///
    /// # Errors
    /// The error number.
    pub fn try_map(len: usize, prot: i32, flags: i32) -> Result<Region, i32> {
        // SAFETY: a new mapping at a free address harms nobody.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags | libc::MAP_ANONYMOUS, -1, 0) };
        if base == libc::MAP_FAILED { Err(errno()) } else { Ok(Region { base: base as usize, len }) }
    }

    /// mmap(2) of memory at this address, which is free; `flags` go on top of MAP_FIXED_NOREPLACE.
    ///
    /// # Errors
    /// The error number.
    pub fn try_at(base: usize, len: usize, prot: i32, flags: i32) -> Result<Region, i32> {
        // SAFETY: a new mapping at a free address harms nobody.
        let at = unsafe { libc::mmap(base as *mut _, len, prot, flags | libc::MAP_FIXED_NOREPLACE, -1, 0) };
        if at as usize == base { Ok(Region { base, len }) } else { Err(errno()) }
    }

    /// Private, readable and writable; a failure ends the program.
    pub fn private(len: usize) -> Region {
        Region::expect(Region::try_map(len, RW, libc::MAP_PRIVATE))
    }

    /// Shared, readable and writable; a failure ends the program.
    pub fn shared(len: usize) -> Region {
        Region::expect(Region::try_map(len, RW, libc::MAP_SHARED))
    }

    /// Private memory that begins at a multiple of what a PTE page maps.
    pub fn aligned(len: usize) -> Region {
        let wide = Region::expect(Region::try_map(len + TABLE, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE));
        let base = wide.base.next_multiple_of(TABLE);
        wide.part(0, base - wide.base).unmap();
        let tail = base + len - wide.base;
        wide.part(tail, wide.len - tail).unmap();
        Region { base, len }
    }

    /// A shared mapping of an open file.
    pub fn of_file(fd: i32, len: usize, prot: i32, flags: i32) -> Region {
        // SAFETY: a new mapping at a free address harms nobody.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, 0) };
        check!(base != libc::MAP_FAILED, "mmap of a file failed: {}", errno());
        Region { base: base as usize, len }
    }

    /// A mapping of an open file at this address, which is free.
    pub fn of_file_at(base: usize, fd: i32, len: usize, prot: i32, flags: i32) -> Region {
        Region::of_file_from(base, fd, 0, len, prot, flags)
    }

    /// As [`Region::of_file_at`], from this offset of the file on.
    pub fn of_file_from(base: usize, fd: i32, offset: usize, len: usize, prot: i32, flags: i32) -> Region {
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping at a free address harms nobody.
        let at = unsafe { libc::mmap(base as *mut _, len, prot, flags, fd, offset as i64) };
        check!(at as usize == base, "mmap of a file at {base:#x} failed: {}", errno());
        Region { base, len }
    }

    /// Reads a page in sixteen: of a file that is in memory that maps all, where faults map neighbours too.
    pub fn touch_file(&self) {
        for page in (0..self.pages()).step_by(16) {
            self.get(page * PAGE);
        }
    }

    fn expect(result: Result<Region, i32>) -> Region {
        check!(result.is_ok(), "mmap failed: {result:?}");
        result.unwrap_or(Region { base: 0, len: 0 })
    }

    /// Private memory at this address, which is free; a failure ends the program.
    pub fn expect_at(base: usize, len: usize) -> Region {
        Region::expect(Region::try_at(base, len, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS))
    }

    /// Maps fresh private memory over this range, whatever was there.
    pub fn map_over(&self, prot: i32) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the caller owns the range and holds no reference into it: regions give none out.
        let base = unsafe { libc::mmap(self.base as *mut _, self.len, prot, flags, -1, 0) };
        check!(base as usize == self.base, "mmap over a range failed: {}", errno());
    }

    /// A part of it.
    pub fn part(&self, offset: usize, len: usize) -> Region {
        check!(offset + len <= self.len, "a part reaches beyond its region");
        Region { base: self.base + offset, len }
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// Reads a byte. The range may have lost its mapping: then the process gets SIGSEGV, which some programs want.
    pub fn get(&self, offset: usize) -> u8 {
        check!(offset < self.len, "read beyond a region");
        // SAFETY: inside a range that this program mapped and that no Rust reference points into.
        unsafe { ptr::read_volatile((self.base + offset) as *const u8) }
    }

    /// Writes a byte; as [`Region::get`].
    pub fn set(&self, offset: usize, byte: u8) {
        check!(offset < self.len, "write beyond a region");
        // SAFETY: as in `get`.
        unsafe { ptr::write_volatile((self.base + offset) as *mut u8, byte) }
    }

    /// Reads the 32-bit word at an offset that is a multiple of 4.
    pub fn word(&self, offset: usize) -> u32 {
        check!(offset + 4 <= self.len && offset.is_multiple_of(4), "read beyond a region");
        // SAFETY: as in `get`; aligned.
        unsafe { ptr::read_volatile((self.base + offset) as *const u32) }
    }

    /// Writes the 32-bit word at an offset that is a multiple of 4.
    pub fn set_word(&self, offset: usize, word: u32) {
        check!(offset + 4 <= self.len && offset.is_multiple_of(4), "write beyond a region");
        // SAFETY: as in `get`; aligned.
        unsafe { ptr::write_volatile((self.base + offset) as *mut u32, word) }
    }

    /// Writes one word into every `step`-th page: its number plus `salt`.
    pub fn mark_pages(&self, step: usize, salt: u32) {
        for page in (0..self.pages()).step_by(step) {
            self.set_word(page * PAGE, page as u32 + salt);
        }
    }

    /// Whether every `step`-th page holds what [`Region::mark_pages`] wrote.
    pub fn pages_are_marked(&self, step: usize, salt: u32) -> bool {
        (0..self.pages()).step_by(step).all(|page| self.word(page * PAGE) == page as u32 + salt)
    }

    /// mprotect(2); a failure ends the program.
    pub fn protect(&self, prot: i32) {
        // SAFETY: regions give out no references that could lose their rights.
        let result = unsafe { libc::mprotect(self.base as *mut _, self.len, prot) };
        check!(result == 0, "mprotect failed: {}", errno());
    }

    /// munmap(2); a failure ends the program.
    pub fn unmap(&self) {
        if self.len != 0 {
            // SAFETY: regions give out no references that could dangle.
            let result = unsafe { libc::munmap(self.base as *mut _, self.len) };
            check!(result == 0, "munmap failed: {}", errno());
        }
    }

    /// mremap(2), moving to `to` when it is given; a failure ends the program.
    pub fn remap(&self, new_len: usize, to: Option<usize>) -> Region {
        let flags = libc::MREMAP_MAYMOVE | if to.is_some() { libc::MREMAP_FIXED } else { 0 };
        let target = to.unwrap_or(0) as *mut libc::c_void;
        // SAFETY: the caller owns both ranges, and regions give out no references.
        let base = unsafe { libc::mremap(self.base as *mut _, self.len, new_len, flags, target) };
        check!(base != libc::MAP_FAILED, "mremap failed: {}", errno());
        Region { base: base as usize, len: new_len }
    }

    /// madvise(2); a failure ends the program.
    pub fn advise(&self, advice: i32) {
        // SAFETY: as for munmap.
        let result = unsafe { libc::madvise(self.base as *mut _, self.len, advice) };
        check!(result == 0, "madvise({advice}) failed: {}", errno());
    }
}
