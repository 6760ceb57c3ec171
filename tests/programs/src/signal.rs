//! Signal handlers.

use crate::check;
use std::mem::MaybeUninit;
use std::ptr;

/// A handler that is told everything.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler; `flags` go on top of SA_SIGINFO.
pub fn handle(signal: i32, handler: Handler, flags: i32) {
    // SAFETY: all zeros are a valid sigaction.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: the action is valid and its handler has the type that SA_SIGINFO asks for.
    let result = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    check!(result == 0, "sigaction failed");
}

/// Puts a signal's default action back.
pub fn default(signal: i32) {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// All signals that an instruction can raise get their default action.
pub fn default_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
        default(signal);
    }
}

extern "C" fn leave_with_code(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; _exit may be called from a handler.
    unsafe { libc::_exit((*info).si_code & 0xff) }
}

/// All signals that an instruction can raise end the process with `si_code` as its exit status.
pub fn faults_leave_with_code() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
        handle(signal, leave_with_code, 0);
    }
}

/// Gives the thread a stack of its own for handlers with SA_ONSTACK.
pub fn alternate_stack(bytes: usize) {
    let stack = crate::memory::Region::private(bytes);
    let alternate = libc::stack_t { ss_sp: stack.base as *mut _, ss_flags: 0, ss_size: bytes };
    // SAFETY: the memory is mapped, ours alone, and never unmapped.
    let result = unsafe { libc::sigaltstack(&alternate, ptr::null_mut()) };
    check!(result == 0, "sigaltstack failed");
}
