//! The hypercall device: three I/O ports and one block of memory for each CPU.
//!
//! A CPU fills its [`Block`], then writes the operation to [`PORT_CALL`]; the host has done its work, and stored
//! [`Block::result`], before the `out` instruction ends. Memory carries the arguments because it costs the host no
//! register transfer and works whichever way an exit is reported.
//!
//! Where another program emulates the machine there are no such ports. The guest then uses one block, the symbol
//! [`BLOCK_SYMBOL`] of its kernel, which the host finds in the image: it stores the operation in [`Block::op`], raises
//! [`Block::calls`], writes [`DOORBELL_RING`] to [`DOORBELL_PORT`], at which the emulator stops the whole machine, and
//! waits until [`Block::answers`] has caught up; [`Block::cpu`] says which of several CPUs it is, one after the other. The word [`DOORBELL_OPTION`]`=1` on the command line says that there is
//! somebody to answer.

use core::sync::atomic::AtomicU64;

/// Reading a `u32` here gives [`DEVICE_MAGIC`] where the device exists, and all ones where it does not.
pub const PORT_ID: u16 = 0x5050;
/// Writing a `u32` page-frame number here registers this CPU's [`Block`] (at the start of that frame).
pub const PORT_BLOCK: u16 = 0x5054;
/// Writing an operation number ([`Op`]) as `u32` here carries it out.
pub const PORT_CALL: u16 = 0x5058;
/// What [`PORT_ID`] reads.
pub const DEVICE_MAGIC: u32 = 0x7074_7368;

/// QEMU's pvpanic device (QEMU docs/specs/pvpanic): with `-action panic=pause` a write stops the machine.
pub const DOORBELL_PORT: u16 = 0x505;
/// What to write there: bit 0, "panicked".
pub const DOORBELL_RING: u8 = 1;
/// The command line's word that switches to the doorbell.
pub const DOORBELL_OPTION: &str = "doorbell";
/// The boot CPU's block, as the kernel image names it.
pub const BLOCK_SYMBOL: &str = "ptshare_hypercall_block";

/// Arguments and result of one hypercall of one CPU.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Block {
    /// Arguments, by operation; see [`Op`].
    pub args: [AtomicU64; 4],
    /// What the host answers; see [`Op`].
    pub result: AtomicU64,
    /// With a doorbell: the operation.
    pub op: AtomicU64,
    /// With a doorbell: calls made. The guest's.
    pub calls: AtomicU64,
    /// With a doorbell: calls answered. The host's.
    pub answers: AtomicU64,
    /// With a doorbell: 1 when console input has arrived, in place of an interrupt. The host sets it, the guest clears it.
    pub input: AtomicU64,
    /// With a doorbell: number of the CPU that calls.
    pub cpu: AtomicU64,
}

/// Operations. Addresses are guest-physical, lengths are bytes, unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Op {
    /// `(pa, len, stream)`: write to the host's stdout (stream 1) or stderr (2). Result: bytes taken (always all).
    ConsoleWrite = 1,
    /// `(pa, capacity)`: take waiting input. Result: bytes stored, 0 when none waits, [`CONSOLE_EOF`] at the end.
    ConsoleRead = 2,
    /// `(pa, len)`: set to zero.
    Clear = 3,
    /// `(dst, src, len)`: copy; the ranges do not overlap.
    Copy = 4,
    /// `(reason, label_pa, label_len)`: verify now; see [`CheckpointReason`]. Result: 0, or [`CHECKPOINT_AGAIN`]. After a
    /// violation the host ends the run and the call does not return.
    Checkpoint = 5,
    /// `(status)`: end the run with this exit status (0..=255). Does not return.
    Exit = 6,
    /// `(pa, len)`: a line of text that a program wrote to `/dev/ptshare`; see [`crate::stats`] for its grammar.
    Event = 7,
    /// `(mark, tsc)`: a moment that the host notes, and the time-stamp counter then; see [`MARK_FIRST_USER`].
    Mark = 8,
    /// `(epitaph_pa)`: the kernel has panicked; an [`crate::Epitaph`] says how. Does not return.
    Panic = 9,
    /// `(header_pa)`: the census is ready at this address, for the rest of the run.
    Census = 10,
    /// `(level, pa, len)`: a line of the kernel log; level as in the `log` crate, 1 error .. 5 trace.
    Log = 11,
    /// `(cpu, entry_va, arg)`: start CPU number `cpu` at this kernel address, with `arg` in RDI, and otherwise with the
    /// caller's system registers. Result: 1, or 0 when there is no such CPU, or it has been started.
    StartCpu = 12,
}

impl Op {
    /// From the number written to [`PORT_CALL`].
    pub const fn from_u32(n: u32) -> Option<Op> {
        Some(match n {
            1 => Op::ConsoleWrite,
            2 => Op::ConsoleRead,
            3 => Op::Clear,
            4 => Op::Copy,
            5 => Op::Checkpoint,
            6 => Op::Exit,
            7 => Op::Event,
            8 => Op::Mark,
            9 => Op::Panic,
            10 => Op::Census,
            11 => Op::Log,
            12 => Op::StartCpu,
            _ => return None,
        })
    }
}

/// Result of [`Op::ConsoleRead`] at the end of the input.
pub const CONSOLE_EOF: u64 = u64::MAX;
/// Result of [`Op::Checkpoint`] when another CPU is inside a critical section: let it go on, then ask again.
pub const CHECKPOINT_AGAIN: u64 = u64::MAX;
/// [`Op::Mark`]: the next instruction is the first in user mode.
pub const MARK_FIRST_USER: u64 = 1;
/// [`Op::Mark`]: the kernel begins; firmware and loader are done. With a doorbell only.
pub const MARK_KERNEL: u64 = 2;

/// Why the guest asks for a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum CheckpointReason {
    /// A process has ended and its address space is gone.
    ProcessExit = 1,
    /// A program wrote `checkpoint LABEL` to `/dev/ptshare`.
    Request = 2,
    /// All processes are gone; the run is about to end.
    Shutdown = 3,
    /// Every N faults, by the boot option `verify_faults=N`.
    Faults = 4,
}

impl CheckpointReason {
    /// From the number in the hypercall block.
    pub const fn from_u64(n: u64) -> Option<CheckpointReason> {
        Some(match n {
            1 => CheckpointReason::ProcessExit,
            2 => CheckpointReason::Request,
            3 => CheckpointReason::Shutdown,
            4 => CheckpointReason::Faults,
            _ => return None,
        })
    }
}
