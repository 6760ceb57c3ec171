//! Operations on descriptors and on the trace's pipe: what the system calls above the core check first.

use super::{Replay, done, failed, slot, sum, to_page_end};
use ptshare_abi::Errno;
use ptshare_mm::{Env, ObjectError};
use ptshare_trace::report::Answer;
use ptshare_trace::{Call, Op, PAGE, Place};

/// A pipe's pages.
const PIPE_PAGES: usize = 16;
/// What one transfer may have, bytes.
const SCRATCH: u64 = 64 << 10;

/// An open descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    /// The kernel's file.
    pub(super) file: usize,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

fn file_error(error: ObjectError) -> Errno {
    match error {
        ObjectError::BeyondEnd => Errno::EFBIG,
        ObjectError::NoMemory => Errno::ENOSPC,
    }
}

impl Replay<'_> {
    /// An operation on files; `None` when it would reach outside of the trace's memory.
    pub(super) fn file(&mut self, who: usize, op: &Op, answer: &mut Answer) -> Option<i64> {
        let [a, b, c, d, ..] = op.args;
        match op.call {
            // As in the interpreter: what an unaligned copy over itself gives depends on how bytes are copied.
            Call::PwriteFrom | Call::PreadInto if Place(b).offset() % PAGE != d % PAGE => return None,
            Call::PipeOut | Call::PipeIn => return self.through_pipe(who, op),
            Call::Memfd => {
                let file = self.kernel.memfd(0);
                return Some(self.opened(who, a, Descriptor { file, readable: true, writable: true }));
            }
            Call::Open => {
                let known = self.names.get(&b).copied();
                let file = known.unwrap_or_else(|| self.kernel.memfd(0));
                self.names.insert(b, file);
                return Some(self.opened(who, a, Descriptor { file, readable: c != 1, writable: c != 0 }));
            }
            _ => {}
        }
        let Some(fd) = slot(a).and_then(|slot| self.process(who).fds[slot]) else {
            if let Call::PwriteFrom | Call::PreadInto = op.call {
                self.resolve(who, Place(b), c)?;
            }
            return if op.call == Call::Pwrite && c > SCRATCH { None } else { Some(failed(Errno::EBADF)) };
        };
        self.file_call(who, op, fd, answer)
    }

    fn opened(&mut self, who: usize, at: u64, fd: Descriptor) -> i64 {
        if let Some(slot) = slot(at) {
            self.process(who).fds[slot] = Some(fd);
        }
        0
    }

    fn file_call(&mut self, who: usize, op: &Op, fd: Descriptor, answer: &mut Answer) -> Option<i64> {
        let [a, b, c, d, ..] = op.args;
        let object = self.kernel.file(fd.file).clone();
        Some(match op.call {
            Call::Close => {
                if let Some(slot) = slot(a) {
                    self.process(who).fds[slot] = None;
                }
                0
            }
            Call::Ftruncate if !fd.writable || b > i64::MAX as u64 => failed(Errno::EINVAL),
            Call::Ftruncate => done(self.kernel.ftruncate(fd.file, b)),
            Call::Fallocate => self.fallocate(fd, b, c, d),
            Call::Pwrite => {
                if c > SCRATCH {
                    return None;
                }
                if !fd.writable {
                    return Some(failed(Errno::EBADF));
                }
                let words = (0..c.div_ceil(8)).flat_map(|word| d.wrapping_add(word << 32).to_le_bytes());
                let bytes: Vec<u8> = words.take(c as usize).collect();
                object.write_at(b, &bytes).map_or_else(|e| failed(file_error(e)), |n| n as i64)
            }
            Call::Pread => {
                if !fd.readable {
                    return Some(failed(Errno::EBADF));
                }
                let mut bytes = vec![0; c.min(SCRATCH) as usize];
                let got = object.read_at(b, &mut bytes);
                answer.extra = sum(bytes.iter().take(got).map(|&byte| byte.into()));
                got as i64
            }
            Call::PwriteFrom => {
                let address = self.resolve(who, Place(b), c)?;
                if !fd.writable {
                    return Some(failed(Errno::EBADF));
                }
                self.pwrite_from(who, fd, address, c, d)
            }
            Call::PreadInto => {
                let address = self.resolve(who, Place(b), c)?;
                if !fd.readable {
                    return Some(failed(Errno::EBADF));
                }
                self.pread_into(who, fd, address, c, d)
            }
            Call::Seek => seek(&object, b, c),
            _ => object.size_bytes() as i64,
        })
    }

    fn fallocate(&self, fd: Descriptor, mode: u64, offset: u64, len: u64) -> i64 {
        const KEEP: u64 = 1;
        const PUNCH: u64 = 2;
        const ZERO: u64 = 16;
        let object = self.kernel.file(fd.file);
        if offset > i64::MAX as u64 || len == 0 || len > i64::MAX as u64 {
            failed(Errno::EINVAL)
        } else if mode & !(KEEP | PUNCH | ZERO) != 0 || mode & PUNCH != 0 && mode != PUNCH | KEEP {
            failed(Errno::EOPNOTSUPP)
        } else if !fd.writable {
            failed(Errno::EBADF)
        } else if mode & ZERO != 0 {
            failed(Errno::EOPNOTSUPP)
        } else if mode & PUNCH != 0 {
            done(object.punch_hole(offset, len).map_err(file_error))
        } else {
            done(object.allocate(offset, len, mode & KEEP == 0).map_err(file_error))
        }
    }

    fn pwrite_from(&self, who: usize, fd: Descriptor, address: u64, len: u64, offset: u64) -> i64 {
        let mm = self.kernel.mm(self.pid(who));
        let mut taken = 0;
        let wrote = self.kernel.file(fd.file).write_chunks(offset, len, &mut |pa, room| {
            let mut got = 0;
            while got < room {
                let part = to_page_end(address + taken).min(room - got);
                let mut bytes = vec![0; part as usize];
                if mm.read_user(address + taken, &mut bytes).is_err() {
                    break;
                }
                self.kernel.arena().write_phys(pa + got, &bytes);
                got += part;
                taken += part;
            }
            got
        });
        match wrote {
            Ok(0) if len > 0 => failed(Errno::EFAULT),
            Ok(wrote) => wrote as i64,
            Err(error) => failed(file_error(error)),
        }
    }

    fn pread_into(&self, who: usize, fd: Descriptor, address: u64, len: u64, offset: u64) -> i64 {
        let mm = self.kernel.mm(self.pid(who));
        let mut bytes = vec![0; len as usize];
        let got = self.kernel.file(fd.file).read_at(offset, &mut bytes) as u64;
        let mut given = 0;
        while given < got {
            let part = to_page_end(address + given).min(got - given);
            let piece = bytes.get(given as usize..(given + part) as usize).unwrap_or_default();
            if mm.write_user(address + given, piece).is_err() {
                break;
            }
            given += part;
        }
        if given == 0 && got > 0 { failed(Errno::EFAULT) } else { given as i64 }
    }

    fn through_pipe(&mut self, who: usize, op: &Op) -> Option<i64> {
        let (place, len) = (Place(op.args[0]), op.args[1]);
        let address = self.resolve(who, place, len)?;
        if address % PAGE + len > PAGE {
            return None;
        }
        let pid = self.pid(who);
        if op.call == Call::PipeOut {
            return Some(self.pipe_out(pid, address, len));
        }
        let Some(first) = self.pipe.first() else { return Some(failed(Errno::EAGAIN)) };
        // All that is wanted lies in one page of memory: it can be had or not.
        let mut byte = [0];
        byte[0] = first.first().copied().unwrap_or(0);
        if self.kernel.mm(pid).write_user(address, &byte).is_err() {
            return Some(failed(Errno::EFAULT));
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len && !self.pipe.is_empty() {
            let room = len as usize - bytes.len();
            let page = &mut self.pipe[0];
            bytes.extend(page.drain(..room.min(page.len())));
            if page.is_empty() {
                self.pipe.remove(0);
            }
        }
        let _ = self.kernel.mm(pid).write_user(address, &bytes);
        Some(bytes.len() as i64)
    }

    fn pipe_out(&mut self, pid: u32, address: u64, len: u64) -> i64 {
        let mut bytes = vec![0; len as usize];
        let merges = self.pipe.last().is_some_and(|page| len < PAGE && page.len() as u64 + len <= PAGE);
        if !merges && self.pipe.len() >= PIPE_PAGES {
            return failed(Errno::EAGAIN);
        }
        if self.kernel.mm(pid).read_user(address, &mut bytes).is_err() {
            return failed(Errno::EFAULT);
        }
        match self.pipe.last_mut().filter(|_| merges) {
            Some(page) => page.extend(bytes),
            None => self.pipe.push(bytes),
        }
        len as i64
    }
}

fn seek<E: Env>(object: &ptshare_mm::Object<E>, offset: u64, whence: u64) -> i64 {
    let size = object.size_bytes();
    match whence {
        0 => offset as i64,
        2 => (size + offset) as i64,
        _ if offset >= size => failed(Errno::ENXIO),
        3 => match object.next_data(offset).filter(|&at| at < size) {
            Some(at) => at as i64,
            None => failed(Errno::ENXIO),
        },
        _ => {
            let hole = (offset / PAGE..size.div_ceil(PAGE)).find(|&page| !object.resident(page));
            hole.map_or(size, |page| (page * PAGE).clamp(offset, size)) as i64
        }
    }
}
