//! Operations on descriptors, segments and the trace's pipe.

use crate::calls::{answer, call};
use crate::control::{Record, SCRATCH};
use crate::turns::Machine;
use ptshare_trace::call::NONE;
use ptshare_trace::report::mix;
use ptshare_trace::{Call, Op, PAGE, Place};
use std::sync::atomic::Ordering::SeqCst;

/// The path of a trace's file.
pub fn name(file: u64) -> &'static str {
    path(file).to_str().unwrap_or("f")
}

fn path(file: u64) -> &'static std::ffi::CStr {
    match file {
        0 => c"f0",
        1 => c"f1",
        2 => c"f2",
        _ => c"f3",
    }
}

/// A file's size, or the negative error number.
pub fn size(fd: i32) -> i64 {
    // SAFETY: all zeros are a valid stat; the call fills it in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is live.
    match unsafe { libc::fstat(fd, &mut stat) } {
        0 => stat.st_size,
        _ => -i64::from(ptshare_programs::errno()),
    }
}

impl Machine<'_> {
    /// The real descriptor of a slot; -1 for none.
    pub fn fd(&self, slot: u64) -> u64 {
        if slot == NONE { u64::MAX } else { self.fds[slot as usize] as i64 as u64 }
    }

    fn set_fd(&mut self, slot: u64, fd: i64) -> i64 {
        if fd < 0 {
            return fd;
        }
        let old = std::mem::replace(&mut self.fds[slot as usize], fd as i32);
        if old >= 0 {
            call(libc::SYS_close, &[old as u64]);
        }
        0
    }

    /// An operation on files; `None` when it would reach outside of the trace's memory.
    pub fn file(&mut self, op: &Op, record: &Record) -> Option<i64> {
        let [a, b, c, d, ..] = op.args;
        let fd = self.fd(a);
        Some(match op.call {
            Call::Memfd => {
                let fd = call(libc::SYS_memfd_create, &[c"trace".as_ptr() as u64, b]);
                self.set_fd(a, fd)
            }
            Call::Open => {
                let flags = c | libc::O_CREAT as u64;
                let fd = call(libc::SYS_open, &[path(b).as_ptr() as u64, flags, 0o600]);
                self.set_fd(a, fd)
            }
            Call::Close => {
                self.fds[a as usize] = -1;
                call(libc::SYS_close, &[fd])
            }
            Call::Ftruncate => call(libc::SYS_ftruncate, &[fd, b]),
            Call::Fallocate => call(libc::SYS_fallocate, &[fd, b, c, d]),
            Call::Pwrite => self.pwrite(fd, b, c, d)?,
            Call::Pread => {
                let (got, sum) = self.pread(fd as i32, c, b);
                record.extra.store(sum, SeqCst);
                got
            }
            // What an unaligned copy over itself gives depends on how bytes are copied.
            Call::PwriteFrom | Call::PreadInto if Place(b).offset() % PAGE != d % PAGE => return None,
            Call::PwriteFrom => {
                let address = self.resolve(Place(b), c)?;
                call(libc::SYS_pwrite64, &[fd, address, c, d])
            }
            Call::PreadInto => {
                let address = self.resolve(Place(b), c)?;
                call(libc::SYS_pread64, &[fd, address, c, d])
            }
            Call::Seek => call(libc::SYS_lseek, &[fd, b, c]),
            _ => size(fd as i32),
        })
    }

    fn pwrite(&self, fd: u64, offset: u64, len: u64, value: u64) -> Option<i64> {
        if len > SCRATCH as u64 {
            return None;
        }
        for word in 0..len.div_ceil(8) {
            // SAFETY: inside the scratch memory, which only system calls use besides.
            unsafe { ((self.scratch + word * 8) as *mut u64).write_volatile(value.wrapping_add(word << 32)) };
        }
        Some(call(libc::SYS_pwrite64, &[fd, self.scratch, len, offset]))
    }

    /// Reads a file; the result, and a number for the bytes.
    pub fn pread(&self, fd: i32, len: u64, offset: u64) -> (i64, u64) {
        let got = call(libc::SYS_pread64, &[fd as i64 as u64, self.scratch, len.min(SCRATCH as u64), offset]);
        // SAFETY: as in `pwrite`.
        let byte = |at: i64| unsafe { ((self.scratch + at as u64) as *const u8).read_volatile() };
        (got, (0..got.max(0)).fold(0, |sum, at| mix(sum, byte(at).into())))
    }

    /// The trace's pipe.
    pub fn through_pipe(&self, op: &Op) -> Option<i64> {
        let address = self.resolve(Place(op.args[0]), op.args[1])?;
        // How much of a transfer counts that ends in the middle depends on how a pipe packs its pages.
        if address % PAGE + op.args[1] > PAGE {
            return None;
        }
        Some(match op.call {
            Call::PipeOut => call(libc::SYS_write, &[self.pipe[1] as u64, address, op.args[1]]),
            _ => call(libc::SYS_read, &[self.pipe[0] as u64, address, op.args[1]]),
        })
    }

    /// An operation on segments.
    pub fn segment(&mut self, op: &Op, record: &Record) -> Option<i64> {
        let [a, b, c, d, ..] = op.args;
        if op.call == Call::Shmdt {
            return self.shmdt(Place(a));
        }
        let id = self.segments[a as usize] as i64 as u64;
        Some(match op.call {
            Call::Shmget => {
                let id = call(libc::SYS_shmget, &[0, b, c | 0o600]);
                if id >= 0 {
                    if !self.control.segment(id as i32) {
                        call(libc::SYS_shmctl, &[id as u64, libc::IPC_RMID as u64, 0]);
                    }
                    self.segments[a as usize] = id as i32;
                }
                id.min(0)
            }
            Call::Shmat => {
                let bytes = self.segment_bytes(id);
                let address = self.resolve(Place(b), bytes)?;
                let result = call(libc::SYS_shmat, &[id, address, c]);
                self.placed(result, d, bytes)
            }
            Call::Shmrm => call(libc::SYS_shmctl, &[id, libc::IPC_RMID as u64, 0]),
            _ => {
                let (result, stat) = stat(id);
                record.extra.store(stat.shm_segsz as u64 | stat.shm_nattch << 48, SeqCst);
                result
            }
        })
    }

    fn segment_bytes(&self, id: u64) -> u64 {
        stat(id).1.shm_segsz as u64
    }

    fn shmdt(&mut self, place: Place) -> Option<i64> {
        let address = self.resolve(place, 1)?;
        let result = call(libc::SYS_shmdt, &[address]);
        if result == 0 {
            self.handles.iter_mut().filter(|handle| handle.0 == address).for_each(|handle| *handle = (0, 0));
        }
        Some(answer(result))
    }
}

fn stat(id: u64) -> (i64, libc::shmid_ds) {
    // SAFETY: all zeros are a valid shmid_ds.
    let mut stat: libc::shmid_ds = unsafe { std::mem::zeroed() };
    let result = call(libc::SYS_shmctl, &[id, libc::IPC_STAT as u64, &raw mut stat as u64]);
    (result, stat)
}
