//! System V semaphores: semget, semop, semtimedop, semctl (Linux: ipc/sem.c).
//!
//! A call that must wait stays in the set's list of waiters, with the semaphore that it waits at, and tries again whenever
//! the set has changed. What SEM_UNDO is to take back at a process's end is kept with the set.

mod ctl;

pub use ctl::semctl;

use super::perm::*;
use crate::heap_room;
use crate::syscall::{Args, Restart, SysErr, SysResult, Timespec, deadline_after};
use crate::task::{WaitError, WaitQueue, current};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;
use ptshare_sync::{Lock, Rank};

/// Most semaphores in a set (SEMMSL), first column of /proc/sys/kernel/sem.
pub static SEMMSL: Setting = AtomicU64::new(32000);
/// Most semaphores in all (SEMMNS), second column.
pub static SEMMNS: Setting = AtomicU64::new(1_024_000_000);
/// Most operations in one call (SEMOPM), third column.
pub static SEMOPM: Setting = AtomicU64::new(500);
/// Most sets (SEMMNI), fourth column.
pub static SEMMNI: Setting = AtomicU64::new(32000);
/// kernel.sem_next_id.
pub static NEXT_ID: AtomicI64 = AtomicI64::new(-1);

/// Largest value of a semaphore (SEMVMX).
const SEMVMX: i32 = 32767;
/// Largest adjustment at exit (SEMAEM).
const SEMAEM: i32 = SEMVMX;
const SEM_UNDO: u16 = 0x1000;

#[derive(Clone, Copy, Default)]
struct Sem {
    value: i32,
    /// Who changed it last.
    pid: u32,
}

/// What a process's end adds to a semaphore.
struct Undo {
    pid: u32,
    num: u16,
    add: i32,
}

/// A call that waits.
struct Waiter {
    token: u64,
    num: u16,
    /// For the value 0, rather than for a larger one.
    for_zero: bool,
}

struct Set {
    perm: Perm,
    sems: Vec<Sem>,
    undos: Vec<Undo>,
    waiters: Vec<Waiter>,
    changed: Arc<WaitQueue>,
    /// Tells a set from one that has got its identifier later.
    birth: u64,
    otime: u64,
    ctime: u64,
}

impl Kept for Set {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

static TABLE: Lock<Table<Set>> = Lock::new(Rank::Ipc, Table::new());
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// One `struct sembuf`.
#[derive(Clone, Copy)]
struct Op {
    num: u16,
    add: i16,
    flags: u16,
}

/// What one try of a list of operations comes to.
enum Try {
    Done,
    /// It must wait at this semaphore, for 0 or for a larger value.
    Wait(u16, bool),
}

impl Set {
    /// `struct semid64_ds` (arch/x86/include/uapi/asm/sembuf.h) as words.
    fn status(&self) -> [u64; 13] {
        let mut words = [0; 13];
        let (perm, rest) = words.split_at_mut(6);
        perm.copy_from_slice(&self.perm.words());
        for (to, from) in rest.iter_mut().zip([self.otime, 0, self.ctime, 0, self.sems.len() as u64]) {
            *to = from;
        }
        words
    }

    fn sem(&mut self, num: u64) -> Result<&mut Sem, Errno> {
        usize::try_from(num).ok().and_then(|num| self.sems.get_mut(num)).ok_or(Errno::EINVAL)
    }

