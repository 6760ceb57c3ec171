//! The x86-64 machine under the kernel: boot, traps, CPUs, user access, the linear map, the heap, hypercalls.
//!
//! This is the one guest crate that is unsafe at heart; what it offers upward is safe. It is empty unless built for
//! the guest (`--cfg guest`).
//!
//! The kernel runs with interrupts disabled. They are enabled in user mode, and in [`cpu::halt_until_interrupt`] for
//! the length of one `hlt`. Exceptions in kernel code are expected in one place, the routines of [`uaccess`], whose
//! instructions stand in a fix-up table.
#![cfg_attr(guest, no_std)]

#[cfg(guest)]
extern crate alloc;

#[cfg(guest)]
mod acpi;
#[cfg(guest)]
mod env;
#[cfg(guest)]
mod heap;
#[cfg(guest)]
mod mem;
#[cfg(guest)]
mod pod;

#[cfg(guest)]
pub mod boot;
#[cfg(guest)]
pub mod context;
#[cfg(guest)]
pub mod cpu;
#[cfg(guest)]
pub mod current;
#[cfg(guest)]
pub mod hyper;
#[cfg(guest)]
pub mod memory;
#[cfg(guest)]
pub mod panic;
#[cfg(guest)]
pub mod phys;
#[cfg(guest)]
pub mod random;
#[cfg(guest)]
pub mod smp;
#[cfg(guest)]
pub mod time;
#[cfg(guest)]
pub mod trap;
#[cfg(guest)]
pub mod uaccess;

#[cfg(guest)]
pub use env::{Machine, find_gib_pages, set_share_file};
#[cfg(guest)]
pub use pod::Pod;

/// Gives the machine the kernel's entry points. Used once, by the kernel's main file.
///
/// `main` runs first, on the boot stack, and `cpu` first on every other CPU; the others are called on the current task's kernel stack, interrupts off.
#[macro_export]
macro_rules! kernel_hooks {
    (main: $main:path, syscall: $syscall:path, page_fault: $page_fault:path, exception: $exception:path,
     timer: $timer:path, console: $console:path, ipi: $ipi:path, cpu: $cpu:path,
     return_to_user: $return_to_user:path, uaccess_fault: $uaccess_fault:path,
     wait_userfault: $wait_userfault:path, new_task: $new_task:path, panicked: $panicked:path $(,)?) => {
        #[allow(unsafe_code, missing_docs)]
        mod kernel_hooks {
            use $crate::trap::TrapFrame;
            #[unsafe(no_mangle)]
            fn ptshare_hook_main() -> ! {
                $main()
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_syscall(frame: &mut TrapFrame) {
                $syscall(frame)
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_page_fault(frame: &mut TrapFrame, addr: u64) {
                $page_fault(frame, addr)
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_exception(frame: &mut TrapFrame) {
                $exception(frame)
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_timer() {
                $timer()
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_console() {
                $console()
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_ipi() {
                $ipi()
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_cpu() -> ! {
                $cpu()
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_return_to_user(frame: &mut TrapFrame) {
                $return_to_user(frame)
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_uaccess_fault(addr: u64, write: bool) -> bool {
                $uaccess_fault(addr, write)
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_wait_userfault(context: u32, number: u32) -> bool {
                $wait_userfault(context, number)
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_new_task() {
                $new_task()
            }
            #[unsafe(no_mangle)]
            fn ptshare_hook_panicked() -> u64 {
                $panicked()
            }
        }
    };
}
