//! The signal frame on the user's stack: Linux's `struct rt_sigframe` for x86-64 (arch/x86/include/asm/sigframe.h,
//! arch/x86/include/uapi/asm/sigcontext.h), word by word. Pure: nothing here touches the machine.
//!
//! ```text
//!   high   ... interrupted program, 128 bytes of red zone ...
//!          FXSAVE image, 512 bytes, 64-byte aligned
//!          siginfo      words 39..55
//!          ucontext     words 1..39: flags, link, stack(3), sigcontext(32), sigmask
//!   low    return address = sa_restorer            <- rsp, 8 below a 16-byte boundary
//! ```

use super::types::{SIGINFO_BYTES, SigInfo};
use ptshare_abi::sys::general as raw;
use ptshare_machine::trap::TrapFrame;

/// SS_ONSTACK.
pub const SS_ONSTACK: u64 = raw::SS_ONSTACK as u64;
/// SS_DISABLE.
pub const SS_DISABLE: u64 = raw::SS_DISABLE as u64;
/// SS_AUTODISARM.
pub const SS_AUTODISARM: u64 = raw::SS_AUTODISARM as u64;
/// Smallest alternate stack, bytes.
pub const MINSIGSTKSZ: u64 = 2048;

/// Bytes below the stack pointer that belong to the interrupted function (System V ABI, "The Stack Frame").
const RED_ZONE: u64 = 128;
/// Bytes of an FXSAVE image.
pub const FXSAVE_BYTES: u64 = 512;
/// Words of the frame without the FXSAVE image.
pub const FRAME_WORDS: usize = 1 + 38 + SIGINFO_BYTES / 8;
const FRAME_BYTES: u64 = 8 * FRAME_WORDS as u64;

/// `uc_flags`: SS is saved and restored strictly.
const UC_FLAGS: u64 = 0x2 | 0x4;
const UC: usize = 1;
const STACK: usize = UC + 2;
const CONTEXT: usize = UC + 5;
const MASK: usize = CONTEXT + 32;
const INFO: usize = MASK + 1;
const FPSTATE: usize = CONTEXT + 23;

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Address of the frame: the handler's stack pointer.
    pub frame: u64,
    /// Address of the FXSAVE image.
    pub fpstate: u64,
}

/// An alternate signal stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// Bytes; 0 when there is none.
    pub size: u64,
    /// Flags as sigaltstack(2) set them.
    pub flags: u64,
}

impl AltStack {
    /// Is `sp` on it? (`on_sig_stack`; never with SS_AUTODISARM, which takes the stack away while it is in use.)
    pub fn holds(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && sp > self.base && sp - self.base <= self.size
    }

    /// The flags that sigaltstack(2) reports.
    pub fn reported_flags(&self, sp: u64) -> u64 {
        let state = match self.size {
            0 => SS_DISABLE,
            _ if self.holds(sp) => SS_ONSTACK,
            _ => 0,
        };
        state | self.flags & SS_AUTODISARM
    }
}

/// Finds the place for a frame. `None` when it would run off the alternate stack that it is on, or below address 0.
pub fn place(sp: u64, alt: &AltStack, on_alt: bool) -> Option<Place> {
    let mut top = sp.wrapping_sub(RED_ZONE);
    let nested = alt.holds(sp);
    let mut switched = false;
    if on_alt && alt.size != 0 && !nested {
        top = alt.base.wrapping_add(alt.size);
        switched = true;
    }
    let fpstate = top.checked_sub(FXSAVE_BYTES)? & !63;
    let frame = (fpstate.checked_sub(FRAME_BYTES)? & !15).checked_sub(8)?;
    if (nested || switched) && !(frame > alt.base && frame - alt.base <= alt.size) {
        return None;
    }
    Some(Place { frame, fpstate })
}

/// What goes into a frame beside the registers.
pub struct Extra<'a> {
    /// Return address of the handler.
    pub restorer: u64,
    /// Mask to restore.
    pub mask: u64,
    /// The alternate stack now.
    pub alt: AltStack,
    /// Vector, error code and address of the last fault.
    pub fault: [u64; 3],
    /// The signal.
    pub info: &'a SigInfo,
}

/// Builds the frame.
pub fn build(regs: &TrapFrame, place: Place, extra: &Extra<'_>) -> [u64; FRAME_WORDS] {
    let mut words = [0; FRAME_WORDS];
    words[0] = extra.restorer;
    words[UC] = UC_FLAGS;
    words[STACK] = extra.alt.base;
    words[STACK + 1] = extra.alt.flags;
    words[STACK + 2] = extra.alt.size;
    let [vector, error, addr] = extra.fault;
    words[CONTEXT..CONTEXT + 24].copy_from_slice(&[
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rdi,
        regs.rsi,
        regs.rbp,
        regs.rbx,
        regs.rdx,
        regs.rax,
        regs.rcx,
        regs.rsp,
        regs.rip,
        regs.rflags,
        regs.cs & 0xffff | (regs.ss & 0xffff) << 48,
        error,
        vector,
        extra.mask,
        addr,
        place.fpstate,
    ]);
    words[MASK] = extra.mask;
    words[INFO..].copy_from_slice(&extra.info.to_words());
    words
}

/// Addresses that the handler gets: of the siginfo and of the ucontext.
pub fn arguments(place: Place) -> (u64, u64) {
    (place.frame + 8 * INFO as u64, place.frame + 8 * UC as u64)
}

/// What a frame gives back.
pub struct Restored {
    /// The alternate stack.
    pub alt: AltStack,
    /// The mask.
    pub mask: u64,
    /// Address of the FXSAVE image, 0 for none.
    pub fpstate: u64,
}

/// Puts the registers of a frame back. Selectors and flags are for the caller to sanitise.
pub fn restore(regs: &mut TrapFrame, words: &[u64; FRAME_WORDS]) -> Restored {
    let context = &words[CONTEXT..CONTEXT + 32];
    regs.r8 = context[0];
    regs.r9 = context[1];
    regs.r10 = context[2];
    regs.r11 = context[3];
    regs.r12 = context[4];
    regs.r13 = context[5];
    regs.r14 = context[6];
    regs.r15 = context[7];
    regs.rdi = context[8];
    regs.rsi = context[9];
    regs.rbp = context[10];
    regs.rbx = context[11];
    regs.rdx = context[12];
    regs.rax = context[13];
    regs.rcx = context[14];
    regs.rsp = context[15];
    regs.rip = context[16];
    regs.rflags = context[17];
    Restored {
        alt: AltStack { base: words[STACK], flags: words[STACK + 1] & 0xffff_ffff, size: words[STACK + 2] },
        mask: words[MASK],
        fpstate: words[FPSTATE],
    }
}
