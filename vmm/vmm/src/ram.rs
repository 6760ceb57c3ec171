//! Guest memory: one memfd, mapped shared and without reserve, so that a page costs nothing until it is touched.
//!
//! vCPUs write to this memory at any time. It is therefore only read and written by volatile or atomic accesses, never
//! through `&[u8]`; the verifier gets pages as slices of atomics. Low RAM lies at `[0, 3 GiB)`, the rest from 4 GiB on.
//! Unsafe code of this file: making the memfd, excluding it from core dumps, handing its address to KVM, and the view
//! of a page as atomics.

use crate::error::VmmError;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use ptshare_paging::{ENTRIES, PAGE_BYTES};
use ptshare_wire::layout::{HIGH_RAM_START, LOW_RAM_END};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, VolatileSlice,
};
use vmm_sys_util::seek_hole::SeekHole;

/// Guest-physical ranges of RAM of this size, in address order.
pub fn ranges(mem_bytes: u64) -> Vec<Range<u64>> {
    let low = mem_bytes.min(LOW_RAM_END);
    let mut all = Vec::new();
    all.push(0..low);
    if mem_bytes > low {
        all.push(HIGH_RAM_START..HIGH_RAM_START + (mem_bytes - low));
    }
    all
}

/// One contiguous piece of RAM.
struct Piece {
    gpa: Range<u64>,
    host: *const u8,
    file_start: u64,
}

/// All of the guest's RAM.
pub struct GuestRam {
    memory: GuestMemoryMmap<()>,
    pieces: Vec<Piece>,
    file: File,
    bytes: u64,
}

