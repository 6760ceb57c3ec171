//! The operations, each on `[start, end)` of the operator's mapping.

use crate::family::SPAN;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_mm::testing::FlatKernel;
use ptshare_paging::PAGE_BYTES;

/// What an operation gets to know.
pub struct Call<'a> {
    pub kernel: &'a mut FlatKernel,
    pub pid: u32,
    pub start: u64,
    pub end: u64,
    /// The whole mapping.
    pub base: u64,
    pub whole: u64,
    /// Bytes of a page.
    pub unit: u64,
    /// A free place for the range, congruent to it.
    pub target: u64,
    /// The file that is mapped, and the offset of the range in it.
    pub file: (usize, u64),
}

/// Where what was in the range is afterwards, if it has moved.
pub type Outcome = Result<u64, Errno>;
pub type Operation = fn(&mut Call<'_>) -> Outcome;

const READ: u64 = abi::PROT_READ as u64;
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;
const EXEC: u64 = abi::PROT_EXEC as u64;
const MAYMOVE: u64 = abi::MREMAP_MAYMOVE as u64;
const FIXED: u64 = (abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED) as u64;

impl Call<'_> {
    fn len(&self) -> u64 {
        self.end - self.start
    }

    fn protect(&self, prot: u64) -> Outcome {
        self.kernel.mprotect(self.pid, self.start, self.len(), prot).map(|()| 0)
    }

    fn map_over(&self, prot: u64, flags: u32, file: Option<(usize, u64)>) -> Outcome {
        let flags = u64::from(flags | abi::MAP_FIXED);
        self.kernel.mmap(self.pid, self.start, self.len(), prot, flags, file).map(|_| 0)
    }

    fn remap(&self, old: u64, old_len: u64, new_len: u64, flags: u64, to: u64) -> Outcome {
        self.kernel.mremap(self.pid, old, old_len, new_len, flags, to)
    }

    fn advise(&self, advice: u32) -> Outcome {
        self.kernel.madvise(self.pid, self.start, self.len(), advice.into()).map(|()| 0)
    }
}

pub fn nothing(_: &mut Call<'_>) -> Outcome {
    Ok(0)
}

pub fn munmap(call: &mut Call<'_>) -> Outcome {
    call.kernel.munmap(call.pid, call.start, call.len()).map(|()| 0)
}

pub fn map_anonymous(call: &mut Call<'_>) -> Outcome {
    call.map_over(RW, abi::MAP_PRIVATE | abi::MAP_ANONYMOUS, None)
}

pub fn map_populated(call: &mut Call<'_>) -> Outcome {
    call.map_over(RW, abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_POPULATE, None)
}

pub fn map_shared(call: &mut Call<'_>) -> Outcome {
    call.map_over(RW, abi::MAP_SHARED | abi::MAP_ANONYMOUS, None)
}

pub fn map_file_again(call: &mut Call<'_>) -> Outcome {
    call.map_over(READ, abi::MAP_SHARED, Some(call.file))
}

pub fn protect_none(call: &mut Call<'_>) -> Outcome {
    call.protect(0)
}

pub fn protect_read(call: &mut Call<'_>) -> Outcome {
    call.protect(READ)
}

pub fn protect_exec(call: &mut Call<'_>) -> Outcome {
    call.protect(READ | EXEC)
}

pub fn protect_write(call: &mut Call<'_>) -> Outcome {
    call.protect(RW)
}

pub fn protect_and_back(call: &mut Call<'_>) -> Outcome {
    call.protect(0)?;
    call.protect(RW)
}

/// Cuts the range off the end of the part before it.
pub fn remap_shrink(call: &mut Call<'_>) -> Outcome {
    call.remap(call.start - call.unit, call.len() + call.unit, call.unit, MAYMOVE, 0).map(|_| 0)
}

pub fn remap_grow(call: &mut Call<'_>) -> Outcome {
    call.remap(call.start, call.len(), call.len() + 2 * call.unit, MAYMOVE, 0)
}

pub fn remap_move(call: &mut Call<'_>) -> Outcome {
    call.remap(call.start, call.len(), call.len(), FIXED, call.target)
}

pub fn remap_move_out_of_step(call: &mut Call<'_>) -> Outcome {
    call.remap(call.start, call.len(), call.len(), FIXED, call.target + 5 * call.unit)
}

