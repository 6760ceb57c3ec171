//! Reading, writing, opening and closing: argument decoding; the work is in `fs`.

use super::{Args, SysErr, SysResult};
use crate::fs::file::{File, O_CLOEXEC, O_CREAT, O_TRUNC, O_WRONLY, closed};
use crate::fs::io::{MAX_RW, Memory, Sink, Source};
use crate::fs::open::open_at;
use crate::fs::pipe::PIPE_BUF;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FileTable, pathname};
use crate::task::current;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::{self, CStrError};
use ptshare_paging::is_user_range;

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
pub(super) fn count(len: u64) -> u64 {
    len.min(MAX_RW)
}

fn check_buffer(va: u64, len: u64) -> Result<(), Errno> {
    if is_user_range(va, len) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// An offset argument: not negative.
pub(super) fn offset(value: u64) -> Result<u64, Errno> {
    if (value as i64) < 0 { Err(Errno::EINVAL) } else { Ok(value) }
}

/// read(2).
pub fn read(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    current().transfers.read(file.read(&mut Sink::user(a[1], len)))
}

/// write(2).
pub fn write(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    current().transfers.wrote(file.write(&mut Source::user(a[1], len)))
}

/// pread64(2).
pub fn pread64(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    current().transfers.read(file.read_at(&mut Sink::user(a[1], len), pos))
}

/// pwrite64(2).
pub fn pwrite64(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    let len = count(a[2]);
    check_buffer(a[1], len)?;
    current().transfers.wrote(file.write_at(&mut Source::user(a[1], len), pos))
}

const IOV_MAX: u64 = 1024;

/// Reads an array of (address, length) pairs; the lengths together are cut to what one call may transfer.
pub(super) fn vectors(va: u64, n: u64) -> Result<Vec<(u64, u64)>, SysErr> {
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
    current().transfers.read(read_vectors(&file, &vectors(a[1], a[2])?, None))
}

/// writev(2).
pub fn writev(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    current().transfers.wrote(write_vectors(&file, &vectors(a[1], a[2])?, None))
}

/// preadv(2).
pub fn preadv(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    if file.is_stream() {
        return Err(Errno::ESPIPE.into());
    }
    current().transfers.read(read_vectors(&file, &vectors(a[1], a[2])?, Some(pos)))
}

/// pwritev(2).
pub fn pwritev(a: &Args, _: &mut TrapFrame) -> SysResult {
    let pos = offset(a[3])?;
    let file = file(a[0])?;
    if file.is_stream() {
        return Err(Errno::ESPIPE.into());
    }
    current().transfers.wrote(write_vectors(&file, &vectors(a[1], a[2])?, Some(pos)))
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
