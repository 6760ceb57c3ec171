//! What is said about a guest that cannot go on: registers, the instruction, its symbol, a backtrace.
//!
//! Everything here reads guest state that may be arbitrarily broken and never fails: what cannot be read is left out.

use crate::cpu::{Cpu, CpuState};
use crate::ram::GuestRam;
use crate::symbols::Symbols;
use kvm_bindings::{kvm_regs, kvm_sregs};
use ptshare_paging::{Entry, Level, Pte};
use ptshare_wire::epitaph::{BACKTRACE_MAX, Epitaph, MESSAGE_MAX};
use std::fmt::Write;
use std::mem::{offset_of, size_of};

const CR0_PG: u64 = 1 << 31;
const EFER_LMA: u64 = 1 << 10;
/// Instruction bytes shown.
const INSN_BYTES: u64 = 15;
/// A crash record's backtrace of fewer entries is helped along by a search of the stack.
const TRACE_ENOUGH: usize = 3;
/// Words of stack searched for return addresses.
const STACK_WORDS: u64 = 256;

/// Guest-virtual to guest-physical by the guest's own tables; identity while paging is off. `None` when not mapped.
pub fn translate(ram: &GuestRam, sregs: &kvm_sregs, va: u64) -> Option<u64> {
    if sregs.cr0 & CR0_PG == 0 {
        return Some(va);
    }
    if sregs.efer & EFER_LMA == 0 {
        return None;
    }
    let mut table = Pte(sregs.cr3).pfn();
    for level in Level::TOP_DOWN {
        let entry = ram.read_u64(table.pa().0 + 8 * level.slot(va).index() as u64)?;
        match Pte(entry).decode(level) {
            Entry::Table(next) => table = next,
            Entry::Leaf(page) => {
                return Some(page.pa().0 & !(level.entry_bytes() - 1) | va & (level.entry_bytes() - 1));
            }
            Entry::Absent | Entry::Marker(_) | Entry::NoAccess(_) => return None,
        }
    }
    None
}

fn read_va(ram: &GuestRam, sregs: &kvm_sregs, va: u64, len: u64) -> Vec<u8> {
    (0..len).map_while(|i| ram.read(translate(ram, sregs, va.wrapping_add(i))?, 1).map(|b| b[0])).collect()
}

/// The byte at a virtual address; `None` when it is not mapped.
pub fn byte(ram: &GuestRam, sregs: &kvm_sregs, va: u64) -> Option<u8> {
    read_va(ram, sregs, va, 1).first().copied()
}

fn read_word_va(ram: &GuestRam, sregs: &kvm_sregs, va: u64) -> Option<u64> {
    let bytes = read_va(ram, sregs, va, 8);
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The state of a stopped vCPU, for people. `sregs` and `regs` are what its engine reported.
pub fn cpu_state(ram: &GuestRam, symbols: &Symbols, regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let mut text = String::new();
    let cpl = sregs.cs.selector & 3;
    let kernel = cpl == 0;
    let rip = if kernel { symbols.show(regs.rip) } else { format!("{:#018x}", regs.rip) };
    let _ = writeln!(text, "  rip {rip} (CPL {cpl}, cr0 {:#x})", sregs.cr0);
    let bytes = read_va(ram, sregs, regs.rip, INSN_BYTES);
    if bytes.is_empty() {
        let _ = writeln!(text, "  bytes at rip: not mapped");
    } else {
        let hex: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "  bytes at rip: {}", hex.join(" "));
    }
    let r = regs;
    let words = [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15, r.rip, r.rflags,
    ];
    text += &registers(&words);
    let _ = writeln!(
        text,
        "  cr2 {:016x}  cr3 {:016x}  cr4 {:016x}  efer {:x}  cs {:x}  ss {:x}  fs_base {:x}  gs_base {:x}",
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        sregs.efer,
        sregs.cs.selector,
        sregs.ss.selector,
        sregs.fs.base,
        sregs.gs.base
    );
    if kernel && sregs.efer & EFER_LMA != 0 {
        text += &scan_stack(ram, symbols, regs, sregs);
    }
    text
}

