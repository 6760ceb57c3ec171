//! Reads the census out of guest memory, trusting nothing: every count has a bound, every address is added up with
//! overflow checks, and whatever does not fit becomes a finding of [`census_is_sound`] or [`vma_list_sorted`].

use std::mem::{offset_of, size_of};
use std::ops::Range;

use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, USER_END};
use ptshare_wire::census::{
    CENSUS_MAGIC, CENSUS_VERSION, CPUS_MAX, MM_SLOTS, RAM_RANGES_MAX, RESERVED_MAX, VMA_CHUNK_MAX,
};
use ptshare_wire::frame::FRAME_META_BYTES;
use ptshare_wire::huge::HUGE_SIZES;
use ptshare_wire::layout::{KERNEL_VIRT_BASE, LINEAR_BASE, LINEAR_MAX_BYTES};
use ptshare_wire::{
    CensusHeader, CpuRec, HugeSize, HugetlbCounts, MmRec, RamRange, ReservedRange, Stats, VmaRec,
};

use crate::report::{Finding, MmId, Sink};
use crate::rules::{census_is_sound, vma_list_sorted};
use crate::view::PhysView;

/// Most VMAs of one mm that are read; Linux stops at 65530 (`vm.max_map_count`).
const VMAS_MAX: u64 = 1 << 20;
/// Most VMAs read in all: a guest that claims more is lying.
const VMAS_TOTAL_MAX: u64 = 1 << 24;
/// Most bytes from one VMA to the next.
const VMA_STRIDE_MAX: u64 = 4096;
/// Most frames that a guest can have: 52 address bits.
const FRAMES_MAX: u64 = 1 << 40;

/// Most frames given out that are judged: 256 GiB, for which the judge needs a hundredth of that.
const FRAMES_GIVEN_MAX: u64 = 1 << 26;

/// A managed range of frame numbers.
#[derive(Clone, Debug)]
pub(crate) struct Ram {
    /// First frame.
    pub(crate) start: u64,
    /// First frame never given out.
    pub(crate) virgin: u64,
    /// First frame after the range.
    pub(crate) end: u64,
}

/// The header's contents, after the checks.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    pub(crate) ram: Vec<Ram>,
    /// Reserved memory, bytes.
    pub(crate) reserved: Vec<Range<u64>>,
    pub(crate) frame_array: u64,
    pub(crate) frames: u64,
    pub(crate) free_frames: u64,
    pub(crate) kernel_frames: u64,
    pub(crate) mm_table: u64,
    pub(crate) mm_high: u64,
    pub(crate) cpu_table: u64,
    pub(crate) cpus: u64,
    pub(crate) kernel_root: u64,
    pub(crate) zero_page: u64,
    /// The hugetlb pools, by size.
    pub(crate) hugetlb: [Pool; HUGE_SIZES],
    /// Where the guest puts its answers; 0 for nowhere.
    pub(crate) answers: u64,
    /// What /proc/meminfo shows.
    pub(crate) totals: Totals,
}

/// What the guest says of a hugetlb pool, in its pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) total: u64,
    pub(crate) free: u64,
    pub(crate) reserved: u64,
    pub(crate) surplus: u64,
    /// Of the reserved ones, those promised to objects.
    pub(crate) promised: u64,
}

/// Counters behind /proc/meminfo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    /// PageTables, in pages.
    pub(crate) tables: u64,
    /// Tables with several entries that point to them.
    pub(crate) tables_shared: u64,
    /// Times that fork has made a table shared, since boot.
    pub(crate) shared_by_fork: u64,
}

/// A live address space.
#[derive(Clone, Debug)]
pub(crate) struct Mm {
    pub(crate) id: MmId,
    pub(crate) root: u64,
    pub(crate) cpumask: u64,
    pub(crate) table_pages: u64,
    pub(crate) family: u64,
    /// By size.
    pub(crate) hugetlb_reserved: [u64; HUGE_SIZES],
    /// In address order and disjoint, if `vmas_sound`.
    pub(crate) vmas: Vec<VmaRec>,
    /// The list could be read and is in order. Otherwise the rules about VMAs leave this mm alone.
    pub(crate) vmas_sound: bool,
}

/// A CPU's record.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) online: bool,
    pub(crate) critical: u32,
    pub(crate) mm_slot: u64,
}

/// Bytes of a record, read by field offset; a field past the end reads as zero.
pub(crate) struct Bytes(Vec<u8>);

impl Bytes {
    pub(crate) fn read(view: &dyn PhysView, pa: u64, len: usize) -> Option<Bytes> {
        let mut bytes = vec![0; len];
        view.read_bytes(pa, &mut bytes).then_some(Bytes(bytes))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes)
    }
}