// SAFETY: `Piece::host` points into mappings that `memory` keeps alive as long as `self`; all access through it is by
// atomics, from whichever thread.
unsafe impl Send for GuestRam {}
// SAFETY: as above.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// RAM of `mem_bytes` bytes, all zero, none of it populated.
    ///
    /// # Errors
    /// [`VmmError::Host`] when the host gives no memfd or no address space.
    pub fn new(mem_bytes: u64) -> Result<GuestRam, VmmError> {
        let file =
            memfd(c"ptshare-ram", mem_bytes).map_err(VmmError::host("make a memory file for guest RAM"))?;
        let mut regions = Vec::new();
        let mut pieces = Vec::new();
        let mut file_start = 0;
        for gpa in ranges(mem_bytes) {
            let len = (gpa.end - gpa.start) as usize;
            let handle = file.try_clone().map_err(VmmError::host("duplicate a file handle"))?;
            let region = MmapRegionBuilder::new(len)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
                .with_file_offset(FileOffset::new(handle, file_start))
                .build()
                .map_err(|e| VmmError::Host {
                    what: "map guest RAM",
                    source: io::Error::other(e.to_string()),
                })?;
            let host = region.as_ptr();
            // SAFETY: the range is the mapping just made; the advice changes only what a core dump contains. A host
            // that does not know it dumps more, nothing else, so the result does not matter.
            unsafe { libc::madvise(host.cast(), len, libc::MADV_DONTDUMP) };
            pieces.push(Piece { gpa: gpa.clone(), host, file_start });
            file_start += len as u64;
            let region = GuestRegionMmap::new(region, GuestAddress(gpa.start))
                .ok_or_else(|| VmmError::Usage(format!("--mem {mem_bytes}: beyond the address space")))?;
            regions.push(region);
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|e| VmmError::Host {
            what: "lay out guest RAM",
            source: io::Error::other(e.to_string()),
        })?;
        Ok(GuestRam { memory, pieces, file, bytes: mem_bytes })
    }

    /// Gives the RAM to a virtual machine, one slot a piece.
    ///
    /// # Errors
    /// [`VmmError::Kvm`] when a slot is refused.
    pub fn attach(&self, vm: &VmFd) -> Result<(), VmmError> {
        for (slot, piece) in self.pieces.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: piece.gpa.start,
                memory_size: piece.gpa.end - piece.gpa.start,
                userspace_addr: piece.host as u64,
            };
            // SAFETY: the address range is a mapping that this object owns. The VMM keeps the object until after all
            // vCPUs have stopped, and the machine's own reference to the pages keeps them valid for KVM in any case.
            unsafe { vm.set_user_memory_region(region) }.map_err(VmmError::kvm("register guest RAM"))?;
        }
        Ok(())
    }

    /// RAM in all, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file behind it: pieces in the order of [`ranges`], without gaps.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// For loaders that take vm-memory's types.
    pub fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.memory
    }

    fn piece(&self, pa: u64) -> Option<&Piece> {
        self.pieces.iter().find(|p| p.gpa.contains(&pa))
    }

    /// Whether `[pa, pa + len)` is RAM, in one piece. An empty range is, wherever it lies.
    pub fn contains(&self, pa: u64, len: u64) -> bool {
        len == 0 || self.piece(pa).is_some_and(|p| pa.checked_add(len).is_some_and(|end| end <= p.gpa.end))
    }

    fn slice(&self, pa: u64, len: u64) -> Option<VolatileSlice<'_>> {
        if len == 0 || !self.contains(pa, len) {
            return None;
        }
        self.memory.get_slice(GuestAddress(pa), usize::try_from(len).ok()?).ok()
    }

    /// The page at `pa` (page-aligned) as atomic words, or `None` where there is no RAM. Reading a page that was never
    /// touched makes the host populate it.
    pub fn page(&self, pa: u64) -> Option<&[AtomicU64; ENTRIES]> {
        if !pa.is_multiple_of(PAGE_BYTES) {
            return None;
        }
        let piece = self.piece(pa)?;
        // SAFETY: `pa` lies in the piece and pieces are whole pages, so the page lies in the mapping, which lives as
        // long as `self`; it is page-aligned; the guest's concurrent stores are what atomics are for.
        Some(unsafe { &*piece.host.add((pa - piece.gpa.start) as usize).cast::<[AtomicU64; ENTRIES]>() })
    }

    /// The naturally aligned word at `pa`, read whole.
    pub fn read_u64(&self, pa: u64) -> Option<u64> {
        if !pa.is_multiple_of(8) {
            return None;
        }
        let page = self.page(pa & !(PAGE_BYTES - 1))?;
        Some(page[(pa % PAGE_BYTES / 8) as usize].load(Ordering::Relaxed))
    }

    /// Writes the naturally aligned word at `pa`; false where there is no RAM.
    pub fn write_u64(&self, pa: u64, value: u64) -> bool {
        let Some(page) = self.page(pa & !(PAGE_BYTES - 1)).filter(|_| pa.is_multiple_of(8)) else {
            return false;
        };
        page[(pa % PAGE_BYTES / 8) as usize].store(value, Ordering::Release);
        true
    }

    /// Copies `[pa, pa + len)` out; `None` where it is not all RAM.
    pub fn read(&self, pa: u64, len: u64) -> Option<Vec<u8>> {
        if len == 0 {
            return Some(Vec::new());
        }
        if !self.contains(pa, len) {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.memory.read_slice(&mut bytes, GuestAddress(pa)).ok()?;
        Some(bytes)
    }

    /// Copies `bytes` to `pa`; false, and nothing written, where it is not all RAM.
    pub fn write(&self, pa: u64, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        self.contains(pa, bytes.len() as u64) && self.memory.write_slice(bytes, GuestAddress(pa)).is_ok()
    }

    /// Sets `[pa, pa + len)` to zero; false, and nothing written, where it is not all RAM.
    pub fn clear(&self, pa: u64, len: u64) -> bool {
        static ZERO: [u8; 1 << 16] = [0; 1 << 16];
        if len == 0 {
            return true;
        }
        let Some(slice) = self.slice(pa, len) else { return false };
        let mut done = 0;
        while done < slice.len() {
            let n = ZERO.len().min(slice.len() - done);
            match slice.subslice(done, n) {
                Ok(part) => part.copy_from(&ZERO[..n]),
                Err(_) => return false,
            }
            done += n;
        }
        true
    }

    /// Copies `len` bytes from `src` to `dst`, which do not overlap; false, and nothing written, where either is not
    /// all RAM.
    pub fn copy(&self, dst: u64, src: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        match (self.slice(src, len), self.slice(dst, len)) {
            (Some(from), Some(to)) => {
                from.copy_to_volatile_slice(to);
                true
            }
            _ => false,
        }
    }

    /// Guest-physical ranges, page-aligned, that the host has populated; everything else reads as zero.
    ///
    /// # Errors
    /// When the host cannot say.
    pub fn populated(&self) -> io::Result<Vec<Range<u64>>> {
        let mut file = self.file.try_clone()?;
        let mut found = Vec::new();
        for piece in &self.pieces {
            let to_gpa = |offset: u64| offset - piece.file_start + piece.gpa.start;
            let end = piece.file_start + (piece.gpa.end - piece.gpa.start);
            let mut at = piece.file_start;
            while let Some(data) = file.seek_data(at)?.filter(|&data| data < end) {
                let hole = file.seek_hole(data)?.unwrap_or(end).min(end);
                found.push(to_gpa(data)..to_gpa(hole));
                at = hole;
            }
        }
        io::Seek::seek(&mut file, SeekFrom::Start(0))?;
        Ok(found)
    }
}

