//! Where bytes go to and come from: user memory, kernel memory, or physical memory; and the regular file's own reads and
//! writes, straight between the page cache and there.

use super::inode::Regular;
use crate::KObject;
use crate::syscall::SysErr;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_machine::uaccess::{self, UserFault};
use ptshare_mm::Env;
use ptshare_mm::object::{MAX_OBJECT_BYTES, ObjectError};

/// Most bytes that one call transfers (Linux MAX_RW_COUNT).
pub const MAX_RW: u64 = 0x7fff_f000;

/// The memory at one end of a transfer.
pub enum Memory<'a> {
    /// The caller's, at this address.
    User(u64),
    /// The kernel's.
    Kernel(&'a mut [u8]),
    /// Frames that the caller owns, from this physical address on.
    Phys(u64),
}

/// Takes bytes in order, up to a length.
pub struct Sink<'a> {
    to: Memory<'a>,
    left: u64,
    done: u64,
}

/// Gives bytes in order, up to a length.
pub struct Source<'a> {
    from: Memory<'a>,
    left: u64,
    done: u64,
}

/// Runs `copy(offset, len)` for the whole length, or, after a fault, page by page of user memory as far as it goes.
fn as_far_as_possible(
    va: u64,
    len: u64,
    mut copy: impl FnMut(u64, u64) -> Result<(), UserFault>,
) -> (u64, Result<(), UserFault>) {
    if copy(0, len).is_ok() {
        return (len, Ok(()));
    }
    let mut done = 0;
    while done < len {
        let part = (4096 - (va.wrapping_add(done) & 4095)).min(len - done);
        if part == len || copy(done, part).is_err() {
            return (done, Err(UserFault));
        }
        done += part;
    }
    (done, Ok(()))
}

impl<'a> Sink<'a> {
    /// Up to `len` bytes to `to`.
    pub fn new(to: Memory<'a>, len: u64) -> Self {
        Sink { to, left: len, done: 0 }
    }

    /// Up to `len` bytes to user memory.
    pub fn user(va: u64, len: u64) -> Self {
        Sink::new(Memory::User(va), len)
    }

    /// Bytes that it still takes.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes no more than `most` bytes for now. Gives how many are held back, for [`Sink::give_back`].
    pub fn hold_back(&mut self, most: u64) -> u64 {
        let later = self.left.saturating_sub(most);
        self.left -= later;
        later
    }

    /// Ends what [`Sink::hold_back`] began.
    pub fn give_back(&mut self, later: u64) {
        self.left += later;
    }

    /// Bytes taken so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Takes bytes from kernel memory, as many as fit. Gives their number.
    ///
    /// # Errors
    /// A bad user address; what fitted before it counts in [`Sink::done`].
    pub fn put(&mut self, bytes: &[u8]) -> Result<u64, UserFault> {
        let len = self.left.min(bytes.len() as u64);
        let bytes = &bytes[..len as usize];
        let done = self.done;
        let (took, result) = match &mut self.to {
            Memory::User(va) => {
                let va = va.wrapping_add(done);
                as_far_as_possible(va, len, |at, n| {
                    uaccess::copy_out(va.wrapping_add(at), &bytes[at as usize..(at + n) as usize])
                })
            }
            Memory::Kernel(out) => match out.get_mut(done as usize..(done + len) as usize) {
                Some(part) => {
                    part.copy_from_slice(bytes);
                    (len, Ok(()))
                }
                None => (0, Err(UserFault)),
            },
            Memory::Phys(pa) => {
                Machine.write_phys(*pa + done, bytes);
                (len, Ok(()))
            }
        };
        self.advance(took);
        result.map(|()| took)
    }

    /// Takes `len` bytes of physical memory, as many as fit. Gives their number.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub fn put_phys(&mut self, pa: u64, len: u64) -> Result<u64, UserFault> {
        let len = self.left.min(len);
        let done = self.done;
        let (took, result) = match &mut self.to {
            Memory::User(va) => {
                let va = va.wrapping_add(done);
                as_far_as_possible(va, len, |at, n| {
                    uaccess::copy_phys_to_user(va.wrapping_add(at), pa + at, n)
                })
            }
            Memory::Kernel(out) => match out.get_mut(done as usize..(done + len) as usize) {
                Some(part) => {
                    Machine.read_phys(pa, part);
                    (len, Ok(()))
                }
                None => (0, Err(UserFault)),
            },
            Memory::Phys(to) => {
                Machine.copy_phys(*to + done, pa, len);
                (len, Ok(()))
            }
        };
        self.advance(took);
        result.map(|()| took)
    }

    /// Takes zeros until it is full.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub fn put_zeros(&mut self) -> Result<u64, UserFault> {
        if let Memory::User(va) = self.to {
            let (va, len) = (va.wrapping_add(self.done), self.left);
            let (took, result) =
                as_far_as_possible(va, len, |at, n| uaccess::fill(va.wrapping_add(at), 0, n));
            self.advance(took);
            return result.map(|()| took);
        }
        let zero = Machine.zero_page().pa().0;
        let mut sum = 0;
        while self.left > 0 {
            sum += self.put_phys(zero, 4096)?;
        }
        Ok(sum)
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.left -= bytes;
    }
}

impl<'a> Source<'a> {
    /// Up to `len` bytes from `from`.
    pub fn new(from: Memory<'a>, len: u64) -> Self {
        Source { from, left: len, done: 0 }
    }

    /// Up to `len` bytes from user memory.
    pub fn user(va: u64, len: u64) -> Self {
        Source::new(Memory::User(va), len)
    }

    /// Bytes that it still gives.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Bytes given so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Gives at most `max` bytes in all.
    pub fn limit(&mut self, max: u64) {
        self.left = self.left.min(max);
    }

