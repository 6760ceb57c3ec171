//! Moving and reserving bytes of files: sendfile, copy_file_range, fallocate, the syncs, advice, flock: argument
//! decoding; the work is in `fs`.

use super::file::{count, file, offset};
use super::{Args, SysErr, SysResult};
use crate::fs::file::{File, O_APPEND, Ops};
use crate::fs::io::{Memory, Sink, Source};
use crate::fs::locks;
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{Machine, uaccess};
use ptshare_mm::frame::{alloc_kernel, free_kernel};
use ptshare_paging::Pfn;

/// A frame to carry bytes from file to file in.
struct Bounce(Pfn);

impl Bounce {
    /// log2 of its frames: 32 KiB.
    const ORDER: usize = 3;
    const BYTES: u64 = 4096 << Self::ORDER;

    fn new() -> Result<Bounce, Errno> {
        crate::heap_room()?;
        alloc_kernel(&Machine, Self::ORDER, false).map(Bounce).map_err(|_| Errno::ENOMEM)
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        free_kernel(&Machine, self.0, Self::ORDER);
    }
}

/// Copies up to `len` bytes from file to file. A position that is given is used and moved instead of the file's own.
pub(super) fn transfer(
    from: &File,
    mut from_pos: Option<&mut u64>,
    to: &File,
    mut to_pos: Option<&mut u64>,
    len: u64,
) -> SysResult {
    let bounce = Bounce::new()?;
    let pa = bounce.0.pa().0;
    let mut done = 0;
    while done < len {
        let want = Bounce::BYTES.min(len - done);
        let mut sink = Sink::new(Memory::Phys(pa), want);
        let got = match &from_pos {
            Some(pos) => from.read_at(&mut sink, **pos),
            None => from.read(&mut sink),
        };
        let got = match got {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        let mut source = Source::new(Memory::Phys(pa), got);
        let wrote = match &to_pos {
            Some(pos) => to.write_at(&mut source, **pos),
            None => to.write(&mut source),
        };
        let (wrote, failed) = match wrote {
            Ok(wrote) => (wrote, None),
            Err(error) => (0, Some(error)),
        };
        match &mut from_pos {
            Some(pos) => **pos += wrote,
            // Give back what the other side did not take.
            None if wrote < got => {
                let _ = from.seek(-((got - wrote) as i64), 1);
            }
            None => {}
        }
        if let Some(pos) = &mut to_pos {
            **pos += wrote;
        }
        done += wrote;
        match failed {
            Some(error) if done == 0 => return Err(error),
            Some(_) => break,
            None if wrote < got => break,
            // A stream gave what it had.
            None if got < want && from.is_stream() => break,
            None => {}
        }
    }
    Ok(done)
}

/// sendfile(2).
pub fn sendfile(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (to, from) = (file(a[0])?, file(a[1])?);
    if !from.readable() || !to.writable() {
        return Err(Errno::EBADF.into());
    }
    let seekable = matches!(from.ops, Ops::Regular | Ops::Virtual(..) | Ops::Device(_));
    if !seekable || from.inode().is_dir() || to.flags() & O_APPEND != 0 {
        return Err(Errno::EINVAL.into());
    }
    let len = count(a[3]);
    if a[2] == 0 {
        return transfer(&from, None, &to, None, len);
    }
    let mut pos = offset(uaccess::read::<u64>(a[2])?)?;
    let done = transfer(&from, Some(&mut pos), &to, None, len)?;
    uaccess::write(a[2], &pos)?;
    Ok(done)
}

/// copy_file_range(2).
pub fn copy_file_range(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (from, to) = (file(a[0])?, file(a[2])?);
    if a[5] != 0 {
        return Err(Errno::EINVAL.into());
    }
    if from.inode().is_dir() || to.inode().is_dir() {
        return Err(Errno::EISDIR.into());
    }
    let regular = |file: &File| matches!(file.ops, Ops::Regular);
    if !regular(&from) || !regular(&to) {
        return Err(Errno::EINVAL.into());
    }
    if !from.readable() || !to.writable() || to.flags() & O_APPEND != 0 {
        return Err(Errno::EBADF.into());
    }
    let position = |va: u64| -> Result<Option<u64>, SysErr> {
        if va == 0 { Ok(None) } else { Ok(Some(offset(uaccess::read::<u64>(va)?)?)) }
    };
    let (mut from_pos, mut to_pos) = (position(a[1])?, position(a[3])?);
    let len = count(a[4]);
    if Arc::ptr_eq(from.inode(), to.inode()) {
        let (x, y) = (from_pos.unwrap_or_else(|| from.position()), to_pos.unwrap_or_else(|| to.position()));
        if x < y.saturating_add(len) && y < x.saturating_add(len) {
            return Err(Errno::EINVAL.into());
        }
    }
    let done = transfer(&from, from_pos.as_mut(), &to, to_pos.as_mut(), len)?;
    for (va, pos) in [(a[1], from_pos), (a[3], to_pos)] {
        if let Some(pos) = pos {
            uaccess::write(va, &pos)?;
        }
    }
    Ok(done)
}

/// Files in memory need no syncing; the descriptor must be one.
fn synced(fd: u64) -> SysResult {
    let file = file(fd)?;
    if file.is_stream() { Err(Errno::EINVAL.into()) } else { Ok(0) }
}

/// fsync(2).
pub fn fsync(a: &Args, _: &mut TrapFrame) -> SysResult {
    synced(a[0])
}

/// fdatasync(2).
pub fn fdatasync(a: &Args, _: &mut TrapFrame) -> SysResult {
    synced(a[0])
}

/// sync(2).
pub fn sync(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(0)
}

/// syncfs(2).
pub fn syncfs(a: &Args, _: &mut TrapFrame) -> SysResult {
    file(a[0]).map(|_| 0).map_err(SysErr::from)
}

/// sync_file_range(2).
pub fn sync_file_range(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    if a[3] & !7 != 0 || (a[1] as i64) < 0 || (a[1].wrapping_add(a[2]) as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if file.is_stream() { Err(Errno::ESPIPE.into()) } else { Ok(0) }
}

/// fadvise64(2): advice is heard and has nothing to act on.
pub fn fadvise64(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    if matches!(file.ops, Ops::Pipe(_) | Ops::Host(_) | Ops::Socket(_)) {
        return Err(Errno::ESPIPE.into());
    }
    if (a[2] as i64) < 0 || a[3] as i32 > 5 || (a[3] as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// readahead(2): everything is in memory already.
pub fn readahead(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    if !file.readable() {
        return Err(Errno::EBADF.into());
    }
    if matches!(file.ops, Ops::Regular) { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

/// fallocate(2): modes 0, KEEP_SIZE, PUNCH_HOLE, as Linux has them for files in memory (`shmem_fallocate`).
pub fn fallocate(a: &Args, _: &mut TrapFrame) -> SysResult {
    const KEEP_SIZE: u32 = 1;
    const PUNCH_HOLE: u32 = 2;
    const ZERO_RANGE: u32 = 0x10;
    let (mode, start, len) = (a[1] as u32, a[2], a[3]);
    let file = file(a[0])?;
    if (start as i64) < 0 || (len as i64) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0
        || mode & PUNCH_HOLE != 0 && mode != PUNCH_HOLE | KEEP_SIZE
    {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if !file.writable() {
        return Err(Errno::EBADF.into());
    }
    match file.ops {
        // Known to vfs_fallocate, but not to tmpfs.
        Ops::Regular if mode & ZERO_RANGE != 0 => return Err(Errno::EOPNOTSUPP.into()),
        Ops::Regular => {}
        Ops::Pipe(_) | Ops::Host(_) | Ops::Socket(_) => return Err(Errno::ESPIPE.into()),
        _ => return Err(Errno::ENODEV.into()),
    }
    let end = start.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
    let inode = file.inode();
    let (Some(regular), Some(object)) = (inode.regular(), inode.object()) else {
        return Err(Errno::ENODEV.into());
    };
    let seals = file.seals();
    let _held = inode.write_hold.take();
    let beyond = end > object.size_bytes();
    let grows = mode & KEEP_SIZE == 0 && beyond;
    // Pages beyond the end are growth even where the size stays (`shmem_fallocate`).
    if seals & crate::fs::memfd::F_SEAL_WRITE != 0 && mode & PUNCH_HOLE != 0
        || seals & crate::fs::memfd::F_SEAL_GROW != 0 && mode & PUNCH_HOLE == 0 && beyond
    {
        return Err(Errno::EPERM.into());
    }
    let result = if mode & PUNCH_HOLE != 0 {
        object.punch_hole(start, len)
    } else {
        if grows && end > crate::fs::caller::fsize() {
            return Err(crate::fs::caller::sigxfsz().into());
        }
        let fits = crate::fs::io::room(&inode.sb, &object, start, len)?;
        if fits < len || len / 4096 > crate::fs::default_limit() * 2 {
            return Err(Errno::ENOSPC.into());
        }
        object.allocate(start, len, mode & KEEP_SIZE == 0)
    };
    crate::fs::io::settle(regular, &inode.sb);
    result.map_err(crate::fs::io::object_errno)?;
    inode.touch_mtime();
    Ok(0)
}

/// flock(2).
pub fn flock(a: &Args, _: &mut TrapFrame) -> SysResult {
    const SH: u64 = 1;
    const EX: u64 = 2;
    const NB: u64 = 4;
    const UN: u64 = 8;
    const MAND: u64 = 32;
    if a[1] & MAND != 0 {
        // Mandatory share modes are taken and have no effect (since Linux 5.18).
        return Ok(0);
    }
    let file = file(a[0])?;
    let wanted = match a[1] & !NB {
        SH => Some(false),
        EX => Some(true),
        UN => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    locks::flock(file.inode(), Arc::as_ptr(&file) as u64, wanted, a[1] & NB == 0)?;
    Ok(0)
}
