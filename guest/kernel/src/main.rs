//! The guest kernel: processes, files and system calls of Linux's x86-64 ABI over page tables that are shared.
//!
//! Built for the guest by `cargo xtask build`; as an ordinary host program it only says so.
#![cfg_attr(guest, no_std, no_main)]
#![cfg_attr(guest, deny(unsafe_code))]

#[cfg(guest)]
extern crate alloc;

#[cfg(guest)]
#[macro_use]
mod log;
#[cfg(guest)]
mod answers;
#[cfg(guest)]
mod config;
#[cfg(guest)]
mod dev;
#[cfg(guest)]
mod fs;
#[cfg(guest)]
mod ipc;
#[cfg(guest)]
mod signal;
#[cfg(guest)]
mod start;
#[cfg(guest)]
mod syscall;
#[cfg(guest)]
mod task;
#[cfg(guest)]
mod trap;
#[cfg(guest)]
mod verify;

#[cfg(guest)]
pub use start::{KMm, KObject, heap_room, shutdown};

#[cfg(guest)]
ptshare_machine::kernel_hooks! {
    main: crate::start::main,
    syscall: crate::syscall::entry,
    page_fault: crate::trap::page_fault,
    exception: crate::trap::exception,
    timer: crate::task::on_timer_interrupt,
    console: crate::fs::console_input,
    ipi: crate::task::on_ipi,
    cpu: crate::task::smp::main,
    return_to_user: crate::trap::return_to_user,
    uaccess_fault: crate::trap::uaccess_fault,
    wait_userfault: crate::trap::wait_userfault,
    new_task: crate::trap::new_task,
    panicked: crate::trap::panicked,
}

#[cfg(not(guest))]
fn main() {
    eprintln!("the guest kernel is built by `cargo xtask build` and run by `cargo xtask run`");
    std::process::exit(2);
}