    /// User address of the next byte, when they come from there.
    pub fn user_va(&self) -> Option<u64> {
        match self.from {
            Memory::User(va) => Some(va.wrapping_add(self.done)),
            _ => None,
        }
    }

    /// Counts bytes as given that somebody else has copied.
    pub fn skip(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.done += bytes;
        self.left -= bytes;
    }

    /// Fills `out`, as far as bytes are left. Gives their number.
    ///
    /// # Errors
    /// A bad user address; what came before it counts in [`Source::done`].
    pub fn get(&mut self, out: &mut [u8]) -> Result<u64, UserFault> {
        let len = self.left.min(out.len() as u64);
        let done = self.done;
        let (took, result) = match &self.from {
            Memory::User(va) => {
                let va = va.wrapping_add(done);
                as_far_as_possible(va, len, |at, n| {
                    uaccess::copy_in(&mut out[at as usize..(at + n) as usize], va.wrapping_add(at))
                })
            }
            Memory::Kernel(bytes) => match bytes.get(done as usize..(done + len) as usize) {
                Some(part) => {
                    out[..len as usize].copy_from_slice(part);
                    (len, Ok(()))
                }
                None => (0, Err(UserFault)),
            },
            Memory::Phys(pa) => {
                Machine.read_phys(*pa + done, &mut out[..len as usize]);
                (len, Ok(()))
            }
        };
        self.skip(took);
        result.map(|()| took)
    }

    /// Copies up to `len` bytes to physical memory. Gives their number.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn get_phys(&mut self, pa: u64, len: u64) -> Result<u64, UserFault> {
        let len = self.left.min(len);
        let done = self.done;
        let (took, result) = match &self.from {
            Memory::User(va) => {
                let va = va.wrapping_add(done);
                as_far_as_possible(va, len, |at, n| {
                    uaccess::copy_user_to_phys(pa + at, va.wrapping_add(at), n)
                })
            }
            Memory::Kernel(bytes) => match bytes.get(done as usize..(done + len) as usize) {
                Some(part) => {
                    Machine.write_phys(pa, part);
                    (len, Ok(()))
                }
                None => (0, Err(UserFault)),
            },
            Memory::Phys(from) => {
                Machine.copy_phys(pa, *from + done, len);
                (len, Ok(()))
            }
        };
        self.skip(took);
        result.map(|()| took)
    }
}

/// What a transfer answers: the bytes, or the fault if there were none.
pub fn total(done: u64, result: Result<(), UserFault>) -> Result<u64, SysErr> {
    match result {
        Err(fault) if done == 0 => Err(fault.into()),
        _ => Ok(done),
    }
}

/// The error number for what an object refuses.
pub fn object_errno(error: ObjectError) -> Errno {
    match error {
        ObjectError::BeyondEnd => Errno::EFBIG,
        // As tmpfs, whose files end where memory ends.
        ObjectError::NoMemory => Errno::ENOSPC,
    }
}

/// Reads a page cache from `pos` on.
///
/// # Errors
/// EFAULT.
pub fn read_object(object: &KObject, pos: u64, sink: &mut Sink) -> Result<u64, SysErr> {
    let before = sink.done();
    let mut result = Ok(());
    object.read_chunks(pos, sink.left(), &mut |pa, len| {
        let at = sink.done();
        result = sink.put_phys(pa, len).map(|_| ());
        sink.done() - at
    });
    total(sink.done() - before, result)
}

/// Writes a page cache from `pos` on. The caller holds the inode's `write_hold` and has checked the limits.
///
/// # Errors
/// EFAULT, ENOSPC, EFBIG.
pub fn write_object(object: &KObject, pos: u64, source: &mut Source) -> Result<u64, SysErr> {
    let before = source.done();
    let mut result = Ok(());
    let wrote = object.write_chunks(pos, source.left(), &mut |pa, len| {
        let at = source.done();
        result = source.get_phys(pa, len).map(|_| ());
        source.done() - at
    });
    wrote.map_err(object_errno)?;
    total(source.done() - before, result)
}

/// Charges a file's super block for the pages that it has gained, or gives back those lost.
pub fn settle(regular: &Regular, sb: &super::superblock::SuperBlock) {
    let now = regular.cached().map_or(0, |object| object.pages());
    let before = regular.charged.swap(now, Relaxed);
    if now >= before {
        sb.used_pages.fetch_add(now - before, Relaxed);
    } else {
        sb.uncharge(before - now);
    }
}

/// How many of `len` bytes at `pos` fit into a super block's limit.
///
/// # Errors
/// ENOSPC when none do; EFBIG past the largest offset.
pub fn room(sb: &super::superblock::SuperBlock, object: &KObject, pos: u64, len: u64) -> Result<u64, Errno> {
    if pos >= MAX_OBJECT_BYTES {
        return Err(Errno::EFBIG);
    }
    let limit = sb.limit_pages.load(Relaxed);
    if limit == u64::MAX {
        return Ok(len);
    }
    let free = limit.saturating_sub(sb.used_pages.load(Relaxed));
    if free >= len / 4096 + 2 {
        return Ok(len);
    }
    let mut at = pos;
    let end = pos.saturating_add(len);
    let mut fresh = 0;
    // Pages that are there already cost nothing.
    while at < end {
        if !object.resident(at / 4096) {
            fresh += 1;
            if fresh > free {
                break;
            }
        }
        at = (at / 4096 + 1) * 4096;
    }
    let fits = at.min(end).saturating_sub(pos);
    if fits == 0 && len > 0 { Err(Errno::ENOSPC) } else { Ok(fits) }
}
