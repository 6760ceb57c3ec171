//! Accesses that may fault: the handler notes the signal and goes on behind the access.

use ptshare_programs::process;
use std::arch::asm;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

/// Where to go on after a fault (0: nowhere), and the stack pointer there.
static RESUME: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// A signal that an access raised.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// SIGSEGV or SIGBUS.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub address: u64,
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let resume = RESUME[0].load(SeqCst);
    if resume == 0 {
        // Not one of our accesses: the interpreter itself is broken.
        process::leave(99);
    }
    SIGNAL.store(signal, SeqCst);
    // SAFETY: the kernel passes a valid siginfo and a valid ucontext to an SA_SIGINFO handler.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        ADDRESS.store((*info).si_addr() as u64, SeqCst);
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        registers[libc::REG_RIP as usize] = resume as i64;
        registers[libc::REG_RSP as usize] = RESUME[1].load(SeqCst) as i64;
    }
}

/// Installs the handler, on a stack of its own. Both are inherited over fork.
pub fn install() {
    const STACK: usize = 64 << 10;
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: the stack lives for ever; the action is zeroed but for what is set, which is what Linux wants.
    unsafe {
        libc::sigaltstack(&alternate, std::ptr::null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

fn outcome(value: u64) -> Result<u64, Fault> {
    RESUME[0].store(0, SeqCst);
    match SIGNAL.swap(0, SeqCst) {
        0 => Ok(value),
        signal => Err(Fault { signal, code: CODE.load(SeqCst), address: ADDRESS.load(SeqCst) }),
    }
}

/// Reads a word.
pub fn load(address: u64) -> Result<u64, Fault> {
    let mut value = 0_u64;
    // SAFETY: reads only, at an address in the trace's memory, which no Rust reference points into; a fault goes on at the
    // label with registers as they were.
    unsafe {
        asm!(
            "lea {t}, [rip + 2f]", "mov [{r}], {t}", "mov [{r} + 8], rsp", "mov {v}, [{a}]", "2:",
            t = out(reg) _, r = in(reg) RESUME.as_ptr(), a = in(reg) address, v = inout(reg) value,
        );
    }
    outcome(value)
}

/// Writes a word.
pub fn store(address: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: writes to the trace's memory, which no Rust reference points into; a fault goes on at the label.
    unsafe {
        asm!(
            "lea {t}, [rip + 2f]", "mov [{r}], {t}", "mov [{r} + 8], rsp", "mov [{a}], {v}", "2:",
            t = out(reg) _, r = in(reg) RESUME.as_ptr(), a = in(reg) address, v = in(reg) value,
        );
    }
    outcome(0).map(drop)
}

/// Calls an address at which there is a `ret`.
pub fn call(address: u64) -> Result<(), Fault> {
    // SAFETY: the code there is a single `ret` if it can be fetched at all; otherwise the fault goes on at the label with
    // the stack pointer of before the call.
    unsafe {
        asm!(
            "lea {t}, [rip + 2f]", "mov [{r}], {t}", "mov [{r} + 8], rsp", "call {a}", "2:",
            t = out(reg) _, r = in(reg) RESUME.as_ptr(), a = in(reg) address,
        );
    }
    outcome(0).map(drop)
}

/// A number that stands for the content of a page; 0 if all of it is zero.
pub fn page(address: u64) -> Result<u64, Fault> {
    let mut sum = load(address)?;
    let mut any = sum;
    for word in 1..512 {
        let value = load(address + word * 8)?;
        any |= value;
        sum = (sum ^ value).rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    Ok(if any == 0 { 0 } else { sum | 1 })
}
