//! Futexes (futex(2)).
//!
//! A waiter enters its queue, then looks at the word, and sleeps if it still has the expected value; a waker has changed
//! the word before it looks at the queue. So no lock is held while user memory is touched, and no wake-up is lost.

use super::current;
use super::sched;
use super::thread::{Task, TaskState};
use super::wait::{WaitError, wait_on};
use crate::syscall::{Restart, SysErr, SysResult};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_abi::sys::general as raw;
use ptshare_machine::uaccess;
use ptshare_sync::{Lock, Rank};

/// What a futex word is, wherever it is mapped: (mm slot, address) for private memory, (object id with the top bit set,
/// byte offset) for shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key(u64, u64);

const SHARED: u64 = 1 << 63;
const BUCKETS: usize = 64;

struct Waiter {
    key: Key,
    bitset: u32,
    task: Arc<Task>,
    woken: Arc<AtomicBool>,
}

type Buckets = [VecDeque<Waiter>; BUCKETS];

/// All queues, under one lock, because requeuing needs two at once.
static FUTEXES: Lock<Buckets> = Lock::new(Rank::Futex, [const { VecDeque::new() }; BUCKETS]);

impl Key {
    /// The key of a user address.
    fn of(addr: u64, private: bool) -> Result<Key, Errno> {
        if addr & 3 != 0 {
            return Err(Errno::EINVAL);
        }
        if !ptshare_paging::is_user_range(addr, 4) {
            return Err(Errno::EFAULT);
        }
        let mm = current().process.mm();
        if !private && let Some((object, offset)) = mm.shared_object_at(addr) {
            return Ok(Key(object | SHARED, offset));
        }
        Ok(Key(u64::from(mm.slot()), addr))
    }

    fn bucket(self) -> usize {
        let mixed = (self.0 ^ self.1 >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 58) as usize % BUCKETS
    }
}

/// Waits while the word at `addr` is `expected`.
///
/// # Errors
/// EAGAIN when it is not, ETIMEDOUT, EFAULT, EINVAL; a restart when a signal came.
pub fn wait(addr: u64, expected: u32, bitset: u32, deadline_ns: Option<u64>, private: bool) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL.into());
    }
    let key = Key::of(addr, private)?;
    let woken = Arc::new(AtomicBool::new(false));
    let waiter = Waiter { key, bitset, task: current().arc(), woken: woken.clone() };
    {
        let mut futexes = FUTEXES.lock();
        let queue = &mut futexes[key.bucket()];
        queue.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        queue.push_back(waiter);
    }
    let result: SysResult = match uaccess::load_u32(addr) {
        Err(fault) => Err(fault.into()),
        Ok(value) if value != expected => Err(Errno::EAGAIN.into()),
        Ok(_) => {
            match wait_on(&[], TaskState::Interruptible, deadline_ns, || woken.load(SeqCst).then_some(())) {
                Ok(()) => Ok(0),
                Err(WaitError::TimedOut) => Err(Errno::ETIMEDOUT.into()),
                Err(WaitError::Interrupted) if deadline_ns.is_some() => {
                    Err(SysErr::Restart(Restart::NoHandler))
                }
                Err(WaitError::Interrupted) => Err(SysErr::Restart(Restart::Sys)),
            }
        }
    };
    if woken.load(SeqCst) {
        // A waker has counted us, whatever happened besides.
        return Ok(0);
    }
    if forget(&woken) { result } else { Ok(0) }
}

/// One word of [`wait_many`].
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Its address.
    pub addr: u64,
    /// What it must hold.
    pub expected: u32,
    /// Not shared with other address spaces.
    pub private: bool,
}

/// Waits while each of the words holds what it is wanted to (futex_waitv). Gives the place of one that was woken.
///
/// # Errors
/// EAGAIN when a word holds something else, ETIMEDOUT, EFAULT, EINVAL, ENOMEM; a restart when a signal came.
pub fn wait_many(words: &[Wanted], deadline_ns: Option<u64>) -> SysResult {
    let mut flags: alloc::vec::Vec<Arc<AtomicBool>> = alloc::vec::Vec::new();
    flags.try_reserve_exact(words.len()).map_err(|_| Errno::ENOMEM)?;
    let result = enter_and_wait(words, &mut flags, deadline_ns);
    let mut woken = None;
    for (at, flag) in flags.iter().enumerate() {
        // Who cannot be taken out any more has been woken.
        if flag.load(SeqCst) || !forget(flag) {
            woken = Some(at as u64);
        }
    }
    woken.map_or(result, Ok)
}

fn enter_and_wait(
    words: &[Wanted],
    flags: &mut alloc::vec::Vec<Arc<AtomicBool>>,
    deadline_ns: Option<u64>,
) -> SysResult {
    for word in words {
        let key = Key::of(word.addr, word.private)?;
        let woken = Arc::new(AtomicBool::new(false));
        let waiter = Waiter { key, bitset: u32::MAX, task: current().arc(), woken: woken.clone() };
        {
            let mut futexes = FUTEXES.lock();
            let queue = &mut futexes[key.bucket()];
            queue.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            queue.push_back(waiter);
        }
        flags.push(woken);
        if uaccess::load_u32(word.addr)? != word.expected {
            return Err(Errno::EAGAIN.into());
        }
    }
    let woken = || flags.iter().any(|flag| flag.load(SeqCst)).then_some(0);
    match wait_on(&[], TaskState::Interruptible, deadline_ns, woken) {
        Ok(at) => Ok(at),
        Err(WaitError::TimedOut) => Err(Errno::ETIMEDOUT.into()),
        Err(WaitError::Interrupted) => Err(SysErr::Restart(Restart::Sys)),
    }
}