/// Return addresses found on the kernel stack: every word that points into a known function. Without frame pointers
/// this also shows stale ones, so they are called candidates.
fn scan_stack(ram: &GuestRam, symbols: &Symbols, regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let base = regs.rsp & !7;
    let found: Vec<_> = (0..STACK_WORDS)
        .map_while(|i| read_word_va(ram, sregs, base.checked_add(i * 8)?))
        .filter(|&word| word >= ptshare_wire::layout::KERNEL_VIRT_BASE && symbols.knows(word.wrapping_sub(1)))
        .take(BACKTRACE_MAX)
        .collect();
    let mut text = String::new();
    if !found.is_empty() {
        let _ = writeln!(text, "  return addresses on the stack (candidates, innermost first):");
        for word in found {
            let _ = writeln!(text, "    {}", symbols.show_return(word));
        }
    }
    text
}

/// The 18 words of [`Epitaph::regs`], four a line.
fn registers(words: &[u64; 18]) -> String {
    const NAMES: [&str; 18] = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", " r8", " r9", "r10", "r11", "r12", "r13",
        "r14", "r15", "rip", "rfl",
    ];
    let mut text = String::new();
    for (i, (name, word)) in NAMES.iter().zip(words).enumerate() {
        let _ = write!(text, "  {name} {word:016x}");
        if i % 4 == 3 || i == 17 {
            text.push('\n');
        }
    }
    text
}

/// As [`cpu_state`], asking the CPU for its registers.
pub fn state_of(ram: &GuestRam, symbols: &Symbols, cpu: &dyn Cpu) -> String {
    match cpu.state() {
        Ok(CpuState { regs, sregs }) => cpu_state(ram, symbols, &regs, &sregs),
        Err(why) => format!("  ({why})\n"),
    }
}

fn vector_name(vector: u64) -> String {
    let name = match vector {
        u64::MAX => return "panic".into(),
        0 => "#DE divide error",
        1 => "#DB debug",
        2 => "NMI",
        3 => "#BP breakpoint",
        6 => "#UD invalid opcode",
        7 => "#NM device not available",
        8 => "#DF double fault",
        10 => "#TS invalid TSS",
        11 => "#NP segment not present",
        12 => "#SS stack fault",
        13 => "#GP general protection",
        14 => "#PF page fault",
        16 => "#MF x87 error",
        17 => "#AC alignment check",
        18 => "#MC machine check",
        19 => "#XM SIMD error",
        _ => return format!("exception {vector}"),
    };
    name.into()
}

