//! Restartable sequences (rseq(2); kernel/rseq.c in Linux): a thread names an area in its memory, reads there on which CPU
//! it runs, and points there to a critical section that is to begin anew when the thread was interrupted in it by
//! another task or a signal.
//!
//! The price is paid where something has happened: the switch away from a thread that has an area asks for
//! [`WORK_RSEQ`](super::thread::WORK_RSEQ), which is done before its next instruction in user mode. A page fault or a
//! system call that did not give up the CPU does nothing.
//!
//! `mm_cid` is the lowest number that no other thread of the address space holds which runs now; a thread takes one on
//! its way to user mode and gives it back with the CPU. (Linux gives it back later, to change it less often.)

use super::thread::{Task, WORK_RSEQ};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_machine::cpu;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::{self, UserFault};
use ptshare_paging::{USER_END, is_user_range};
use ptshare_wire::census::MM_SLOTS;

/// Bytes of the first `struct rseq`; its alignment, and the one that AT_RSEQ_ALIGN tells.
pub const AREA_BYTES: u32 = 32;
/// Bytes up to the last field that is known here (AT_RSEQ_FEATURE_SIZE): `mm_cid` ends there.
pub const FEATURE_BYTES: u32 = 28;
/// rseq(2): the only flag.
const UNREGISTER: u32 = 1;

/// Offsets in `struct rseq` (include/uapi/linux/rseq.h): `cpu_id_start` and `cpu_id`, `rseq_cs`, `flags`, and `node_id`
/// with `mm_cid`.
const CPU_IDS: u64 = 0;
const CRITICAL_SECTION: u64 = 8;
const FLAGS: u64 = 16;
const NODE_AND_CID: u64 = 20;
/// `cpu_id` of an area that is not registered (RSEQ_CPU_ID_UNINITIALIZED).
const NO_CPU: u32 = u32::MAX;

/// [`Rseq::written`]: nothing yet.
const NOTHING: u64 = u64::MAX;

/// A thread's area. Written by the thread itself, except for `cid`, which its CPU gives back.
pub struct Rseq {
    /// User address; 0 for none.
    area: AtomicU64,
    /// Length that was registered, bytes.
    len: AtomicU32,
    /// What must stand before the address at which an interrupted section goes on.
    signature: AtomicU32,
    /// CPU number and, above it, the `mm_cid` that the area holds.
    written: AtomicU64,
    /// Slot of an address space, above the number held in it plus 1; 0 for none.
    cid: AtomicU64,
}

/// Numbers in use by running threads, a bit each, by slot of the address space.
static CIDS: [AtomicU64; MM_SLOTS] = [const { AtomicU64::new(0) }; MM_SLOTS];

/// CPUs that are to restart the section that they run, if they run any: membarrier(2).
static RESTART: AtomicU64 = AtomicU64::new(0);

/// The area cannot be used, or what it says makes no sense: SIGSEGV.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadArea;

impl From<UserFault> for BadArea {
    fn from(_: UserFault) -> Self {
        BadArea
    }
}

impl Rseq {
    /// No area.
    pub const fn new() -> Rseq {
        Rseq {
            area: AtomicU64::new(0),
            len: AtomicU32::new(0),
            signature: AtomicU32::new(0),
            written: AtomicU64::new(NOTHING),
            cid: AtomicU64::new(0),
        }
    }

    /// Is there an area?
    #[inline]
    pub(super) fn is_registered(&self) -> bool {
        self.area.load(Relaxed) != 0
    }

    fn set(&self, area: u64, len: u32, signature: u32) {
        self.len.store(len, Relaxed);
        self.signature.store(signature, Relaxed);
        self.written.store(NOTHING, Relaxed);
        self.area.store(area, Relaxed);
    }
}

