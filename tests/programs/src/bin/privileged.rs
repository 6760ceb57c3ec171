//! Executes what only a kernel may, each in a child: all of it ends in a signal, and nothing else happens.

use ptshare_programs::{judge, process, signal};
use std::arch::asm;

/// A piece of machine code that a child runs.
macro_rules! pieces {
    ($($name:literal => $($line:literal),+;)+) => {
        &[$(($name, {
            fn run() {
                // SAFETY: not sound, and meant not to be: it runs in a child that the fault ends.
                unsafe {
                    asm!($($line),+, out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _)
                }
            }
            run as fn()
        })),+]
    };
}

/// What ends in the same way on every x86-64 Linux.
const SAME: &[(&str, fn())] = pieces! {
    "hlt" => "hlt";
    "cli" => "cli";
    "sti" => "sti";
    "in" => "in al, 0x60";
    "in dx" => "mov dx, 0x5050", "in eax, dx";
    "out" => "out 0x80, al";
    "out to the host" => "mov dx, 0x5058", "mov eax, 6", "out dx, eax";
    "mov from cr0" => "mov rax, cr0";
    "mov to cr0" => "xor eax, eax", "mov cr0, rax";
    "mov from cr3" => "mov rax, cr3";
    "mov to cr3" => "xor eax, eax", "mov cr3, rax";
    "mov to cr4" => "xor eax, eax", "mov cr4, rax";
    "mov to dr7" => "xor eax, eax", "mov dr7, rax";
    "rdmsr" => "mov ecx, 0xc0000080", "rdmsr";
    "wrmsr" => "mov ecx, 0xc0000080", "xor eax, eax", "xor edx, edx", "wrmsr";
    "lgdt" => "lgdt [rsp]";
    "lidt" => "lidt [rsp]";
    "lldt" => "xor eax, eax", "lldt ax";
    "ltr" => "mov eax, 0x40", "ltr ax";
    "invlpg" => "invlpg [rsp]";
    "invd" => "invd";
    "wbinvd" => "wbinvd";
    "clts" => "clts";
    "swapgs" => "swapgs";
    "sysret" => "xor ecx, ecx", "sysretq";
    "load the kernel's code selector" => "push 0x10", "lea rax, [rip + 2f]", "push rax", "retfq", "2:";
    "load the kernel's data selector" => "mov eax, 0x18", "mov ss, eax";
    "iret to the kernel" => "push 0x18", "push rsp", "pushfq", "push 0x10", "lea rax, [rip + 2f]", "push rax", "iretq", "2:";
    "int3" => "int3";
    "int 0x0e" => "int 0x0e";
    "int 0x30" => "int 0x30";
    "int 0x31" => "int 0x31";
    "int 0xff" => "int 0xff";
    "ud2" => "ud2";
    "single step" => "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop";
    "popf without interrupts" => "pushfq", "and qword ptr [rsp], ~0x200", "popfq";
    "popf with I/O rights" => "pushfq", "or qword ptr [rsp], 0x3000", "popfq", "in al, 0x60";
    "unmapped stack" => "mov rsp, 16", "push rax";
};

/// What differs between machines: only that the guest survives is of interest.
const DIFFERENT: &[(&str, fn())] = pieces! {
    "int 0x80" => "mov eax, 20", "int 0x80";
    "sysenter" => "mov eax, 20", "sysenter";
    // QEMU's emulation raises #GP, the processor #SS.
    "non-canonical stack" => "mov rsp, 0x8000000000000000", "push rax";
    "icebp" => ".byte 0xf1";
    "rdpmc" => "xor ecx, ecx", "rdpmc";
    "vmcall" => "vmcall";
    "alignment check" => "pushfq", "or qword ptr [rsp], 0x40000", "popfq", "mov eax, [rsp + 1]";
    "nested task flag" => "pushfq", "or qword ptr [rsp], 0x4000", "popfq";
};

fn main() {
    for (name, piece) in SAME {
        let plain = process::in_child(|| {
            signal::default_faults();
            piece();
            0
        });
        let code = process::in_child(|| {
            signal::alternate_stack(64 << 10);
            signal::faults_leave_with_code();
            piece();
            0
        });
        println!("{name}: {plain}; handler: {code}");
    }
    if judge::present() {
        for (_, piece) in DIFFERENT {
            process::in_child(|| {
                signal::default_faults();
                piece();
                0
            });
        }
        judge::checkpoint("privileged");
    }
    println!("the parent lives");
}
