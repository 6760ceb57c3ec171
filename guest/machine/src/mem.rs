//! The memory routines that compiled code calls. String instructions: where the kernel is interpreted they cost one
//! step an iteration, a tenth of a loop.

use core::arch::asm;

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller gives two valid ranges of `len` bytes that do not overlap.
    unsafe {
        asm!(
            "mov rcx, {len}", "shr rcx, 3", "rep movsq", "mov rcx, {len}", "and ecx, 7", "rep movsb",
            len = in(reg) len, inout("rdi") dst => _, inout("rsi") src => _, out("rcx") _,
            options(nostack, preserves_flags)
        );
    }
    dst
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    if (dst as usize).wrapping_sub(src as usize) >= len {
        // SAFETY: copying upward reads each source byte before it is overwritten.
        return unsafe { memcpy(dst, src, len) };
    }
    // SAFETY: the ranges are valid for `len` bytes; copying downward suits a destination above the source. Whole
    // words from the end first, then the rest below them.
    unsafe {
        asm!(
            "std",
            "lea rdi, [{dst} + {len} - 8]", "lea rsi, [{src} + {len} - 8]", "mov rcx, {len}", "shr rcx, 3",
            "rep movsq",
            "add rdi, 7", "add rsi, 7", "mov rcx, {len}", "and ecx, 7", "rep movsb",
            "cld",
            len = in(reg) len, dst = in(reg) dst, src = in(reg) src,
            out("rdi") _, out("rsi") _, out("rcx") _, options(nostack)
        );
    }
    dst
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(dst: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let word = u64::from(byte as u8).wrapping_mul(0x0101_0101_0101_0101);
    // SAFETY: the caller gives a valid range of `len` bytes.
    unsafe {
        asm!(
            "mov rcx, {len}", "shr rcx, 3", "rep stosq", "mov rcx, {len}", "and ecx, 7", "rep stosb",
            len = in(reg) len, inout("rdi") dst => _, in("rax") word, out("rcx") _,
            options(nostack, preserves_flags)
        );
    }
    dst
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let (mut x, mut y) = (a, b);
    let left: usize;
    // SAFETY: the caller gives two valid ranges of `len` bytes. `xor` sets ZF for the case of no iteration.
    unsafe {
        asm!(
            "xor eax, eax", "repe cmpsb",
            inout("rsi") x, inout("rdi") y, inout("rcx") len => left, out("eax") _, options(nostack, readonly)
        );
        if len == 0 {
            return 0;
        }
        let _ = left;
        x = x.sub(1);
        y = y.sub(1);
        i32::from(*x) - i32::from(*y)
    }
}

/// # Safety
/// As C's `bcmp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}

/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(s: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller gives a NUL-terminated string.
    while unsafe { *s.add(len) } != 0 {
        len += 1;
    }
    len
}

/// The unwinder's personality, named by precompiled `core` and never called: panics abort.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// Named by precompiled code for the same reason, and never called.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in the kernel")
}
