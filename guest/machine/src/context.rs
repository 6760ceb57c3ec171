//! What the machine keeps for a task: kernel stack, FPU image, segment bases; and the switch between two of them.

use crate::env::Machine;
use crate::trap::TrapFrame;
use crate::{cpu, phys};
use alloc::boxed::Box;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_mm::frame;
use ptshare_paging::Pfn;

/// log2 of the pages in a kernel stack: 16 KiB.
const STACK_ORDER: usize = 2;
/// Bytes of a kernel stack.
pub const KERNEL_STACK_BYTES: u64 = 4096 << STACK_ORDER;

/// The legacy FXSAVE image (SDM 1, "FXSAVE Area"): x87 and SSE state.
#[repr(C, align(16))]
#[derive(Clone)]
struct FpuState([u8; 512]);

/// Everything that the machine needs of one task.
pub struct TaskContext {
    stack: Pfn,
    rsp: AtomicU64,
    fs_base: AtomicU64,
    gs_base: AtomicU64,
    fpu: UnsafeCell<Box<FpuState>>,
}

// SAFETY: `fpu` is touched by the CPU that runs the task, or by the creator before the task runs; the rest is atomic.
unsafe impl Sync for TaskContext {}
// SAFETY: nothing in it belongs to a CPU.
unsafe impl Send for TaskContext {}

unsafe extern "C" {
    fn ptshare_switch_stacks(save: *const AtomicU64, to: u64);
    fn ptshare_first_return();
}

