//! SSE and x87 state survives preemption: several processes spin with different values in all sixteen xmm registers.

use ptshare_programs::{check, check_eq, process};
use std::arch::asm;

/// Fills xmm0..xmm15 from `value`, spins, and says whether all of them still hold it.
fn spin(value: u64, turns: u64) -> bool {
    let pattern = [value, !value];
    let mut sum = [0u64; 2];
    // SAFETY: every register that changes is named; `pattern` is read and `sum` written, both 16 bytes.
    unsafe {
        asm!(
            "movdqu xmm0, [{p}]", "movdqa xmm1, xmm0", "movdqa xmm2, xmm0", "movdqa xmm3, xmm0", "movdqa xmm4, xmm0",
            "movdqa xmm5, xmm0", "movdqa xmm6, xmm0", "movdqa xmm7, xmm0", "movdqa xmm8, xmm0", "movdqa xmm9, xmm0",
            "movdqa xmm10, xmm0", "movdqa xmm11, xmm0", "movdqa xmm12, xmm0", "movdqa xmm13, xmm0",
            "movdqa xmm14, xmm0", "movdqa xmm15, xmm0",
            "2:", "dec {n}", "jnz 2b",
            // Any register that differs leaves a bit in xmm1.
            "pxor xmm1, xmm0", "pxor xmm2, xmm0", "pxor xmm3, xmm0", "pxor xmm4, xmm0", "pxor xmm5, xmm0",
            "pxor xmm6, xmm0", "pxor xmm7, xmm0", "pxor xmm8, xmm0", "pxor xmm9, xmm0", "pxor xmm10, xmm0",
            "pxor xmm11, xmm0", "pxor xmm12, xmm0", "pxor xmm13, xmm0", "pxor xmm14, xmm0", "pxor xmm15, xmm0",
            "por xmm1, xmm2", "por xmm1, xmm3", "por xmm1, xmm4", "por xmm1, xmm5", "por xmm1, xmm6", "por xmm1, xmm7",
            "por xmm1, xmm8", "por xmm1, xmm9", "por xmm1, xmm10", "por xmm1, xmm11", "por xmm1, xmm12",
            "por xmm1, xmm13", "por xmm1, xmm14", "por xmm1, xmm15",
            "movdqu xmm2, [{p}]", "pxor xmm0, xmm2", "por xmm1, xmm0",
            "movdqu [{s}], xmm1",
            p = in(reg) pattern.as_ptr(), s = in(reg) sum.as_mut_ptr(), n = inout(reg) turns => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
            out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack),
        );
    }
    sum == [0, 0]
}

fn control_word() -> u16 {
    let mut word = 0u16;
    // SAFETY: stores the x87 control word into a live u16.
    unsafe { asm!("fnstcw [{}]", in(reg) &raw mut word, options(nostack)) };
    word
}

fn set_control_word(word: u16) {
    // SAFETY: loads a control word with all exceptions masked; Rust code does not use the x87 unit here.
    unsafe { asm!("fldcw [{}]", in(reg) &raw const word, options(nostack)) };
}

fn main() {
    check_eq!(control_word(), 0x37f);
    // Rounding towards zero; a child inherits it, others do not.
    set_control_word(0xf7f);
    let children: Vec<i32> = (1..=3u64)
        .map(|i| {
            process::spawn(|| {
                check_eq!(control_word(), 0xf7f);
                for turn in 0..8 {
                    check!(spin(0x0123_4567_89ab_cdef * i + turn, 40_000_000), "an xmm register changed");
                }
                // A few switches that are asked for.
                for turn in 0..4 {
                    let x = (i as f64 + 0.25) * f64::from(turn);
                    process::sleep_ms(1);
                    check!(x == (i as f64 + 0.25) * f64::from(turn), "a sum went wrong");
                }
                check_eq!(control_word(), 0xf7f);
                i as i32
            })
        })
        .collect();
    check!(spin(42, 40_000_000), "an xmm register changed");
    for child in children {
        println!("child: {}", process::wait(child));
    }
    println!("control word: {:#x}", control_word());
}
