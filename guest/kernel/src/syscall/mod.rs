//! System calls: from a number in RAX to a function, and from its answer to a number in RAX.
//!
//! The table of calls is data in `ptshare_abi::table`; the dispatcher below is generated from it, so that a call is
//! implemented exactly when the table says so.

mod barrier;
mod dir;
mod fd;
mod file;
mod ident;
mod memory;
mod mount;
mod pidfd;
mod poll;
mod posix_timer;
mod process;
mod ptrace;
mod remote;
mod sched;
mod signal;
mod socket;
mod splice;
mod stat;
mod time;
mod timerfd;
mod transfer;

use crate::task::{current, trace, usage};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::table::State;
use ptshare_machine::Machine;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::UserFault;
use ptshare_mm::Env;
use ptshare_mm::error::MmError;

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

impl From<MmError> for SysErr {
    fn from(error: MmError) -> Self {
        SysErr::Errno(error.into())
    }
}

/// Six argument registers, in order.
pub type Args = [u64; 6];

/// The argument registers of a trap frame.
pub fn args(frame: &TrapFrame) -> Args {
    [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9]
}

pub use crate::ipc::msg::{msgctl, msgget, msgrcv, msgsnd};
pub use crate::ipc::sem::{semctl, semget, semop, semtimedop};
pub use crate::ipc::shm::{shmat, shmctl, shmdt, shmget};
pub use barrier::*;
pub use dir::*;
pub use fd::*;
pub use file::*;
pub use ident::*;
pub use memory::*;
pub use mount::*;
pub use pidfd::*;
pub use poll::*;
pub use posix_timer::*;
pub use process::*;
pub use ptrace::ptrace;
pub use remote::{process_madvise, process_mrelease, process_vm_readv, process_vm_writev};
pub use sched::*;
pub use signal::*;
pub use socket::*;
pub use splice::*;
pub use stat::*;
pub use time::*;
pub use timerfd::*;
pub use transfer::*;

macro_rules! make_dispatch {
    (implemented { $($nr:literal $name:ident $args:literal $note:literal;)* } absent { $($rest:tt)* }) => {
        /// Calls the function of a number; `None` for a number that the table does not implement.
        #[inline]
        fn dispatch(number: u64, args: &Args, frame: &mut TrapFrame) -> Option<SysResult> {
            Some(match number {
                $($nr => $name(args, frame),)*
                _ => return None,
            })
        }
    };
}

ptshare_abi::syscalls!(make_dispatch);

/// The system-call entry: RAX names the call, and holds its answer afterwards.
pub fn entry(frame: &mut TrapFrame) {
    Machine.stats().syscalls.fetch_add(1, Relaxed);
    let task = current();
    usage::enter_kernel(&task);
    if task.process.trace.stops_at_calls() {
        let number = frame.rax;
        trace::on_call(number, frame);
        run(frame);
        trace::on_call(number, frame);
    } else {
        run(frame);
    }
    usage::leave_kernel(&task);
}

/// Runs the call that the frame names, and leaves its answer there.
#[inline]
fn run(frame: &mut TrapFrame) {
    let number = frame.rax;
    let args = args(frame);
    // A call that never returns here (exit) or that replaces the frame (execve, rt_sigreturn) says so by its answer.
    frame.rax = match dispatch(number, &args, frame) {
        Some(Ok(value)) => value,
        Some(Err(SysErr::Errno(errno))) => errno.to_rax(),
        Some(Err(SysErr::Restart(restart))) => {
            crate::signal::note_restart(number, restart);
            Errno::EINTR.to_rax()
        }
        None => unknown(number),
    };
}

/// Remembers an unknown number, and says so the first time.
#[cold]
fn unknown(number: u64) -> u64 {
    for slot in &Machine.stats().unknown {
        match slot.compare_exchange(0, number, Relaxed, Relaxed) {
            Ok(_) => {
                let call = ptshare_abi::table::find(number);
                let name = call.map_or("no such call", |call| call.name);
                // What is left out for a reason that the table gives is no news.
                let level = match call.map(|call| call.state) {
                    Some(State::Absent(why)) if !why.is_empty() => 3,
                    _ => 2,
                };
                klog!(level, "system call {number} ({name}) is not implemented");
                break;
            }
            Err(seen) if seen == number => break,
            Err(_) => {}
        }
    }
    Errno::ENOSYS.to_rax()
}
