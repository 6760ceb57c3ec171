//! The new program's stack: strings, pointers and the auxiliary vector (System V ABI, "Initial Stack and Register
//! State"). Pure: it builds bytes for an address.
//!
//! ```text
//!   top of stack (USER_END)
//!     8 zero bytes, path of the program (AT_EXECFN), environment strings, argument strings
//!     "x86_64", 16 random bytes, padding
//!     auxiliary vector, 0, environment pointers, 0, argument pointers, argc     <- rsp, 16-byte aligned
//! ```

use super::strings::Strings;
use crate::task::rseq;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_abi::sys::auxvec as at;
use ptshare_paging::PAGE_BYTES;

/// Clock ticks a second (AT_CLKTCK).
const CLOCK_TICKS: u64 = 100;
/// AT_MINSIGSTKSZ: a signal frame with an FXSAVE image and its alignment.
const MIN_SIGNAL_STACK: u64 = 2048;

/// What the auxiliary vector says, beside constants.
pub struct Auxiliary {
    /// AT_PHDR.
    pub phdr: u64,
    /// AT_PHNUM.
    pub phdrs: u64,
    /// AT_BASE: where the interpreter is loaded, 0 without one.
    pub base: u64,
    /// AT_ENTRY: the program's entry, not the interpreter's.
    pub entry: u64,
    /// AT_UID, AT_EUID, AT_GID, AT_EGID.
    pub ids: [u64; 4],
    /// AT_SECURE.
    pub secure: bool,
    /// AT_HWCAP: CPUID leaf 1, EDX.
    pub hwcap: u64,
    /// AT_RANDOM's bytes.
    pub random: [u64; 2],
}

/// A stack's content and where its parts lie.
pub struct Stack {
    /// Content from `sp` up to the top.
    pub bytes: Vec<u8>,
    /// Stack pointer of the first instruction.
    pub sp: u64,
    /// Argument strings: first byte, first byte after.
    pub args: (u64, u64),
    /// Environment strings: first byte, first byte after.
    pub env: (u64, u64),
}

/// Builds the stack that ends at `top`.
///
/// # Errors
/// ENOMEM; E2BIG when it does not fit below `top`.
pub fn build(top: u64, argv: &Strings, envp: &Strings, path: &[u8], aux: &Auxiliary) -> Result<Stack, Errno> {
    let exec_path = top.checked_sub(8 + path.len() as u64 + 1).ok_or(Errno::E2BIG)?;
    let env = exec_path.checked_sub(envp.bytes.len() as u64).ok_or(Errno::E2BIG)?;
    let args = env.checked_sub(argv.bytes.len() as u64).ok_or(Errno::E2BIG)?;
    let platform = args.checked_sub(8).ok_or(Errno::E2BIG)?;
    let random = platform.checked_sub(16).ok_or(Errno::E2BIG)? & !15;
    let [uid, euid, gid, egid] = aux.ids;
    let vector = [
        [u64::from(at::AT_MINSIGSTKSZ), MIN_SIGNAL_STACK],
        [u64::from(at::AT_HWCAP), aux.hwcap],
        [u64::from(at::AT_PAGESZ), PAGE_BYTES],
        [u64::from(at::AT_CLKTCK), CLOCK_TICKS],
        [u64::from(at::AT_PHDR), aux.phdr],
        [u64::from(at::AT_PHENT), super::elf::PHDR_BYTES as u64],
        [u64::from(at::AT_PHNUM), aux.phdrs],
        [u64::from(at::AT_BASE), aux.base],
        [u64::from(at::AT_FLAGS), 0],
        [u64::from(at::AT_ENTRY), aux.entry],
        [u64::from(at::AT_UID), uid],
        [u64::from(at::AT_EUID), euid],
        [u64::from(at::AT_GID), gid],
        [u64::from(at::AT_EGID), egid],
        [u64::from(at::AT_SECURE), u64::from(aux.secure)],
        [u64::from(at::AT_RANDOM), random],
        [u64::from(at::AT_HWCAP2), 0],
        [u64::from(at::AT_RSEQ_FEATURE_SIZE), u64::from(rseq::FEATURE_BYTES)],
        [u64::from(at::AT_RSEQ_ALIGN), u64::from(rseq::AREA_BYTES)],
        [u64::from(at::AT_EXECFN), exec_path],
        [u64::from(at::AT_PLATFORM), platform],
        [u64::from(at::AT_NULL), 0],
    ];
    let words = 1 + argv.count() + 1 + envp.count() + 1 + 2 * vector.len();
    let sp = random.checked_sub(8 * words as u64).ok_or(Errno::E2BIG)? & !15;

    let mut out = Builder { bytes: Vec::new(), base: sp };
    out.bytes.try_reserve_exact((top - sp) as usize).map_err(|_| Errno::ENOMEM)?;
    out.word(argv.count() as u64);
    out.pointers(args, argv);
    out.pointers(env, envp);
    for [key, value] in vector {
        out.word(key);
        out.word(value);
    }
    out.pad_to(random);
    out.word(aux.random[0]);
    out.word(aux.random[1]);
    out.pad_to(platform);
    out.bytes.extend_from_slice(b"x86_64\0");
    out.pad_to(args);
    out.bytes.extend_from_slice(&argv.bytes);
    out.bytes.extend_from_slice(&envp.bytes);
    out.bytes.extend_from_slice(path);
    out.pad_to(top);
    Ok(Stack { bytes: out.bytes, sp, args: (args, env), env: (env, exec_path) })
}

struct Builder {
    bytes: Vec<u8>,
    base: u64,
}

impl Builder {
    fn word(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Pointers to strings that begin at `at`, and a null pointer.
    fn pointers(&mut self, mut at: u64, strings: &Strings) {
        for length in &strings.lengths {
            self.word(at);
            at += u64::from(*length);
        }
        self.word(0);
    }

    fn pad_to(&mut self, addr: u64) {
        let len = addr.saturating_sub(self.base) as usize;
        if len > self.bytes.len() {
            self.bytes.resize(len, 0);
        }
    }
}
