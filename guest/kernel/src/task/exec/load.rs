//! Loading an ELF image into a new address space: private mappings of the file, and what lies between its end and the end of
//! the segment in memory.

use super::elf::{self, Header, Layout, Segment};
use crate::{KMm, KObject};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_mm::MapRequest;
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, page_floor};

/// Where position-independent programs go (ELF_ET_DYN_BASE without randomisation).
const DYN_BASE: u64 = 0x5555_5555_4000;
/// Bytes read to tell what a file is (BINPRM_BUF_SIZE).
pub const HEAD_BYTES: usize = 256;

static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// An ELF file that has been looked at.
pub struct Image {
    object: Arc<KObject>,
    /// Its file header.
    pub header: Header,
    /// Its program headers.
    pub layout: Layout,
}

/// Where an image was put.
pub struct Placed {
    /// Added to all its addresses.
    pub bias: u64,
    /// Its entry point.
    pub entry: u64,
}

/// Reads the first bytes of a file; short files are filled up with zeros.
pub fn read_head(object: &KObject) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    object.read_at(0, &mut head);
    head
}

fn read_exact(object: &KObject, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    if object.read_at(offset, &mut bytes) == len { Ok(bytes) } else { Err(Errno::ENOEXEC) }
}

impl Image {
    /// Looks at an ELF file.
    ///
    /// # Errors
    /// ENOEXEC when it is not one that this kernel runs.
    pub fn open(object: Arc<KObject>, head: &[u8]) -> Result<Image, Errno> {
        let header = elf::parse_header(head)?;
        let table = read_exact(&object, header.phdr_offset, header.phdrs * elf::PHDR_BYTES)?;
        let layout = elf::parse_layout(&header, &table)?;
        Ok(Image { object, header, layout })
    }

    /// The interpreter's path, if it asks for one.
    ///
    /// # Errors
    /// ENOEXEC when it is cut off or lacks its NUL.
    pub fn interpreter(&self) -> Result<Option<Vec<u8>>, Errno> {
        let Some((offset, len)) = self.layout.interpreter else { return Ok(None) };
        let mut path = read_exact(&self.object, offset, len)?;
        if path.pop() != Some(0) {
            return Err(Errno::ENOEXEC);
        }
        if let Some(nul) = path.iter().position(|&b| b == 0) {
            path.truncate(nul);
        }
        Ok(Some(path))
    }

    /// Maps the image. A relocatable one goes to the program's place, or (`anywhere`) where there is room.
    ///
    /// # Errors
    /// What mmap says.
    pub fn load(&self, mm: &KMm, anywhere: bool) -> Result<Placed, Errno> {
        let start = self.layout.start();
        let bias = if !self.header.relocatable {
            0
        } else if anywhere {
            let len = self.layout.end() - start;
            let base = mm.mmap(MapRequest::anonymous(len, 0))?;
            mm.munmap(base, len)?;
            base.wrapping_sub(start)
        } else {
            DYN_BASE.wrapping_sub(start)
        };
        for segment in &self.layout.segments {
            self.load_segment(mm, segment, bias)?;
        }
        Ok(Placed { bias, entry: self.header.entry.wrapping_add(bias) })
    }

    fn load_segment(&self, mm: &KMm, segment: &Segment, bias: u64) -> Result<(), Errno> {
        let mut prot = 0;
        for (on, bit) in
            [(segment.read, raw::PROT_READ), (segment.write, raw::PROT_WRITE), (segment.exec, raw::PROT_EXEC)]
        {
            prot |= if on { u64::from(bit) } else { 0 };
        }
        let at = |addr: u64| addr.wrapping_add(bias);
        let (start, end) = (segment.start(), segment.end());
        let file_end = if segment.file_bytes == 0 { start } else { segment.file_end() };
        if file_end > start {
            mm.mmap(MapRequest {
                addr: at(start),
                len: file_end - start,
                prot,
                flags: u64::from(raw::MAP_PRIVATE | raw::MAP_FIXED),
                object: Some((self.object.clone(), page_floor(segment.offset) >> PAGE_SHIFT)),
                file_readable: true,
                file_writable: false,
            })?;
            let bytes_end = segment.vaddr + segment.file_bytes;
            let tail = file_end - bytes_end;
            if segment.mem_bytes > segment.file_bytes && tail > 0 && segment.write {
                // The rest of the file's last page belongs to the bss.
                mm.write_user(at(bytes_end), &ZEROS[..tail as usize])?;
            }
        }
        if end > file_end {
            mm.mmap(MapRequest {
                addr: at(file_end),
                flags: u64::from(raw::MAP_PRIVATE | raw::MAP_ANONYMOUS | raw::MAP_FIXED),
                ..MapRequest::anonymous(end - file_end, prot)
            })?;
        }
        Ok(())
    }
}
