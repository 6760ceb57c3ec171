//! Registers as QEMU's monitor prints them (`info registers`; QEMU target/i386/cpu-dump.c).

use crate::cpu::CpuState;
use kvm_bindings::kvm_segment;

/// Reads the monitor's text; a register that it does not name stays 0. `None` when it is no such text.
pub fn parse(text: &str) -> Option<CpuState> {
    let word = |names: [&str; 2]| names.iter().find_map(|name| value(text, name)).unwrap_or(0);
    let mut state = CpuState::default();
    let r = &mut state.regs;
    // A CPU outside long mode shows its 32-bit registers.
    for (field, names) in [
        (&mut r.rax, ["RAX", "EAX"]),
        (&mut r.rbx, ["RBX", "EBX"]),
        (&mut r.rcx, ["RCX", "ECX"]),
        (&mut r.rdx, ["RDX", "EDX"]),
        (&mut r.rsi, ["RSI", "ESI"]),
        (&mut r.rdi, ["RDI", "EDI"]),
        (&mut r.rbp, ["RBP", "EBP"]),
        (&mut r.rsp, ["RSP", "ESP"]),
        (&mut r.r8, ["R8", "R8"]),
        (&mut r.r9, ["R9", "R9"]),
        (&mut r.r10, ["R10", "R10"]),
        (&mut r.r11, ["R11", "R11"]),
        (&mut r.r12, ["R12", "R12"]),
        (&mut r.r13, ["R13", "R13"]),
        (&mut r.r14, ["R14", "R14"]),
        (&mut r.r15, ["R15", "R15"]),
        (&mut r.rip, ["RIP", "EIP"]),
        (&mut r.rflags, ["RFL", "EFL"]),
    ] {
        *field = word(names);
    }
    let s = &mut state.sregs;
    for (field, name) in [
        (&mut s.cr0, "CR0"),
        (&mut s.cr2, "CR2"),
        (&mut s.cr3, "CR3"),
        (&mut s.cr4, "CR4"),
        (&mut s.efer, "EFER"),
    ] {
        *field = value(text, name).unwrap_or(0);
    }
    for (field, name) in [
        (&mut s.cs, "CS"),
        (&mut s.ds, "DS"),
        (&mut s.es, "ES"),
        (&mut s.ss, "SS"),
        (&mut s.fs, "FS"),
        (&mut s.gs, "GS"),
    ] {
        *field = segment(text, name).unwrap_or_default();
    }
    // Without these two nothing can be said about the CPU.
    (value(text, "CR3").is_some() && segment(text, "CS").is_some()).then_some(state)
}

/// What stands behind `NAME=`, which begins a word; some names are padded with a space.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut from = 0;
    while let Some(at) = text.get(from..)?.find(name) {
        let start = from + at;
        let rest = text.get(start + name.len()..)?;
        let begins = text.get(..start)?.chars().next_back().is_none_or(char::is_whitespace);
        if begins && let Some(rest) = rest.trim_start_matches(' ').strip_prefix('=') {
            return Some(rest.trim_start_matches(' '));
        }
        from = start + name.len();
    }
    None
}

fn hex(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    u64::from_str_radix(text.get(..end)?, 16).ok()
}

fn value(text: &str, name: &str) -> Option<u64> {
    hex(after(text, name)?)
}

/// `NAME =selector base limit flags`.
fn segment(text: &str, name: &str) -> Option<kvm_segment> {
    let mut words = after(text, name)?.split_whitespace();
    let selector = u16::try_from(hex(words.next()?)?).ok()?;
    let (base, limit) = (hex(words.next()?)?, hex(words.next()?)?);
    Some(kvm_segment { selector, base, limit: limit as u32, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "\r
CPU#0\r
RAX=0000000000000001 RBX=ffff888000001000 RCX=0000000000000000 RDX=0000000000000505\r
RSI=0000000000000000 RDI=0000000000000000 RBP=0000000000000000 RSP=ffffffff80201000\r
R8 =0000000000000008 R9 =0000000000000009 R10=0000000000000010 R11=0000000000000246\r
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=000000000000000f\r
RIP=ffffffff80101234 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\r
ES =0018 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]\r
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\r
SS =0018 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]\r
DS =0018 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]\r
FS =0000 00007f1234567000 00000000 00000000\r
GS =0000 ffffffff80300000 00000000 00000000\r
CR0=80010033 CR2=0000555555554000 CR3=0000000000123000 CR4=000006a0\r
EFER=0000000000000d01\r
";

    #[test]
    fn long_mode_registers_are_read() {
        let state = parse(LONG).unwrap();
        assert_eq!((state.regs.rip, state.regs.rflags), (0xffff_ffff_8010_1234, 0x246));
        assert_eq!((state.regs.r8, state.regs.r15, state.regs.rdx), (8, 15, 0x505));
        assert_eq!((state.sregs.cr0, state.sregs.cr3, state.sregs.efer), (0x8001_0033, 0x12_3000, 0xd01));
        assert_eq!((state.sregs.cs.selector, state.sregs.fs.base), (0x10, 0x7f12_3456_7000));
        assert_eq!(state.sregs.cr2, 0x5555_5555_4000);
    }

    #[test]
    fn real_mode_registers_are_read() {
        let text = "EAX=00000001 EBX=00000000\nEIP=0000b7b9 EFL=00000246\nCS =f000 000f0000 0000ffff 00009b00\n\
                    CR0=00000010 CR2=00000000 CR3=00000000 CR4=00000000\n";
        let state = parse(text).unwrap();
        assert_eq!(
            (state.regs.rip, state.sregs.cs.selector, state.sregs.cs.base),
            (0xb7b9, 0xf000, 0xf_0000)
        );
    }

    #[test]
    fn other_text_is_refused() {
        assert!(parse("").is_none());
        assert!(parse("CR3=1").is_none());
        assert!(parse("unknown command: 'info registers'").is_none());
    }
}
