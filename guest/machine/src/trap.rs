//! Traps: the frame, the interrupt table, and the way from a vector to the kernel's hooks.
//!
//! On the interpreting KVM a user's `syscall` stays at CPL 3 and faults on the fetch at LSTAR: a user instruction
//! fetch at that address *is* a system call. A program that jumps there by hand only makes a system call with
//! registers that it controls anyway.

use crate::{cpu, panic, smp, time};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use ptshare_wire::layout::{VECTOR_CONSOLE, VECTOR_IPI, VECTOR_SPURIOUS, VECTOR_TIMER};

global_asm!(include_str!("trap.s"));

/// The registers of the interrupted program, as `trap.s` pushes them.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Page-fault error code (SDM 3A, "Interrupt 14"): the page was present.
pub const PF_PRESENT: u64 = 1;
/// Page-fault error code: a write.
pub const PF_WRITE: u64 = 2;
/// Page-fault error code: user mode.
pub const PF_USER: u64 = 4;
/// Page-fault error code: a reserved bit was set.
pub const PF_RESERVED: u64 = 8;
/// Page-fault error code: an instruction fetch.
pub const PF_FETCH: u64 = 16;

/// RFLAGS with which a program starts: IF and the bit that is always set.
pub const USER_RFLAGS: u64 = 0x202;
/// RFLAGS bits that a program may choose: CF PF AF ZF SF TF DF OF NT RF AC ID (Linux: FIX_EFLAGS and its neighbours).
pub const USER_RFLAGS_MASK: u64 = 0x0025_4dd5;

impl TrapFrame {
    /// Did the trap come from user mode?
    #[inline]
    pub fn from_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// A frame that starts a program.
    pub fn new_user(rip: u64, rsp: u64) -> TrapFrame {
        TrapFrame {
            rip,
            rsp,
            cs: u64::from(cpu::USER_CS),
            ss: u64::from(cpu::USER_DS),
            rflags: USER_RFLAGS,
            ..TrapFrame::default()
        }
    }

    /// Forces what a program may not choose: selectors, IF, IOPL. For frames built from user memory.
    pub fn sanitise(&mut self) {
        self.cs = u64::from(cpu::USER_CS);
        self.ss = u64::from(cpu::USER_DS);
        self.rflags = self.rflags & USER_RFLAGS_MASK | USER_RFLAGS;
    }
}

#[repr(C, align(4096))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once at boot, by the only CPU, before it is loaded.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    static ptshare_trap_stubs: u8;
    static ptshare_spurious_stub: u8;
    static ptshare_fixups: [u64; 2];
}

unsafe extern "Rust" {
    safe fn ptshare_hook_syscall(frame: &mut TrapFrame);
    safe fn ptshare_hook_page_fault(frame: &mut TrapFrame, addr: u64);
    safe fn ptshare_hook_exception(frame: &mut TrapFrame);
    safe fn ptshare_hook_timer();
    safe fn ptshare_hook_console();
    safe fn ptshare_hook_ipi();
    safe fn ptshare_hook_return_to_user(frame: &mut TrapFrame);
    safe fn ptshare_hook_uaccess_fault(addr: u64, write: bool) -> bool;
    safe fn ptshare_hook_wait_userfault(context: u32, number: u32) -> bool;
    safe fn ptshare_hook_new_task();
}

/// An interrupt gate (SDM 3A, "64-Bit IDT Gate Descriptors").
fn gate(handler: u64, dpl: u64, ist: u64) -> [u64; 2] {
    let low = handler & 0xffff
        | u64::from(cpu::KERNEL_CS) << 16
        | ist << 32
        | (0x8e | dpl << 5) << 40
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Fills and loads the interrupt table.
pub(crate) fn init() {
    let stubs = core::ptr::addr_of!(ptshare_trap_stubs) as u64;
    // SAFETY: the only CPU, before the table is loaded.
    let table = unsafe { &mut *IDT.0.get() };
    for (vector, entry) in table.iter_mut().take(64).enumerate() {
        // Programs may raise #BP and #OF by instruction; #DF and NMI get a stack of their own.
        let dpl = if vector == 3 || vector == 4 { 3 } else { 0 };
        let ist = if vector == 8 || vector == 2 { 1 } else { 0 };
        *entry = gate(stubs + 16 * vector as u64, dpl, ist);
    }
    table[usize::from(VECTOR_SPURIOUS)] = gate(core::ptr::addr_of!(ptshare_spurious_stub) as u64, 0, 0);
    load();
}

/// Loads the interrupt table, which [`init`] has filled.
pub(crate) fn load() {
    cpu::load_idt(IDT.0.get());
}

#[unsafe(no_mangle)]
extern "C" fn ptshare_trap(frame: &mut TrapFrame) {
    const TIMER: u64 = VECTOR_TIMER as u64;
    const CONSOLE: u64 = VECTOR_CONSOLE as u64;
    const IPI: u64 = VECTOR_IPI as u64;
    let user = frame.from_user();
    match frame.vector {
        14 => {
            let addr = cpu::cr2();
            if !user {
                return kernel_fault(frame, addr);
            }
            if addr == cpu::lstar() && frame.rip == addr && frame.error & PF_FETCH != 0 {
                frame.rip = frame.rcx;
                frame.rflags = frame.r11;
                ptshare_hook_syscall(frame);
            } else {
                ptshare_hook_page_fault(frame, addr);
            }
        }
        TIMER => {
            time::end_of_interrupt();
            ptshare_hook_timer();
        }
        CONSOLE => {
            time::end_of_interrupt();
            ptshare_hook_console();
        }
        IPI => {
            time::end_of_interrupt();
            smp::answer();
            smp::stand_still();
            ptshare_hook_ipi();
        }
        _ if user => ptshare_hook_exception(frame),
        _ => panic::exception(frame, cpu::cr2()),
    }
    if user {
        leave(frame);
    }
}

#[unsafe(no_mangle)]
extern "C" fn ptshare_syscall(frame: &mut TrapFrame) {
    ptshare_hook_syscall(frame);
    leave(frame);
}

#[unsafe(no_mangle)]
extern "C" fn ptshare_first(frame: &mut TrapFrame) {
    ptshare_hook_new_task();
    leave(frame);
}

#[inline]
fn leave(frame: &mut TrapFrame) {
    ptshare_hook_return_to_user(frame);
    ptshare_sync::assert_none_held();
}

/// A page fault in kernel mode: legitimate only at the instructions in the fix-up table.
#[cold]
fn kernel_fault(frame: &mut TrapFrame, addr: u64) {
    let mut entry = core::ptr::addr_of!(ptshare_fixups);
    loop {
        // SAFETY: the table in `trap.s` ends with a zero pair.
        let [ip, fixup] = unsafe { *entry };
        if ip == 0 {
            panic::exception(frame, addr);
        }
        if ip == frame.rip {
            if !ptshare_hook_uaccess_fault(addr, frame.error & PF_WRITE != 0) {
                frame.rip = fixup;
            }
            return;
        }
        // SAFETY: not the last pair, so another follows.
        entry = unsafe { entry.add(1) };
    }
}

/// May the kernel mend a fault at this user address? For [`crate::uaccess`]'s own walks.
pub(crate) fn mend(addr: u64, write: bool) -> bool {
    ptshare_hook_uaccess_fault(addr, write)
}

/// Waits for the handler of a fault of the current task: see `ptshare_mm::Env::wait_userfault`.
pub(crate) fn wait_userfault(context: u32, number: u32) -> bool {
    ptshare_hook_wait_userfault(context, number)
}