/// A new process's thread has its parent's area: the memory is a copy (`rseq_fork`). It is written to before the first
/// instruction, whatever it says, so that a page which is still the parent's too is copied then, and not when the thread first
/// changes its CPU.
pub(super) fn inherit(child: &Task, parent: &Task) {
    let (to, from) = (&child.rseq, &parent.rseq);
    if from.is_registered() {
        to.set(from.area.load(Relaxed), from.len.load(Relaxed), from.signature.load(Relaxed));
        child.add_work(WORK_RSEQ);
    }
}

/// The thread's area goes with its address space (`rseq_execve`).
pub(super) fn forget(task: &Task) {
    task.rseq.set(0, 0, 0);
    give_back_cid(task);
}

/// The thread gives up its CPU: called for a thread with an area.
#[cold]
pub(super) fn leaves_cpu(task: &Task) {
    give_back_cid(task);
    task.add_work(WORK_RSEQ);
}

fn give_back_cid(task: &Task) {
    let held = task.rseq.cid.swap(0, Relaxed);
    if held != 0 {
        let bit = (held as u32).wrapping_sub(1);
        CIDS[(held >> 32) as usize % MM_SLOTS].fetch_and(!(1 << bit), SeqCst);
    }
}

/// The number that the thread holds, or the lowest that is free. No more threads run at once than there are bits.
fn take_cid(task: &Task) -> u32 {
    let held = task.rseq.cid.load(Relaxed);
    if held != 0 {
        return held as u32 - 1;
    }
    let slot = task.mm_slot.load(Relaxed).saturating_sub(1);
    let cids = &CIDS[slot as usize % MM_SLOTS];
    loop {
        let used = cids.load(Relaxed);
        let cid = used.trailing_ones() & 63;
        if cids.compare_exchange(used, used | 1 << cid, SeqCst, Relaxed).is_ok() {
            task.rseq.cid.store(slot << 32 | u64::from(cid + 1), Relaxed);
            return cid;
        }
    }
}

/// Before user mode, after the thread was away from its CPU: an interrupted section is left, and the area says where the
/// thread runs (`__rseq_handle_notify_resume`).
///
/// # Errors
/// [`BadArea`]
pub(super) fn resume(task: &Task, frame: &mut TrapFrame) -> Result<(), BadArea> {
    if task.rseq.is_registered() {
        leave_section(task, frame)?;
        update(task)?;
    }
    Ok(())
}

/// A handler is about to run: the section that the signal interrupts is left before its frame is built
/// (`rseq_signal_deliver`). The area is brought up to date on the way to user mode, if need be.
///
/// # Errors
/// [`BadArea`]
#[inline]
pub(crate) fn before_handler(task: &Task, frame: &mut TrapFrame) -> Result<(), BadArea> {
    if task.rseq.is_registered() { leave_section(task, frame) } else { Ok(()) }
}

/// Writes the numbers of CPU, node and `mm_cid`, if they are not what the area holds.
fn update(task: &Task) -> Result<(), BadArea> {
    let (cpu, cid) = (cpu::id() as u32, take_cid(task));
    let ids = u64::from(cpu) | u64::from(cid) << 32;
    if task.rseq.written.load(Relaxed) != ids {
        write_ids(task.rseq.area.load(Relaxed), [cpu, cpu], cid)?;
        task.rseq.written.store(ids, Relaxed);
    }
    Ok(())
}

/// There is one node, number 0.
fn write_ids(area: u64, cpus: [u32; 2], cid: u32) -> Result<(), UserFault> {
    uaccess::write(area + CPU_IDS, &(u64::from(cpus[0]) | u64::from(cpus[1]) << 32))?;
    uaccess::write(area + NODE_AND_CID, &[0, cid])
}

/// `struct rseq_cs`.
struct Section {
    start: u64,
    len: u64,
    abort: u64,
    flags: u32,
}

