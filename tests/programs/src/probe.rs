//! Accesses that may fault, and say so: what the processor lets through now, stale translations included.
//!
//! Each is one instruction of known length, so that the handler can step over it; it leaves the signal's number in RDX.
//! No memory of the thread is involved, so that any number of threads may probe at once.

use crate::signal;
use std::arch::asm;

/// `mov [rdi], al` and `mov al, [rdi]`.
const PROBES: [[u8; 2]; 2] = [[0x88, 0x07], [0x8a, 0x07]];

extern "C" fn step_over(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid siginfo and a valid ucontext, which sigreturn reads back. RIP is readable unless
    // the fetch from it faulted; then the interrupted instruction is the `call` of `probe::call`, and RSP points to where
    // it goes on.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize];
        if (*info).si_addr() as i64 == rip {
            registers[libc::REG_RIP as usize] = *(registers[libc::REG_RSP as usize] as *const i64);
            registers[libc::REG_RSP as usize] += 8;
        } else if PROBES.contains(&*(rip as *const [u8; 2])) {
            registers[libc::REG_RIP as usize] += 2;
        } else {
            // Not one of ours: let it end the process where it is.
            return signal::default(signal);
        }
        registers[libc::REG_RDX as usize] = signal.into();
    }
}

/// Installs the handlers; before the first probe.
pub fn install() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        signal::handle(signal, step_over, 0);
    }
}

fn outcome<T>(value: T, signal: u64) -> Result<T, i32> {
    if signal == 0 { Ok(value) } else { Err(signal as i32) }
}

/// Reads the byte at `address`, which need not be mapped.
///
/// # Errors
/// The signal that the access raised.
#[inline(never)]
pub fn read(address: usize) -> Result<u8, i32> {
    let (byte, signal): (u8, u64);
    // SAFETY: the load either happens or is stepped over by `step_over`.
    unsafe {
        asm!("mov al, byte ptr [rdi]", in("rdi") address, inlateout("rdx") 0u64 => signal, lateout("al") byte,
             options(nostack, readonly));
    }
    outcome(byte, signal)
}

/// Writes a byte to `address`, which need not be mapped and to which no Rust reference points.
///
/// # Errors
/// The signal that the access raised.
#[inline(never)]
pub fn write(address: usize, byte: u8) -> Result<(), i32> {
    let signal: u64;
    // SAFETY: the store either happens, to memory that the caller has as raw, or is stepped over by `step_over`.
    unsafe {
        asm!("mov byte ptr [rdi], al", in("rdi") address, in("al") byte, inlateout("rdx") 0u64 => signal, options(nostack));
    }
    outcome((), signal)
}

/// `mov eax, N; ret`, for [`call`].
pub fn code(n: u8) -> [u8; 6] {
    [0xb8, n, 0, 0, 0, 0xc3]
}

/// Calls the code at `address`, which need not be mapped; if it is, [`code`] is there. Gives its N.
///
/// # Errors
/// The signal that the fetch raised.
#[inline(never)]
pub fn call(address: usize) -> Result<u8, i32> {
    let (value, signal): (u64, u64);
    // SAFETY: the code there changes EAX alone; a fetch that faults is turned into a return by `step_over`.
    unsafe {
        asm!("call rdi", in("rdi") address, inlateout("rdx") 0u64 => signal, lateout("rax") value, clobber_abi("C"));
    }
    outcome(value as u8, signal)
}
