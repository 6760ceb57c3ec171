//! From the PVH entry to a machine that the kernel can run on.
//!
//! Nothing here costs time by the size of memory: the linear map is 1 GiB leaves where the CPU has them, the frame
//! array is not touched (zero means free), and RAM is carved when it is first needed.

use crate::env::Machine;
use crate::{acpi, cpu, hyper, memory, phys, random, time, trap};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use ptshare_mm::{Env, Priority, frame};
use ptshare_paging::{ENTRIES, PAGE_BYTES, Pfn, Pte};
use ptshare_wire::census::{CENSUS_MAGIC, CENSUS_VERSION, CPUS_MAX, MM_SLOTS, RAM_RANGES_MAX};
use ptshare_wire::frame::{FRAME_META_BYTES, FrameKind};
use ptshare_wire::huge::{HUGE_SIZES, HugetlbCounts};
use ptshare_wire::hypercall::DOORBELL_OPTION;
use ptshare_wire::layout::{KERNEL_HALF_SLOT, KERNEL_VIRT_BASE, LINEAR_BASE, LINEAR_MAX_BYTES};
use ptshare_wire::{Answers, CensusHeader, CpuRec, FrameMeta, MmRec, RamRange, ReservedRange, Stats};
use spin::Once;

global_asm!(include_str!("boot.s"));

/// What the loader handed over.
pub struct BootInfo {
    /// The kernel command line.
    pub cmdline: &'static str,
    /// The initramfs.
    pub initramfs: &'static [u8],
    /// Its guest-physical address.
    pub initramfs_pa: u64,
}

const CMDLINE_MAX: usize = 4096;
const WORDS_MAX: usize = 64;
const START_MAGIC: u32 = 0x336e_c578;
const E820_RAM: u32 = 1;
/// Frames kept back for the kernel's heap when user allocations have taken the rest: 4 MiB.
const KERNEL_RESERVE_FRAMES: u64 = 1024;

/// Xen, public/arch-x86/hvm/start_info.h.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    modules_pa: u64,
    cmdline_pa: u64,
    rsdp_pa: u64,
    memmap_pa: u64,
    memmap_entries: u32,
    _reserved: u32,
}

#[repr(C)]
struct Module {
    pa: u64,
    bytes: u64,
    cmdline_pa: u64,
    _reserved: u64,
}

#[repr(C)]
struct MemmapEntry {
    addr: u64,
    bytes: u64,
    kind: u32,
    _reserved: u32,
}

unsafe extern "C" {
    static boot_pgd: [AtomicU64; ENTRIES];
    static boot_pud_linear: [AtomicU64; ENTRIES];
    static ptshare_image_end: u8;
}

unsafe extern "Rust" {
    safe fn ptshare_hook_main() -> !;
}

static CENSUS: CensusHeader = CensusHeader {
    magic: AtomicU64::new(0),
    version: AtomicU32::new(0),
    header_bytes: AtomicU32::new(0),
    ram: [const { RamRange { start: AtomicU64::new(0), end: AtomicU64::new(0), virgin: AtomicU64::new(0) } };
        RAM_RANGES_MAX],
    reserved: [const { ReservedRange { start: AtomicU64::new(0), end: AtomicU64::new(0) } };
        ptshare_wire::census::RESERVED_MAX],
    frame_array: AtomicU64::new(0),
    frames: AtomicU64::new(0),
    free_frames: AtomicU64::new(0),
    kernel_frames: AtomicU64::new(0),
    mm_table: AtomicU64::new(0),
    mm_high: AtomicU64::new(0),
    cpu_table: AtomicU64::new(0),
    cpus: AtomicU64::new(0),
    kernel_root: AtomicU64::new(0),
    zero_page: AtomicU64::new(0),
    sharing: AtomicU64::new(0),
    object_table: AtomicU64::new(0),
    object_high: AtomicU64::new(0),
    hugetlb: [const { HugetlbCounts::new() }; HUGE_SIZES],
    answers: AtomicU64::new(0),
    stats: Stats::new(),
};

static CPUS: [CpuRec; CPUS_MAX] = [const {
    CpuRec {
        online: AtomicU32::new(0),
        critical: AtomicU32::new(0),
        mm_slot: AtomicU64::new(0),
        pid: AtomicU64::new(0),
        waits_for: AtomicU64::new(0),
    }
}; CPUS_MAX];

static MMS: [MmRec; MM_SLOTS] = [const {
    MmRec {
        root: AtomicU64::new(0),
        pid: AtomicU64::new(0),
        cpumask: AtomicU64::new(0),
        vma_index: AtomicU64::new(0),
        vma_chunks: AtomicU64::new(0),
        vma_count: AtomicU64::new(0),
        vma_stride: AtomicU64::new(0),
        table_pages: AtomicU64::new(0),
        family: AtomicU64::new(0),
        hugetlb_reserved: [const { AtomicU64::new(0) }; HUGE_SIZES],
    }
}; MM_SLOTS];

