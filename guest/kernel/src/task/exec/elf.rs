//! ELF headers, as exec sees them: bytes that anybody may have written. Pure.
//!
//! What is refused here is ENOEXEC; sizes and addresses that pass are within the user half, without overflow.

use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_paging::{PAGE_BYTES, USER_END, page_ceil, page_floor};

/// Bytes of the file header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a program header.
pub const PHDR_BYTES: usize = 56;
/// Most program headers.
const PHDRS_MAX: usize = 128;
/// Longest interpreter path, its NUL included.
const INTERP_MAX: u64 = 4096;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// A PT_LOAD segment. Addresses are before the bias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First byte.
    pub vaddr: u64,
    /// Bytes from the file.
    pub file_bytes: u64,
    /// Bytes in memory, at least `file_bytes`.
    pub mem_bytes: u64,
    /// Where they lie in the file; congruent to `vaddr` modulo the page size.
    pub offset: u64,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub exec: bool,
}

impl Segment {
    /// First page's address.
    pub fn start(&self) -> u64 {
        page_floor(self.vaddr)
    }

    /// End of the pages that hold bytes of the file.
    pub fn file_end(&self) -> u64 {
        ceil(self.vaddr + self.file_bytes)
    }

    /// End of the last page.
    pub fn end(&self) -> u64 {
        ceil(self.vaddr + self.mem_bytes)
    }
}

fn ceil(addr: u64) -> u64 {
    page_ceil(addr).unwrap_or(USER_END)
}

/// The file header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// ET_DYN: may be loaded anywhere.
    pub relocatable: bool,
    /// Where it starts, before the bias.
    pub entry: u64,
    /// File offset of the program headers.
    pub phdr_offset: u64,
    /// Number of program headers.
    pub phdrs: usize,
}

/// What the program headers say.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// PT_LOAD segments, in the order of the file, at least one.
    pub segments: Vec<Segment>,
    /// Offset and length of the interpreter's path in the file.
    pub interpreter: Option<(u64, usize)>,
    /// Is the stack to be executable?
    pub exec_stack: bool,
    /// Address of the program headers in memory, before the bias; 0 when they are not loaded.
    pub phdr_addr: u64,
}

impl Layout {
    /// First page's address of all segments.
    pub fn start(&self) -> u64 {
        self.segments.iter().map(Segment::start).min().unwrap_or(0)
    }

    /// End of the last page of all segments.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(Segment::end).max().unwrap_or(0)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Reads the file header: x86-64, ET_EXEC or ET_DYN. Class and byte order in `e_ident` are not looked at, as in Linux's
/// load_elf_binary (fs/binfmt_elf.c).
///
/// # Errors
/// ENOEXEC for anything else.
pub fn parse_header(bytes: &[u8]) -> Result<Header, Errno> {
    let ident = bytes.get(..HEADER_BYTES).ok_or(Errno::ENOEXEC)?;
    let kind = u16_at(bytes, 16);
    let phdrs = usize::from(u16_at(bytes, 56));
    let good = ident.starts_with(b"\x7fELF")
        && (kind == ET_EXEC || kind == ET_DYN)
        && u16_at(bytes, 18) == EM_X86_64
        && usize::from(u16_at(bytes, 54)) == PHDR_BYTES
        && (1..=PHDRS_MAX).contains(&phdrs);
    if !good {
        return Err(Errno::ENOEXEC);
    }
    Ok(Header {
        relocatable: kind == ET_DYN,
        entry: u64_at(bytes, 24),
        phdr_offset: u64_at(bytes, 32),
        phdrs,
    })
}

/// Reads the program headers, `header.phdrs` times [`PHDR_BYTES`] bytes.
///
/// # Errors
/// ENOEXEC when a segment is malformed or nothing is to be loaded; ENOMEM.
pub fn parse_layout(header: &Header, table: &[u8]) -> Result<Layout, Errno> {
    let mut layout = Layout::default();
    let mut phdr_addr = None;
    for at in (0..header.phdrs).map(|i| i * PHDR_BYTES) {
        let phdr = table.get(at..at + PHDR_BYTES).ok_or(Errno::ENOEXEC)?;
        let flags = u32_at(phdr, 4);
        let (offset, vaddr) = (u64_at(phdr, 8), u64_at(phdr, 16));
        let (file_bytes, mem_bytes) = (u64_at(phdr, 32), u64_at(phdr, 40));
        match u32_at(phdr, 0) {
            PT_LOAD if mem_bytes != 0 => {
                let segment = Segment {
                    vaddr,
                    file_bytes,
                    mem_bytes,
                    offset,
                    read: flags & PF_R != 0,
                    write: flags & PF_W != 0,
                    exec: flags & PF_X != 0,
                };
                check_segment(&segment)?;
                if phdr_addr.is_none() && (offset..offset + file_bytes).contains(&header.phdr_offset) {
                    layout.phdr_addr = vaddr + (header.phdr_offset - offset);
                }
                layout.segments.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                layout.segments.push(segment);
            }
            PT_PHDR => phdr_addr = Some(vaddr),
            PT_INTERP if layout.interpreter.is_none() => {
                if !(2..=INTERP_MAX).contains(&file_bytes) || offset.checked_add(file_bytes).is_none() {
                    return Err(Errno::ENOEXEC);
                }
                layout.interpreter = Some((offset, file_bytes as usize));
            }
            PT_GNU_STACK => layout.exec_stack = flags & PF_X != 0,
            _ => {}
        }
    }
    if let Some(addr) = phdr_addr {
        layout.phdr_addr = addr;
    }
    if layout.segments.is_empty() || layout.end() - layout.start() > USER_END {
        return Err(Errno::ENOEXEC);
    }
    Ok(layout)
}

fn check_segment(segment: &Segment) -> Result<(), Errno> {
    let in_memory =
        segment.vaddr.checked_add(segment.mem_bytes).is_some_and(|end| end <= USER_END - PAGE_BYTES);
    let in_file = segment.offset.checked_add(segment.file_bytes).is_some_and(|end| end < 1 << 62);
    let good = in_memory
        && in_file
        && segment.file_bytes <= segment.mem_bytes
        && (segment.vaddr ^ segment.offset).is_multiple_of(PAGE_BYTES);
    if good { Ok(()) } else { Err(Errno::ENOEXEC) }
}