/// A file in memory, of this length and all zero.
///
/// # Errors
/// The host's.
pub fn memfd(name: &CStr, bytes: u64) -> io::Result<File> {
    // SAFETY: a C string ends with a NUL; the result is checked before use.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nothing else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_above_three_gib_moves_up_to_four() {
        let one = std::slice::from_ref::<Range<u64>>;
        assert_eq!(ranges(512 << 20), one(&(0..512 << 20)));
        assert_eq!(ranges(3 << 30), one(&(0..3 << 30)));
        assert_eq!(ranges(4 << 30), [0..3 << 30, 4 << 30..5 << 30]);
        assert_eq!(ranges(64 << 30), [0..3 << 30, 4 << 30..65 << 30]);
    }

    #[test]
    fn only_touched_pages_are_populated() {
        let ram = GuestRam::new(64 << 30).unwrap();
        assert_eq!(ram.populated().unwrap(), []);
        assert!(ram.write(0x5000, b"x"));
        assert!(ram.write_u64((60 << 30) + 8, 7));
        assert_eq!(ram.populated().unwrap(), [0x5000..0x6000, 60 << 30..(60 << 30) + 4096]);
        assert_eq!(ram.read_u64((60 << 30) + 8), Some(7));
    }

    #[test]
    fn ranges_outside_ram_are_refused_whole() {
        let ram = GuestRam::new(4 << 30).unwrap();
        for (pa, len) in [
            (3 << 30, 1),
            ((3 << 30) - 1, 2),
            (5 << 30, 1),
            (u64::MAX, 2),
            (0, u64::MAX),
            ((3 << 30) - 1, 2 << 30),
        ] {
            assert!(!ram.contains(pa, len), "{pa:#x} {len:#x}");
            assert!(ram.read(pa, len).is_none());
            assert!(!ram.clear(pa, len));
            assert!(!ram.copy(0, pa, len));
            assert!(!ram.copy(pa, 0, len));
        }
        assert!(ram.read_u64(3 << 30).is_none());
        assert!(ram.read_u64(4).is_none());
        assert!(ram.page(0x1001).is_none());
        assert!(ram.contains(u64::MAX, 0));
        assert_eq!(ram.read(u64::MAX, 0), Some(vec![]));
        assert!(ram.write(u64::MAX, &[]));
    }

    #[test]
    fn clear_and_copy_move_whole_ranges() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let data: Vec<u8> = (0..200_000).map(|i| i as u8 | 1).collect();
        assert!(ram.write(0x1_0003, &data));
        assert!(ram.copy(0x10_0001, 0x1_0003, data.len() as u64));
        assert_eq!(ram.read(0x10_0001, data.len() as u64).unwrap(), data);
        assert!(ram.clear(0x10_0001, data.len() as u64));
        assert_eq!(ram.read(0x10_0000, data.len() as u64 + 2).unwrap(), vec![0; data.len() + 2]);
    }
}
