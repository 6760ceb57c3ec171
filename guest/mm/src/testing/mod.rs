//! A machine made of vectors, to run the core on the host.
//!
//! ```text
//!  mod.rs    Arena: Env over atomics; an allocation budget
//!  cpu.rs    processors: TLB and paging-structure cache that only a flush empties, A and D bits
//!  several.rs  several processors at once, under a scheduler of threads
//!  audit.rs  a quick check of the core's own rules after each step of a test
//!  failure.rs  allocations that fail because a test says so
//!  flat/     processes and files without tasks and descriptors: Linux's memory calls over the core, and as data
//!  image.rs  physical memory as the host's judge would see it, with a full census
//! ```
//!
//! | frames | what |
//! |---|---|
//! | 0 | nothing |
//! | 1, 2 | the kernel's root and its linear map |
//! | 16 .. | managed |
//!
//! Lock ranks are checked, by thread.

mod audit;
mod cpu;
mod failure;
mod flat;
mod image;
mod several;

pub use flat::{Answer, FlatConfig, FlatKernel, Op, Snapshot};
pub use image::Image;
pub use several::{CPUS_MAX, Running, Several, set_several};

use crate::frame::{Buddy, Priority};
use crate::{Env, FlushRange, Mms, ObjectTables};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use cpu::Tlb;
use failure::Failures;
use ptshare_paging::{ENTRIES, Level, PAGE_BYTES, Pfn, Pte, Slot};
use ptshare_sync::{Lock, Rank, set_held_hook};
use ptshare_wire::census::{CENSUS_MAGIC, CENSUS_VERSION};
use ptshare_wire::frame::{FrameKind, state};
use ptshare_wire::layout::{KERNEL_HALF_SLOT, LINEAR_BASE};
use ptshare_wire::{CensusHeader, CpuRec, FrameMeta, MmRec};
use several::{Shootdown, step};
use std::sync::{Arc, Mutex, OnceLock};

/// The kernel's root.
const KERNEL_ROOT: Pfn = Pfn(1);
/// Its one PUD page: the linear map.
const KERNEL_PUD: Pfn = Pfn(2);
/// First managed frame.
const RAM_START: u64 = 16;
/// Slots in the arena's mm table.
const MM_SLOTS: usize = 1024;

type Page = Box<[AtomicU64; ENTRIES]>;

/// A host-side machine. Clones are the same machine.
#[derive(Clone)]
pub struct Arena(Arc<Machine>);

struct Machine {
    /// Content of each frame; absent while it is all zero.
    pages: Vec<OnceLock<Page>>,
    metas: Vec<FrameMeta>,
    allocator: Lock<Buddy>,
    object_tables: Lock<ObjectTables>,
    all_mms: Lock<Mms<Arena>>,
    share_file: AtomicBool,
    gib_pages: AtomicBool,
    audits: AtomicU64,
    header: CensusHeader,
    mms: Vec<MmRec>,
    free_slots: Mutex<Vec<u32>>,
    cpu: CpuRec,
    tlb: Mutex<Tlb>,
    shootdown: Shootdown,
    zero_page: OnceLock<Pfn>,
    random: AtomicU64,
    failures: Failures,
}

thread_local! {
    static HELD: &'static [AtomicU64; CPUS_MAX] =
        Box::leak(Box::new([const { AtomicU64::new(0) }; CPUS_MAX]));
}

