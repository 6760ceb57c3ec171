//! Bulk clears and copies: by string instructions, or by the host where that pays.
//!
//! Which pays is decided at boot by timing one page both ways: where CPL 0 is interpreted a page clear costs 0.3 ms
//! and a hypercall 14 us; on an ordinary host it is the other way round. Page tables are never among them: where the
//! hypervisor shadows them it must see the stores.

use crate::{cpu, hyper, phys};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

static HOST_PAYS: AtomicBool = AtomicBool::new(false);

/// Does the host do bulk work faster than this CPU?
#[inline]
pub fn host_pays() -> bool {
    HOST_PAYS.load(Relaxed)
}

/// Times one page both ways on a scratch frame.
pub(crate) fn measure(scratch_pa: u64) {
    if !hyper::own_machine() {
        // An emulator's string instructions are fast, and a call stops the machine.
        return;
    }
    let start = cpu::rdtsc();
    stosq(scratch_pa, 4096);
    let here = cpu::rdtsc() - start;
    let start = cpu::rdtsc();
    hyper::clear(scratch_pa, 4096);
    let host = cpu::rdtsc() - start;
    HOST_PAYS.store(host < here, Relaxed);
}

fn stosq(pa: u64, len: u64) {
    // SAFETY: the caller owns this physical range, which the linear map covers; `len` is a multiple of 8.
    unsafe {
        asm!("rep stosq", inout("rdi") phys::virt(pa) => _, inout("rcx") len / 8 => _, in("rax") 0u64,
             options(nostack, preserves_flags))
    }
}

/// Sets whole pages to zero. Lengths in bytes, multiples of 8.
pub(crate) fn clear(pa: u64, len: u64) {
    if host_pays() { hyper::clear(pa, len) } else { stosq(pa, len) }
}

/// Sets memory to zero by this CPU's own stores: for page tables (see `Env::zero_table`).
pub(crate) fn clear_here(pa: u64, len: u64) {
    stosq(pa, len);
}

/// Copies memory by this CPU's own stores: for page tables (see `Env::copy_table`). `len` is a multiple of 8.
pub(crate) fn copy_here(dst: u64, src: u64, len: u64) {
    // SAFETY: the caller owns the target, which the linear map covers, as it does the source; what the processor sets in
    // the source meanwhile (A and D bits) is copied or not.
    unsafe {
        asm!("rep movsq", inout("rdi") phys::virt(dst) => _, inout("rsi") phys::virt(src) => _,
             inout("rcx") len / 8 => _, options(nostack, preserves_flags))
    }
}

/// Copies physical memory; ranges do not overlap.
pub(crate) fn copy(dst: u64, src: u64, len: u64) {
    if len >= 512 && host_pays() {
        hyper::copy(dst, src, len);
    } else {
        // SAFETY: the caller owns both ranges, which the linear map covers.
        unsafe {
            core::ptr::copy_nonoverlapping(
                phys::virt(src) as *const u8,
                phys::virt(dst) as *mut u8,
                len as usize,
            )
        }
    }
}
