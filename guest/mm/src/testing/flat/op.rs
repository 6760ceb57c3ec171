//! The calls of a [`FlatKernel`] as data, apart from whoever makes them up: a random generator, a table, a trace.

use super::FlatKernel;
use crate::{Access, FaultOutcome};
use ptshare_abi::Errno;

/// One call, or one access, of a process. Numbers are as a program would pass them; `file` is an index into the files of
/// the [`FlatKernel`], offsets in files are bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the calls that the variants are named after"
)]
pub enum Op {
    Mmap {
        addr: u64,
        len: u64,
        prot: u64,
        flags: u64,
        file: Option<(usize, u64)>,
    },
    Munmap {
        addr: u64,
        len: u64,
    },
    Mprotect {
        addr: u64,
        len: u64,
        prot: u64,
    },
    Mremap {
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u64,
        new_addr: u64,
    },
    Madvise {
        addr: u64,
        len: u64,
        advice: u64,
    },
    Mlock {
        addr: u64,
        len: u64,
        flags: u64,
    },
    Munlock {
        addr: u64,
        len: u64,
    },
    Mlockall {
        flags: u64,
    },
    Munlockall,
    Msync {
        addr: u64,
        len: u64,
        flags: u64,
    },
    Brk {
        addr: u64,
    },
    Fork,
    Exec,
    Exit,
    /// A load of the aligned word at `addr` by user code.
    Load {
        addr: u64,
    },
    /// A store to it.
    Store {
        addr: u64,
        value: u64,
    },
    /// An instruction fetch.
    Fetch {
        addr: u64,
    },
    /// The kernel reads the word at `addr`, as read(2) reads its buffer.
    Peek {
        addr: u64,
    },
    /// The kernel writes it.
    Poke {
        addr: u64,
        value: u64,
    },
    Ftruncate {
        file: usize,
        bytes: u64,
    },
    /// fallocate with FALLOC_FL_PUNCH_HOLE.
    Punch {
        file: usize,
        offset: u64,
        len: u64,
    },
    /// fallocate with mode 0.
    Fallocate {
        file: usize,
        offset: u64,
        len: u64,
    },
    /// pread of one word; 0 bytes read give 0.
    Pread {
        file: usize,
        offset: u64,
    },
    /// pwrite of one word.
    Pwrite {
        file: usize,
        offset: u64,
        value: u64,
    },
}

/// What an [`Op`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// What the call gave: an address, a pid, a word, or 0.
    Value(u64),
    /// The call failed.
    Error(Errno),
    /// The access ended in a signal.
    Fault(FaultOutcome),
}

impl From<Result<u64, Errno>> for Answer {
    fn from(result: Result<u64, Errno>) -> Answer {
        result.map_or_else(Answer::Error, Answer::Value)
    }
}

impl From<Result<(), Errno>> for Answer {
    fn from(result: Result<(), Errno>) -> Answer {
        result.map(|()| 0).into()
    }
}

impl From<Result<u64, FaultOutcome>> for Answer {
    fn from(result: Result<u64, FaultOutcome>) -> Answer {
        result.map_or_else(Answer::Fault, Answer::Value)
    }
}

impl FlatKernel {
    /// Does `op` as process `pid`.
    ///
    /// # Panics
    /// If there is no such process or file.
    pub fn apply(&mut self, pid: u32, op: &Op) -> Answer {
        match *op {
            Op::Mmap { addr, len, prot, flags, file } => self.mmap(pid, addr, len, prot, flags, file).into(),
            Op::Munmap { addr, len } => self.munmap(pid, addr, len).into(),
            Op::Mprotect { addr, len, prot } => self.mprotect(pid, addr, len, prot).into(),
            Op::Mremap { old, old_len, new_len, flags, new_addr } => {
                self.mremap(pid, old, old_len, new_len, flags, new_addr).into()
            }
            Op::Madvise { addr, len, advice } => self.madvise(pid, addr, len, advice).into(),
            Op::Mlock { addr, len, flags } => self.mlock2(pid, addr, len, flags).into(),
            Op::Munlock { addr, len } => self.munlock(pid, addr, len).into(),
            Op::Mlockall { flags } => self.mlockall(pid, flags).into(),
            Op::Munlockall => {
                self.munlockall(pid);
                Answer::Value(0)
            }
            Op::Msync { addr, len, flags } => self.msync(pid, addr, len, flags).into(),
            Op::Brk { addr } => Answer::Value(self.brk(pid, addr)),
            Op::Fork => self.fork(pid).map(u64::from).into(),
            Op::Exec => {
                self.exec(pid);
                Answer::Value(0)
            }
            Op::Exit => {
                self.exit(pid);
                Answer::Value(0)
            }
            Op::Load { addr } => self.load(pid, addr).into(),
            Op::Store { addr, value } => self.store(pid, addr, value).map(|()| 0).into(),
            Op::Fetch { addr } => self.touch(pid, addr, Access::EXEC).map(|()| 0).into(),
            Op::Peek { addr } => self.peek(pid, addr).into(),
            Op::Poke { addr, value } => self.poke(pid, addr, value).into(),
            Op::Ftruncate { file, bytes } => self.ftruncate(file, bytes).into(),
            Op::Punch { file, offset, len } => self.punch_hole(file, offset, len).into(),
            Op::Fallocate { file, offset, len } => self.fallocate(file, offset, len).into(),
            Op::Pread { file, offset } => Answer::Value(self.pread(file, offset)),
            Op::Pwrite { file, offset, value } => self.pwrite(file, offset, value).into(),
        }
    }
}
