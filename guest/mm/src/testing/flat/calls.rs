//! The memory calls of a process, and its accesses.

use super::FlatKernel;
use crate::{Access, FaultOutcome, MapRequest, MmError};
use ptshare_abi::Errno;
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT};

fn answer<T>(result: Result<T, MmError>) -> Result<T, Errno> {
    result.map_err(Errno::from)
}

impl FlatKernel {
    /// mmap(2); `file` is a file's index and an offset in bytes.
    pub fn mmap(
        &self,
        pid: u32,
        addr: u64,
        len: u64,
        prot: u64,
        flags: u64,
        file: Option<(usize, u64)>,
    ) -> Result<u64, Errno> {
        let mut object = None;
        if let Some((file, offset)) = file {
            if !offset.is_multiple_of(PAGE_BYTES) {
                return Err(Errno::EINVAL);
            }
            object = Some((self.file(file).clone(), offset >> PAGE_SHIFT));
        }
        let request = MapRequest { addr, len, prot, flags, object, file_readable: true, file_writable: true };
        answer(self.mm(pid).mmap(request))
    }

    /// munmap(2).
    pub fn munmap(&self, pid: u32, addr: u64, len: u64) -> Result<(), Errno> {
        answer(self.mm(pid).munmap(addr, len))
    }

    /// mprotect(2).
    pub fn mprotect(&self, pid: u32, addr: u64, len: u64, prot: u64) -> Result<(), Errno> {
        answer(self.mm(pid).mprotect(addr, len, prot))
    }

    /// mremap(2).
    pub fn mremap(
        &self,
        pid: u32,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u64,
        new_addr: u64,
    ) -> Result<u64, Errno> {
        answer(self.mm(pid).mremap(old, old_len, new_len, flags, new_addr))
    }

    /// remap_file_pages(2); `pgoff` in pages.
    pub fn remap_file_pages(
        &self,
        pid: u32,
        addr: u64,
        size: u64,
        prot: u64,
        pgoff: u64,
        flags: u64,
    ) -> Result<(), Errno> {
        answer(self.mm(pid).remap_file_pages(addr, size, prot, pgoff, flags))
    }

    /// madvise(2).
    pub fn madvise(&self, pid: u32, addr: u64, len: u64, advice: u64) -> Result<(), Errno> {
        answer(self.mm(pid).madvise(addr, len, advice))
    }

    /// mlock2(2).
    pub fn mlock2(&self, pid: u32, addr: u64, len: u64, flags: u64) -> Result<(), Errno> {
        answer(self.mm(pid).mlock(addr, len, flags))
    }

    /// munlock(2).
    pub fn munlock(&self, pid: u32, addr: u64, len: u64) -> Result<(), Errno> {
        answer(self.mm(pid).munlock(addr, len))
    }

    /// mlockall(2).
    pub fn mlockall(&self, pid: u32, flags: u64) -> Result<(), Errno> {
        answer(self.mm(pid).mlockall(flags))
    }

    /// munlockall(2).
    pub fn munlockall(&self, pid: u32) {
        self.mm(pid).munlockall();
    }

    /// msync(2).
    pub fn msync(&self, pid: u32, addr: u64, len: u64, flags: u64) -> Result<(), Errno> {
        answer(self.mm(pid).msync(addr, len, flags))
    }

    /// The system call brk: gives the end of the heap, moved or not.
    pub fn brk(&self, pid: u32, addr: u64) -> u64 {
        self.mm(pid).brk(addr)
    }

    /// User code loads the aligned word at `addr`.
    pub fn load(&self, pid: u32, addr: u64) -> Result<u64, FaultOutcome> {
        self.arena.user_load(self.mm(pid), addr)
    }

    /// User code stores to the aligned word at `addr`.
    pub fn store(&self, pid: u32, addr: u64, value: u64) -> Result<(), FaultOutcome> {
        self.arena.user_store(self.mm(pid), addr, value)
    }

    /// User code reads, writes or executes at `addr`, and changes nothing.
    pub fn touch(&self, pid: u32, addr: u64, access: Access) -> Result<(), FaultOutcome> {
        self.arena.access(self.mm(pid), addr, access).map(|_| ())
    }

    /// The kernel reads the word at `addr` for the process. EFAULT.
    pub fn peek(&self, pid: u32, addr: u64) -> Result<u64, Errno> {
        let mut word = [0; 8];
        answer(self.mm(pid).read_user(addr, &mut word))?;
        Ok(u64::from_le_bytes(word))
    }

    /// The kernel writes the word at `addr` for the process. EFAULT.
    pub fn poke(&self, pid: u32, addr: u64, value: u64) -> Result<(), Errno> {
        answer(self.mm(pid).write_user(addr, &value.to_le_bytes()))
    }
}
