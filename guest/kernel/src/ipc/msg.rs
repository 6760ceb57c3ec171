//! System V message queues: msgget, msgsnd, msgrcv, msgctl (Linux: ipc/msg.c).

use super::perm::*;
use crate::heap_room;
use crate::syscall::{Args, Restart, SysErr, SysResult};
use crate::task::creds::CAP_SYS_RESOURCE;
use crate::task::{WaitQueue, current};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;
use ptshare_sync::{Lock, Rank};

/// Longest message, bytes (MSGMAX, /proc/sys/kernel/msgmax).
pub static MSGMAX: Setting = AtomicU64::new(8192);
/// Bytes that a new queue holds (MSGMNB).
pub static MSGMNB: Setting = AtomicU64::new(16384);
/// Most queues (MSGMNI).
pub static MSGMNI: Setting = AtomicU64::new(32000);
/// kernel.msg_next_id.
pub static NEXT_ID: AtomicI64 = AtomicI64::new(-1);

const MSG_NOERROR: u64 = 0o10000;
const MSG_EXCEPT: u64 = 0o20000;
const MSG_COPY: u64 = 0o40000;
const MSG_STAT: u64 = 11;
const MSG_INFO: u64 = 12;
const MSG_STAT_ANY: u64 = 13;
/// Nominal size of a message segment (MSGSSZ).
const MSGSSZ: u32 = 16;

struct Message {
    kind: i64,
    text: Vec<u8>,
}

struct Queue {
    perm: Perm,
    messages: VecDeque<Message>,
    bytes: u64,
    max_bytes: u64,
    changed: Arc<WaitQueue>,
    /// Tells a queue from one that has got its identifier later.
    birth: u64,
    stime: u64,
    rtime: u64,
    ctime: u64,
    lspid: u32,
    lrpid: u32,
}

impl Kept for Queue {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

static TABLE: Lock<Table<Queue>> = Lock::new(Rank::Ipc, Table::new());
static BIRTHS: AtomicU64 = AtomicU64::new(1);

impl Queue {
    /// `struct msqid64_ds` (include/uapi/asm-generic/msgbuf.h) as words.
    fn status(&self) -> [u64; 15] {
        let mut words = [0; 15];
        let (perm, rest) = words.split_at_mut(6);
        perm.copy_from_slice(&self.perm.words());
        let pids = u64::from(self.lspid) | u64::from(self.lrpid) << 32;
        let values = [
            self.stime,
            self.rtime,
            self.ctime,
            self.bytes,
            self.messages.len() as u64,
            self.max_bytes,
            pids,
        ];
        for (to, from) in rest.iter_mut().zip(values) {
            *to = from;
        }
        words
    }

    /// Place of the message that msgrcv's `kind` and flags choose.
    fn choose(&self, kind: i64, flags: u64) -> Option<usize> {
        let position = |f: &dyn Fn(&Message) -> bool| self.messages.iter().position(f);
        match kind {
            0 if self.messages.is_empty() => None,
            0 => Some(0),
            kind if kind > 0 && flags & MSG_EXCEPT != 0 => position(&|m| m.kind != kind),
            kind if kind > 0 => position(&|m| m.kind == kind),
            kind => {
                let most = kind.checked_neg().unwrap_or(i64::MAX);
                let lowest = self.messages.iter().map(|m| m.kind).filter(|&k| k <= most).min()?;
                position(&|m| m.kind == lowest)
            }
        }
    }
}

/// msgget(2).
pub fn msgget(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (key, flags) = (a[0] as i32, a[1]);
    heap_room()?;
    let mut table = TABLE.lock();
    if key != IPC_PRIVATE {
        if let Some((id, queue)) = table.by_key(key) {
            if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                return Err(Errno::EEXIST.into());
            }
            queue.perm.check_flags(flags)?;
            return Ok(id);
        }
        if flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT.into());
        }
    }
    let queue = Queue {
        perm: Perm::new(key, flags),
        messages: VecDeque::new(),
        bytes: 0,
        max_bytes: MSGMNB.load(Relaxed),
        changed: Arc::new(WaitQueue::new()),
        birth: BIRTHS.fetch_add(1, Relaxed),
        stime: 0,
        rtime: 0,
        ctime: seconds(),
        lspid: 0,
        lrpid: 0,
    };
    Ok(table.add(queue, MSGMNI.load(Relaxed), &NEXT_ID)?)
}

/// What one look at a queue comes to; `None`: wait.
type Look<T> = Option<Result<T, Errno>>;

/// Runs `look` on the queue until it has an answer; with IPC_NOWAIT gives `busy` instead of waiting.
fn on_queue<T>(
    id: u64,
    want: u32,
    flags: u64,
    busy: Errno,
    mut look: impl FnMut(&mut Queue) -> Look<T>,
) -> Result<(T, Arc<WaitQueue>), SysErr> {
    let (birth, changed) = {
        let mut table = TABLE.lock();
        let queue = table.get(id)?;
        queue.perm.check(want)?;
        (queue.birth, queue.changed.clone())
    };
    let attempt = || {
        let mut table = TABLE.lock();
        match table.get(id) {
            Ok(queue) if queue.birth == birth => {}
            _ => return Some(Err(Errno::EIDRM)),
        }
        let answer = table.get(id).ok().and_then(&mut look);
        if answer.is_none() && flags & IPC_NOWAIT != 0 { Some(Err(busy)) } else { answer }
    };
    // Never restarted, whatever SA_RESTART says (signal(7)).
    let result = changed.wait(None, attempt).map_err(|_| SysErr::Restart(Restart::NoHandler))?;
    Ok((result?, changed))
}

