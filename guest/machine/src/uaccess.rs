//! The running process's memory. Every address here is a user's claim; what it claims is checked by the range test and
//! by the page tables.
//!
//! No lock may be held across these calls: a missing page is filled in on the way, under `mmap_lock`.

use crate::{Pod, cpu, memory, phys, trap};
use alloc::vec::Vec;
use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte, is_user_range};

/// The user's address is bad: EFAULT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserFault;

impl From<UserFault> for ptshare_abi::Errno {
    fn from(_: UserFault) -> Self {
        ptshare_abi::Errno::EFAULT
    }
}

/// Why a string could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CStrError {
    /// EFAULT.
    Fault,
    /// No NUL within the limit.
    TooLong,
    /// The kernel has no memory for it.
    NoMemory,
}

/// From here on bulk copies go through the host where that pays: a walk and a hypercall cost about 250 steps.
const BULK_BYTES: u64 = 1536;

unsafe extern "C" {
    fn ptshare_uaccess_copy(dst: *mut u8, src: *const u8, len: usize) -> u64;
    fn ptshare_uaccess_fill(dst: *mut u8, word: u64, len: usize) -> u64;
    fn ptshare_uaccess_strlen(src: *const u8, max: usize) -> u64;
    fn ptshare_uaccess_load32(src: *const u32) -> u64;
    fn ptshare_uaccess_load64(src: *const u64, out: *mut u64) -> u64;
    fn ptshare_uaccess_cmpxchg32(addr: *mut u32, old: u32, new: u32) -> u64;
}

fn check(va: u64, len: u64) -> Result<(), UserFault> {
    if is_user_range(va, len) { Ok(()) } else { Err(UserFault) }
}

fn done(status: u64) -> Result<(), UserFault> {
    if status == 0 { Ok(()) } else { Err(UserFault) }
}

/// Copies from the user.
pub fn copy_in(dst: &mut [u8], src_va: u64) -> Result<(), UserFault> {
    check(src_va, dst.len() as u64)?;
    // SAFETY: the user range was checked and faults in it are mended or reported; `dst` is ours.
    done(unsafe { ptshare_uaccess_copy(dst.as_mut_ptr(), src_va as *const u8, dst.len()) })
}

/// Copies to the user.
pub fn copy_out(dst_va: u64, src: &[u8]) -> Result<(), UserFault> {
    check(dst_va, src.len() as u64)?;
    // SAFETY: as for `copy_in`.
    done(unsafe { ptshare_uaccess_copy(dst_va as *mut u8, src.as_ptr(), src.len()) })
}

/// Reads a value.
#[inline]
pub fn read<T: Pod>(va: u64) -> Result<T, UserFault> {
    check(va, size_of::<T>() as u64)?;
    let mut value = T::zeroed();
    if size_of::<T>() == 8 {
        // SAFETY: the range was checked; `value` is eight writable bytes of plain data.
        done(unsafe { ptshare_uaccess_load64(va as *const u64, (&raw mut value).cast()) })?;
        return Ok(value);
    }
    // SAFETY: the range was checked; `value` is plain data, valid for any bytes.
    done(unsafe { ptshare_uaccess_copy((&raw mut value).cast(), va as *const u8, size_of::<T>()) })?;
    Ok(value)
}

/// Writes a value. Padding in `T` must be zero: build it from [`Pod::zeroed`].
pub fn write<T: Pod>(va: u64, value: &T) -> Result<(), UserFault> {
    check(va, size_of::<T>() as u64)?;
    // SAFETY: the range was checked; `value` is plain data.
    done(unsafe { ptshare_uaccess_copy(va as *mut u8, core::ptr::from_ref(value).cast(), size_of::<T>()) })
}

/// Sets bytes.
pub fn fill(va: u64, byte: u8, len: u64) -> Result<(), UserFault> {
    check(va, len)?;
    let word = u64::from(byte).wrapping_mul(0x0101_0101_0101_0101);
    // SAFETY: the range was checked.
    done(unsafe { ptshare_uaccess_fill(va as *mut u8, word, len as usize) })
}

/// Reads a NUL-terminated string of at most `max` bytes without its NUL.
pub fn read_cstr(va: u64, max: usize) -> Result<Vec<u8>, CStrError> {
    let room = ptshare_paging::USER_END.saturating_sub(va).min(max as u64 + 1) as usize;
    if room == 0 {
        return Err(CStrError::Fault);
    }
    // SAFETY: the scan stays below USER_END; faults are mended or reported.
    let len = unsafe { ptshare_uaccess_strlen(va as *const u8, room) };
    if len == u64::MAX {
        return Err(CStrError::Fault);
    }
    if len > max as u64 || len as usize == room {
        return Err(if room <= max { CStrError::Fault } else { CStrError::TooLong });
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len as usize).map_err(|_| CStrError::NoMemory)?;
    bytes.resize(len as usize, 0);
    copy_in(&mut bytes, va).map_err(|_| CStrError::Fault)?;
    // Another thread may have written meanwhile: the string ends at the first NUL that we hold.
    if let Some(nul) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(nul);
    }
    Ok(bytes)
}