impl Section {
    /// Reads and checks a section (`rseq_get_rseq_cs`).
    fn read(at: u64, signature: u32) -> Result<Section, BadArea> {
        if at >= USER_END {
            return Err(BadArea);
        }
        let [head, start, len, abort]: [u64; 4] = uaccess::read(at)?;
        let (version, flags) = (head as u32, (head >> 32) as u32);
        let end = start.checked_add(len).ok_or(BadArea)?;
        let sensible = version == 0 && start < USER_END && end < USER_END && abort < USER_END;
        // The way out must not lie inside.
        if !sensible
            || abort.wrapping_sub(start) < len
            || uaccess::load_u32(abort.wrapping_sub(4))? != signature
        {
            return Err(BadArea);
        }
        Ok(Section { start, len, abort, flags })
    }
}

/// If the thread was interrupted in a section, it goes on where the section says (`rseq_ip_fixup`).
fn leave_section(task: &Task, frame: &mut TrapFrame) -> Result<(), BadArea> {
    let area = task.rseq.area.load(Relaxed);
    let at: u64 = uaccess::read(area + CRITICAL_SECTION)?;
    if at == 0 {
        return Ok(());
    }
    let section = Section::read(at, task.rseq.signature.load(Relaxed))?;
    let inside = frame.rip.wrapping_sub(section.start) < section.len;
    // Flags once spared a section from being restarted; Linux takes none any more.
    if inside && (section.flags != 0 || uaccess::load_u32(area + FLAGS)? != 0) {
        return Err(BadArea);
    }
    uaccess::write(area + CRITICAL_SECTION, &0_u64)?;
    if inside {
        frame.rip = section.abort;
    }
    Ok(())
}

/// rseq(2).
///
/// # Errors
/// EINVAL for a length, alignment, flag or address that does not fit, EPERM for another signature than the one
/// registered, EBUSY for the area that is registered, EFAULT.
pub fn register(task: &Task, area: u64, len: u32, flags: u32, signature: u32) -> Result<(), Errno> {
    let own = &task.rseq;
    let known = own.area.load(Relaxed);
    if flags & UNREGISTER != 0 {
        if flags != UNREGISTER || known != area || known == 0 || len != own.len.load(Relaxed) {
            return Err(Errno::EINVAL);
        }
        if signature != own.signature.load(Relaxed) {
            return Err(Errno::EPERM);
        }
        write_ids(area, [0, NO_CPU], 0)?;
        forget(task);
        return Ok(());
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if known != 0 {
        return Err(match () {
            () if known != area || len != own.len.load(Relaxed) => Errno::EINVAL,
            () if signature != own.signature.load(Relaxed) => Errno::EPERM,
            () => Errno::EBUSY,
        });
    }
    // Every length from the first on holds all fields that are known here.
    if len < AREA_BYTES || !area.is_multiple_of(u64::from(AREA_BYTES)) {
        return Err(Errno::EINVAL);
    }
    if !is_user_range(area, u64::from(len)) {
        return Err(Errno::EFAULT);
    }
    // What an earlier owner of the memory left there means nothing.
    if uaccess::read::<u64>(area + CRITICAL_SECTION)? != 0 {
        uaccess::write(area + CRITICAL_SECTION, &0_u64)?;
    }
    own.set(area, len, signature);
    task.add_work(WORK_RSEQ);
    Ok(())
}

/// The sections that run now on the CPUs of `mask` are to be restarted, once those CPUs are interrupted.
pub(super) fn restart_on(mask: u64) {
    RESTART.fetch_or(mask, SeqCst);
}

/// This CPU was interrupted by another.
#[inline]
pub(super) fn on_ipi(task: &Task) {
    if RESTART.load(Relaxed) >> cpu::id() & 1 != 0 {
        restart_here(task);
    }
}

/// The section that the current thread runs, if it runs any, is to be restarted.
#[cold]
pub(super) fn restart_here(task: &Task) {
    RESTART.fetch_and(!(1 << cpu::id()), SeqCst);
    if task.rseq.is_registered() {
        task.add_work(WORK_RSEQ);
    }
}
