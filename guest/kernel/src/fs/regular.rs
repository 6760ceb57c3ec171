//! Writing and cutting regular files: limits, seals, set-user-ID bits, times.

use super::file::{File, O_APPEND};
use super::inode::Inode;
use super::io::{self, Source};
use super::{caller, memfd};
use crate::syscall::SysErr;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;

/// Writes at `pos`, or at the end with O_APPEND. Gives where it wrote, and how much.
///
/// # Errors
/// EFAULT, EFBIG, ENOSPC, EINVAL, EPERM (sealed).
pub fn write(file: &File, source: &mut Source, pos: u64) -> Result<(u64, u64), SysErr> {
    let inode = file.inode();
    let (Some(regular), Some(object)) = (inode.regular(), inode.object()) else {
        return Err(Errno::EINVAL.into());
    };
    if regular.hugetlb.is_some() {
        // hugetlbfs has no write.
        return Err(Errno::EINVAL.into());
    }
    if source.left() == 0 {
        return Ok((pos, 0));
    }
    let _held = inode.write_hold.take();
    let pos = if file.flags() & O_APPEND != 0 { object.size_bytes() } else { pos };
    let seals = regular.seals.load(Relaxed);
    if seals & (memfd::F_SEAL_WRITE | memfd::F_SEAL_FUTURE_WRITE) != 0 {
        return Err(Errno::EPERM.into());
    }
    if seals & memfd::F_SEAL_GROW != 0 {
        // Page by page, as shmem_write_begin looks at it: a part that would grow the file is refused whole.
        let size = object.size_bytes();
        if source.left() > size.saturating_sub(pos) {
            let whole = (size & !4095).saturating_sub(pos);
            if whole == 0 {
                return Err(Errno::EPERM.into());
            }
            source.limit(whole);
        }
    }
    let limit = caller::fsize();
    if limit != u64::MAX {
        if pos >= limit {
            return Err(caller::sigxfsz().into());
        }
        source.limit(limit - pos);
    }
    source.limit(io::room(&inode.sb, &object, pos, source.left())?);
    let wrote = io::write_object(&object, pos, source);
    io::settle(regular, &inode.sb);
    let wrote = wrote?;
    if inode.mode() & 0o6000 != 0 && !caller::creds().capable(caller::CAP_FSETID) {
        inode.drop_privilege_bits();
    }
    inode.touch_mtime();
    Ok((pos, wrote))
}

/// Makes a regular file `size` bytes long.
///
/// # Errors
/// EISDIR, EINVAL, EFBIG, EPERM (sealed).
pub fn truncate(inode: &Arc<Inode>, size: u64) -> Result<(), Errno> {
    if inode.is_dir() {
        return Err(Errno::EISDIR);
    }
    let Some(regular) = inode.regular() else { return Err(Errno::EINVAL) };
    if let Some(unit) = regular.hugetlb {
        super::hugetlbfs::check_size(unit, size)?;
    }
    let _held = inode.write_hold.take();
    let old = regular.size();
    let seals = regular.seals.load(Relaxed);
    if size < old && seals & memfd::F_SEAL_SHRINK != 0 || size > old && seals & memfd::F_SEAL_GROW != 0 {
        return Err(Errno::EPERM);
    }
    if size > old && size > caller::fsize() {
        return Err(caller::sigxfsz());
    }
    if size != old || size != 0 {
        let Some(object) = inode.object() else { return Err(Errno::EINVAL) };
        object.truncate(size).map_err(io::object_errno)?;
        io::settle(regular, &inode.sb);
    }
    if inode.mode() & 0o6000 != 0 && !caller::creds().capable(caller::CAP_FSETID) {
        inode.drop_privilege_bits();
    }
    inode.touch_mtime();
    Ok(())
}
