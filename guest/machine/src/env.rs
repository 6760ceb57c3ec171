//! [`Machine`]: the memory-management core's view of the real machine.

use crate::{boot, cpu, memory, phys, random, smp, trap};
use core::arch::asm;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::fence;
use ptshare_mm::frame::Buddy;
use ptshare_mm::{Env, FlushRange, Mms, ObjectTables, Ticket};
use ptshare_mutants::mutant;
use ptshare_paging::{ENTRIES, PAGE_BYTES, Pfn, Pte, Slot};
use ptshare_sync::{Lock, Rank};
use ptshare_wire::census::MM_SLOTS;
use ptshare_wire::{CensusHeader, FrameMeta, MmRec};

/// The machine below the kernel. Zero-sized: everything it stands for is static.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

static BUDDY: Lock<Buddy> = Lock::new(Rank::Frames, Buddy::new());
static OBJECT_TABLES: Lock<ObjectTables> = Lock::new(Rank::ObjectTables, ObjectTables::new());
static MMS: Lock<Mms<Machine>> = Lock::new(Rank::Registry, Mms::new());
static SHARE_FILE: AtomicBool = AtomicBool::new(true);
static GIB_PAGES: AtomicBool = AtomicBool::new(false);

/// Free slots of the mm table: a chain through `MmRec::pid`, by slot number plus one.
static FREE_MM_SLOTS: Lock<u64> = Lock::new(Rank::Registry, 0);

/// Above this many pages dropping everything is cheaper than one INVLPG a page.
const FLUSH_PAGES_MAX: u64 = 16;

/// Sets what [`Env::share_file`] answers: the boot option `share_file`. Before the first process.
pub fn set_share_file(on: bool) {
    SHARE_FILE.store(on, Relaxed);
}

/// Finds out what [`Env::has_gib_pages`] answers. Before the hugetlb pools are made.
pub fn find_gib_pages() {
    GIB_PAGES.store(cpu::has_gib_pages(), Relaxed);
}

impl Env for Machine {
    #[inline]
    fn load(&self, table: Pfn, slot: Slot) -> Pte {
        Pte(phys::table(table)[slot.index()].load(Acquire))
    }

    #[inline]
    fn store(&self, table: Pfn, slot: Slot, new: Pte) {
        phys::table(table)[slot.index()].store(new.0, Release);
    }

    #[inline]
    fn swap(&self, table: Pfn, slot: Slot, new: Pte) -> Pte {
        Pte(phys::table(table)[slot.index()].swap(new.0, AcqRel))
    }

    #[inline]
    fn clear_bits(&self, table: Pfn, slot: Slot, bits: u64) -> Pte {
        Pte(phys::table(table)[slot.index()].fetch_and(!bits, AcqRel))
    }

    #[inline]
    fn next_nonzero(&self, table: Pfn, from: Slot, end: usize) -> Option<(Slot, Pte)> {
        let words = phys::table(table);
        let start = from.index();
        let end = end.min(ENTRIES);
        if start >= end {
            return None;
        }
        let mut left = (end - start) as u64;
        let base = words[start].as_ptr();
        // SAFETY: SCASQ reads at most the `left` words from `start` on, all in the table. RAX is 0; it stops after
        // the first word that is not 0, or leaves RCX 0 with ZF set.
        unsafe {
            asm!("xor eax, eax", "repe scasq", "setne al",
                 inout("rcx") left, inout("rdi") base => _, out("rax") _, options(nostack, readonly));
        }
        // RCX counts the word that stopped the scan, so the last word examined is the one before.
        let last = end - left as usize - 1;
        let word = Pte(words[last].load(Acquire));
        if word.0 == 0 { None } else { Some((Slot::new(last), word)) }
    }

    #[inline]
    fn zero_pages(&self, first: Pfn, pages: u64) {
        memory::clear(first.pa().0, pages * PAGE_BYTES);
    }

    #[inline]
    fn zero_table(&self, table: Pfn) {
        memory::clear_here(table.pa().0, PAGE_BYTES);
    }

    #[inline]
    fn copy_table(&self, dst: Pfn, src: Pfn) {
        memory::copy_here(dst.pa().0, src.pa().0, PAGE_BYTES);
    }

    #[inline]
    fn copy_page(&self, dst: Pfn, src: Pfn) {
        memory::copy(dst.pa().0, src.pa().0, PAGE_BYTES);
    }