/// msgsnd(2).
pub fn msgsnd(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [id, at, size, flags, ..] = *a;
    let kind = uaccess::read::<u64>(at)? as i64;
    if kind < 1 || size > MSGMAX.load(Relaxed) || (id as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    heap_room()?;
    let mut text = Vec::new();
    text.try_reserve_exact(size as usize).map_err(|_| Errno::ENOMEM)?;
    text.resize(size as usize, 0);
    uaccess::copy_in(&mut text, at.wrapping_add(8))?;
    let mut message = Some(Message { kind, text });
    let pid = current().process.pid;
    let ((), changed) = on_queue(id, WRITE, flags, Errno::EAGAIN, |queue| {
        let fits = queue.bytes + size <= queue.max_bytes && (queue.messages.len() as u64) < queue.max_bytes;
        if !fits {
            return None;
        }
        if queue.messages.try_reserve(1).is_err() {
            return Some(Err(Errno::ENOMEM));
        }
        queue.messages.extend(message.take());
        queue.bytes += size;
        queue.stime = seconds();
        queue.lspid = pid;
        Some(Ok(()))
    })?;
    changed.wake_all();
    Ok(0)
}

/// msgrcv(2).
pub fn msgrcv(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [id, at, size, kind, flags, _] = *a;
    let kind = kind as i64;
    if flags & MSG_COPY != 0 {
        // As a kernel without CONFIG_CHECKPOINT_RESTORE.
        return Err(Errno::ENOSYS.into());
    }
    if (size as i64) < 0 || (id as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let pid = current().process.pid;
    let (message, changed) = on_queue(id, READ, flags, Errno::ENOMSG, |queue| {
        let at = queue.choose(kind, flags)?;
        let length = queue.messages.get(at)?.text.len() as u64;
        if length > size && flags & MSG_NOERROR == 0 {
            return Some(Err(Errno::E2BIG));
        }
        let message = queue.messages.remove(at)?;
        queue.bytes -= length;
        queue.rtime = seconds();
        queue.lrpid = pid;
        Some(Ok(message))
    })?;
    changed.wake_all();
    let text = message.text.get(..size as usize).unwrap_or(&message.text);
    uaccess::write(at, &message.kind)?;
    uaccess::copy_out(at.wrapping_add(8), text)?;
    Ok(text.len() as u64)
}

/// msgctl(2).
pub fn msgctl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [id, cmd, buf, ..] = *a;
    if (id as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    match cmd & 0xffff_ffff & !IPC_64 {
        cmd @ (IPC_INFO | MSG_INFO) => info(cmd, buf),
        cmd @ (IPC_STAT | MSG_STAT | MSG_STAT_ANY) => {
            let (words, answer) = {
                let mut table = TABLE.lock();
                let (answer, queue) =
                    if cmd == IPC_STAT { (0, table.get(id)?) } else { table.by_index(id)? };
                if cmd != MSG_STAT_ANY {
                    queue.perm.check(READ)?;
                }
                (queue.status(), answer)
            };
            uaccess::write(buf, &words)?;
            Ok(answer)
        }
        IPC_SET => {
            let words: [u64; 15] = uaccess::read(buf)?;
            let changed = {
                let mut table = TABLE.lock();
                let queue = table.get(id)?;
                queue.perm.check_owner()?;
                let max_bytes = words[11];
                if max_bytes > MSGMNB.load(Relaxed) && !current().process.capable(CAP_SYS_RESOURCE) {
                    return Err(Errno::EPERM.into());
                }
                queue.perm.set_from(&words);
                queue.max_bytes = max_bytes;
                queue.ctime = seconds();
                queue.changed.clone()
            };
            changed.wake_all();
            Ok(0)
        }
        IPC_RMID => {
            let removed = TABLE.lock().remove(id)?;
            removed.changed.wake_all();
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

fn info(cmd: u64, buf: u64) -> SysResult {
    let setting = |value: &Setting| value.load(Relaxed) as u32;
    let (queues, messages, bytes, highest) = {
        let table = TABLE.lock();
        let messages: usize = table.iter().map(|(_, queue)| queue.messages.len()).sum();
        let bytes: u64 = table.iter().map(|(_, queue)| queue.bytes).sum();
        (table.iter().count() as u32, messages as u32, bytes as u32, table.highest_index())
    };
    // struct msginfo (include/uapi/linux/msg.h): pool, map, max, mnb, mni, ssz, tql, seg.
    let pool = (setting(&MSGMNI) as u64 * MSGMNB.load(Relaxed) / 1024) as u32;
    let (pool, map, tql) =
        if cmd == MSG_INFO { (queues, messages, bytes) } else { (pool, setting(&MSGMNB), setting(&MSGMNB)) };
    let words: [u32; 8] =
        [pool, map, setting(&MSGMAX), setting(&MSGMNB), setting(&MSGMNI), MSGSSZ, tql, 0xffff];
    uaccess::write(buf, &words)?;
    Ok(highest)
}

/// What /proc/sysvipc/msg shows of a queue.
pub struct Row<'a> {
    /// Key, owner, mode.
    pub perm: &'a Perm,
    /// Identifier.
    pub id: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Messages in it.
    pub messages: u64,
    /// Last sender and receiver.
    pub pids: [u32; 2],
    /// Times of the last sending, receipt and change.
    pub times: [u64; 3],
}

/// Calls `f` for each queue.
pub fn for_each(f: &mut dyn FnMut(&Row<'_>)) {
    for (id, queue) in TABLE.lock().iter() {
        f(&Row {
            perm: &queue.perm,
            id,
            bytes: queue.bytes,
            messages: queue.messages.len() as u64,
            pids: [queue.lspid, queue.lrpid],
            times: [queue.stime, queue.rtime, queue.ctime],
        });
    }
}