/// Loads an aligned 32-bit word (futexes).
pub fn load_u32(va: u64) -> Result<u32, UserFault> {
    check(va, 4)?;
    // SAFETY: the range was checked.
    let value = unsafe { ptshare_uaccess_load32(va as *const u32) };
    u32::try_from(value).map_err(|_| UserFault)
}

/// Compares and exchanges a 32-bit word; gives the value found.
pub fn cmpxchg_u32(va: u64, old: u32, new: u32) -> Result<u32, UserFault> {
    check(va, 4)?;
    // SAFETY: the range was checked.
    let value = unsafe { ptshare_uaccess_cmpxchg32(va as *mut u32, old, new) };
    u32::try_from(value).map_err(|_| UserFault)
}

/// The frame under a user address of the running process, if the tables allow the access now.
fn walk(va: u64, write: bool) -> Option<Pfn> {
    let need = Pte::PRESENT | Pte::USER | if write { Pte::WRITE } else { 0 };
    let mut table = Pfn(cpu::cr3() >> 12);
    for level in Level::TOP_DOWN {
        let entry =
            Pte(phys::table(table)[level.slot(va).index()].load(core::sync::atomic::Ordering::Relaxed));
        if !entry.has(need) {
            return None;
        }
        if entry.is_leaf(level) {
            let inside = (va & (level.entry_bytes() - 1)) / PAGE_BYTES;
            return Some(entry.pfn().add(inside));
        }
        table = entry.pfn();
    }
    None
}

/// The physical address of a user byte, after filling the page in if need be.
fn resolve(va: u64, write: bool) -> Result<u64, UserFault> {
    loop {
        if let Some(pfn) = walk(va, write) {
            return Ok(pfn.pa().0 + (va & (PAGE_BYTES - 1)));
        }
        if !trap::mend(va, write) {
            return Err(UserFault);
        }
    }
}

/// Copies physical memory to the user. The caller keeps the frames from being freed.
pub fn copy_phys_to_user(va: u64, pa: u64, len: u64) -> Result<(), UserFault> {
    check(va, len)?;
    if len < BULK_BYTES || !memory::host_pays() {
        // SAFETY: the user range was checked; the linear map covers RAM.
        return done(unsafe {
            ptshare_uaccess_copy(va as *mut u8, phys::virt(pa) as *const u8, len as usize)
        });
    }
    bulk(va, len, true, |user_pa, offset, part| memory::copy(user_pa, pa + offset, part))
}

/// Copies from the user to physical memory. The caller owns the frames.
pub fn copy_user_to_phys(pa: u64, va: u64, len: u64) -> Result<(), UserFault> {
    check(va, len)?;
    if len < BULK_BYTES || !memory::host_pays() {
        // SAFETY: as for `copy_phys_to_user`.
        return done(unsafe {
            ptshare_uaccess_copy(phys::virt(pa) as *mut u8, va as *const u8, len as usize)
        });
    }
    bulk(va, len, false, |user_pa, offset, part| memory::copy(pa + offset, user_pa, part))
}

fn bulk(va: u64, len: u64, write: bool, mut copy: impl FnMut(u64, u64, u64)) -> Result<(), UserFault> {
    let mut done = 0;
    while done < len {
        let at = va + done;
        let part = (PAGE_BYTES - (at & (PAGE_BYTES - 1))).min(len - done);
        // DIRTY and ACCESSED are not needed here: no reclaim looks at them.
        copy(resolve(at, write)?, done, part);
        done += part;
    }
    Ok(())
}

/// Writes user memory straight to a host stream, page by page. Gives the bytes written before a bad address.
pub fn console_write_user(stream: u64, va: u64, len: u64) -> Result<u64, UserFault> {
    check(va, len)?;
    let mut done = 0;
    while done < len {
        let at = va + done;
        let part = (PAGE_BYTES - (at & (PAGE_BYTES - 1))).min(len - done);
        match resolve(at, false) {
            Ok(pa) => crate::hyper::console_write_phys(stream, pa, part),
            Err(_) if done > 0 => return Ok(done),
            Err(fault) => return Err(fault),
        }
        done += part;
    }
    Ok(done)
}
