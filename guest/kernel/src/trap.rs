//! From traps to what the kernel makes of them.

use crate::fs::userfault;
use crate::task::{self, current, oom, usage};
use crate::{signal, verify};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::sys::general as abi;
use ptshare_machine::trap::{PF_FETCH, PF_WRITE, TrapFrame};
use ptshare_machine::{Machine, boot, uaccess};
use ptshare_mm::{Access, Env, FaultOutcome, Ticket};

/// A page fault in user mode.
pub fn page_fault(frame: &mut TrapFrame, addr: u64) {
    let access = Access { write: frame.error & PF_WRITE != 0, exec: frame.error & PF_FETCH != 0, user: true };
    let task = current();
    usage::enter_kernel(&task);
    let outcome = task.process.mm().fault(addr, access);
    match outcome {
        // Only the task itself writes its counter: no atomic addition is needed.
        FaultOutcome::Resolved => task.minor_faults.store(task.minor_faults.load(Relaxed) + 1, Relaxed),
        FaultOutcome::SegvMapErr => segv(frame, addr, abi::SEGV_MAPERR),
        FaultOutcome::SegvAccErr => segv(frame, addr, abi::SEGV_ACCERR),
        FaultOutcome::BusAdrErr => signal::force_fault(abi::SIGBUS, abi::BUS_ADRERR as i32, addr, frame),
        // A signal that comes meanwhile is delivered on the way back, and the access repeated after it.
        FaultOutcome::Userfault(ticket) => {
            userfault::wait(ticket, true);
        }
        FaultOutcome::OutOfMemory => oom::out_of_memory(),
    }
    usage::leave_kernel(&task);
    verify::after_fault(Machine.stats().page_faults.load(Relaxed));
}

#[cold]
fn segv(frame: &TrapFrame, addr: u64, code: u32) {
    klog!(
        4,
        "pid {} segfault at {addr:#x} rip {:#x} rsp {:#x} error {:#x} code {code}",
        current().process.pid,
        frame.rip,
        frame.rsp,
        frame.error
    );
    signal::force_fault(abi::SIGSEGV, code as i32, addr, frame);
}

/// Opcode of `int n` (SDM 2A, "INT n").
const INT_N: u8 = 0xcd;

/// Any other exception in user mode, by its vector (SDM 3A, "Exceptions and Interrupts").
#[cold]
pub fn exception(frame: &mut TrapFrame) {
    let rip = frame.rip;
    // The interpreting KVM raises #UD for a software interrupt, where the processor finds a gate that user mode may not
    // use and raises #GP.
    let vector = if frame.vector == 6 && uaccess::read::<u8>(rip) == Ok(INT_N) { 13 } else { frame.vector };
    let (sig, code, addr) = match vector {
        0 => (abi::SIGFPE, abi::FPE_INTDIV as i32, rip),
        1 => (abi::SIGTRAP, abi::TRAP_TRACE as i32, rip),
        3 => (abi::SIGTRAP, abi::SI_KERNEL as i32, 0),
        4 => (abi::SIGSEGV, abi::SI_KERNEL as i32, 0),
        5 => (abi::SIGSEGV, abi::SI_KERNEL as i32, 0),
        6 => (abi::SIGILL, abi::ILL_ILLOPN as i32, rip),
        16 => (abi::SIGFPE, abi::FPE_FLTINV as i32, rip),
        17 => (abi::SIGBUS, abi::BUS_ADRALN as i32, 0),
        19 => (abi::SIGFPE, abi::FPE_FLTINV as i32, rip),
        11 | 12 => (abi::SIGBUS, abi::SI_KERNEL as i32, 0),
        _ => (abi::SIGSEGV, abi::SI_KERNEL as i32, 0),
    };
    signal::force_fault(sig, code, addr, frame);
}

/// The last step before user mode.
#[inline]
pub fn return_to_user(frame: &mut TrapFrame) {
    task::return_to_user(frame);
}

/// A system call touches user memory that the tables do not allow yet. Gives whether a retry will work.
pub fn uaccess_fault(addr: u64, write: bool) -> bool {
    if addr >= ptshare_paging::USER_END {
        return false;
    }
    let outcome = current().process.mm().fault(addr, Access { write, exec: false, user: false });
    match outcome {
        FaultOutcome::Resolved => true,
        FaultOutcome::Userfault(ticket) => userfault::wait(ticket, false),
        _ => false,
    }
}

/// A system call must have a page that a handler is to bring in. Gives whether a retry will work.
pub fn wait_userfault(context: u32, number: u32) -> bool {
    userfault::wait(Ticket { context, number }, false)
}

/// A task runs for the first time: the switch that started it ends here.
pub fn new_task() {
    task::sched::finish_first_switch();
}

/// The kernel is dying: which process ran?
pub fn panicked() -> u64 {
    boot::current_pid()
}
