//! The host below (`ptshare_wire::hypercall`): the hypercall device of our own VMM, or the doorbell where our VMM has the
//! machine emulated; where nobody listens, the serial port and QEMU's debug-exit device.

use crate::{cpu, phys, time};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, Ordering::Relaxed, compiler_fence};
use ptshare_wire::Epitaph;
use ptshare_wire::hypercall::{
    Block, CHECKPOINT_AGAIN, CONSOLE_EOF, CheckpointReason, DEVICE_MAGIC, DOORBELL_PORT, DOORBELL_RING,
    MARK_FIRST_USER, MARK_KERNEL, Op, PORT_BLOCK, PORT_CALL, PORT_ID,
};
use ptshare_wire::layout::{DEBUG_EXIT_PORT, SERIAL_PORT};

/// What [`HOST`] says: nobody listens.
const NOBODY: u8 = 0;
/// The hypercall device.
const DEVICE: u8 = 1;
/// The doorbell.
const DOORBELL: u8 = 2;

/// How long a CPU has to leave its critical section before the host is asked again for a verdict; doubled each time up to
/// the second.
const ASK_AGAIN_NS: u64 = 50_000;
const ASK_AGAIN_MAX_NS: u64 = 2_000_000;

static HOST: AtomicU8 = AtomicU8::new(NOBODY);

/// The boot CPU's block. Page-aligned, so that one frame number tells where it is.
#[repr(C, align(4096))]
struct BootBlock(Block);

// The host finds it by this name (`ptshare_wire::hypercall::BLOCK_SYMBOL`).
#[unsafe(export_name = "ptshare_hypercall_block")]
static BLOCK: BootBlock = BootBlock(Block {
    args: [const { AtomicU64::new(0) }; 4],
    result: AtomicU64::new(0),
    op: AtomicU64::new(0),
    calls: AtomicU64::new(0),
    answers: AtomicU64::new(0),
    input: AtomicU64::new(0),
    cpu: AtomicU64::new(0),
});

/// A CPU is at the doorbell. Not a lock with a rank: calls are made under any other, and whoever has it waits for the host
/// alone, so that others need not answer while they wait for it.
static RINGING: AtomicBool = AtomicBool::new(false);

pub(crate) fn outl(port: u16, value: u32) {
    // SAFETY: the ports used are this device's, the serial port and debug-exit: none touches memory of ours except
    // through the block, which is made of atomics.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: reading these ports has no effect on memory.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) }
    value
}

pub(crate) fn outb(port: u16, value: u8) {
    // SAFETY: as for `outl`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

pub(crate) fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as for `inl`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) }
    value
}

/// Looks for the device and registers the boot CPU's block.
pub(crate) fn init() {
    cpu::this().block.store(core::ptr::from_ref(&BLOCK.0) as u64, Relaxed);
    if inl(PORT_ID) == DEVICE_MAGIC {
        HOST.store(DEVICE, Relaxed);
        init_cpu();
    }
}

/// Registers the calling CPU's block.
pub(crate) fn init_cpu() {
    if own_machine() {
        outl(PORT_BLOCK, (phys::phys(cpu::this().block.load(Relaxed)) >> 12) as u32);
    }
}

/// The calling CPU's block.
#[inline]
fn block() -> &'static Block {
    // SAFETY: the area names a static, or a zeroed frame of its own that is never freed; a block is made of atomics.
    unsafe { &*(cpu::this().block.load(Relaxed) as *const Block) }
}

/// Has the host start a CPU; says whether it did.
pub(crate) fn start_cpu(cpu: u64, entry: u64, arg: u64) -> bool {
    own_machine() && call(Op::StartCpu, [cpu, entry, arg]) == 1
}

/// The command line says that the doorbell is answered: from here on it is used.
pub(crate) fn use_doorbell() {
    if HOST.load(Relaxed) == NOBODY {
        time::stop_pit();
        HOST.store(DOORBELL, Relaxed);
        call(Op::Mark, [MARK_KERNEL, cpu::rdtsc(), 0]);
    }
}

/// Is our VMM below?
#[inline]
pub fn present() -> bool {
    HOST.load(Relaxed) != NOBODY
}

/// Has our VMM made this machine? Otherwise firmware and a loader have been at work in its memory.
#[inline]
pub(crate) fn own_machine() -> bool {
    HOST.load(Relaxed) == DEVICE
}

/// Has console input arrived, where no interrupt says so?
#[inline]
pub fn take_input_notice() -> bool {
    BLOCK.0.input.load(Relaxed) != 0 && BLOCK.0.input.swap(0, Relaxed) != 0
}

fn call(op: Op, args: [u64; 3]) -> u64 {
    if HOST.load(Relaxed) == DOORBELL {
        return ring(op, args);
    }
    let block = block();
    for (cell, arg) in block.args.iter().zip(args) {
        cell.store(arg, Relaxed);
    }
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the host may read and write memory that `args` names, which callers own; the clobber of memory is
    // implied, since the block is not marked `nomem`.
    unsafe { asm!("out dx, eax", in("dx") PORT_CALL, in("eax") op as u32, options(nostack, preserves_flags)) }
    compiler_fence(Ordering::SeqCst);
    block.result.load(Relaxed)
}

