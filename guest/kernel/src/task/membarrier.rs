//! membarrier(2): memory barriers on the other CPUs, so that threads need none themselves (kernel/sched/membarrier.c).
//!
//! The other CPUs are asked for what a flush asks: each answers in user mode or where it waits, by loading CR3, which
//! serialises, and comes back to user mode by IRET, which does too. A CPU that is not asked does not run the address
//! space, and executes a locked instruction and loads CR3 before it does (`cpu::load_mm`).

use super::{Task, current, rseq};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_abi::sys::general::{membarrier_cmd as Command, membarrier_cmd_flag};
use ptshare_machine::{Machine, cpu, smp};
use ptshare_mm::Env;
use ptshare_wire::census::MM_SLOTS;

/// What an address space has registered for: bits by the place of the command's own bit among the register commands.
const GLOBAL: u8 = 1;
const PRIVATE: u8 = 2;
const PRIVATE_CORE: u8 = 4;
const PRIVATE_RSEQ: u8 = 8;

static REGISTERED: [AtomicU8; MM_SLOTS] = [const { AtomicU8::new(0) }; MM_SLOTS];

/// Commands that there are, as QUERY tells them.
const COMMANDS: u32 = Command::MEMBARRIER_CMD_GLOBAL as u32
    | Command::MEMBARRIER_CMD_GLOBAL_EXPEDITED as u32
    | Command::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED as u32
    | Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED as u32
    | Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED as u32
    | Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE as u32
    | Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE as u32
    | Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ as u32
    | Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ as u32
    | Command::MEMBARRIER_CMD_GET_REGISTRATIONS as u32;

/// Register commands, each with its bit.
const REGISTER: [(u32, u8); 4] = [
    (Command::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED as u32, GLOBAL),
    (Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED as u32, PRIVATE),
    (Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE as u32, PRIVATE_CORE),
    (Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ as u32, PRIVATE_RSEQ),
];

/// Expedited commands of one address space, each with the bit that it needs.
const PRIVATE_COMMANDS: [(u32, u8); 3] = [
    (Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED as u32, PRIVATE),
    (Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE as u32, PRIVATE_CORE),
    (Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ as u32, PRIVATE_RSEQ),
];

fn registered(task: &Task) -> &'static AtomicU8 {
    of_slot(task.mm_slot.load(Relaxed).saturating_sub(1) as u32)
}

fn of_slot(slot: u32) -> &'static AtomicU8 {
    &REGISTERED[slot as usize % MM_SLOTS]
}

/// A forked address space is registered as its parent's is.
pub(super) fn inherit(child_slot: u32, parent: &Task) {
    of_slot(child_slot).store(registered(parent).load(Relaxed), Relaxed);
}

/// The address space of a new program is not registered (`membarrier_exec_mmap`).
pub(super) fn reset(slot: u32) {
    of_slot(slot).store(0, Relaxed);
}

/// membarrier(2). Gives what QUERY and GET_REGISTRATIONS ask for, otherwise 0.
///
/// # Errors
/// EINVAL for an unknown command or flag, EPERM for a private command without its registration.
pub fn membarrier(command: u32, flags: u32, number: u32) -> Result<u32, Errno> {
    let on_one = flags == membarrier_cmd_flag::MEMBARRIER_CMD_FLAG_CPU as u32;
    if flags != 0 && !(on_one && command == Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ as u32) {
        return Err(Errno::EINVAL);
    }
    let task = current();
    let own = registered(&task);
    if command == Command::MEMBARRIER_CMD_QUERY as u32 {
        return Ok(COMMANDS);
    }
    if command == Command::MEMBARRIER_CMD_GET_REGISTRATIONS as u32 {
        return Ok(registrations(own.load(Relaxed)));
    }
    if let Some((_, bit)) = REGISTER.iter().find(|(register, _)| *register == command) {
        own.fetch_or(*bit, SeqCst);
        return Ok(0);
    }
    let others = smp::online() & !(1 << cpu::id());
    if command == Command::MEMBARRIER_CMD_GLOBAL as u32
        || command == Command::MEMBARRIER_CMD_GLOBAL_EXPEDITED as u32
    {
        smp::barrier(others);
        return Ok(0);
    }
    let needs = PRIVATE_COMMANDS.iter().find(|(private, _)| *private == command).ok_or(Errno::EINVAL)?.1;
    if own.load(Relaxed) & needs == 0 {
        return Err(Errno::EPERM);
    }
    let slot = task.mm_slot.load(Relaxed).saturating_sub(1) as u32;
    let mut running = Machine.mm_rec(slot).cpumask.load(SeqCst) & smp::online();
    if on_one {
        running &= 1_u64.checked_shl(number).unwrap_or(0);
    }
    let others = running & others;
    if needs == PRIVATE_RSEQ {
        if on_one && running != 0 && others == 0 {
            rseq::restart_here(&task);
        }
        rseq::restart_on(others);
    }
    smp::barrier(others);
    Ok(0)
}

/// The register commands that an address space has had, as Linux tells them: one of the other private ones counts as the
/// plain one too (`membarrier_register_private_expedited` sets its bit, `membarrier_get_registrations` reads that).
fn registrations(bits: u8) -> u32 {
    let bits = if bits & (PRIVATE_CORE | PRIVATE_RSEQ) != 0 { bits | PRIVATE } else { bits };
    REGISTER.iter().filter(|(_, bit)| bits & bit != 0).fold(0, |mask, (command, _)| mask | command)
}
