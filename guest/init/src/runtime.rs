//! What a program without libc must bring along: the entry point, the memory routines that the compiler calls, and a
//! panic handler.
//!
//! The memory routines use string instructions: this is user-mode code, which runs at full speed everywhere.

use crate::{jobs, sys, text::Line};
use core::arch::{asm, global_asm};

// The stack is 16-byte aligned at the entry point by the ABI; `call` then gives the alignment that a function expects.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {main}", "ud2", main = sym start);

extern "C" fn start() -> ! {
    sys::exit_group(jobs::run())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut line = Line::new();
    line.text(b"ptshare: init panicked");
    if let Some(at) = info.location() {
        line.text(b" at ").text(at.file().as_bytes()).text(b":").number(u64::from(at.line()));
    }
    line.text(b"\n").send(2);
    sys::exit_group(125)
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        asm!("rep movsb", inout("rdi") dst => _, inout("rsi") src => _, inout("rcx") len => _, options(nostack))
    };
    dst
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    if (dst as usize).wrapping_sub(src as usize) >= len {
        // SAFETY: the destination does not begin inside the source, so a forward copy is right.
        return unsafe { memcpy(dst, src, len) };
    }
    // SAFETY: the caller vouches for both ranges; `len` is at least 1 here; the direction flag is restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") dst.add(len - 1) => _, inout("rsi") src.add(len - 1) => _,
            inout("rcx") len => _, options(nostack));
    }
    dst
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dst: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range.
    unsafe {
        asm!("rep stosb", inout("rdi") dst => _, in("al") byte as u8, inout("rcx") len => _, options(nostack))
    };
    dst
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: the caller vouches for both ranges.
        let (x, y) = unsafe { (a.add(i).read(), b.add(i).read()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(a, b, len) }
}