static ANSWERS: Answers = Answers::new();

/// Kernel-virtual address of the frame array.
static FRAMES: AtomicU64 = AtomicU64::new(0);
static INFO: Once<BootInfo> = Once::new();
static CMDLINE: Once<Cmdline> = Once::new();

/// A frame's metadata.
#[inline]
pub(crate) fn frame_meta(pfn: Pfn) -> &'static FrameMeta {
    // SAFETY: the frame array covers every frame up to the end of RAM, lives for the whole run, holds atomics only,
    // and frame numbers come from our own allocator and tables.
    unsafe { &*((FRAMES.load(Relaxed) + pfn.0 * FRAME_META_BYTES) as *const FrameMeta) }
}

/// The census.
#[inline]
pub fn census() -> &'static CensusHeader {
    &CENSUS
}

/// Where the kernel puts what it answers the judge.
pub fn answers() -> &'static Answers {
    &ANSWERS
}

#[inline]
pub(crate) fn cpu_rec(cpu: usize) -> &'static CpuRec {
    &CPUS[cpu & (CPUS_MAX - 1)]
}

#[inline]
pub(crate) fn mm_rec(slot: u32) -> &'static MmRec {
    &MMS[slot as usize & (MM_SLOTS - 1)]
}

#[inline]
pub(crate) fn zero_page() -> Pfn {
    Pfn(CENSUS.zero_page.load(Relaxed))
}

/// The process that this CPU runs, 0 for none: what the census says.
pub fn current_pid() -> u64 {
    cpu_rec(cpu::id()).pid.load(Relaxed)
}

/// The kernel's own root.
#[inline]
pub(crate) fn kernel_root() -> Pfn {
    Pfn(CENSUS.kernel_root.load(Relaxed))
}

/// Slots of the kernel half that are in use; both are fixed at boot.
const KERNEL_SLOTS: [usize; 2] = [(LINEAR_BASE >> 39) as usize & 511, 511];
const _: () = assert!(KERNEL_SLOTS[0] >= KERNEL_HALF_SLOT);

pub(crate) fn fill_kernel_half(root: Pfn) {
    let words = phys::table(root);
    for slot in KERNEL_SLOTS {
        // SAFETY: a static table of atomics.
        words[slot].store(unsafe { &boot_pgd }[slot].load(Relaxed), Relaxed);
    }
    if ptshare_mutants::mutant!(KERNEL_HALF_ALIASED) {
        words[KERNEL_SLOTS[0] + 1].store(words[KERNEL_SLOTS[0]].load(Relaxed), Relaxed);
    }
}

pub(crate) fn clear_kernel_half(root: Pfn) {
    let words = phys::table(root);
    for slot in KERNEL_SLOTS {
        words[slot].store(0, Relaxed);
    }
}

/// What the loader handed over.
pub fn info() -> &'static BootInfo {
    INFO.get().expect("boot information is set before the kernel starts")
}

/// The value of `name=value` on the command line.
pub fn option(name: &str) -> Option<&'static str> {
    CMDLINE.get()?.words().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The words of the command line, for options whose order means something.
pub fn words() -> impl Iterator<Item = &'static str> {
    CMDLINE.get().into_iter().flat_map(Cmdline::words)
}

/// The value of `name=NUMBER` on the command line, 0 when absent or malformed.
pub fn number(name: &str) -> u64 {
    option(name).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// A structure that the loader left in physical memory.
fn loaded<T>(pa: u64, index: u64) -> &'static T {
    // SAFETY: the PVH boot protocol puts these structures in RAM, below 1 GiB, which the boot tables map.
    unsafe { &*((phys::virt(pa) as *const T).add(index as usize)) }
}

