//! The calls that change an address space: argument decoding; the work is `ptshare_mm`'s.

use super::{Args, SysResult};
use crate::fs::memfd;
use crate::task::current;
use crate::{KMm, heap_room};
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;
use ptshare_mm::MapRequest;
use ptshare_mm::error::MmError;
use ptshare_paging::PAGE_BYTES;

fn mm() -> Arc<KMm> {
    current().process.mm()
}

fn done(result: Result<(), MmError>) -> SysResult {
    result?;
    Ok(0)
}

/// mmap(2).
pub fn mmap(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [addr, len, prot, flags, fd, offset] = *a;
    if offset & (PAGE_BYTES - 1) != 0 {
        return Err(Errno::EINVAL.into());
    }
    heap_room()?;
    let mut request = MapRequest::anonymous(len, prot);
    request.addr = addr;
    request.flags = flags;
    let file;
    if flags & u64::from(abi::MAP_ANONYMOUS) == 0 {
        file = current().process.files().get(fd as i32)?;
        request.object = Some((file.mmap_object()?, offset / PAGE_BYTES));
        request.file_readable = file.readable();
        request.file_writable = file.writable();
        // A sealed file can be mapped for reading, and stays so (mm/shmem.c, `shmem_mmap`).
        if request.file_writable && memfd::is_write_sealed(&file) {
            let shared = flags as u32 & abi::MAP_TYPE != abi::MAP_PRIVATE;
            if shared && prot as u32 & abi::PROT_WRITE != 0 {
                return Err(Errno::EPERM.into());
            }
            request.file_writable = false;
        }
    }
    Ok(mm().mmap(request)?)
}

/// Releases of fewer bytes do not make the largest resident set worth a look.
const NOTABLE: u64 = 1 << 20;

/// Memory is about to be released: the resident set may never be so large again (Linux: `update_hiwater_rss`). What brk
/// gives back is not looked at.
fn note_rss(mm: &KMm, bytes: u64) {
    if bytes >= NOTABLE {
        current().process.usage.see_rss(mm);
    }
}

/// munmap(2).
pub fn munmap(a: &Args, _: &mut TrapFrame) -> SysResult {
    let mm = mm();
    note_rss(&mm, a[1]);
    done(mm.munmap(a[0], a[1]))
}

/// mprotect(2).
pub fn mprotect(a: &Args, _: &mut TrapFrame) -> SysResult {
    heap_room()?;
    done(mm().mprotect(a[0], a[1], a[2]))
}

/// mseal(2).
pub fn mseal(a: &Args, _: &mut TrapFrame) -> SysResult {
    heap_room()?;
    done(mm().mseal(a[0], a[1], a[2]))
}

/// Key that stands for none: pkey_mprotect is mprotect then.
const NO_KEY: i32 = -1;

/// pkey_alloc(2): as on a processor without protection keys (arch/x86/kernel/fpu/xstate.c,
/// `arch_set_user_pkey_access`).
pub fn pkey_alloc(_: &Args, _: &mut TrapFrame) -> SysResult {
    Err(Errno::EINVAL.into())
}

/// pkey_free(2): no key was ever given out.
pub fn pkey_free(_: &Args, _: &mut TrapFrame) -> SysResult {
    Err(Errno::EINVAL.into())
}

/// pkey_mprotect(2).
pub fn pkey_mprotect(a: &Args, frame: &mut TrapFrame) -> SysResult {
    if a[3] as i32 != NO_KEY {
        return Err(Errno::EINVAL.into());
    }
    mprotect(a, frame)
}

/// mremap(2).
pub fn mremap(a: &Args, _: &mut TrapFrame) -> SysResult {
    heap_room()?;
    Ok(mm().mremap(a[0], a[1], a[2], a[3], a[4])?)
}

/// madvise(2).
pub fn madvise(a: &Args, _: &mut TrapFrame) -> SysResult {
    let mm = mm();
    note_rss(&mm, a[1]);
    done(mm.madvise(a[0], a[1], a[2]))
}

/// brk(2): the new break, or the old one when it cannot move.
pub fn brk(a: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(mm().brk(a[0]))
}

/// mincore(2).
pub fn mincore(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [addr, len, vec, ..] = *a;
    let mut at = vec;
    done(mm().mincore(addr, len, &mut |run| {
        uaccess::copy_out(at, run)?;
        at += run.len() as u64;
        Ok(())
    }))
}

/// remap_file_pages(2).
pub fn remap_file_pages(a: &Args, _: &mut TrapFrame) -> SysResult {
    heap_room()?;
    done(mm().remap_file_pages(a[0], a[1], a[2], a[3], a[4]))
}

/// msync(2).
pub fn msync(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(mm().msync(a[0], a[1], a[2]))
}

/// mlock(2).
pub fn mlock(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(mm().mlock(a[0], a[1], 0))
}

/// mlock2(2).
pub fn mlock2(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(mm().mlock(a[0], a[1], a[2]))
}

/// munlock(2).
pub fn munlock(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(mm().munlock(a[0], a[1]))
}

/// mlockall(2).
pub fn mlockall(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(mm().mlockall(a[0]))
}

/// munlockall(2).
pub fn munlockall(_: &Args, _: &mut TrapFrame) -> SysResult {
    mm().munlockall();
    Ok(0)
}