impl TaskContext {
    /// A kernel stack and a fresh FPU image; `None` when memory is short.
    pub fn new() -> Option<TaskContext> {
        let stack = frame::alloc_kernel(&Machine, STACK_ORDER, false).ok()?;
        let mut fpu = Box::new(FpuState([0; 512]));
        // FCW 0x37f, MXCSR 0x1f80: the state after FNINIT and reset.
        fpu.0[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        fpu.0[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        Some(TaskContext {
            stack,
            rsp: AtomicU64::new(0),
            fs_base: AtomicU64::new(0),
            gs_base: AtomicU64::new(0),
            fpu: UnsafeCell::new(fpu),
        })
    }

    fn stack_top(&self) -> u64 {
        phys::virt(self.stack.pa().0) + KERNEL_STACK_BYTES
    }

    /// Arranges that the first switch to this task calls the `new_task` hook and returns to user mode with `frame`.
    pub fn prepare_user(&self, frame: &TrapFrame) {
        let frame_at = self.stack_top() - size_of::<TrapFrame>() as u64;
        // SAFETY: the stack belongs to this context alone and nothing runs on it yet. Layout, downward from the top:
        // the frame, the return address, six callee-saved registers (zero).
        unsafe {
            *(frame_at as *mut TrapFrame) = *frame;
            *((frame_at - 8) as *mut u64) = ptshare_first_return as *const () as u64;
            core::ptr::write_bytes((frame_at - 56) as *mut u8, 0, 48);
        }
        self.rsp.store(frame_at - 56, Relaxed);
    }

    /// Copies the state of the running task `parent` into this new one: FPU registers as they are now, segment bases.
    pub fn inherit(&self, parent: &TaskContext) {
        // SAFETY: this context does not run yet, so its image is ours.
        let image = unsafe { &mut *self.fpu.get() };
        fxsave(&mut image.0);
        self.fs_base.store(parent.fs_base.load(Relaxed), Relaxed);
        self.gs_base.store(parent.gs_base.load(Relaxed), Relaxed);
    }

    /// Resets the running task's FPU registers and segment bases, as exec does.
    pub fn reset_current(&self) {
        let mut fresh = FpuState([0; 512]);
        fresh.0[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        fresh.0[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        fxrstor(&fresh.0);
        self.set_fs_base(0);
        self.set_gs_base(0);
    }

    /// The running task's FPU registers, saved now.
    pub fn fpu_image(&self) -> [u8; 512] {
        let mut image = FpuState([0; 512]);
        fxsave(&mut image.0);
        image.0
    }

    /// Loads the running task's FPU registers. MXCSR bits that would fault are cleared.
    pub fn set_fpu_image(&self, image: &[u8; 512]) {
        let mut image = FpuState(*image);
        // MXCSR bits above 15 are reserved and raise #GP in FXRSTOR (SDM 1, "MXCSR").
        image.0[26..28].fill(0);
        fxrstor(&image.0);
    }

    /// The user's FS base.
    pub fn fs_base(&self) -> u64 {
        self.fs_base.load(Relaxed)
    }

    /// Sets the running task's FS base, at once.
    pub fn set_fs_base(&self, value: u64) {
        self.fs_base.store(value, Relaxed);
        cpu::set_fs_base(value);
    }

    /// Sets the FS base of a task that does not run yet.
    pub fn preset_fs_base(&self, value: u64) {
        self.fs_base.store(value, Relaxed);
    }

    /// The user's GS base.
    pub fn gs_base(&self) -> u64 {
        self.gs_base.load(Relaxed)
    }

    /// Sets the running task's GS base.
    pub fn set_gs_base(&self, value: u64) {
        self.gs_base.store(value, Relaxed);
        cpu::set_user_gs_base(value);
    }
}

impl Drop for TaskContext {
    fn drop(&mut self) {
        frame::free_kernel(&Machine, self.stack, STACK_ORDER);
    }
}

/// Switches this CPU from the running task `prev` (`None`: the idle loop, whose context is `idle`) to `next`.
/// Returns when somebody switches back.
pub fn switch(prev: &TaskContext, next: &TaskContext) {
    ptshare_sync::assert_none_held();
    // SAFETY: `prev` runs on this CPU, so its image is ours to fill.
    fxsave(unsafe { &mut (*prev.fpu.get()).0 });
    activate(next);
    // SAFETY: `next.rsp` was left by an earlier switch or by `prepare_user`, and its stack lives as long as it.
    unsafe { ptshare_switch_stacks(&prev.rsp, next.rsp.load(Relaxed)) }
}

/// Loads everything of `next` but its stack pointer.
fn activate(next: &TaskContext) {
    cpu::set_kernel_stack(next.stack_top());
    // SAFETY: `next` runs nowhere, so nobody writes its image.
    fxrstor(unsafe { &(*next.fpu.get()).0 });
    cpu::set_fs_base(next.fs_base.load(Relaxed));
    cpu::set_user_gs_base(next.gs_base.load(Relaxed));
}

/// The boot stack as a context, for the idle loop: it never returns to user mode.
pub struct IdleContext {
    rsp: AtomicU64,
}

impl IdleContext {
    /// An idle context; the boot CPU's stack fills it at its first switch.
    pub const fn new() -> IdleContext {
        IdleContext { rsp: AtomicU64::new(0) }
    }

    /// From idle to a task.
    pub fn switch_to(&self, next: &TaskContext) {
        activate(next);
        // SAFETY: as in `switch`.
        unsafe { ptshare_switch_stacks(&self.rsp, next.rsp.load(Relaxed)) }
    }

    /// From a task that waits to idle.
    pub fn switch_from(&self, prev: &TaskContext) {
        ptshare_sync::assert_none_held();
        // SAFETY: as in `switch`.
        fxsave(unsafe { &mut (*prev.fpu.get()).0 });
        // SAFETY: the idle stack was left by `switch_to`.
        unsafe { ptshare_switch_stacks(&prev.rsp, self.rsp.load(Relaxed)) }
    }
}

impl Default for IdleContext {
    fn default() -> Self {
        IdleContext::new()
    }
}

fn fxsave(image: &mut [u8; 512]) {
    // SAFETY: the image is 16-byte aligned (it lies in an `FpuState`) and 512 bytes long.
    unsafe { asm!("fxsave64 [{}]", in(reg) image.as_mut_ptr(), options(nostack, preserves_flags)) }
}

fn fxrstor(image: &[u8; 512]) {
    // SAFETY: as for `fxsave`; reserved MXCSR bits are clear in every image that we keep.
    unsafe { asm!("fxrstor64 [{}]", in(reg) image.as_ptr(), options(nostack, preserves_flags, readonly)) }
}
