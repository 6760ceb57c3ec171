//! Reading, writing, opening and closing: argument decoding; the work is in `fs`.

use super::{Args, SysErr, SysResult};
use crate::fs::file::{File, O_APPEND, O_CLOEXEC, O_CREAT, O_TRUNC, O_WRONLY, Ops, closed};
use crate::fs::io::{MAX_RW, Memory, Sink, Source};
use crate::fs::open::open_at;
use crate::fs::pipe::PIPE_BUF;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FileTable, locks, pathname};
use crate::task::current;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::{self, CStrError};
use ptshare_mm::frame::{alloc_kernel, free_kernel};
use ptshare_paging::{Pfn, is_user_range};

/// The caller's file table.
pub(super) fn files() -> Arc<FileTable> {
    current().process.files()
}

/// The caller's file behind a descriptor argument; not one that was opened with O_PATH.
///
/// # Errors
/// EBADF.
pub(super) fn file(fd: u64) -> Result<Arc<File>, Errno> {
    let file = files().get(fd as i32)?;
    if file.is_place() { Err(Errno::EBADF) } else { Ok(file) }
}

/// A path argument.
///
/// # Errors
/// EFAULT, ENAMETOOLONG, ENOMEM.
pub(super) fn path(va: u64) -> Result<Vec<u8>, SysErr> {
    uaccess::read_cstr(va, pathname::PATH_MAX - 1).map_err(|error| {
        SysErr::Errno(match error {
            CStrError::Fault => Errno::EFAULT,
            CStrError::TooLong => Errno::ENAMETOOLONG,
            CStrError::NoMemory => Errno::ENOMEM,
        })
    })
}

/// A length argument of a transfer, cut to what one call may transfer.
fn count(len: u64) -> u64 {
    len.min(MAX_RW)
}

