//! System calls: from a number in RAX to a function, and from its answer to a number in RAX.
//!
//! The table of calls is data in `ptshare_abi::table`; the dispatcher below is generated from it, so that a call is
//! implemented exactly when the table says so.

use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::UserFault;

/// What a system call answers: the value for RAX, or why not.
pub type SysResult = Result<u64, SysErr>;

/// Why a system call has no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SysErr {
    /// An error for the program.
    Errno(Errno),
    /// A signal interrupted it: start again or fail with EINTR, as the signal's disposition says.
    Restart(Restart),
}

/// How an interrupted call goes on; Linux's ERESTART* (include/linux/errno.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// Restart after a handler with SA_RESTART, or when no handler ran; else EINTR (ERESTARTSYS).
    Sys,
    /// Restart only when no handler ran; else EINTR (ERESTARTNOHAND).
    NoHandler,
    /// Restart always (ERESTARTNOINTR).
    Always,
    /// Resume a relative sleep through restart_syscall when no handler ran; else EINTR (ERESTART_RESTARTBLOCK).
    Block,
}

impl From<Errno> for SysErr {
    fn from(errno: Errno) -> Self {
        SysErr::Errno(errno)
    }
}

impl From<UserFault> for SysErr {
    fn from(_: UserFault) -> Self {
        SysErr::Errno(Errno::EFAULT)
    }
}

/// Six argument registers, in order.
pub type Args = [u64; 6];

/// The argument registers of a trap frame.
pub fn args(frame: &TrapFrame) -> Args {
    [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9]
}
