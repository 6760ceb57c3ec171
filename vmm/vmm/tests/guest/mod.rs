//! Guests of a few instructions, assembled by hand: 32-bit code in an ELF file with a PVH note.

use ptshare_wire::hypercall::{Op, PORT_BLOCK, PORT_CALL};
use std::io::Write;

/// Where the code is loaded and entered.
pub const ENTRY: u32 = 0x10_0000;
/// The hypercall block.
pub const BLOCK: u32 = 0x30_0000;
/// Scratch memory.
pub const DATA: u32 = 0x40_0000;

/// Machine code in the making (Intel SDM volume 2; 32-bit operand and address size).
#[derive(Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// Raw instruction bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Code {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The code of another piece.
    pub fn append(self, other: Code) -> Code {
        self.bytes(&other.0)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// `mov dword [address], value`
    pub fn store(self, address: u32, value: u32) -> Code {
        self.bytes(&[0xc7, 0x05]).bytes(&address.to_le_bytes()).bytes(&value.to_le_bytes())
    }

    /// `mov edx, port; mov eax, value; out dx, eax`
    pub fn out32(self, port: u16, value: u32) -> Code {
        self.bytes(&[0xba])
            .bytes(&u32::from(port).to_le_bytes())
            .bytes(&[0xb8])
            .bytes(&value.to_le_bytes())
            .bytes(&[0xef])
    }

    /// `mov edx, port; mov al, value; out dx, al`
    pub fn out8(self, port: u16, value: u8) -> Code {
        self.bytes(&[0xba]).bytes(&u32::from(port).to_le_bytes()).bytes(&[0xb0, value, 0xee])
    }

    /// `mov edx, port; in eax, dx; mov [address], eax`
    pub fn in32(self, port: u16, address: u32) -> Code {
        self.bytes(&[0xba])
            .bytes(&u32::from(port).to_le_bytes())
            .bytes(&[0xed, 0xa3])
            .bytes(&address.to_le_bytes())
    }

    /// Registers the hypercall block.
    pub fn register(self) -> Code {
        self.out32(PORT_BLOCK, BLOCK >> 12)
    }

    /// A hypercall with 32-bit arguments.
    pub fn call(mut self, op: Op, args: &[u32]) -> Code {
        for (i, arg) in args.iter().enumerate() {
            self = self.store(BLOCK + 8 * i as u32, *arg);
        }
        self.out32(PORT_CALL, op as u32)
    }

    /// Stores bytes, four at a time.
    pub fn text(mut self, address: u32, text: &[u8]) -> Code {
        for (i, chunk) in text.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self = self.store(address + 4 * i as u32, u32::from_le_bytes(word));
        }
        self
    }

    /// `jmp $`
    pub fn spin(self) -> Code {
        self.bytes(&[0xeb, 0xfe])
    }

    /// The kernel file.
    pub fn into_file(self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&elf(&self.0)).unwrap();
        file
    }
}

/// An ELF64 file with one segment at [`ENTRY`] and a note with the 32-bit entry point.
fn elf(code: &[u8]) -> Vec<u8> {
    const EHDR: usize = 64;
    const PHDR: usize = 56;
    let note_at = EHDR + 2 * PHDR;
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());
    let code_at = note_at + note.len();

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |f: &mut Vec<u8>, n: u16| f.extend(n.to_le_bytes());
    let word = |f: &mut Vec<u8>, n: u32| f.extend(n.to_le_bytes());
    let long = |f: &mut Vec<u8>, n: u64| f.extend(n.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, 62); // EM_X86_64
    word(&mut file, 1);
    long(&mut file, ENTRY.into());
    long(&mut file, EHDR as u64);
    long(&mut file, 0);
    word(&mut file, 0);
    for n in [EHDR, PHDR, 2, 64, 0, 0] {
        half(&mut file, n as u16);
    }
    // (type, flags, offset, physical address, bytes)
    for (kind, flags, at, pa, len) in
        [(1, 5, code_at, u64::from(ENTRY), code.len()), (4, 4, note_at, 0, note.len())]
    {
        word(&mut file, kind);
        word(&mut file, flags);
        long(&mut file, at as u64);
        long(&mut file, pa);
        long(&mut file, pa);
        long(&mut file, len as u64);
        long(&mut file, len as u64);
        long(&mut file, 4);
    }
    file.extend(note);
    file.extend(code);
    file
}