    /// Tries the operations in order; all of them take effect, or none.
    fn attempt(&mut self, ops: &[Op], pid: u32) -> Result<Try, Errno> {
        let mut undone = 0;
        let mut outcome = Ok(Try::Done);
        for (at, op) in ops.iter().enumerate() {
            let undo = op.flags & SEM_UNDO != 0;
            let adjustment = self.adjustment(pid, op.num) - i32::from(op.add);
            let Some(sem) = self.sems.get_mut(usize::from(op.num)) else {
                outcome = Err(Errno::EFBIG);
                break;
            };
            let value = sem.value + i32::from(op.add);
            let blocked = op.add == 0 && sem.value != 0 || value < 0;
            if blocked {
                outcome = if u64::from(op.flags) & IPC_NOWAIT != 0 {
                    Err(Errno::EAGAIN)
                } else {
                    Ok(Try::Wait(op.num, op.add == 0))
                };
                break;
            }
            if value > SEMVMX || undo && !(-SEMAEM - 1..=SEMAEM).contains(&adjustment) {
                outcome = Err(Errno::ERANGE);
                break;
            }
            sem.value = value;
            undone = at + 1;
            if undo && op.add != 0 && self.set_adjustment(pid, op.num, adjustment).is_err() {
                sem_take_back(&mut self.sems, op);
                undone = at;
                outcome = Err(Errno::ENOMEM);
                break;
            }
        }
        if matches!(outcome, Ok(Try::Done)) {
            for op in ops {
                if let Some(sem) = self.sems.get_mut(usize::from(op.num)) {
                    sem.pid = pid;
                }
            }
            self.otime = seconds();
            return outcome;
        }
        for op in ops.iter().take(undone).rev() {
            sem_take_back(&mut self.sems, op);
            if op.flags & SEM_UNDO != 0 && op.add != 0 {
                let before = self.adjustment(pid, op.num) + i32::from(op.add);
                // There is an entry: it was made above.
                let _ = self.set_adjustment(pid, op.num, before);
            }
        }
        outcome
    }

    fn adjustment(&self, pid: u32, num: u16) -> i32 {
        self.undos.iter().find(|undo| undo.pid == pid && undo.num == num).map_or(0, |undo| undo.add)
    }

    fn set_adjustment(&mut self, pid: u32, num: u16, add: i32) -> Result<(), Errno> {
        if let Some(undo) = self.undos.iter_mut().find(|undo| undo.pid == pid && undo.num == num) {
            undo.add = add;
            return Ok(());
        }
        self.undos.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.undos.push(Undo { pid, num, add });
        Ok(())
    }

    /// Enters a waiter, or moves it to another semaphore.
    fn note_waiter(&mut self, token: u64, num: u16, for_zero: bool) -> Result<(), Errno> {
        if let Some(waiter) = self.waiters.iter_mut().find(|waiter| waiter.token == token) {
            (waiter.num, waiter.for_zero) = (num, for_zero);
            return Ok(());
        }
        self.waiters.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.waiters.push(Waiter { token, num, for_zero });
        Ok(())
    }
}

fn sem_take_back(sems: &mut [Sem], op: &Op) {
    if let Some(sem) = sems.get_mut(usize::from(op.num)) {
        sem.value -= i32::from(op.add);
    }
}

/// semget(2).
pub fn semget(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (key, count, flags) = (a[0] as i32, a[1] as i32, a[2]);
    let most = SEMMSL.load(Relaxed);
    if count < 0 || count as u64 > most {
        return Err(Errno::EINVAL.into());
    }
    heap_room()?;
    let mut table = TABLE.lock();
    if key != IPC_PRIVATE {
        if let Some((id, set)) = table.by_key(key) {
            if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                return Err(Errno::EEXIST.into());
            }
            if count as usize > set.sems.len() {
                return Err(Errno::EINVAL.into());
            }
            set.perm.check_flags(flags)?;
            return Ok(id);
        }
        if flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT.into());
        }
    }
    if count == 0 {
        return Err(Errno::EINVAL.into());
    }
    let used: u64 = table.iter().map(|(_, set)| set.sems.len() as u64).sum();
    if used + count as u64 > SEMMNS.load(Relaxed) {
        return Err(Errno::ENOSPC.into());
    }
    let mut sems = Vec::new();
    sems.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    sems.resize(count as usize, Sem::default());
    let set = Set {
        perm: Perm::new(key, flags),
        sems,
        undos: Vec::new(),
        waiters: Vec::new(),
        changed: Arc::new(WaitQueue::new()),
        birth: NEXT_TOKEN.fetch_add(1, Relaxed),
        otime: 0,
        ctime: seconds(),
    };
    Ok(table.add(set, SEMMNI.load(Relaxed), &NEXT_ID)?)
}