/// A call by the doorbell. The emulator may run a few more instructions before it stops, hence the wait.
///
/// No timer may be pending meanwhile: a QEMU whose clock counts instructions takes a CPU that is about to stop for an idle
/// one, and may skip to the next timer (softmmu/icount.c, `icount_start_warp_timer`).
#[cold]
fn ring(op: Op, args: [u64; 3]) -> u64 {
    let left = time::hold_timer();
    while RINGING.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    BLOCK.0.cpu.store(cpu::id() as u64, Relaxed);
    for (cell, arg) in BLOCK.0.args.iter().zip(args) {
        cell.store(arg, Relaxed);
    }
    BLOCK.0.op.store(op as u64, Relaxed);
    let number = BLOCK.0.calls.load(Relaxed) + 1;
    BLOCK.0.calls.store(number, Ordering::Release);
    compiler_fence(Ordering::SeqCst);
    outb(DOORBELL_PORT, DOORBELL_RING);
    while BLOCK.0.answers.load(Ordering::Acquire) != number {
        core::hint::spin_loop();
    }
    let result = BLOCK.0.result.load(Relaxed);
    RINGING.store(false, Ordering::Release);
    time::release_timer(left);
    result
}

/// Writes to the host's stdout (stream 1) or stderr (2).
pub fn console_write(stream: u64, bytes: &[u8]) {
    if bytes.is_empty() {
    } else if present() {
        call(Op::ConsoleWrite, [phys::phys_of(bytes), bytes.len() as u64, stream]);
    } else {
        serial_write(bytes);
    }
}

/// Writes `len` bytes of physical memory to a host stream.
pub fn console_write_phys(stream: u64, pa: u64, len: u64) {
    if present() {
        call(Op::ConsoleWrite, [pa, len, stream]);
    } else {
        // SAFETY: RAM is in the linear map, and bytes are valid whatever they hold.
        serial_write(unsafe { core::slice::from_raw_parts(phys::virt(pa) as *const u8, len as usize) });
    }
}

fn serial_write(bytes: &[u8]) {
    for &b in bytes {
        outb(SERIAL_PORT, b);
    }
}

/// Console input.
pub enum Input {
    /// This many bytes were stored.
    Bytes(usize),
    /// Nothing waits.
    None,
    /// The input has ended.
    Eof,
}

/// Takes waiting console input.
pub fn console_read(out: &mut [u8]) -> Input {
    if present() {
        match call(Op::ConsoleRead, [phys::phys_of(out), out.len() as u64, 0]) {
            0 => Input::None,
            CONSOLE_EOF => Input::Eof,
            n => Input::Bytes(n as usize),
        }
    } else {
        let mut n = 0;
        // Bit 0 of the line status register: data ready.
        while n < out.len() && inb(SERIAL_PORT + 5) & 1 != 0 {
            out[n] = inb(SERIAL_PORT);
            n += 1;
        }
        if n == 0 { Input::None } else { Input::Bytes(n) }
    }
}

/// Asks the host to verify now. Does not return after a violation. While another CPU is inside a critical section the host
/// has nothing to judge, and is asked again: not from within the host, because that CPU may wait for this one's answer.
pub fn checkpoint(reason: CheckpointReason, label: &[u8]) {
    if present() {
        let args = [reason as u64, phys::phys_of(label), label.len() as u64];
        let mut patience_ns = ASK_AGAIN_NS;
        while call(Op::Checkpoint, args) == CHECKPOINT_AGAIN {
            // To ask stops every CPU, the one that is waited for as well.
            let until = time::now_ns() + patience_ns;
            patience_ns = (patience_ns * 2).min(ASK_AGAIN_MAX_NS);
            while time::now_ns() < until {
                ptshare_sync::spin_wait();
            }
        }
    }
}

/// Ends the run with an exit status.
pub fn exit(status: u8) -> ! {
    if present() {
        call(Op::Exit, [u64::from(status), 0, 0]);
    } else {
        outl(DEBUG_EXIT_PORT, u32::from(status));
    }
    cpu::stop()
}

/// Passes on a line that a program wrote to `/dev/ptshare`.
pub fn event(line: &[u8]) {
    if present() {
        call(Op::Event, [phys::phys_of(line), line.len() as u64, 0]);
    }
}

/// Tells the host that the next instruction is the first in user mode.
pub fn mark_first_user() {
    if present() {
        call(Op::Mark, [MARK_FIRST_USER, cpu::rdtsc(), 0]);
    }
}

/// Hands over the census.
pub(crate) fn announce_census(pa: u64) {
    if present() {
        call(Op::Census, [pa, 0, 0]);
    }
}

/// Leaves the crash record with the host. Does not return.
pub(crate) fn report_panic(epitaph: &Epitaph) -> ! {
    if present() {
        call(Op::Panic, [phys::phys_of(epitaph), 0, 0]);
    } else {
        serial_write(b"\nkernel panic: ");
        serial_write(&epitaph.message[..epitaph.message_len as usize]);
        serial_write(b"\n");
        outl(DEBUG_EXIT_PORT, 0x7f);
    }
    cpu::stop()
}

/// A line for the host's log; `level` as in the `log` crate, 1 error .. 5 trace.
pub fn log(level: u64, text: &str) {
    if present() {
        call(Op::Log, [level, phys::phys_of(text), text.len() as u64]);
    } else if level <= 3 {
        serial_write(b"ptshare: ");
        serial_write(text.as_bytes());
        serial_write(b"\n");
    }
}

/// Has the host clear physical memory.
pub(crate) fn clear(pa: u64, len: u64) {
    call(Op::Clear, [pa, len, 0]);
}

/// Has the host copy physical memory.
pub(crate) fn copy(dst: u64, src: u64, len: u64) {
    call(Op::Copy, [dst, src, len]);
}
