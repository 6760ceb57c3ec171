//! The end of a kernel: panics and exceptions that nobody can mend become an epitaph for the host.

use crate::trap::TrapFrame;
use crate::{cpu, hyper};
use core::arch::asm;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use ptshare_wire::Epitaph;
use ptshare_wire::epitaph::{BACKTRACE_MAX, MESSAGE_MAX};
use ptshare_wire::layout::LINEAR_BASE;

unsafe extern "Rust" {
    safe fn ptshare_hook_panicked() -> u64;
}

unsafe extern "C" {
    static ptshare_image_start: u8;
    static ptshare_image_end: u8;
}

static DYING: AtomicBool = AtomicBool::new(false);

struct Message<'a>(&'a mut Epitaph);

impl Write for Message<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let at = self.0.message_len as usize;
        let n = s.len().min(MESSAGE_MAX - at);
        self.0.message[at..at + n].copy_from_slice(&s.as_bytes()[..n]);
        self.0.message_len += n as u64;
        Ok(())
    }
}

fn blank() -> Epitaph {
    Epitaph {
        cpu: 0,
        vector: u64::MAX,
        error_code: 0,
        cr2: cpu::cr2(),
        cr3: cpu::cr3(),
        regs: [0; 18],
        backtrace: [0; BACKTRACE_MAX],
        pid: 0,
        message_len: 0,
        message: [0; MESSAGE_MAX],
    }
}

/// Collects what look like return addresses between `rsp` and the end of the stack: the kernel keeps no frame pointers.
fn scan_stack(rsp: u64, out: &mut [u64]) {
    let (low, high) =
        (core::ptr::addr_of!(ptshare_image_start) as u64, core::ptr::addr_of!(ptshare_image_end) as u64);
    let mut found = 0;
    // A broken frame may say anything; the kernel's stacks are in its own half.
    if rsp < LINEAR_BASE {
        return;
    }
    // A stack is at most 64 KiB; a kernel stack is 16 KiB and aligned to its size.
    let end = (rsp | 0x3fff) + 1;
    for at in (rsp & !7..end).step_by(8) {
        // SAFETY: within one aligned 16 KiB block that holds the live stack, all of it mapped.
        let word = unsafe { *(at as *const u64) };
        if word >= low && word < high && found < out.len() {
            out[found] = word;
            found += 1;
        }
    }
}

fn finish(mut epitaph: Epitaph, rsp: u64) -> ! {
    if DYING.swap(true, Relaxed) {
        cpu::stop();
    }
    scan_stack(rsp, &mut epitaph.backtrace);
    epitaph.cpu = cpu::id() as u64;
    epitaph.pid = ptshare_hook_panicked();
    hyper::report_panic(&epitaph)
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut epitaph = blank();
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) }
    let _ = write!(Message(&mut epitaph), "{}", info.message());
    if let Some(at) = info.location() {
        let _ = write!(Message(&mut epitaph), ", at {}:{}", at.file(), at.line());
    }
    finish(epitaph, rsp)
}

/// An exception in kernel mode.
pub(crate) fn exception(frame: &TrapFrame, addr: u64) -> ! {
    let mut epitaph = blank();
    epitaph.vector = frame.vector;
    epitaph.error_code = frame.error;
    epitaph.cr2 = addr;
    epitaph.regs = [
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.rsp,
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
        frame.rip,
        frame.rflags,
    ];
    let _ = write!(
        Message(&mut epitaph),
        "exception {} (error {:#x}, address {:#x}) in the kernel at {:#x}",
        frame.vector,
        frame.error,
        addr,
        frame.rip
    );
    finish(epitaph, frame.rsp)
}