pub fn remap_move_over(call: &mut Call<'_>) -> Outcome {
    let flags = u64::from(abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_FIXED);
    call.kernel.mmap(call.pid, call.target, call.len(), RW, flags, None)?;
    for at in [call.target, call.target + call.len() - PAGE_BYTES] {
        call.kernel.store(call.pid, at, 7).expect("it has just been mapped");
    }
    call.remap(call.start, call.len(), call.len(), FIXED, call.target)
}

pub fn remap_leave(call: &mut Call<'_>) -> Outcome {
    let flags = FIXED | u64::from(abi::MREMAP_DONTUNMAP);
    call.remap(call.start, call.len(), call.len(), flags, call.target)
}

/// The old way to map a second time: an old length of 0.
pub fn remap_again(call: &mut Call<'_>) -> Outcome {
    call.remap(call.start, 0, call.len(), FIXED, call.target)
}

/// Shows the same pages again.
pub fn remap_pages(call: &mut Call<'_>) -> Outcome {
    let pgoff = call.file.1 / PAGE_BYTES;
    call.kernel.remap_file_pages(call.pid, call.start, call.len(), 0, pgoff, 0).map(|()| 0)
}

/// Shows the pages that stand a span further on in the file.
pub fn remap_pages_on(call: &mut Call<'_>) -> Outcome {
    let pgoff = (call.file.1 + SPAN) / PAGE_BYTES;
    call.kernel.remap_file_pages(call.pid, call.start, call.len(), 0, pgoff, 0).map(|()| 0)
}

macro_rules! advice {
    ($($name:ident $advice:ident)+) => {
        $(pub fn $name(call: &mut Call<'_>) -> Outcome {
            call.advise(abi::$advice)
        })+
    };
}

advice! {
    dont_need MADV_DONTNEED
    dont_need_locked MADV_DONTNEED_LOCKED
    free MADV_FREE
    remove MADV_REMOVE
    populate_read MADV_POPULATE_READ
    populate_write MADV_POPULATE_WRITE
    dont_fork MADV_DONTFORK
    do_fork MADV_DOFORK
    wipe_on_fork MADV_WIPEONFORK
    sequential MADV_SEQUENTIAL
    dont_dump MADV_DONTDUMP
    random MADV_RANDOM
    will_need MADV_WILLNEED
    cold MADV_COLD
}

pub fn lock(call: &mut Call<'_>) -> Outcome {
    call.kernel.mlock2(call.pid, call.start, call.len(), 0).map(|()| 0)
}

pub fn lock_on_fault(call: &mut Call<'_>) -> Outcome {
    call.kernel.mlock2(call.pid, call.start, call.len(), abi::MLOCK_ONFAULT.into()).map(|()| 0)
}

pub fn unlock(call: &mut Call<'_>) -> Outcome {
    call.kernel.mlock2(call.pid, call.base, call.whole, abi::MLOCK_ONFAULT.into())?;
    call.kernel.munlock(call.pid, call.start, call.len()).map(|()| 0)
}

pub fn lock_all(call: &mut Call<'_>) -> Outcome {
    let flags = abi::MCL_CURRENT | abi::MCL_FUTURE | abi::MCL_ONFAULT;
    call.kernel.mlockall(call.pid, flags.into()).map(|()| 0)
}

pub fn sync(call: &mut Call<'_>) -> Outcome {
    call.kernel.msync(call.pid, call.start, call.len(), abi::MS_SYNC.into()).map(|()| 0)
}

/// Reads the first word of the range and stores it again.
pub fn store(call: &mut Call<'_>) -> Outcome {
    let word = call.kernel.load(call.pid, call.start).expect("it can be read");
    call.kernel.store(call.pid, call.start, word).map_err(|_| Errno::EFAULT).map(|()| 0)
}

/// A child that comes and goes.
pub fn fork(call: &mut Call<'_>) -> Outcome {
    let child = call.kernel.fork(call.pid)?;
    call.kernel.load(child, call.start).expect("the child can read");
    call.kernel.exit(child);
    Ok(0)
}

pub fn exec(call: &mut Call<'_>) -> Outcome {
    call.kernel.exec(call.pid);
    Ok(0)
}
