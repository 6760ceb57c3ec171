//! Checks that the linked guest kernel holds only instructions that every KVM back end can run at CPL 0.
//!
//! Some KVM back ends interpret kernel code, and their emulator has gaps: SSE arithmetic, XSAVE, POPCNT, RDTSCP and
//! others end the guest. The compiler flags of [`crate::guest`] avoid them; this check proves it on the linked file. It
//! works by allow-list: an instruction of a CPU feature that is not listed is refused, so a new compiler cannot bring in
//! anything unseen.

use anyhow::{Context, Result, bail};
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    Register,
};
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, Object, ObjectSymbol, elf};
use std::fmt;
use std::path::Path;

/// CPU features whose integer instructions run everywhere.
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::INTEL8086_ONLY,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CPUID,
    CpuidFeature::CX8,
    CpuidFeature::FSGSBASE,
    CpuidFeature::FXSR,
    CpuidFeature::MSR,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::RDRAND,
    CpuidFeature::SYSCALL,
    CpuidFeature::TSC,
    CpuidFeature::CET_IBT,
];

/// Single instructions of other features that run everywhere all the same.
const MNEMONICS: &[Mnemonic] = &[Mnemonic::Tzcnt, Mnemonic::Lzcnt, Mnemonic::Fninit];

/// One instruction that must not be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Offence {
    /// Its address.
    pub address: u64,
    /// Its bytes, in hexadecimal.
    pub bytes: String,
    /// Its name, lower case.
    pub mnemonic: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: {} ({}): {}", self.address, self.mnemonic, self.bytes, self.why)
    }
}

fn is_vector_or_mmx(register: Register) -> bool {
    register.is_vector_register() || register.is_mm() || register.is_k() || register.is_st()
}

fn judge(instruction: &Instruction, info: &mut InstructionInfoFactory) -> Option<String> {
    let mnemonic = instruction.mnemonic();
    if instruction.is_invalid() {
        return Some("these bytes are no instruction".into());
    }
    if MNEMONICS.contains(&mnemonic) {
        return None;
    }
    if let Some(feature) = instruction.cpuid_features().iter().find(|f| !FEATURES.contains(f)) {
        return Some(format!("needs the CPU feature {feature:?}"));
    }
    // FXSAVE and FXRSTOR touch every register of this kind; that is their purpose.
    if matches!(mnemonic, Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64) {
        return None;
    }
    let used =
        info.info(instruction).used_registers().iter().map(|r| r.register()).find(|&r| is_vector_or_mmx(r));
    used.map(|register| format!("uses the register {register:?}").to_lowercase())
}

/// Checks straight 64-bit code that starts at `address`.
pub fn check_code(code: &[u8], address: u64) -> Vec<Offence> {
    check_bits(64, code, address)
}

fn check_bits(bits: u32, code: &[u8], address: u64) -> Vec<Offence> {
    let mut info = InstructionInfoFactory::new();
    let mut decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    let mut offences = Vec::new();
    let mut instruction = Instruction::default();
    let mut after_end = false;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        // Padding of zeros or int3 behind the end of a function need not be decodable.
        let start = usize::try_from(instruction.ip() - address).unwrap_or(0);
        let bytes = code.get(start..start + instruction.len()).unwrap_or_default();
        let padding = after_end && bytes.iter().all(|&b| b == 0 || b == 0xcc);
        after_end = padding
            || matches!(
                instruction.flow_control(),
                FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::Exception
            );
        if padding {
            continue;
        }
        if let Some(why) = judge(&instruction, &mut info) {
            offences.push(Offence {
                address: instruction.ip(),
                bytes: bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "),
                mnemonic: format!("{:?}", instruction.mnemonic()).to_lowercase(),
                why,
            });
        }
    }
    offences
}

/// The mode of the code behind a symbol of the kernel's: a PVH kernel is entered in 32-bit mode, and its other CPUs may begin
/// in real mode. `None`: no code, but words that stand beside it, since they are copied with it.
fn bits_of(symbol: &str) -> Option<u32> {
    match symbol.strip_prefix("ptshare_") {
        Some(name) if name.ends_with("16") => Some(16),
        Some(name) if name.ends_with("32") => Some(32),
        Some(name) if name.ends_with("_data") => None,
        _ => Some(64),
    }
}

