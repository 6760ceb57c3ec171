//! Jumps to, reads and writes addresses that a process must not reach.

use ptshare_programs::{process, signal};
use std::arch::asm;

/// What is done at the address.
#[derive(Clone, Copy)]
enum Act {
    Jump,
    Read,
    Write,
}

fn act(how: Act, address: u64) -> i32 {
    // SAFETY: none of these is sound; the fault is what this program is about, and it runs in a child.
    unsafe {
        match how {
            Act::Jump => asm!("jmp {}", in(reg) address, options(noreturn)),
            Act::Read => asm!("mov al, [{}]", in(reg) address, out("al") _),
            Act::Write => asm!("mov byte ptr [{}], 1", in(reg) address),
        }
    }
    0
}

fn main() {
    let addresses = [
        ("null", 0u64),
        ("low", 0x1000),
        ("end of user space", 0x7fff_ffff_f000),
        ("first non-canonical", 0x8000_0000_0000),
        ("non-canonical", 0x8000_0000_0000_0000),
        ("linear map", 0xffff_8880_0010_0000),
        ("kernel image", 0xffff_ffff_8010_0000),
        ("local APIC", 0xffff_ffff_fee0_0000),
        ("last page", 0xffff_ffff_ffff_f000),
    ];
    for (name, address) in addresses {
        for (verb, how) in [("jump", Act::Jump), ("read", Act::Read), ("write", Act::Write)] {
            let plain = process::in_child(|| {
                signal::default_faults();
                act(how, address)
            });
            let code = process::in_child(|| {
                signal::faults_leave_with_code();
                act(how, address)
            });
            println!("{verb} {name}: {plain}; handler: {code}");
        }
    }
    println!("the parent lives");
}