/// Reports that the census is broken.
fn broken(sink: &mut Sink, expected: impl Into<String>, found: impl Into<String>) {
    sink.report(&census_is_sound::RULE, || Finding::new(&census_is_sound::RULE, expected, found));
}

/// The counts of one hugetlb pool.
fn pool(head: &Bytes, size: HugeSize) -> Pool {
    let at = offset_of!(CensusHeader, hugetlb) + size.index() * size_of::<HugetlbCounts>();
    Pool {
        total: head.u64(at + offset_of!(HugetlbCounts, total)),
        free: head.u64(at + offset_of!(HugetlbCounts, free)),
        reserved: head.u64(at + offset_of!(HugetlbCounts, reserved)),
        surplus: head.u64(at + offset_of!(HugetlbCounts, surplus)),
        promised: head.u64(at + offset_of!(HugetlbCounts, promised)),
    }
}

/// Guest-physical address behind an address in the kernel half: linear map or kernel image.
fn kernel_pa(va: u64) -> Option<u64> {
    if let Some(pa) = va.checked_sub(KERNEL_VIRT_BASE) {
        return Some(pa);
    }
    va.checked_sub(LINEAR_BASE).filter(|pa| *pa < LINEAR_MAX_BYTES)
}

impl Census {
    /// Reads and checks the header. `None`, with findings, if nothing can be judged by it.
    pub(crate) fn read(view: &dyn PhysView, pa: u64, sink: &mut Sink) -> Option<Census> {
        let Some(head) = Bytes::read(view, pa, size_of::<CensusHeader>()) else {
            broken(sink, "a census header in memory", format!("no memory at {pa:#x}"));
            return None;
        };
        let magic = head.u64(offset_of!(CensusHeader, magic));
        let version = head.u32(offset_of!(CensusHeader, version));
        let bytes = head.u32(offset_of!(CensusHeader, header_bytes));
        if magic != CENSUS_MAGIC || version != CENSUS_VERSION || bytes as usize != size_of::<CensusHeader>() {
            broken(
                sink,
                format!(
                    "magic {CENSUS_MAGIC:#x}, version {CENSUS_VERSION}, {} bytes",
                    size_of::<CensusHeader>()
                ),
                format!("magic {magic:#x}, version {version}, {bytes} bytes, at {pa:#x}"),
            );
            return None;
        }
        let census = Census {
            ram: ram_ranges(&head),
            reserved: reserved_ranges(&head),
            frame_array: head.u64(offset_of!(CensusHeader, frame_array)),
            frames: head.u64(offset_of!(CensusHeader, frames)),
            free_frames: head.u64(offset_of!(CensusHeader, free_frames)),
            kernel_frames: head.u64(offset_of!(CensusHeader, kernel_frames)),
            mm_table: head.u64(offset_of!(CensusHeader, mm_table)),
            mm_high: head.u64(offset_of!(CensusHeader, mm_high)),
            cpu_table: head.u64(offset_of!(CensusHeader, cpu_table)),
            cpus: head.u64(offset_of!(CensusHeader, cpus)),
            kernel_root: head.u64(offset_of!(CensusHeader, kernel_root)),
            zero_page: head.u64(offset_of!(CensusHeader, zero_page)),
            hugetlb: HugeSize::ALL.map(|size| pool(&head, size)),
            answers: head.u64(offset_of!(CensusHeader, answers)),
            totals: Totals {
                tables: head.u64(offset_of!(CensusHeader, stats) + offset_of!(Stats, tables_now)),
                tables_shared: head
                    .u64(offset_of!(CensusHeader, stats) + offset_of!(Stats, tables_shared_now)),
                shared_by_fork: head
                    .u64(offset_of!(CensusHeader, stats) + offset_of!(Stats, fork_tables_shared)),
            },
        };
        census.check(sink).then_some(census)
    }

