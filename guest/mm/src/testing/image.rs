//! Physical memory as the judge would see it: pages, and a census around them at addresses of its own.
//!
//! | physical address | what |
//! |---|---|
//! | 0 .. | frames |
//! | 64 GiB | frame array |
//! | 65 GiB | mm table |
//! | 66 GiB | CPU table |
//! | 67 GiB | header |
//! | 68 GiB | VMA chunks and their indexes, reached through the linear map |

use super::{Arena, KERNEL_ROOT, RAM_START};
use crate::{Env, Mm};
use core::hash::{BuildHasherDefault, Hasher};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use ptshare_paging::{ENTRIES, PAGE_BYTES, Pfn};
use ptshare_wire::census::VMA_CHUNK_MAX;
use ptshare_wire::frame::FRAME_META_BYTES;
use ptshare_wire::frame::FrameKind;
use ptshare_wire::layout::LINEAR_BASE;
use ptshare_wire::stats::Stats;
use ptshare_wire::{CensusHeader, CpuRec, FrameMeta, HugetlbCounts, MmRec, VmaRec};
use std::collections::HashMap;

const GIB: u64 = 1 << 30;
const FRAME_ARRAY: u64 = 64 * GIB;
const MM_TABLE: u64 = 65 * GIB;
const CPU_TABLE: u64 = 66 * GIB;
const HEADER: u64 = 67 * GIB;
const VMAS: u64 = 68 * GIB;
const END: u64 = 69 * GIB;
/// Bytes from one VMA to the next in a chunk.
const STRIDE: u64 = size_of::<VmaRec>() as u64 + 24;

/// A copy of physical memory at one moment.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pages: HashMap<u64, Box<[u64; ENTRIES]>, BuildHasherDefault<PageHasher>>,
}

/// Page numbers spread by a multiplication (Knuth): the judge looks a word up for every word that it reads.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

impl Image {
    /// Physical address of the census header.
    pub const HEADER_PA: u64 = HEADER;

    /// The word at an 8-byte-aligned physical address; memory that nobody has written is zero.
    pub fn read_u64(&self, pa: u64) -> u64 {
        self.pages.get(&(pa / PAGE_BYTES)).map_or(0, |page| page[(pa % PAGE_BYTES / 8) as usize])
    }

    /// Frames that somebody has written, ascending.
    pub fn populated(&self) -> Vec<u64> {
        let mut pfns: Vec<u64> = self.pages.keys().copied().collect();
        pfns.sort_unstable();
        pfns
    }

    /// Changes the word at an 8-byte-aligned physical address.
    pub fn write_u64(&mut self, pa: u64, value: u64) {
        let page = self.pages.entry(pa / PAGE_BYTES).or_insert_with(|| Box::new([0; ENTRIES]));
        page[(pa % PAGE_BYTES / 8) as usize] = value;
    }

    fn write_pair(&mut self, pa: u64, low: u32, high: u32) {
        self.write_u64(pa, u64::from(low) | u64::from(high) << 32);
    }
}

/// Names the regions around the frames in the census.
pub(super) fn reserve_regions(header: &CensusHeader) {
    header.frame_array.store(FRAME_ARRAY, Relaxed);
    header.mm_table.store(MM_TABLE, Relaxed);
    header.cpu_table.store(CPU_TABLE, Relaxed);
    header.reserved[0].start.store(0, Relaxed);
    header.reserved[0].end.store(RAM_START * PAGE_BYTES, Relaxed);
    header.reserved[1].start.store(FRAME_ARRAY, Relaxed);
    header.reserved[1].end.store(END, Relaxed);
}

impl Arena {
    /// Copies physical memory with a full census. `mms` are all that exist; their VMAs are written out.
    pub fn image(&self, mms: &[&Mm<Arena>]) -> Image {
        self.image_if(mms, &|_| true)
    }

    /// [`Arena::image`] without the content of pages that are no tables: all that the judge reads, in a fraction of the time.
    pub fn image_of_tables(&self, mms: &[&Mm<Arena>]) -> Image {
        let table = |meta: &FrameMeta| meta.state.load(Relaxed) & 0xff == FrameKind::Table as u32;
        self.image_if(mms, &|pfn| pfn < RAM_START as usize || table(&self.0.metas[pfn]))
    }

    fn image_if(&self, mms: &[&Mm<Arena>], wanted: &dyn Fn(usize) -> bool) -> Image {
        let mut image = Image::default();
        for (pfn, page) in self.0.pages.iter().enumerate() {
            if let Some(page) = page.get().filter(|_| wanted(pfn)) {
                let words = Box::new(core::array::from_fn(|i| page[i].load(Relaxed)));
                image.pages.insert(pfn as u64, words);
            }
        }
        self.write_frames(&mut image);
        self.write_mms(&mut image, mms);
        self.write_header(&mut image);
        let cpu = &self.0.cpu;
        image.write_pair(CPU_TABLE, cpu.online.load(Relaxed), cpu.critical.load(Relaxed));
        image.write_u64(CPU_TABLE + offset_of!(CpuRec, mm_slot) as u64, cpu.mm_slot.load(Relaxed));
        image.write_u64(CPU_TABLE + offset_of!(CpuRec, pid) as u64, cpu.pid.load(Relaxed));
        image
    }

    /// The CR3 that the CPU record claims: the root of the mm it names, or the kernel's.
    pub fn cr3(&self) -> Pfn {
        match self.0.cpu.mm_slot.load(Relaxed) {
            0 => KERNEL_ROOT,
            slot => Pfn(self.mm_rec(slot as u32 - 1).root.load(Relaxed)),
        }
    }

