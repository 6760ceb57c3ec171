//! A stack overflow is reported on the alternate stack, with the address that was touched; without one it kills.

use ptshare_programs::memory::PAGE;
use ptshare_programs::{process, signal};
use std::hint::black_box;

#[inline(never)]
fn descend(level: u64) -> u64 {
    let page = black_box([level as u8; PAGE]);
    if level == u64::MAX { 0 } else { descend(level + 1) + u64::from(page[7]) }
}

extern "C" fn overflowed(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let here = 0u8;
    // SAFETY: the kernel passes a valid siginfo; for SIGSEGV it holds an address.
    let address = unsafe { (*info).si_addr() as usize };
    // The handler runs far away from where the overflow happened.
    let far = address.abs_diff(&raw const here as usize) > 1 << 20;
    process::leave(if far { 42 } else { 43 })
}

fn main() {
    // 256 KiB are enough, and quick to overflow.
    let limit = libc::rlimit { rlim_cur: 256 << 10, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure is live.
    unsafe { libc::setrlimit(libc::RLIMIT_STACK, &limit) };
    let status = process::in_child(|| {
        signal::alternate_stack(64 << 10);
        signal::handle(libc::SIGSEGV, overflowed, libc::SA_ONSTACK);
        descend(0) as i32
    });
    println!("with an alternate stack: {status}");
    let status = process::in_child(|| {
        // Without an alternate stack the signal cannot be delivered, so the handler does not help.
        let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: switching the alternate stack off touches no memory.
        unsafe { libc::sigaltstack(&none, std::ptr::null_mut()) };
        signal::handle(libc::SIGSEGV, overflowed, libc::SA_ONSTACK);
        descend(0) as i32
    });
    println!("without one: {status}");
}