fn read_ops(at: u64, count: u64) -> Result<Vec<Op>, SysErr> {
    let count = count as u32 as usize;
    if count == 0 {
        return Err(Errno::EINVAL.into());
    }
    if count as u64 > SEMOPM.load(Relaxed) {
        return Err(Errno::E2BIG.into());
    }
    let mut ops = Vec::new();
    ops.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for i in 0..count as u64 {
        let mut bytes = [0_u8; 6];
        uaccess::copy_in(&mut bytes, at.wrapping_add(6 * i))?;
        let half = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        ops.push(Op { num: half(0), add: half(1) as i16, flags: half(2) });
    }
    Ok(ops)
}

/// semop(2).
pub fn semop(a: &Args, _: &mut TrapFrame) -> SysResult {
    operate(a[0], a[1], a[2], None)
}

/// semtimedop(2).
pub fn semtimedop(a: &Args, _: &mut TrapFrame) -> SysResult {
    let deadline = match a[3] {
        0 => None,
        at => Some(deadline_after(Timespec::read(at)?.to_ns()?)),
    };
    operate(a[0], a[1], a[2], deadline)
}

fn operate(id: u64, at: u64, count: u64, deadline: Option<u64>) -> SysResult {
    if (id as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let ops = read_ops(at, count)?;
    heap_room()?;
    let pid = current().process.pid;
    let token = NEXT_TOKEN.fetch_add(1, Relaxed);
    let (birth, changed) = {
        let mut table = TABLE.lock();
        let set = table.get(id)?;
        if ops.iter().any(|op| usize::from(op.num) >= set.sems.len()) {
            return Err(Errno::EFBIG.into());
        }
        let alters = ops.iter().any(|op| op.add != 0);
        set.perm.check(if alters { WRITE } else { READ })?;
        (set.birth, set.changed.clone())
    };
    // None: wait on.
    let attempt = || -> Option<Result<(), Errno>> {
        let mut table = TABLE.lock();
        let set = match table.get(id) {
            Ok(set) if set.birth == birth => set,
            _ => return Some(Err(Errno::EIDRM)),
        };
        match set.attempt(&ops, pid) {
            Ok(Try::Done) => Some(Ok(())),
            Ok(Try::Wait(num, for_zero)) => set.note_waiter(token, num, for_zero).err().map(Err),
            Err(errno) => Some(Err(errno)),
        }
    };
    let result = changed.wait(deadline, attempt);
    if let Ok(set) = TABLE.lock().get(id) {
        set.waiters.retain(|waiter| waiter.token != token);
    }
    match result {
        Ok(done) => {
            done?;
            changed.wake_all();
            Ok(0)
        }
        Err(WaitError::TimedOut) => Err(Errno::EAGAIN.into()),
        // Never restarted, whatever SA_RESTART says (signal(7)).
        Err(WaitError::Interrupted) => Err(SysErr::Restart(Restart::NoHandler)),
    }
}

/// A process ends: takes back what its operations with SEM_UNDO did.
pub fn process_ends(pid: u32) {
    let mut wake = Vec::new();
    {
        let mut table = TABLE.lock();
        for set in table.iter_mut() {
            if !set.undos.iter().any(|undo| undo.pid == pid) {
                continue;
            }
            for undo in set.undos.iter().filter(|undo| undo.pid == pid) {
                if let Some(sem) = set.sems.get_mut(usize::from(undo.num)) {
                    sem.value = (sem.value + undo.add).clamp(0, SEMVMX);
                    sem.pid = pid;
                }
            }
            set.undos.retain(|undo| undo.pid != pid);
            set.otime = seconds();
            // Without memory for the list the waiters look again when the set changes next.
            if wake.try_reserve(1).is_ok() {
                wake.push(set.changed.clone());
            }
        }
    }
    for changed in wake {
        changed.wake_all();
    }
}

/// Rows for /proc/sysvipc/sem: owner, identifier, semaphores, times of the last operation and change.
pub fn for_each(f: &mut dyn FnMut(&Perm, u64, u64, u64, u64)) {
    for (id, set) in TABLE.lock().iter() {
        f(&set.perm, id, set.sems.len() as u64, set.otime, set.ctime);
    }
}