#[unsafe(no_mangle)]
extern "C" fn ptshare_machine_start(start_info_pa: u64) -> ! {
    cpu::init_boot();
    trap::init();
    hyper::init();
    let start: &StartInfo = loaded(start_info_pa, 0);
    assert!(start.magic == START_MAGIC, "the loader left no PVH start_info");
    take_cmdline(start.cmdline_pa);
    acpi::init(start.rsdp_pa);
    if number(DOORBELL_OPTION) != 0 {
        hyper::use_doorbell();
    }
    let memmap: &[MemmapEntry] =
        // SAFETY: as for `loaded`; the loader says how many entries there are.
        unsafe { core::slice::from_raw_parts(loaded(start.memmap_pa, 0), start.memmap_entries as usize) };
    let ram_end = memmap.iter().filter(|e| e.kind == E820_RAM).map(|e| e.addr + e.bytes).max().unwrap_or(0);
    let (initramfs_pa, initramfs_bytes) = if start.modules > 0 {
        let module: &Module = loaded(start.modules_pa, 0);
        (module.pa, module.bytes)
    } else {
        (0, 0)
    };
    set_up_memory(memmap, ram_end.min(LINEAR_MAX_BYTES), initramfs_pa, initramfs_bytes);
    INFO.call_once(|| BootInfo {
        cmdline: CMDLINE.get().map_or("", |line| line.text(0, line.len)),
        // SAFETY: the module lies in RAM that is reserved for it below.
        initramfs: unsafe {
            core::slice::from_raw_parts(phys::virt(initramfs_pa) as *const u8, initramfs_bytes as usize)
        },
        initramfs_pa,
    });
    random::init();
    time::init(number("tsc_khz"), number("realtime_ns"));
    publish();
    ptshare_hook_main()
}

/// The command line, and where its words begin and end: found in one pass, because each look-up would otherwise cost
/// thousands of instructions.
struct Cmdline {
    bytes: [u8; CMDLINE_MAX],
    len: usize,
    words: [(u16, u16); WORDS_MAX],
    count: usize,
}

impl Cmdline {
    /// Text between two word bounds; only ASCII is kept.
    fn text(&self, from: usize, to: usize) -> &str {
        core::str::from_utf8(&self.bytes[from..to]).unwrap_or("")
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.words[..self.count].iter().map(|&(from, to)| self.text(usize::from(from), usize::from(to)))
    }
}

/// Copies the command line before anything can overwrite it.
fn take_cmdline(pa: u64) {
    CMDLINE.call_once(|| {
        let mut line = Cmdline { bytes: [0; CMDLINE_MAX], len: 0, words: [(0, 0); WORDS_MAX], count: 0 };
        let source: &[u8; CMDLINE_MAX] = loaded(pa, 0);
        let mut start = 0;
        for (i, &byte) in source.iter().enumerate() {
            let end = pa == 0 || byte == 0 || i == CMDLINE_MAX - 1;
            if end || byte == b' ' {
                if i > start && line.count < WORDS_MAX {
                    line.words[line.count] = (start as u16, i as u16);
                    line.count += 1;
                }
                start = i + 1;
            }
            if end {
                line.len = i;
                break;
            }
            line.bytes[i] = if byte.is_ascii() { byte } else { b'?' };
        }
        line
    });
}

/// Maps all RAM, reserves what is in use, places the frame array, and gives the rest to the allocator.
fn set_up_memory(memmap: &[MemmapEntry], ram_end: u64, initramfs_pa: u64, initramfs_bytes: u64) {
    let image_end = (core::ptr::addr_of!(ptshare_image_end) as u64) - KERNEL_VIRT_BASE;
    // Free pieces of RAM: everything above the image, without the initramfs.
    let initramfs =
        (initramfs_pa & !(PAGE_BYTES - 1), (initramfs_pa + initramfs_bytes).next_multiple_of(PAGE_BYTES));
    let mut pieces = [(0_u64, 0_u64); RAM_RANGES_MAX];
    let mut count = 0;
    let mut add = |start: u64, end: u64| {
        if end > start && count < RAM_RANGES_MAX {
            pieces[count] = (start, end);
            count += 1;
        }
    };
    for entry in memmap.iter().filter(|e| e.kind == E820_RAM) {
        let start = entry.addr.max(image_end).next_multiple_of(PAGE_BYTES);
        let end = (entry.addr + entry.bytes).min(ram_end) & !(PAGE_BYTES - 1);
        if initramfs_bytes != 0 && initramfs.0 < end && initramfs.1 > start {
            add(start, initramfs.0);
            add(initramfs.1, end);
        } else {
            add(start, end);
        }
    }
    assert!(count > 0 && pieces[0].0 < 1 << 30, "the machine has no RAM above the kernel");
    let largest =
        (0..count).max_by_key(|&i| pieces[i].1 - pieces[i].0).expect("the machine has RAM above the kernel");
    // Tables come from the first piece: it lies in the first GiB, which is mapped already.
    map_linear(memmap, ram_end, &mut pieces[0].0);
    let frames = ram_end / PAGE_BYTES;
    let array = pieces[largest].0;
    let array_end = (array + frames * FRAME_META_BYTES).next_multiple_of(PAGE_BYTES);
    assert!(array_end < pieces[largest].1, "too little RAM for the frame array");
    pieces[largest].0 = array_end;
    FRAMES.store(phys::virt(array), Relaxed);

    let reserved = [(0, image_end), initramfs, (array, array_end)];
    for (slot, (start, end)) in CENSUS.reserved.iter().zip(reserved) {
        slot.start.store(start, Relaxed);
        slot.end.store(end, Relaxed);
    }
    let mut ram_frames = 0;
    for (slot, (start, end)) in CENSUS.ram.iter().zip(pieces) {
        slot.start.store(start / PAGE_BYTES, Relaxed);
        slot.virgin.store(start / PAGE_BYTES, Relaxed);
        slot.end.store(end / PAGE_BYTES, Relaxed);
        ram_frames += (end - start) / PAGE_BYTES;
    }
    CENSUS.frame_array.store(array, Relaxed);
    CENSUS.frames.store(frames, Relaxed);
    let mut allocator = Machine.allocator().lock();
    allocator.attach(&CENSUS, KERNEL_RESERVE_FRAMES.min(ram_frames / 16));
    if !hyper::own_machine() {
        // Our own VMM gives memory that is zero; elsewhere firmware and loaders have been at work.
        memory::clear_here(array, array_end - array);
        allocator.distrust_virgin();
    }
}