fn check_buffer(va: u64, len: u64) -> Result<(), Errno> {
    if is_user_range(va, len) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// An offset argument: not negative.
fn offset(value: u64) -> Result<u64, Errno> {
    if (value as i64) < 0 { Err(Errno::EINVAL) } else { Ok(value) }
}

/// read(2).
pub fn read(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    file.read(&mut Sink::user(a[1], len))
}

/// write(2).
pub fn write(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    file.write(&mut Source::user(a[1], len))
}

/// pread64(2).
pub fn pread64(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    file.read_at(&mut Sink::user(a[1], len), pos)
}

/// pwrite64(2).
pub fn pwrite64(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    file.write_at(&mut Source::user(a[1], len), pos)
}

const IOV_MAX: u64 = 1024;

/// Reads an array of (address, length) pairs; the lengths together are cut to what one call may transfer.
fn vectors(va: u64, n: u64) -> Result<Vec<(u64, u64)>, SysErr> {
    if n > IOV_MAX {
        return Err(Errno::EINVAL.into());
    }
    let mut out = Vec::new();
    out.try_reserve_exact(n as usize).map_err(|_| Errno::ENOMEM)?;
    let mut left = MAX_RW;
    for i in 0..n {
        let at = va.wrapping_add(16 * i);
        let [base, len] = uaccess::read::<[u64; 2]>(at)?;
        if (len as i64) < 0 {
            return Err(Errno::EINVAL.into());
        }
        check_buffer(base, len.min(left))?;
        let len = len.min(left);
        left -= len;
        out.push((base, len));
    }
    Ok(out)
}

/// Runs one transfer after the other until one is short.
fn each_vector(vectors: &[(u64, u64)], mut f: impl FnMut(u64, u64, u64) -> SysResult) -> SysResult {
    let mut done = 0;
    for &(base, len) in vectors.iter().filter(|(_, len)| *len > 0) {
        match f(base, len, done) {
            Ok(n) => {
                done += n;
                if n < len {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn read_vectors(file: &File, vectors: &[(u64, u64)], pos: Option<u64>) -> SysResult {
    if !file.readable() {
        return Err(Errno::EBADF.into());
    }
    each_vector(vectors, |base, len, done| {
        // Something has been read: a stream that has no more now must not make the call wait.
        if done > 0 && file.is_stream() && file.poll() & crate::fs::poll::POLLIN == 0 {
            return Ok(0);
        }
        let mut sink = Sink::user(base, len);
        match pos {
            Some(pos) => file.read_at(&mut sink, pos + done),
            None => file.read(&mut sink),
        }
    })
}

fn write_vectors(file: &File, vectors: &[(u64, u64)], pos: Option<u64>) -> SysResult {
    if !file.writable() {
        return Err(Errno::EBADF.into());
    }
    let total: u64 = vectors.iter().map(|(_, len)| len).sum();
    // One write, not several: to a pipe it is atomic, to other streams it is one message.
    if file.is_stream() && vectors.len() > 1 && total <= PIPE_BUF {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(total as usize).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(total as usize, 0);
        let mut at = 0usize;
        for &(base, len) in vectors {
            let end = at + len as usize;
            if let Some(part) = bytes.get_mut(at..end) {
                uaccess::copy_in(part, base)?;
            }
            at = end;
        }
        return file.write(&mut Source::new(Memory::Kernel(&mut bytes), total));
    }
    each_vector(vectors, |base, len, done| {
        let mut source = Source::user(base, len);
        match pos {
            Some(pos) => file.write_at(&mut source, pos + done),
            None => file.write(&mut source),
        }
    })
}

/// readv(2).
pub fn readv(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    read_vectors(&file, &vectors(a[1], a[2])?, None)
}

/// writev(2).
pub fn writev(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    write_vectors(&file, &vectors(a[1], a[2])?, None)
}

/// preadv(2).
pub fn preadv(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    if file.is_stream() {
        return Err(Errno::ESPIPE.into());
    }
    read_vectors(&file, &vectors(a[1], a[2])?, Some(pos))
}

/// pwritev(2).
pub fn pwritev(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    if file.is_stream() {
        return Err(Errno::ESPIPE.into());
    }
    write_vectors(&file, &vectors(a[1], a[2])?, Some(pos))
}

/// preadv2(2): flags that ask for speed or durability are met anyhow; the others are not known.
pub fn preadv2(a: &Args, frame: &mut TrapFrame) -> SysResult {
    check_rw_flags(a[5], false)?;
    if a[3] == u64::MAX { readv(a, frame) } else { preadv(a, frame) }
}

/// pwritev2(2).
pub fn pwritev2(a: &Args, frame: &mut TrapFrame) -> SysResult {
    check_rw_flags(a[5], true)?;
    if a[3] == u64::MAX { writev(a, frame) } else { pwritev(a, frame) }
}

/// RWF_HIPRI, RWF_DSYNC, RWF_SYNC.
fn check_rw_flags(flags: u64, _write: bool) -> Result<(), Errno> {
    if flags & !7 == 0 { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

fn open_and_install(dirfd: i32, name: u64, flags: u32, mode: u32) -> SysResult {
    let text = path(name)?;
    let file = open_at(dirfd, text, flags, mode)?;
    Ok(files().install(file, flags & O_CLOEXEC != 0)?)
}

/// open(2).
pub fn open(a: &Args, _: &mut TrapFrame) -> SysResult {
    open_and_install(AT_FDCWD, a[0], a[1] as u32, a[2] as u32)
}

/// openat(2).
pub fn openat(a: &Args, _: &mut TrapFrame) -> SysResult {
    open_and_install(a[0] as i32, a[1], a[2] as u32, a[3] as u32)
}

/// creat(2).
pub fn creat(a: &Args, _: &mut TrapFrame) -> SysResult {
    open_and_install(AT_FDCWD, a[0], O_CREAT | O_WRONLY | O_TRUNC, a[1] as u32)
}

/// close(2).
pub fn close(a: &Args, _: &mut TrapFrame) -> SysResult {
    let table = files();
    let file = table.remove(a[0] as i32)?;
    closed(&table, file);
    Ok(0)
}

/// lseek(2).
pub fn lseek(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = files().get(a[0] as i32)?;
    Ok(file.seek(a[1] as i64, a[2] as u32)?)
}

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
fn transfer(
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
    if matches!(file.ops, Ops::Pipe(_) | Ops::Host(_) | Ops::Duplex(..)) {
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

/// fallocate(2): modes 0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE.
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
        Ops::Regular => {}
        Ops::Pipe(_) | Ops::Host(_) | Ops::Duplex(..) => return Err(Errno::ESPIPE.into()),
        _ => return Err(Errno::ENODEV.into()),
    }
    let end = start.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
    let inode = file.inode();
    let (Some(regular), Some(object)) = (inode.regular(), inode.object()) else {
        return Err(Errno::ENODEV.into());
    };
    let seals = file.seals();
    let _held = inode.write_hold.take();
    let grows = mode & KEEP_SIZE == 0 && end > object.size_bytes();
    if seals & crate::fs::memfd::F_SEAL_WRITE != 0 && mode & (PUNCH_HOLE | ZERO_RANGE) != 0
        || seals & crate::fs::memfd::F_SEAL_GROW != 0 && grows
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
        let zeroed = if mode & ZERO_RANGE != 0 { object.punch_hole(start, len) } else { Ok(()) };
        zeroed.and_then(|()| object.allocate(start, len, mode & KEEP_SIZE == 0))
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