/// Checks every executable section of an ELF file, in the mode that the names of its symbols say (`boot.s`).
///
/// # Errors
/// The file cannot be read, is not ELF, or holds a forbidden instruction: the message names symbol, address and
/// instruction of the first few.
pub fn check_file(path: &Path) -> Result<()> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let header = elf::FileHeader64::<Endianness>::parse(&*data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, &*data)?;
    let file = object::File::parse(&*data)?;
    let mut symbols: Vec<(u64, String)> =
        file.symbols().filter_map(|s| Some((s.address(), s.name().ok()?.to_owned()))).collect();
    symbols.sort();
    let mut offences = Vec::new();
    let mut code_bytes = 0;
    for section in sections.iter() {
        if !section.sh_flags(endian).contains(elf::SHF_EXECINSTR) {
            continue;
        }
        let code = section.data(endian, &*data)?;
        code_bytes += code.len();
        // One piece as long as the mode stays.
        let start = section.sh_addr(endian);
        let end = start + code.len() as u64;
        let inside = symbols.iter().filter(|s| (start..end).contains(&s.0));
        let mut pieces: Vec<(u64, Option<u32>)> = vec![(start, Some(64))];
        for (at, bits) in inside.map(|(at, name)| (*at, bits_of(name))) {
            if pieces.last().is_some_and(|piece| piece.1 != bits) {
                pieces.push((at, bits));
            }
        }
        let ends = pieces.iter().skip(1).map(|piece| piece.0).chain([end]);
        for ((from, bits), to) in pieces.iter().zip(ends) {
            let bytes = code.get(usize::try_from(from - start)?..usize::try_from(to - start)?);
            if let Some(bits) = bits {
                offences.extend(check_bits(*bits, bytes.unwrap_or_default(), *from));
            }
        }
    }
    if code_bytes == 0 {
        bail!("{}: no code to check", path.display());
    }
    if offences.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = offences
        .iter()
        .take(20)
        .map(|offence| {
            let at = symbols.partition_point(|s| s.0 <= offence.address);
            let name = at.checked_sub(1).and_then(|i| symbols.get(i)).map_or("?", |s| s.1.as_str());
            format!("  in {name}: {offence}")
        })
        .collect();
    bail!(
        "{}: {} forbidden instruction(s) in the guest kernel:\n{}",
        path.display(),
        offences.len(),
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(code: &[u8], word: &str) {
        let offences = check_code(code, 0x1000);
        assert_eq!(offences.len(), 1, "{code:x?}: {offences:?}");
        assert!(offences[0].to_string().contains(word), "{}", offences[0]);
    }

    #[test]
    fn what_the_emulator_lacks_is_refused() {
        refused(&[0x0f, 0x57, 0xc0], "xorps");
        refused(&[0x66, 0x0f, 0xef, 0xc0], "pxor");
        refused(&[0x0f, 0x11, 0x07], "movups");
        refused(&[0x66, 0x48, 0x0f, 0x6e, 0xc0], "movq");
        refused(&[0x0f, 0x6f, 0x07], "movq");
        refused(&[0xf3, 0x0f, 0xb8, 0xc1], "popcnt");
        refused(&[0x0f, 0x01, 0xd0], "xgetbv");
        refused(&[0x0f, 0x01, 0xf9], "rdtscp");
        refused(&[0x66, 0x0f, 0x38, 0x82, 0x07], "invpcid");
        refused(&[0x48, 0x0f, 0xc7, 0x0f], "cmpxchg16b");
        refused(&[0x0f, 0xae, 0x27], "xsave");
        refused(&[0x0f, 0xae, 0x1f], "stmxcsr");
        refused(&[0xc4, 0xe2, 0xfb, 0xf6, 0xc1], "mulx");
        refused(&[0xc4, 0xe2, 0xf9, 0xf7, 0xc1], "shlx");
        refused(&[0xd9, 0x07], "fld");
        refused(&[0xc5, 0xf8, 0x77], "vzeroupper");
    }

    #[test]
    fn the_mode_is_what_the_symbol_says() {
        assert_eq!(bits_of("ptshare_ap_page16"), Some(16));
        assert_eq!(bits_of("ptshare_ap_start32"), Some(32));
        assert_eq!(bits_of("ptshare_ap_gdt_data"), None);
        assert_eq!(bits_of("some_data"), Some(64));
    }

    #[test]
    fn kernel_instructions_are_allowed() {
        let code = [
            &[0x48, 0x0f, 0xae, 0x07][..],               // fxsave64 [rdi]
            &[0x48, 0x0f, 0xae, 0x0f],                   // fxrstor64 [rdi]
            &[0xf3, 0x48, 0x0f, 0xbc, 0xc1],             // tzcnt rax, rcx
            &[0x0f, 0xc7, 0xf0],                         // rdrand eax
            &[0x0f, 0x31],                               // rdtsc
            &[0x0f, 0x32],                               // rdmsr
            &[0x0f, 0x22, 0xd8],                         // mov cr3, rax
            &[0x0f, 0x01, 0x3f],                         // invlpg [rdi]
            &[0x0f, 0x01, 0xf8],                         // swapgs
            &[0xf3, 0x48, 0x0f, 0xae, 0xd7],             // wrfsbase rdi
            &[0xf3, 0x48, 0xab],                         // rep stosq
            &[0xf0, 0x48, 0x0f, 0xb1, 0x0f],             // lock cmpxchg [rdi], rcx
            &[0xfb, 0xf4, 0xfa],                         // sti; hlt; cli
            &[0x48, 0xcf],                               // iretq
            &[0xdb, 0xe3],                               // fninit
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3], // nop; ret
        ]
        .concat();
        assert_eq!(check_code(&code, 0), []);
    }

    #[test]
    fn this_test_program_itself_does_not_pass() {
        let error = check_file(&std::env::current_exe().unwrap()).unwrap_err().to_string();
        assert!(error.contains("forbidden instruction"), "{error}");
        assert!(error.contains("xmm") || error.contains("SSE"), "{error}");
    }
}