    /// Are the header's numbers possible? Reports those that are not.
    fn check(&self, sink: &mut Sink) -> bool {
        let before = sink.total();
        if self.frames > FRAMES_MAX
            || self.frame_array.checked_add(self.frames.saturating_mul(FRAME_META_BYTES)).is_none()
        {
            broken(
                sink,
                "a frame array within physical memory",
                format!("{} frames at {:#x}", self.frames, self.frame_array),
            );
        }
        let given =
            self.ram.iter().fold(0, |sum: u64, ram| sum.saturating_add(ram.virgin.saturating_sub(ram.start)));
        if given > FRAMES_GIVEN_MAX {
            broken(sink, format!("at most {FRAMES_GIVEN_MAX} frames given out"), format!("{given} frames"));
        }
        for ram in &self.ram {
            if ram.start > ram.virgin || ram.virgin > ram.end || ram.end > self.frames {
                broken(
                    sink,
                    format!("start <= virgin <= end <= {:#x} frames", self.frames),
                    format!("start {:#x}, virgin {:#x}, end {:#x}", ram.start, ram.virgin, ram.end),
                );
            }
        }
        for (i, ram) in self.ram.iter().enumerate() {
            for other in self.ram.iter().skip(i + 1) {
                if ram.start < other.end && other.start < ram.end {
                    broken(
                        sink,
                        "managed ranges that do not overlap",
                        format!(
                            "frames {:#x}..{:#x} and {:#x}..{:#x}",
                            ram.start, ram.end, other.start, other.end
                        ),
                    );
                }
            }
            for hole in &self.reserved {
                let (first, last) =
                    (hole.start >> PAGE_SHIFT, (hole.end.saturating_add(PAGE_BYTES - 1)) >> PAGE_SHIFT);
                if ram.start < last && first < ram.end {
                    broken(
                        sink,
                        "reserved memory outside the managed ranges",
                        format!(
                            "reserved {:#x}..{:#x} in frames {:#x}..{:#x}",
                            hole.start, hole.end, ram.start, ram.end
                        ),
                    );
                }
            }
        }
        for hole in self.reserved.iter().filter(|hole| hole.start > hole.end) {
            broken(sink, "a reserved range with start <= end", format!("{:#x}..{:#x}", hole.start, hole.end));
        }
        if self.mm_high > MM_SLOTS as u64 || self.cpus > CPUS_MAX as u64 {
            broken(
                sink,
                format!("at most {MM_SLOTS} mm slots and {CPUS_MAX} CPUs"),
                format!("mm_high {}, cpus {}", self.mm_high, self.cpus),
            );
        }
        sink.total() == before
    }

    /// The records of the CPUs started. `None`, with a finding, if they are not in memory.
    pub(crate) fn cpus(&self, view: &dyn PhysView, sink: &mut Sink) -> Option<Vec<Cpu>> {
        let Some(table) = Bytes::read(view, self.cpu_table, self.cpus as usize * size_of::<CpuRec>()) else {
            broken(sink, "a CPU table in memory", format!("{} CPUs at {:#x}", self.cpus, self.cpu_table));
            return None;
        };
        let cpu = |i: usize| {
            let at = i * size_of::<CpuRec>();
            Cpu {
                online: table.u32(at + offset_of!(CpuRec, online)) != 0,
                critical: table.u32(at + offset_of!(CpuRec, critical)),
                mm_slot: table.u64(at + offset_of!(CpuRec, mm_slot)),
            }
        };
        Some((0..self.cpus as usize).map(cpu).collect())
    }

    /// The live address spaces with their VMAs. `None`, with a finding, if the mm table is not in memory.
    pub(crate) fn mms(&self, view: &dyn PhysView, sink: &mut Sink) -> Option<Vec<Mm>> {
        let Some(table) = Bytes::read(view, self.mm_table, self.mm_high as usize * size_of::<MmRec>()) else {
            broken(sink, "an mm table in memory", format!("{} slots at {:#x}", self.mm_high, self.mm_table));
            return None;
        };
        let mut mms = Vec::new();
        let mut vmas_left = VMAS_TOTAL_MAX;
        for slot in 0..self.mm_high as usize {
            let at = slot * size_of::<MmRec>();
            let root = table.u64(at + offset_of!(MmRec, root));
            if root == 0 {
                continue;
            }
            let mut mm = Mm {
                id: MmId { slot: slot as u32, pid: table.u64(at + offset_of!(MmRec, pid)) },
                root,
                cpumask: table.u64(at + offset_of!(MmRec, cpumask)),
                table_pages: table.u64(at + offset_of!(MmRec, table_pages)),
                family: table.u64(at + offset_of!(MmRec, family)),
                hugetlb_reserved: HugeSize::ALL
                    .map(|size| table.u64(at + offset_of!(MmRec, hugetlb_reserved) + 8 * size.index())),
                vmas: Vec::new(),
                vmas_sound: false,
            };
            let list = VmaList {
                index: table.u64(at + offset_of!(MmRec, vma_index)),
                chunks: table.u64(at + offset_of!(MmRec, vma_chunks)),
                count: table.u64(at + offset_of!(MmRec, vma_count)),
                stride: table.u64(at + offset_of!(MmRec, vma_stride)),
            };
            let before = sink.total();
            list.read(view, &mut mm, &mut vmas_left, sink);
            vma_list_sorted::mm(&mm, sink);
            mm.vmas_sound = sink.total() == before;
            mms.push(mm);
        }
        Some(mms)
    }

    /// Physical addresses at or above this need an address bit that a machine with so much memory does not have.
    pub(crate) fn phys_mask(&self) -> u64 {
        // Devices live below 4 GiB, so 32 bits always exist.
        let bytes = self.frames.max(1 << (32 - PAGE_SHIFT)).saturating_mul(PAGE_BYTES);
        bytes.checked_next_power_of_two().map_or(u64::MAX, |top| top - 1)
    }
}