impl Arena {
    /// A machine with this many managed frames, all virgin.
    ///
    /// # Panics
    /// If there are too few for the zero page.
    pub fn new(frames: usize) -> Arena {
        set_held_hook(|| {
            step();
            let all: &'static [AtomicU64; CPUS_MAX] = HELD.with(|held| *held);
            &all[several::cpu()]
        });
        let total = RAM_START as usize + frames;
        let arena = Arena(Arc::new(Machine {
            pages: (0..total).map(|_| OnceLock::new()).collect(),
            metas: (0..total).map(|_| FrameMeta::default()).collect(),
            allocator: Lock::new(Rank::Frames, Buddy::new()),
            object_tables: Lock::new(Rank::ObjectTables, ObjectTables::new()),
            all_mms: Lock::new(Rank::Registry, Mms::new()),
            share_file: AtomicBool::new(true),
            gib_pages: AtomicBool::new(false),
            audits: AtomicU64::new(0),
            header: CensusHeader::default(),
            mms: (0..MM_SLOTS).map(|_| MmRec::default()).collect(),
            free_slots: Mutex::new((0..MM_SLOTS as u32).rev().collect()),
            cpu: CpuRec::default(),
            tlb: Mutex::new(Tlb::default()),
            shootdown: Shootdown::default(),
            zero_page: OnceLock::new(),
            random: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            failures: Failures::default(),
        }));
        arena.boot(total as u64);
        arena
    }

    fn boot(&self, total: u64) {
        let header = &self.0.header;
        header.magic.store(CENSUS_MAGIC, Relaxed);
        header.version.store(CENSUS_VERSION, Relaxed);
        header.header_bytes.store(size_of::<CensusHeader>() as u32, Relaxed);
        header.ram[0].start.store(RAM_START, Relaxed);
        header.ram[0].virgin.store(RAM_START, Relaxed);
        header.ram[0].end.store(total, Relaxed);
        header.frames.store(total, Relaxed);
        header.cpus.store(1, Relaxed);
        header.kernel_root.store(KERNEL_ROOT.0, Relaxed);
        self.0.cpu.online.store(1, Relaxed);
        image::reserve_regions(header);

        let kernel = Pte::PRESENT | Pte::WRITE | Pte::ACCESSED;
        self.store(KERNEL_ROOT, Level::Pgd.slot(LINEAR_BASE), Pte::new(KERNEL_PUD, kernel));
        for gib in 0..ENTRIES {
            let leaf = kernel | Pte::DIRTY | Pte::HUGE | Pte::GLOBAL | Pte::NO_EXEC;
            self.store(KERNEL_PUD, Slot::new(gib), Pte::new(Pfn((gib as u64) << 18), leaf));
        }

        let mut allocator = self.0.allocator.lock();
        allocator.attach(header, 0);
        let zero_state = state(FrameKind::Zero, 0, 0);
        let zero = allocator.take_frame(self, true, zero_state, Priority::Kernel).expect("a zero page").0;
        header.zero_page.store(zero.0, Relaxed);
        self.0.zero_page.set(zero).expect("set once");
    }

    /// Lets user allocations succeed only while fewer than `frames` more frames are in use than now.
    pub fn budget(&self, frames: u64) {
        let mut allocator = self.0.allocator.lock();
        let free = allocator.free_frames(&self.0.header);
        allocator.set_reserve(free.saturating_sub(frames));
    }

    /// Takes the budget back.
    pub fn unlimited(&self) {
        self.0.allocator.lock().set_reserve(0);
    }

    /// Boot option `share_file`.
    pub fn set_share_file(&self, on: bool) {
        self.0.share_file.store(on, Relaxed);
    }

    /// Gives the processor pages of 1 GiB, or takes them.
    pub fn set_gib_pages(&self, on: bool) {
        self.0.gib_pages.store(on, Relaxed);
    }

    /// The frames that the allocator manages and has handed out at some time.
    pub fn managed(&self) -> impl Iterator<Item = Pfn> + use<> {
        (RAM_START..self.0.header.ram[0].virgin.load(Relaxed)).map(Pfn)
    }

    /// Frames that are free.
    pub fn free_frames(&self) -> u64 {
        self.0.allocator.lock().free_frames(&self.0.header)
    }

    /// A frame's word `index`.
    pub fn word(&self, pfn: Pfn, index: usize) -> u64 {
        self.page(pfn).map_or(0, |page| page[index].load(SeqCst))
    }

