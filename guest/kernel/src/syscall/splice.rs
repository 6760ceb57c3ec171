//! splice, tee, vmsplice: bytes between pipes, files and memory (Linux: fs/splice.c). Pages are copied, not moved: what a
//! program sees is the same, but for the time.

use super::file::{count, file, offset, vectors};
use super::transfer::transfer;
use super::{Args, SysErr, SysResult};
use crate::fs::file::{File, O_APPEND, O_NONBLOCK, Ops};
use crate::fs::io::{Sink, Source};
use crate::fs::poll::{POLLIN, POLLOUT};
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;

/// SPLICE_F_MOVE, NONBLOCK, MORE, GIFT.
const FLAGS: u64 = 0xf;
const NONBLOCK: u64 = 2;

fn is_pipe(file: &File) -> bool {
    matches!(file.ops, Ops::Pipe(_))
}

/// With SPLICE_F_NONBLOCK a pipe that is not ready is not waited for.
fn check_ready(file: &File, events: u32, flags: u64) -> Result<(), Errno> {
    let waits = flags & NONBLOCK == 0 && file.flags() & O_NONBLOCK == 0;
    if !waits && is_pipe(file) && file.poll() & events == 0 { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// A position argument of a file that is no pipe.
fn position(file: &File, at: u64) -> Result<Option<u64>, SysErr> {
    match at {
        0 => Ok(None),
        _ if is_pipe(file) => Err(Errno::ESPIPE.into()),
        at => Ok(Some(offset(uaccess::read::<u64>(at)?)?)),
    }
}

/// splice(2).
pub fn splice(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [from, from_at, to, to_at, len, flags] = *a;
    if len == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (file(from)?, file(to)?);
    if !from.readable() || !to.writable() {
        return Err(Errno::EBADF.into());
    }
    let (mut from_pos, mut to_pos) = (position(&from, from_at)?, position(&to, to_at)?);
    let same = match (&from.ops, &to.ops) {
        (Ops::Pipe(one), Ops::Pipe(other)) => Arc::ptr_eq(one, other),
        _ => false,
    };
    if same || !is_pipe(&from) && !is_pipe(&to) || to.flags() & O_APPEND != 0 {
        return Err(Errno::EINVAL.into());
    }
    check_ready(&from, POLLIN, flags)?;
    check_ready(&to, POLLOUT, flags)?;
    let done = transfer(&from, from_pos.as_mut(), &to, to_pos.as_mut(), count(len))?;
    for (at, pos) in [(from_at, from_pos), (to_at, to_pos)] {
        if let Some(pos) = pos {
            uaccess::write(at, &pos)?;
        }
    }
    Ok(done)
}

/// vmsplice(2).
pub fn vmsplice(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [fd, at, count, flags, ..] = *a;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = file(fd)?;
    let Ops::Pipe(pipe) = &file.ops else { return Err(Errno::EBADF.into()) };
    let mut done = 0;
    for (base, len) in vectors(at, count)?.into_iter().filter(|range| range.1 > 0) {
        let nonblock =
            flags & NONBLOCK != 0 || file.flags() & O_NONBLOCK != 0 || !file.writable() && done > 0;
        let result = match file.writable() {
            true => pipe.write(&mut Source::user(base, len), nonblock),
            false => pipe.read(&mut Sink::user(base, len), nonblock),
        };
        match result {
            Ok(part) => done += part,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// tee(2).
pub fn tee(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [from, to, len, flags, ..] = *a;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (file(from)?, file(to)?);
    let (Ops::Pipe(source), Ops::Pipe(target)) = (&from.ops, &to.ops) else {
        return Err(Errno::EINVAL.into());
    };
    if !from.readable() || !to.writable() {
        return Err(Errno::EBADF.into());
    }
    if Arc::ptr_eq(source, target) {
        return Err(Errno::EINVAL.into());
    }
    let nonblock = flags & NONBLOCK != 0;
    let bytes = source.peek(count(len), nonblock || from.flags() & O_NONBLOCK != 0)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let mut bytes = bytes;
    let len = bytes.len() as u64;
    let mut copy = Source::new(crate::fs::io::Memory::Kernel(&mut bytes), len);
    target.write(&mut copy, nonblock || to.flags() & O_NONBLOCK != 0)
}