fn ram_ranges(head: &Bytes) -> Vec<Ram> {
    let range = |i: usize| {
        let at = offset_of!(CensusHeader, ram) + i * size_of::<RamRange>();
        Ram {
            start: head.u64(at + offset_of!(RamRange, start)),
            virgin: head.u64(at + offset_of!(RamRange, virgin)),
            end: head.u64(at + offset_of!(RamRange, end)),
        }
    };
    (0..RAM_RANGES_MAX).map(range).filter(|r| r.start != 0 || r.end != 0 || r.virgin != 0).collect()
}

fn reserved_ranges(head: &Bytes) -> Vec<Range<u64>> {
    let range = |i: usize| {
        let at = offset_of!(CensusHeader, reserved) + i * size_of::<ReservedRange>();
        head.u64(at + offset_of!(ReservedRange, start))..head.u64(at + offset_of!(ReservedRange, end))
    };
    (0..RESERVED_MAX).map(range).filter(|r| r.end != 0).collect()
}

/// Where an mm's VMAs are, as its record says.
struct VmaList {
    index: u64,
    chunks: u64,
    count: u64,
    stride: u64,
}

impl VmaList {
    /// Reads the VMAs into `mm`, at most `left` of them over all mms.
    fn read(&self, view: &dyn PhysView, mm: &mut Mm, left: &mut u64, sink: &mut Sink) {
        let id = mm.id;
        let bad = |sink: &mut Sink, expected: &str, found: String| {
            sink.report(&census_is_sound::RULE, || {
                Finding::new(&census_is_sound::RULE, expected, found).mm(id)
            });
        };
        if self.chunks == 0 && self.count == 0 {
            return;
        }
        if self.count > VMAS_MAX.min(*left) || self.chunks > VMAS_MAX {
            return bad(
                sink,
                "a possible number of VMAs",
                format!("{} VMAs, {} chunks", self.count, self.chunks),
            );
        }
        if !(size_of::<VmaRec>() as u64..=VMA_STRIDE_MAX).contains(&self.stride)
            || !self.stride.is_multiple_of(8)
        {
            return bad(
                sink,
                "a VMA stride that holds a VmaRec, in whole words",
                format!("{} bytes", self.stride),
            );
        }
        let Some(index) = kernel_pa(self.index) else {
            return bad(sink, "a VMA index in the linear map", format!("{:#x}", self.index));
        };
        for i in 0..self.chunks {
            let pointer = index.checked_add(8 * i).and_then(|pa| view.read_u64(pa));
            let chunk = pointer.and_then(kernel_pa);
            let Some((chunk, len)) = chunk.and_then(|pa| Some((pa, view.read_u64(pa)?))) else {
                return bad(
                    sink,
                    "a VMA chunk in memory",
                    format!("chunk {i} of the index at {:#x} at {pointer:x?}", self.index),
                );
            };
            if len > VMA_CHUNK_MAX as u64 {
                return bad(
                    sink,
                    "at most 32 VMAs in a chunk",
                    format!("{len} VMAs in chunk {i} at pa {chunk:#x}"),
                );
            }
            if len == 0 {
                vma_list_sorted::empty_chunk(mm.id, i, sink);
            }
            let Some(vmas) = chunk
                .checked_add(8)
                .and_then(|pa| Bytes::read(view, pa, len as usize * self.stride as usize))
            else {
                return bad(
                    sink,
                    "a VMA chunk in memory",
                    format!("chunk {i} at pa {chunk:#x} runs out of memory"),
                );
            };
            mm.vmas.extend((0..len as usize).map(|v| vma(&vmas, v * self.stride as usize)));
            if mm.vmas.len() as u64 > VMAS_MAX.min(*left) {
                return bad(
                    sink,
                    "a possible number of VMAs",
                    format!("more than {} in chunks", mm.vmas.len()),
                );
            }
        }
        *left -= mm.vmas.len() as u64;
        vma_list_sorted::count(mm, self.count, sink);
    }
}

fn vma(bytes: &Bytes, at: usize) -> VmaRec {
    VmaRec {
        start: bytes.u64(at + offset_of!(VmaRec, start)),
        end: bytes.u64(at + offset_of!(VmaRec, end)),
        flags: bytes.u64(at + offset_of!(VmaRec, flags)),
        pgoff: bytes.u64(at + offset_of!(VmaRec, pgoff)),
        object: bytes.u64(at + offset_of!(VmaRec, object)),
    }
}

/// Is this VMA well formed by itself?
pub(crate) fn vma_is_sane(vma: &VmaRec) -> bool {
    vma.start < vma.end
        && vma.end <= USER_END
        && vma.start.is_multiple_of(PAGE_BYTES)
        && vma.end.is_multiple_of(PAGE_BYTES)
}