    fn page(&self, pfn: Pfn) -> Option<&Page> {
        self.0.pages[pfn.0 as usize].get()
    }

    fn page_mut(&self, pfn: Pfn) -> &Page {
        self.0.pages[pfn.0 as usize].get_or_init(|| Box::new([const { AtomicU64::new(0) }; ENTRIES]))
    }

    fn meta_of(&self, pfn: Pfn) -> &FrameMeta {
        &self.0.metas[pfn.0 as usize]
    }

    fn shootdown(&self) -> &Shootdown {
        &self.0.shootdown
    }

    /// An entry, with nobody else let in before.
    fn peek(&self, table: Pfn, slot: Slot) -> Pte {
        Pte(self.word(table, slot.index()))
    }

    fn entry(&self, table: Pfn, slot: Slot) -> &AtomicU64 {
        &self.page_mut(table)[slot.index()]
    }
}

impl Env for Arena {
    fn load(&self, table: Pfn, slot: Slot) -> Pte {
        step();
        if self.is_several() {
            self.assert_is_table(table);
        }
        self.peek(table, slot)
    }

    fn store(&self, table: Pfn, slot: Slot, new: Pte) {
        step();
        self.entry(table, slot).store(new.0, SeqCst);
    }

    fn swap(&self, table: Pfn, slot: Slot, new: Pte) -> Pte {
        step();
        Pte(self.entry(table, slot).swap(new.0, SeqCst))
    }

    fn clear_bits(&self, table: Pfn, slot: Slot, bits: u64) -> Pte {
        step();
        Pte(self.entry(table, slot).fetch_and(!bits, SeqCst))
    }

    fn next_nonzero(&self, table: Pfn, from: Slot, end: usize) -> Option<(Slot, Pte)> {
        step();
        if self.is_several() {
            self.assert_is_table(table);
        }
        let page = self.page(table)?;
        (from.index()..end).map(|i| (Slot::new(i), Pte(page[i].load(SeqCst)))).find(|(_, pte)| pte.0 != 0)
    }

    fn zero_pages(&self, first: Pfn, pages: u64) {
        self.assert_not_cached(first, pages);
        for pfn in first.0..first.0 + pages {
            if let Some(page) = self.page(Pfn(pfn)) {
                page.iter().for_each(|word| word.store(0, SeqCst));
            }
        }
    }