    fn write_frames(&self, image: &mut Image) {
        let in_page = (PAGE_BYTES / FRAME_META_BYTES) as usize;
        for (number, metas) in self.0.metas.chunks(in_page).enumerate() {
            let mut page = Box::new([0; ENTRIES]);
            for (meta, words) in metas.iter().zip(page.chunks_exact_mut(FRAME_META_BYTES as usize / 8)) {
                let pair = |low: &AtomicU32, high: &AtomicU32| {
                    u64::from(low.load(Relaxed)) | u64::from(high.load(Relaxed)) << 32
                };
                words[0] = pair(&meta.refs, &meta.state);
                words[1] = pair(&meta.lock, &meta.aux);
                words[2] = meta.a.load(Relaxed);
                words[3] = meta.b.load(Relaxed);
            }
            if page.iter().any(|&word| word != 0) {
                image.pages.insert(FRAME_ARRAY / PAGE_BYTES + number as u64, page);
            }
        }
    }

    fn write_mms(&self, image: &mut Image, mms: &[&Mm<Arena>]) {
        for slot in 0..self.0.header.mm_high.load(Relaxed) {
            let rec = self.mm_rec(slot as u32);
            let at = MM_TABLE + slot * size_of::<MmRec>() as u64;
            let fields: [(usize, &AtomicU64); 7] = [
                (offset_of!(MmRec, root), &rec.root),
                (offset_of!(MmRec, pid), &rec.pid),
                (offset_of!(MmRec, cpumask), &rec.cpumask),
                (offset_of!(MmRec, table_pages), &rec.table_pages),
                (offset_of!(MmRec, family), &rec.family),
                (offset_of!(MmRec, hugetlb_reserved), &rec.hugetlb_reserved[0]),
                (offset_of!(MmRec, hugetlb_reserved) + 8, &rec.hugetlb_reserved[1]),
            ];
            for (offset, value) in fields {
                image.write_u64(at + offset as u64, value.load(Relaxed));
            }
        }
        let mut free = VMAS;
        for mm in mms {
            let at = MM_TABLE + u64::from(mm.slot()) * size_of::<MmRec>() as u64;
            let recs: Vec<VmaRec> = mm.vmas.read().iter().map(|vma| vma.rec).collect();
            let chunks = recs.chunks(VMA_CHUNK_MAX);
            let index = free;
            free += 8 * chunks.len() as u64;
            image.write_u64(at + offset_of!(MmRec, vma_index) as u64, LINEAR_BASE + index);
            image.write_u64(at + offset_of!(MmRec, vma_chunks) as u64, chunks.len() as u64);
            image.write_u64(at + offset_of!(MmRec, vma_count) as u64, recs.len() as u64);
            image.write_u64(at + offset_of!(MmRec, vma_stride) as u64, STRIDE);
            for (i, chunk) in chunks.enumerate() {
                image.write_u64(index + 8 * i as u64, LINEAR_BASE + free);
                image.write_u64(free, chunk.len() as u64);
                for (j, rec) in chunk.iter().enumerate() {
                    let words = [rec.start, rec.end, rec.flags, rec.pgoff, rec.object];
                    for (k, word) in words.into_iter().enumerate() {
                        image.write_u64(free + 8 + j as u64 * STRIDE + 8 * k as u64, word);
                    }
                }
                free += 8 + chunk.len() as u64 * STRIDE;
            }
        }
    }

    fn write_header(&self, image: &mut Image) {
        let header = &self.0.header;
        let (version, bytes) = (header.version.load(Relaxed), header.header_bytes.load(Relaxed));
        image.write_pair(HEADER + offset_of!(CensusHeader, version) as u64, version, bytes);
        for (i, range) in header.ram.iter().enumerate() {
            let at = HEADER + offset_of!(CensusHeader, ram) as u64 + 24 * i as u64;
            for (k, word) in [&range.start, &range.end, &range.virgin].into_iter().enumerate() {
                image.write_u64(at + 8 * k as u64, word.load(Relaxed));
            }
        }
        for (i, range) in header.reserved.iter().enumerate() {
            let at = HEADER + offset_of!(CensusHeader, reserved) as u64 + 16 * i as u64;
            image.write_u64(at, range.start.load(Relaxed));
            image.write_u64(at + 8, range.end.load(Relaxed));
        }
        macro_rules! words {
            ($($name:ident)+) => {
                $(image.write_u64(HEADER + offset_of!(CensusHeader, $name) as u64, header.$name.load(Relaxed));)+
            };
        }
        words!(magic frame_array frames free_frames kernel_frames mm_table mm_high cpu_table cpus kernel_root);
        words!(zero_page sharing object_table object_high);
        for (i, pool) in header.hugetlb.iter().enumerate() {
            let at = HEADER + (offset_of!(CensusHeader, hugetlb) + i * size_of::<HugetlbCounts>()) as u64;
            let words = [&pool.total, &pool.free, &pool.reserved, &pool.surplus, &pool.promised];
            for (k, word) in words.into_iter().enumerate() {
                image.write_u64(at + 8 * k as u64, word.load(Relaxed));
            }
        }
        let stats = HEADER + offset_of!(CensusHeader, stats) as u64;
        let mut i = 0;
        header.stats.each(|_, value| {
            image.write_u64(stats + 8 * i, value.load(Relaxed));
            i += 1;
        });
        debug_assert_eq!(i as usize, Stats::NAMES.len());
    }
}
