//! The operations, as a table: what each is called and what its arguments are. Text, generator and shrinker all go by it.

use crate::ARGS;

/// What an argument is: how it is written and how it is made smaller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An address: [`crate::Place`].
    Addr,
    /// A length or an offset, bytes.
    Bytes,
    /// A number of pages or a count.
    Count,
    /// A word that is stored.
    Value,
    /// `PROT_*`.
    Prot,
    /// Flags or a number with names: index into [`crate::names::TABLES`].
    Flags(usize),
    /// A descriptor slot, or none.
    Fd,
    /// A segment slot.
    Segment,
    /// The handle that takes an address of the kernel's choice, or none.
    Handle,
    /// A process.
    Proc,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident $text:literal [$($kind:expr),*];)*) => {
        /// What an operation does.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Call { $($(#[$doc])* $name,)* }

        impl Call {
            /// All of them.
            pub const ALL: &[Call] = &[$(Call::$name,)*];

            /// Its word in the text form.
            pub const fn text(self) -> &'static str {
                match self { $(Call::$name => $text,)* }
            }

            /// What its arguments are.
            pub const fn kinds(self) -> &'static [Kind] {
                match self { $(Call::$name => { const KINDS: &[Kind] = &[$($kind),*]; KINDS })* }
            }
        }
    };
}

use Kind::*;
/// Indices into [`crate::names::TABLES`].
pub(crate) const MAP: usize = 0;
pub(crate) const REMAP: usize = 1;
pub(crate) const ADVICE: usize = 2;
pub(crate) const SYNC: usize = 3;
pub(crate) const LOCK: usize = 4;
pub(crate) const LOCKALL: usize = 5;
pub(crate) const MEMFD: usize = 6;
pub(crate) const OPEN: usize = 7;
pub(crate) const FALLOCATE: usize = 8;
pub(crate) const SEEK: usize = 9;
pub(crate) const SHMGET: usize = 10;
pub(crate) const SHMAT: usize = 11;

calls! {
    /// mmap(2).
    Mmap "mmap" [Addr, Bytes, Prot, Flags(MAP), Fd, Bytes, Handle];
    /// munmap(2). Memory behind a handle is unmapped as a whole.
    Munmap "munmap" [Addr, Bytes];
    /// mprotect(2).
    Mprotect "mprotect" [Addr, Bytes, Prot];
    /// mremap(2): old address and length, new length, flags, new address.
    Mremap "mremap" [Addr, Bytes, Bytes, Flags(REMAP), Addr, Handle];
    /// madvise(2). MADV_FREE is followed by MADV_DONTNEED on the same range: when pages go is Linux's choice.
    Madvise "madvise" [Addr, Bytes, Flags(ADVICE)];
    /// brk(2), so many bytes above the break at the start of the trace.
    Brk "brk" [Bytes];
    /// Reads a word.
    Load "load" [Addr];
    /// Writes a word.
    Store "store" [Addr, Value];
    /// Writes a word into each of so many pages; stops at a signal.
    Fill "fill" [Addr, Count, Value];
    /// Reads a word of each of so many pages; stops at a signal.
    Sum "sum" [Addr, Count];
    /// Calls the code at an address if it is a `ret`.
    Exec "exec" [Addr];
    /// mincore(2).
    Mincore "mincore" [Addr, Bytes];
    /// msync(2).
    Msync "msync" [Addr, Bytes, Flags(SYNC)];
    /// mlock(2).
    Mlock "mlock" [Addr, Bytes];
    /// mlock2(2).
    Mlock2 "mlock2" [Addr, Bytes, Flags(LOCK)];
    /// munlock(2).
    Munlock "munlock" [Addr, Bytes];
    /// mlockall(2).
    Mlockall "mlockall" [Flags(LOCKALL)];
    /// munlockall(2).
    Munlockall "munlockall" [];
    /// memfd_create(2).
    Memfd "memfd" [Fd, Flags(MEMFD)];
    /// open(2) of the file with this number, which the trace's processes share.
    Open "open" [Fd, Count, Flags(OPEN)];
    /// close(2).
    Close "close" [Fd];
    /// ftruncate(2).
    Ftruncate "ftruncate" [Fd, Bytes];
    /// fallocate(2): mode, offset, length.
    Fallocate "fallocate" [Fd, Flags(FALLOCATE), Bytes, Bytes];
    /// pwrite(2) of words derived from a value: offset, length, value.
    Pwrite "pwrite" [Fd, Bytes, Bytes, Value];
    /// pread(2) into memory that is not the trace's: offset, length.
    Pread "pread" [Fd, Bytes, Bytes];
    /// pwrite(2) from mapped memory: address, length, offset.
    PwriteFrom "pwritefrom" [Fd, Addr, Bytes, Bytes];
    /// pread(2) into mapped memory: address, length, offset.
    PreadInto "preadinto" [Fd, Addr, Bytes, Bytes];
    /// lseek(2): offset, whence.
    Seek "seek" [Fd, Bytes, Flags(SEEK)];
    /// fstat(2): size.
    Fstat "fstat" [Fd];
    /// Writes mapped memory into the trace's pipe; all of it lies in one page.
    PipeOut "pipeout" [Addr, Bytes];
    /// Reads from the trace's pipe into mapped memory, in one page.
    PipeIn "pipein" [Addr, Bytes];
    /// shmget(2) of a private segment: size, flags.
    Shmget "shmget" [Segment, Bytes, Flags(SHMGET)];
    /// shmat(2).
    Shmat "shmat" [Segment, Addr, Flags(SHMAT), Handle];
    /// shmdt(2).
    Shmdt "shmdt" [Addr];
    /// shmctl(2), IPC_RMID.
    Shmrm "shmrm" [Segment];
    /// shmctl(2), IPC_STAT: size and attachments.
    Shmstat "shmstat" [Segment];
    /// fork(2).
    Fork "fork" [Proc];
    /// Leaves with a status; its parent waits for it at once.
    Exit "exit" [Count];
    /// SIGKILL to a child, and wait for it.
    Kill "kill" [Proc];
    /// What /proc/self/maps says of the arena.
    Maps "maps" [];
}

/// One operation of one process. Arguments that its [`Call`] does not have are 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Op {
    /// Who.
    pub proc: u8,
    /// What.
    pub call: Call,
    /// With what, as [`Call::kinds`] says.
    pub args: [u64; ARGS],
}

/// The absent slot.
pub const NONE: u64 = u64::MAX;

impl Op {
    /// An operation; arguments that are not given are 0.
    pub fn new(proc: u8, call: Call, args: &[u64]) -> Op {
        let mut all = [0; ARGS];
        for (place, &arg) in all.iter_mut().zip(args) {
            *place = arg;
        }
        Op { proc, call, args: all }
    }

    /// Its arguments with their kinds.
    pub fn arguments(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        self.call.kinds().iter().copied().zip(self.args)
    }
}