    fn copy_page(&self, dst: Pfn, src: Pfn) {
        self.assert_not_cached(dst, 1);
        if self.page(src).is_none() && self.page(dst).is_none() {
            return;
        }
        for i in 0..ENTRIES {
            self.page_mut(dst)[i].store(self.word(src, i), SeqCst);
        }
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            let at = pa + i as u64;
            *byte = (self.word(Pfn(at / PAGE_BYTES), (at % PAGE_BYTES / 8) as usize) >> (at % 8 * 8)) as u8;
        }
    }

    fn write_phys(&self, pa: u64, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            let at = pa + i as u64;
            let word = &self.page_mut(Pfn(at / PAGE_BYTES))[(at % PAGE_BYTES / 8) as usize];
            let shift = at % 8 * 8;
            word.store(word.load(SeqCst) & !(0xff << shift) | u64::from(*byte) << shift, SeqCst);
        }
    }

    fn copy_phys(&self, dst_pa: u64, src_pa: u64, len_bytes: u64) {
        // Of whole pages, those that neither has are left out: most of a huge page.
        if (dst_pa | src_pa | len_bytes).is_multiple_of(PAGE_BYTES) {
            for at in (0..len_bytes).step_by(PAGE_BYTES as usize) {
                let (dst, src) = (Pfn((dst_pa + at) / PAGE_BYTES), Pfn((src_pa + at) / PAGE_BYTES));
                if self.page(src).is_some() || self.page(dst).is_some() {
                    (0..ENTRIES).for_each(|i| self.page_mut(dst)[i].store(self.word(src, i), SeqCst));
                }
            }
            return;
        }
        let mut bytes = vec![0; len_bytes as usize];
        self.read_phys(src_pa, &mut bytes);
        self.write_phys(dst_pa, &bytes);
    }

    fn meta(&self, pfn: Pfn) -> &FrameMeta {
        step();
        self.meta_of(pfn)
    }

    fn cpu(&self) -> usize {
        several::cpu()
    }

    fn flush_answers(&self) -> u64 {
        self.answers()
    }

    fn allocator(&self) -> &Lock<Buddy> {
        &self.0.allocator
    }

    fn may_allocate(&self) -> bool {
        self.0.failures.allow()
    }

    fn has_gib_pages(&self) -> bool {
        self.0.gib_pages.load(Relaxed)
    }

    fn object_tables(&self) -> &Lock<ObjectTables> {
        &self.0.object_tables
    }

    fn mms(&self) -> &Lock<Mms<Arena>> {
        &self.0.all_mms
    }

    fn share_file(&self) -> bool {
        self.0.share_file.load(Relaxed)
    }

    fn flush(&self, mm: &MmRec, range: FlushRange) {
        let root = mm.root.load(Relaxed);
        if self.is_several() {
            self.shoot_down(Some(root), mm.cpumask.load(SeqCst), range);
        } else {
            self.lock_tlb().flush_if(range, |_, owner| owner == root);
        }
    }

    fn flush_everyone(&self) {
        if self.is_several() {
            self.shoot_down(None, u64::MAX, FlushRange::All);
        } else {
            *self.lock_tlb() = Tlb::default();
        }
    }

    fn take_mm_slot(&self) -> Option<u32> {
        if !self.may_allocate() {
            return None;
        }
        let slot = self.0.free_slots.lock().expect("no panic under this lock").pop()?;
        self.0.header.mm_high.fetch_max(u64::from(slot) + 1, Relaxed);
        Some(slot)
    }

    fn return_mm_slot(&self, slot: u32) {
        self.0.free_slots.lock().expect("no panic under this lock").push(slot);
    }

    fn mm_rec(&self, slot: u32) -> &MmRec {
        &self.0.mms[slot as usize]
    }

    fn copy_table(&self, dst: Pfn, src: Pfn) {
        step();
        self.copy_page(dst, src);
    }

    fn zero_table(&self, table: Pfn) {
        self.zero_pages(table, 1);
    }

    fn clear_kernel_half(&self, root: Pfn) {
        for i in KERNEL_HALF_SLOT..ENTRIES {
            self.store(root, Slot::new(i), Pte::ABSENT);
        }
    }

    fn fill_kernel_half(&self, root: Pfn) {
        for i in KERNEL_HALF_SLOT..ENTRIES {
            let pte = self.peek(KERNEL_ROOT, Slot::new(i));
            if pte.0 != 0 {
                self.store(root, Slot::new(i), pte);
            }
        }
    }

    fn critical_enter(&self) {
        self.0.cpu.critical.fetch_add(1, Relaxed);
    }

    fn critical_exit(&self) {
        let before = self.0.cpu.critical.fetch_sub(1, Relaxed);
        assert!(before > 0, "a critical section ended twice");
    }

    fn census(&self) -> &CensusHeader {
        &self.0.header
    }

    fn zero_page(&self) -> Pfn {
        *self.0.zero_page.get().expect("set at boot")
    }

    fn census_va<T>(&self, value: &T) -> u64 {
        // Not readable by anybody: `Arena::image` writes the lists out itself.
        core::ptr::from_ref(value).addr() as u64
    }

    fn wait_userfault(&self, _: crate::Ticket) -> bool {
        false
    }

    fn random(&self) -> u64 {
        // xorshift64: the same layout in every run.
        let mut x = self.0.random.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.random.store(x, Relaxed);
        x
    }
}
