//! Integer division by zero and its overflow raise SIGFPE.

use ptshare_programs::{process, signal};
use std::arch::asm;

fn divide(dividend: i32, divisor: i32) -> i32 {
    let quotient;
    // SAFETY: a division touches no memory; the fault that it may raise is what this program is about.
    unsafe {
        asm!("cdq", "idiv {d:e}", d = in(reg) divisor, inout("eax") dividend => quotient, out("edx") _)
    };
    quotient
}

fn main() {
    for (dividend, divisor) in [(1, 0), (i32::MIN, -1), (42, 7)] {
        let plain = process::in_child(|| {
            signal::default_faults();
            divide(dividend, divisor)
        });
        let code = process::in_child(|| {
            signal::faults_leave_with_code();
            divide(dividend, divisor)
        });
        println!("{dividend} / {divisor}: {plain}; handler: {code}");
    }
}
