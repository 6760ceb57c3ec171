//! What can go wrong in the core, and the error number that says so.
//!
//! Every operation gives an [`MmError`]; the kernel turns it into an [`Errno`] by one exhaustive match, so that a new
//! variant does not compile until its number has been chosen.

use crate::frame::NoMemory;
use crate::userfault::Ticket;
use ptshare_abi::Errno;

/// Why an operation on an address space was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmError {
    /// No frame for a table or a page.
    NoMemory,
    /// An argument that no state of the mm would make valid: alignment, unknown bits, an empty range.
    Invalid,
    /// The range is outside the user half, or no gap is large enough for it.
    NoSpace,
    /// Part of the range is not mapped. For madvise, mprotect and their like the mapped part has been done.
    NotMapped,
    /// The old range of mremap is not (one whole part of) a mapping.
    BadRange,
    /// A limit of [`crate::vma::Limits`] or the number of VMAs is reached.
    Limit,
    /// A limit on locked memory is reached.
    LockLimit,
    /// Locking memory is not allowed at all.
    NotPermitted,
    /// The file or the mapping does not allow these rights.
    AccessDenied,
    /// MAP_FIXED_NOREPLACE over an existing mapping.
    Exists,
    /// The object's offsets do not reach that far.
    Overflow,
    /// MAP_SHARED_VALIDATE with flags that mean nothing to the object.
    NotSupported,
    /// msync(MS_INVALIDATE) on locked memory.
    Busy,
    /// A page could not be brought in: the access that populates it would end in a signal.
    Fault,
    /// userfaultfd: the range is not (one mapping that is) registered as the call needs it.
    NotRegistered,
    /// userfaultfd: the address space that it serves is gone.
    Gone,
    /// A user-mode handler has been asked to resolve the fault first: wait for it and try again.
    Userfault(Ticket),
    /// What the caller's own closure said.
    Caller(Errno),
}

impl From<NoMemory> for MmError {
    fn from(_: NoMemory) -> MmError {
        MmError::NoMemory
    }
}

impl From<MmError> for Errno {
    fn from(error: MmError) -> Errno {
        match error {
            MmError::NoMemory | MmError::NoSpace | MmError::NotMapped | MmError::Limit => Errno::ENOMEM,
            MmError::Invalid => Errno::EINVAL,
            MmError::BadRange | MmError::Fault | MmError::Userfault(_) => Errno::EFAULT,
            MmError::NotRegistered => Errno::ENOENT,
            MmError::Gone => Errno::ESRCH,
            MmError::LockLimit => Errno::EAGAIN,
            MmError::NotPermitted => Errno::EPERM,
            MmError::AccessDenied => Errno::EACCES,
            MmError::Exists => Errno::EEXIST,
            MmError::Overflow => Errno::EOVERFLOW,
            MmError::NotSupported => Errno::EOPNOTSUPP,
            MmError::Busy => Errno::EBUSY,
            MmError::Caller(errno) => errno,
        }
    }
}