/// Takes a waiter out, wherever requeuing has put it. `false` when a waker was faster.
fn forget(woken: &Arc<AtomicBool>) -> bool {
    let mut taken = None;
    {
        let mut futexes = FUTEXES.lock();
        for queue in futexes.iter_mut() {
            if let Some(at) = queue.iter().position(|waiter| Arc::ptr_eq(&waiter.woken, woken)) {
                taken = queue.remove(at);
                break;
            }
        }
    }
    taken.is_some()
}

fn wake_key(futexes: &mut Buckets, key: Key, limit: u32, bitset: u32) -> u32 {
    let queue = &mut futexes[key.bucket()];
    let mut count = 0;
    let mut at = 0;
    while count < limit && at < queue.len() {
        if queue[at].key == key && queue[at].bitset & bitset != 0 {
            if let Some(waiter) = queue.remove(at) {
                waiter.woken.store(true, SeqCst);
                sched::wake(&waiter.task);
                count += 1;
            }
        } else {
            at += 1;
        }
    }
    count
}

/// Wakes up to `limit` waiters whose bit sets meet `bitset`. Gives how many.
///
/// # Errors
/// EINVAL, EFAULT.
pub fn wake(addr: u64, limit: u32, bitset: u32, private: bool) -> Result<u32, Errno> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(addr, private)?;
    Ok(wake_key(&mut FUTEXES.lock(), key, limit, bitset))
}

/// Wakes up to `wake` waiters of `from` and lets up to `requeue` others wait for `to` from now on.
///
/// # Errors
/// EAGAIN when `expected` is given and the word at `from` is another, EINVAL, EFAULT.
pub fn requeue(
    from: u64,
    to: u64,
    wake: u32,
    requeue: u32,
    expected: Option<u32>,
    private: bool,
) -> Result<u32, Errno> {
    let from_key = Key::of(from, private)?;
    let to_key = Key::of(to, private)?;
    if let Some(expected) = expected
        && uaccess::load_u32(from)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let mut futexes = FUTEXES.lock();
    let woken = wake_key(&mut futexes, from_key, wake, u32::MAX);
    if from_key == to_key {
        return Ok(woken);
    }
    let mut moved = 0;
    let mut at = 0;
    while moved < requeue {
        let (source, target) = (from_key.bucket(), to_key.bucket());
        let Some(found) = futexes[source].iter().skip(at).position(|waiter| waiter.key == from_key) else {
            break;
        };
        at += found;
        if source == target {
            futexes[source][at].key = to_key;
            at += 1;
        } else {
            if futexes[target].try_reserve(1).is_err() {
                break;
            }
            if let Some(mut waiter) = futexes[source].remove(at) {
                waiter.key = to_key;
                futexes[target].push_back(waiter);
            }
        }
        moved += 1;
    }
    Ok(woken + if expected.is_some() { moved } else { 0 })
}

/// FUTEX_WAKE_OP: changes the word at `second`, wakes waiters of `first`, and those of `second` if the word was as asked.
///
/// # Errors
/// ENOSYS for an unknown operation, EINVAL, EFAULT.
pub fn wake_op(
    first: u64,
    second: u64,
    wake1: u32,
    wake2: u32,
    op: u32,
    private: bool,
) -> Result<u32, Errno> {
    let first_key = Key::of(first, private)?;
    let second_key = Key::of(second, private)?;
    let sign_extend = |value: u32| ((value << 20) as i32 >> 20) as u32;
    let mut operand = sign_extend(op >> 12 & 0xfff);
    let compare_with = sign_extend(op & 0xfff) as i32;
    let kind = op >> 28 & 0xf;
    if kind & raw::FUTEX_OP_OPARG_SHIFT != 0 {
        operand = 1 << (operand & 31);
    }
    let mut old = uaccess::load_u32(second)?;
    loop {
        let new = match kind & 7 {
            raw::FUTEX_OP_SET => operand,
            raw::FUTEX_OP_ADD => old.wrapping_add(operand),
            raw::FUTEX_OP_OR => old | operand,
            raw::FUTEX_OP_ANDN => old & !operand,
            raw::FUTEX_OP_XOR => old ^ operand,
            _ => return Err(Errno::ENOSYS),
        };
        let found = uaccess::cmpxchg_u32(second, old, new)?;
        if found == old {
            break;
        }
        old = found;
    }
    let old = old as i32;
    let holds = match op >> 24 & 0xf {
        raw::FUTEX_OP_CMP_EQ => old == compare_with,
        raw::FUTEX_OP_CMP_NE => old != compare_with,
        raw::FUTEX_OP_CMP_LT => old < compare_with,
        raw::FUTEX_OP_CMP_LE => old <= compare_with,
        raw::FUTEX_OP_CMP_GT => old > compare_with,
        raw::FUTEX_OP_CMP_GE => old >= compare_with,
        _ => return Err(Errno::ENOSYS),
    };
    let mut futexes = FUTEXES.lock();
    let mut count = wake_key(&mut futexes, first_key, wake1, u32::MAX);
    if holds {
        count += wake_key(&mut futexes, second_key, wake2, u32::MAX);
    }
    Ok(count)
}