/// Extends the linear map over all RAM: by the tables that our VMM has built (`linear_pud=`), else by one entry a GiB,
/// else by a table of 2 MiB leaves for each GiB, taken from `*free` in the first GiB.
fn map_linear(memmap: &[MemmapEntry], ram_end: u64, free: &mut u64) {
    const GIB: u64 = 1 << 30;
    let flags =
        Pte::PRESENT | Pte::WRITE | Pte::ACCESSED | Pte::DIRTY | Pte::HUGE | Pte::GLOBAL | Pte::NO_EXEC;
    let built = number("linear_pud");
    if built != 0 {
        let pud = Pte::new(Pfn(built / PAGE_BYTES), Pte::PRESENT | Pte::WRITE | Pte::ACCESSED);
        // SAFETY: a static table of atomics; the new tables map the first GiB as the old ones do.
        unsafe {
            boot_pgd[(LINEAR_BASE >> 39) as usize & 511].store(pud.0, Relaxed);
            boot_pgd[0].store(0, Relaxed);
        }
        cpu::use_global_pages();
        return;
    }
    let huge = cpu::has_gib_pages();
    for gib in 1..ram_end.div_ceil(GIB) {
        let base = gib * GIB;
        if !memmap.iter().any(|e| e.kind == E820_RAM && e.addr < base + GIB && e.addr + e.bytes > base) {
            continue;
        }
        let entry = if huge {
            Pte::new(Pfn(base / PAGE_BYTES), flags)
        } else {
            let table = Pfn(*free / PAGE_BYTES);
            *free += PAGE_BYTES;
            for (i, word) in phys::table(table).iter().enumerate() {
                word.store(Pte::new(Pfn(base / PAGE_BYTES + 512 * i as u64), flags).0, Relaxed);
            }
            Pte::new(table, Pte::PRESENT | Pte::WRITE | Pte::ACCESSED)
        };
        // SAFETY: a static table of atomics.
        unsafe {
            boot_pud_linear[gib as usize].store(entry.0, Relaxed);
        }
    }
    // SAFETY: a static table of atomics. The kernel runs high: the identity entry goes, the linear map loses X.
    unsafe {
        boot_pgd[0].store(0, Relaxed);
        boot_pud_linear[0].fetch_or(Pte::NO_EXEC, Relaxed);
    }
    cpu::use_global_pages();
}

/// Completes the census and hands it over.
fn publish() {
    CPUS[0].online.store(1, Relaxed);
    // SAFETY: a static; only its address is taken.
    CENSUS.kernel_root.store(phys::phys_of(unsafe { &boot_pgd }) >> 12, Relaxed);
    let zero =
        frame::alloc_data(&Machine, FrameKind::Zero, true, Priority::Kernel).expect("RAM for the zero page");
    // One permanent hold: the zero page outlives every mapping.
    frame_meta(zero).aux.store(1, Relaxed);
    CENSUS.zero_page.store(zero.0, Relaxed);
    memory::measure(zero.pa().0);
    CENSUS.mm_table.store(phys::phys_of(&MMS), Relaxed);
    CENSUS.cpu_table.store(phys::phys_of(&CPUS), Relaxed);
    CENSUS.answers.store(phys::phys_of(&ANSWERS), Relaxed);
    CENSUS.cpus.store(1, Relaxed);
    CENSUS.header_bytes.store(size_of::<CensusHeader>() as u32, Relaxed);
    CENSUS.version.store(CENSUS_VERSION, Relaxed);
    CENSUS.magic.store(CENSUS_MAGIC, Relaxed);
    hyper::announce_census(phys::phys_of(&CENSUS));
}