/// The crash record at `pa` for people; `None` when it does not lie in RAM. Where its backtrace is too short to help, the
/// stack of `cpu`, which reports the crash, is searched.
pub fn epitaph(ram: &GuestRam, symbols: &Symbols, pa: u64, cpu: Option<&dyn Cpu>) -> Option<String> {
    let bytes = ram.read(pa, size_of::<Epitaph>() as u64)?;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let words = |at: usize, n: usize| (0..n).map(move |i| word(at + 8 * i));
    let len = (word(offset_of!(Epitaph, message_len)) as usize).min(MESSAGE_MAX);
    let at = offset_of!(Epitaph, message);
    let message = String::from_utf8_lossy(&bytes[at..at + len]);
    let vector = word(offset_of!(Epitaph, vector));

    let mut text = format!("guest kernel panicked: {}\n", message.trim_end());
    let _ = write!(text, "  CPU {}", word(offset_of!(Epitaph, cpu)));
    match word(offset_of!(Epitaph, pid)) {
        0 => text.push_str(", no process"),
        pid => {
            let _ = write!(text, ", process {pid}");
        }
    }
    if vector != u64::MAX {
        let _ = write!(
            text,
            ", {}, error code {:#x}",
            vector_name(vector),
            word(offset_of!(Epitaph, error_code))
        );
    }
    let _ = writeln!(
        text,
        ", cr2 {:#x}, cr3 {:#x}",
        word(offset_of!(Epitaph, cr2)),
        word(offset_of!(Epitaph, cr3))
    );
    let mut regs = [0; 18];
    for (reg, value) in regs.iter_mut().zip(words(offset_of!(Epitaph, regs), 18)) {
        *reg = value;
    }
    if regs != [0; 18] {
        let _ = writeln!(text, "  at {}", symbols.show(regs[16]));
        text += &registers(&regs);
    }
    // The guest follows saved frame pointers, which code without them leads astray: only code addresses are shown.
    let mut trace: Vec<_> = words(offset_of!(Epitaph, backtrace), BACKTRACE_MAX)
        .take_while(|&address| address != 0)
        .filter(|&address| symbols.knows(address.wrapping_sub(1)))
        .collect();
    trace.dedup();
    if !trace.is_empty() {
        let _ = writeln!(text, "  backtrace, innermost first:");
        for address in &trace {
            let _ = writeln!(text, "    {}", symbols.show_return(*address));
        }
    }
    if trace.len() < TRACE_ENOUGH {
        let stopped = cpu.and_then(|cpu| cpu.state().ok());
        text += &stopped.map(|s| scan_stack(ram, symbols, &s.regs, &s.sregs)).unwrap_or_default();
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_mode(ram: &GuestRam) -> kvm_sregs {
        // PGD 0x1000 -> PUD 0x2000 -> PMD 0x3000; slot 0: 2 MiB leaf at 2 MiB; slot 1: PTE table 0x4000, page 5 at 0x9000.
        for (pa, entry) in
            [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x20_0083), (0x3008, 0x4003), (0x4028, 0x9003)]
        {
            assert!(ram.write_u64(pa, entry));
        }
        kvm_sregs { cr0: CR0_PG | 1, cr3: 0x1000, efer: EFER_LMA, ..Default::default() }
    }

    #[test]
    fn translation_follows_the_guests_tables() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let sregs = long_mode(&ram);
        assert_eq!(translate(&ram, &sregs, 0x1234), Some(0x20_1234));
        assert_eq!(translate(&ram, &sregs, (2 << 20) + 0x5678), Some(0x9678));
        assert_eq!(translate(&ram, &sregs, (2 << 20) + 0x6000), None);
        assert_eq!(translate(&ram, &sregs, 1 << 40), None);
        assert_eq!(translate(&ram, &kvm_sregs { cr3: 0xffff_f000, ..sregs }, 0), None, "tables outside RAM");
        assert_eq!(translate(&ram, &kvm_sregs::default(), 0x77), Some(0x77), "paging off");
    }

    #[test]
    fn the_state_shows_the_instruction_at_rip() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let sregs = long_mode(&ram);
        ram.write(0x20_0100, &[0x0f, 0x57, 0xc0]);
        let regs = kvm_regs { rip: 0x100, rax: 0xabcd, ..Default::default() };
        let text = cpu_state(&ram, &Symbols::default(), &regs, &sregs);
        assert!(text.contains("bytes at rip: 0f 57 c0 00"), "{text}");
        assert!(text.contains("rax 000000000000abcd"), "{text}");
        let text = cpu_state(&ram, &Symbols::default(), &kvm_regs { rip: 1 << 45, ..regs }, &sregs);
        assert!(text.contains("not mapped"), "{text}");
    }

    #[test]
    fn a_crash_record_is_told_whole() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let pa = 0x5008;
        let put = |at: usize, value: u64| assert!(ram.write_u64(pa + at as u64, value));
        put(offset_of!(Epitaph, vector), 14);
        put(offset_of!(Epitaph, error_code), 2);
        put(offset_of!(Epitaph, pid), 7);
        put(offset_of!(Epitaph, message_len), 4);
        put(offset_of!(Epitaph, regs) + 16 * 8, 0xffff_ffff_8010_0000);
        put(offset_of!(Epitaph, backtrace), 0xffff_ffff_8010_0020);
        ram.write(pa + offset_of!(Epitaph, message) as u64, b"oops");
        put(offset_of!(Epitaph, backtrace) + 8, 0xffff_ffff_8020_0000);
        let symbols = Symbols::of(&[(0xffff_ffff_8010_0000, 0x100, "start")]);
        let text = epitaph(&ram, &symbols, pa, None).unwrap();
        for part in [
            "panicked: oops",
            "process 7",
            "#PF page fault, error code 0x2",
            "at 0xffffffff80100000 start+0x0",
            "0xffffffff80100020 start+0x20",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("ffffffff80200000"), "no code lies there: {text}");
        put(offset_of!(Epitaph, message_len), u64::MAX);
        assert!(epitaph(&ram, &Symbols::default(), pa, None).is_some(), "a wild length is bounded");
        assert!(epitaph(&ram, &Symbols::default(), 1 << 40, None).is_none());
    }
}
