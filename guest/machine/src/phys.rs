//! The linear map: physical memory as the kernel reaches it.

use core::sync::atomic::AtomicU64;
use ptshare_paging::{ENTRIES, Pfn};
use ptshare_wire::layout::{KERNEL_VIRT_BASE, LINEAR_BASE};

/// Kernel-virtual address of a physical one.
#[inline]
pub const fn virt(pa: u64) -> u64 {
    LINEAR_BASE + pa
}

/// Physical address of a kernel-virtual one: linear map or kernel image. (Wraps for the address of an empty slice,
/// which is nowhere and is never followed.)
#[inline]
pub const fn phys(va: u64) -> u64 {
    if va >= KERNEL_VIRT_BASE { va - KERNEL_VIRT_BASE } else { va.wrapping_sub(LINEAR_BASE) }
}

/// Physical address of a kernel object.
#[inline]
pub fn phys_of<T: ?Sized>(value: &T) -> u64 {
    phys((value as *const T).cast::<u8>() as u64)
}

/// The words of a table.
#[inline]
pub(crate) fn table(pfn: Pfn) -> &'static [AtomicU64; ENTRIES] {
    // SAFETY: every frame of RAM is mapped in the linear map for the whole run; a table's words are only touched as
    // atomics, by us and by the processor.
    unsafe { &*(virt(pfn.pa().0) as *const [AtomicU64; ENTRIES]) }
}

/// Copies physical memory into a slice.
pub(crate) fn read(pa: u64, out: &mut [u8]) {
    // SAFETY: RAM is in the linear map; user programs may change these bytes at the same time, and bytes are all that
    // they are.
    unsafe { core::ptr::copy_nonoverlapping(virt(pa) as *const u8, out.as_mut_ptr(), out.len()) }
}

/// Copies a slice into physical memory.
pub(crate) fn write(pa: u64, data: &[u8]) {
    // SAFETY: as for `read`; the caller owns the frame (Env's contract), so no kernel object lies there.
    unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), virt(pa) as *mut u8, data.len()) }
}