    fn read_phys(&self, pa: u64, out: &mut [u8]) {
        phys::read(pa, out);
    }

    fn write_phys(&self, pa: u64, data: &[u8]) {
        phys::write(pa, data);
    }

    fn copy_phys(&self, dst_pa: u64, src_pa: u64, len_bytes: u64) {
        memory::copy(dst_pa, src_pa, len_bytes);
    }

    #[inline]
    fn meta(&self, pfn: Pfn) -> &FrameMeta {
        boot::frame_meta(pfn)
    }

    #[inline]
    fn allocator(&self) -> &Lock<Buddy> {
        &BUDDY
    }

    #[inline]
    fn object_tables(&self) -> &Lock<ObjectTables> {
        &OBJECT_TABLES
    }

    fn mms(&self) -> &Lock<Mms<Machine>> {
        &MMS
    }

    #[inline]
    fn has_gib_pages(&self) -> bool {
        GIB_PAGES.load(Relaxed)
    }

    #[inline]
    fn share_file(&self) -> bool {
        SHARE_FILE.load(Relaxed)
    }

    fn flush(&self, mm: &MmRec, range: FlushRange) {
        // What has been stored in tables is seen by whoever loads the root after we have looked who has.
        if smp::several() {
            fence(SeqCst);
        }
        let mask = mm.cpumask.load(Acquire);
        let own = 1 << cpu::id();
        if mask & own != 0 {
            flush_here(range);
        }
        if mask & !own != 0 && !mutant!(REMOTE_FLUSH_SKIPPED) {
            smp::shoot_down(mask & !own);
        }
    }

    fn flush_everyone(&self) {
        cpu::flush_all();
        if smp::several() {
            fence(SeqCst);
            smp::shoot_down(smp::online() & !(1 << cpu::id()));
        }
    }

    #[inline]
    fn cpu(&self) -> usize {
        cpu::id()
    }

    fn flush_answers(&self) -> u64 {
        cpu::this().flushes_done.load(Relaxed)
    }

    fn take_mm_slot(&self) -> Option<u32> {
        let mut free = FREE_MM_SLOTS.lock();
        if *free != 0 {
            let slot = (*free - 1) as u32;
            *free = self.mm_rec(slot).pid.swap(0, Relaxed);
            return Some(slot);
        }
        let high = &self.census().mm_high;
        let slot = high.load(Relaxed);
        if slot >= MM_SLOTS as u64 {
            return None;
        }
        high.store(slot + 1, Release);
        Some(slot as u32)
    }

    fn return_mm_slot(&self, slot: u32) {
        let mut free = FREE_MM_SLOTS.lock();
        self.mm_rec(slot).pid.store(*free, Relaxed);
        *free = u64::from(slot) + 1;
    }

    #[inline]
    fn mm_rec(&self, slot: u32) -> &MmRec {
        boot::mm_rec(slot)
    }

    fn fill_kernel_half(&self, root: Pfn) {
        boot::fill_kernel_half(root);
    }

    fn clear_kernel_half(&self, root: Pfn) {
        boot::clear_kernel_half(root);
    }

    #[inline]
    fn critical_enter(&self) {
        let critical = &boot::cpu_rec(cpu::id()).critical;
        // Only this CPU writes its own counter: a plain store is enough, and what follows stays behind it on x86.
        critical.store(critical.load(Relaxed) + 1, Release);
    }

    #[inline]
    fn critical_exit(&self) {
        let critical = &boot::cpu_rec(cpu::id()).critical;
        critical.store(critical.load(Relaxed) - 1, Release);
    }

    #[inline]
    fn census(&self) -> &CensusHeader {
        boot::census()
    }

    #[inline]
    fn zero_page(&self) -> Pfn {
        boot::zero_page()
    }

    #[inline]
    fn census_va<T>(&self, value: &T) -> u64 {
        core::ptr::from_ref(value) as u64
    }

    fn wait_userfault(&self, ticket: Ticket) -> bool {
        trap::wait_userfault(ticket.context, ticket.number)
    }

    fn random(&self) -> u64 {
        random::u64()
    }
}

fn flush_here(range: FlushRange) {
    match range {
        FlushRange::Pages { start, end } if (end - start) / PAGE_BYTES <= FLUSH_PAGES_MAX => {
            let mut va = start;
            while va < end {
                cpu::flush_page(va);
                va += PAGE_BYTES;
            }
        }
        _ => cpu::flush_all(),
    }
}
