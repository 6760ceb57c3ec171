//! Dumps: a guest's memory in a file, as the judge needs it.
//!
//! All numbers are little-endian. Pages that hold only zeros are left out; extents say where such pages are memory.
//!
//! ```text
//! "ptsdump\0"  u32 version = 1  u32 vcpus  u64 census_pa  u64 extents
//! vcpus   times  { u32 index, u32 user (0 or 1), u64 cr3 }
//! extents times  { u64 first frame, u64 first frame after }
//! records        { u64 first frame, u64 pages (1..=256), pages * 4096 bytes } ...
//! end            { u64 pages in all records, u64 0 }
//! ```
//!
//! The end record tells a whole dump from one whose writer was cut off.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;

use ptshare_paging::{ENTRIES, PAGE_BYTES, PAGE_SHIFT};

use crate::Vcpu;
use crate::census::Census;
use crate::report::Sink;
use crate::view::{Image, PhysView};

/// First bytes of a dump.
pub const MAGIC: [u8; 8] = *b"ptsdump\0";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Most pages in a record.
const RUN_MAX: u64 = 256;
/// Most vCPUs and extents in a dump.
const COUNT_MAX: u64 = 4096;

/// Why a dump could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file system said so.
    #[error("cannot access the dump: {0}")]
    Io(#[from] io::Error),
    /// The file ends in the middle.
    #[error("the dump is cut off after {pages} pages")]
    Truncated {
        /// Whole pages read before the end.
        pages: u64,
    },
    /// Not a dump, or of another version.
    #[error("not a ptshare dump of version {VERSION}: {0}")]
    Format(String),
    /// A page that was to be written is not memory.
    #[error("frame {0:#x} is not memory")]
    NotMemory(u64),
}

/// Writes the `populated` frames of `view` (in any order) to a new file at `path`, with what [`read`] gives back. Pages of
/// zeros take no space.
///
/// # Errors
/// When the file cannot be written, or a frame of `populated` is not memory.
pub fn write(
    path: &Path,
    view: &dyn PhysView,
    census_pa: u64,
    vcpus: &[Vcpu],
    populated: impl Iterator<Item = u64>,
) -> Result<(), DumpError> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let extents = extents(view, census_pa);
    let count = |n: usize| u32::try_from(n).map_err(|_| DumpError::Format("too many vCPUs".into()));
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&count(vcpus.len())?.to_le_bytes())?;
    put(&mut out, &[census_pa, extents.len() as u64])?;
    for vcpu in vcpus {
        put(&mut out, &[u64::from(vcpu.index) | u64::from(vcpu.user) << 32, vcpu.cr3])?;
    }
    for extent in &extents {
        put(&mut out, &[extent.start, extent.end])?;
    }
    let mut run = Run { first: 0, words: Vec::new(), written: 0 };
    let mut page = [0; ENTRIES];
    for pfn in populated {
        if !view.read_page(pfn, &mut page) {
            return Err(DumpError::NotMemory(pfn));
        }
        if page.iter().any(|w| *w != 0) || !extents.iter().any(|e| e.contains(&pfn)) {
            run.push(pfn, &page, &mut out)?;
        }
    }
    run.flush(&mut out)?;
    put(&mut out, &[run.written, 0])?;
    out.flush()?;
    Ok(())
}

/// Where the guest has memory: what the view says, or else what the census says.
fn extents(view: &dyn PhysView, census_pa: u64) -> Vec<Range<u64>> {
    let known = view.extents();
    if !known.is_empty() {
        return known;
    }
    let Some(census) = Census::read(view, census_pa, &mut Sink::new(0)) else { return Vec::new() };
    let reserved = census.reserved.iter().map(|r| r.start >> PAGE_SHIFT..r.end.div_ceil(PAGE_BYTES));
    census.ram.iter().map(|r| r.start..r.end).chain(reserved).collect()
}

fn put(out: &mut impl Write, words: &[u64]) -> io::Result<()> {
    words.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))
}

/// Neighbouring pages on their way to one record.
struct Run {
    first: u64,
    words: Vec<u64>,
    written: u64,
}

impl Run {
    fn pages(&self) -> u64 {
        (self.words.len() / ENTRIES) as u64
    }

    fn push(&mut self, pfn: u64, page: &[u64; ENTRIES], out: &mut impl Write) -> io::Result<()> {
        if self.pages() == RUN_MAX || self.first.wrapping_add(self.pages()) != pfn {
            self.flush(out)?;
            self.first = pfn;
        }
        self.words.extend_from_slice(page);
        Ok(())
    }

    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.words.is_empty() {
            put(out, &[self.first, self.pages()])?;
            put(out, &self.words)?;
            self.written += self.pages();
            self.words.clear();
        }
        Ok(())
    }
}

/// Reads a dump: memory, address of the census header, vCPUs.
///
/// # Errors
/// When the file cannot be read, is no dump of this version, or is cut off.
pub fn read(path: &Path) -> Result<(Image, u64, Vec<Vcpu>), DumpError> {
    let mut input = Input { file: BufReader::with_capacity(1 << 20, File::open(path)?), pages: 0 };
    let mut magic = [0; 8];
    input.bytes(&mut magic)?;
    let (version, vcpus) = input.halves()?;
    if magic != MAGIC || version != VERSION {
        return Err(DumpError::Format(format!("magic {magic:02x?}, version {version}")));
    }
    let census_pa = input.word()?;
    let extents = input.word()?;
    if u64::from(vcpus) > COUNT_MAX || extents > COUNT_MAX {
        return Err(DumpError::Format(format!("{vcpus} vCPUs and {extents} extents")));
    }
    let mut cpus = Vec::new();
    for _ in 0..vcpus {
        let (index, user) = input.halves()?;
        cpus.push(Vcpu { index, user: user != 0, cr3: input.word()? });
    }
    let mut image = Image::new();
    for _ in 0..extents {
        image.add_extent(input.word()?..input.word()?);
    }
    loop {
        let (first, pages) = (input.word()?, input.word()?);
        if pages == 0 {
            let whole = first == input.pages;
            return if whole { Ok((image, census_pa, cpus)) } else { Err(input.truncated()) };
        }
        if pages > RUN_MAX || first.checked_add(pages).is_none_or(|end| end > 1 << 40) {
            return Err(DumpError::Format(format!("a record of {pages} pages at frame {first:#x}")));
        }
        for pfn in first..first + pages {
            let mut bytes = [0; PAGE_BYTES as usize];
            input.bytes(&mut bytes)?;
            let page = image.page_mut(pfn);
            for (word, chunk) in page.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*chunk);
            }
            input.pages += 1;
        }
    }
}

/// A dump being read.
struct Input {
    file: BufReader<File>,
    pages: u64,
}

impl Input {
    fn truncated(&self) -> DumpError {
        DumpError::Truncated { pages: self.pages }
    }

    fn bytes(&mut self, out: &mut [u8]) -> Result<(), DumpError> {
        self.file.read_exact(out).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated(),
            _ => DumpError::Io(error),
        })
    }

    fn word(&mut self) -> Result<u64, DumpError> {
        let mut bytes = [0; 8];
        self.bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Two `u32`s.
    fn halves(&mut self) -> Result<(u32, u32), DumpError> {
        let word = self.word()?;
        Ok((word as u32, (word >> 32) as u32))
    }
}
