//! The table: every pid, its task, its process, and the tree of parents and children.
//!
//! A pid is in use while something refers to it: a task or a process with that number (one use, given back when both are
//! gone), and every process whose group or session has it. Numbers are handed out in a circle, so that a pid is not
//! reused soon.
//!
//! One lock guards all of it. Family links are pids, not references, so the tree has no cycles of counts.

use super::limits::THREADS_MAX;
use super::process::{Life, Process, Slot};
use super::thread::Task;
use crate::KMm;
use crate::fs::{FileTable, FsContext};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use ptshare_abi::Errno;
use ptshare_sync::{Guard, Lock, Rank};

/// Pids are below this whatever kernel.pid_max says (as on Linux with CONFIG_BASE_SMALL).
pub const PID_LIMIT: u32 = 32768;
/// Lowest kernel.pid_max: one more than RESERVED_PIDS.
pub const PID_MIN: u32 = 301;
/// kernel.pid_max: new pids are below this.
pub static PID_MAX: AtomicU32 = AtomicU32::new(PID_LIMIT);
/// Where the search for a pid starts again after the last (Linux's RESERVED_PIDS).
const PID_RESTART: u32 = 300;
const CHUNK: u32 = 256;
const CHUNKS: usize = (PID_LIMIT / CHUNK) as usize;

/// A process and its family.
pub(super) struct Node {
    pub process: Arc<Process>,
    /// Place in [`Table::all`].
    index: usize,
    /// First child, next and previous sibling; 0 ends a list.
    first_child: u32,
    next: u32,
    prev: u32,
}

#[derive(Default)]
struct PidSlot {
    task: Option<Arc<Task>>,
    node: Option<Box<Node>>,
    uses: u32,
}

/// The table's content; see the module.
pub(super) struct Table {
    chunks: [Option<Vec<PidSlot>>; CHUNKS],
    /// Every process, in no order.
    all: Vec<Arc<Process>>,
    tasks: usize,
    last_pid: u32,
}

static TABLE: Lock<Table> = Lock::new(
    Rank::Tasks,
    Table { chunks: [const { None }; CHUNKS], all: Vec::new(), tasks: 0, last_pid: 0 },
);

static EMPTY_MM: Slot<KMm> = Slot::new(None);

/// Takes the table's lock.
pub(super) fn lock() -> Guard<'static, Table> {
    TABLE.lock()
}

/// Sets what [`empty_mm`] gives.
pub(super) fn set_empty_mm(mm: Arc<KMm>) {
    let old = EMPTY_MM.replace(Some(mm));
    drop(old);
}

/// An address space with nothing in it, for who asks a process that has none any more.
pub(super) fn empty_mm() -> Arc<KMm> {
    EMPTY_MM.get().expect("made at boot")
}

/// A file table with nothing in it.
pub(super) fn empty_files() -> Arc<FileTable> {
    FileTable::new()
}

/// The initial root and working directory.
pub(super) fn empty_fs() -> Arc<FsContext> {
    Arc::new(FsContext::new())
}

impl Table {
    fn slot(&self, pid: u32) -> Option<&PidSlot> {
        self.chunks.get((pid / CHUNK) as usize)?.as_ref()?.get((pid % CHUNK) as usize)
    }

    fn slot_mut(&mut self, pid: u32) -> Option<&mut PidSlot> {
        self.chunks.get_mut((pid / CHUNK) as usize)?.as_mut()?.get_mut((pid % CHUNK) as usize)
    }

    fn use_pid(&mut self, pid: u32) {
        if let Some(slot) = self.slot_mut(pid) {
            slot.uses += 1;
        }
    }

    fn unuse_pid(&mut self, pid: u32) {
        if let Some(slot) = self.slot_mut(pid) {
            slot.uses = slot.uses.saturating_sub(1);
        }
    }

    /// Takes a free pid.
    fn take_pid(&mut self) -> Result<u32, Errno> {
        let mut pid = self.last_pid;
        let max = PID_MAX.load(Relaxed).min(PID_LIMIT);
        for _ in 0..max {
            pid = if pid + 1 >= max { PID_RESTART } else { pid + 1 };
            let chunk = &mut self.chunks[(pid / CHUNK) as usize];
            let slots = match chunk {
                Some(slots) => slots,
                None => {
                    let mut slots = Vec::new();
                    slots.try_reserve_exact(CHUNK as usize).map_err(|_| Errno::ENOMEM)?;
                    slots.resize_with(CHUNK as usize, PidSlot::default);
                    chunk.insert(slots)
                }
            };
            let slot = &mut slots[(pid % CHUNK) as usize];
            if slot.uses == 0 {
                slot.uses = 1;
                self.last_pid = pid;
                return Ok(pid);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The process with this pid, zombies included.
    pub(super) fn process(&self, pid: u32) -> Option<&Arc<Process>> {
        Some(&self.slot(pid)?.node.as_ref()?.process)
    }

    /// The live task with this tid.
    pub(super) fn task(&self, tid: u32) -> Option<&Arc<Task>> {
        self.slot(tid)?.task.as_ref()
    }

    /// Every process, in no order.
    pub(super) fn all(&self) -> &[Arc<Process>] {
        &self.all
    }

    fn node_mut(&mut self, pid: u32) -> Option<&mut Node> {
        self.slot_mut(pid)?.node.as_deref_mut()
    }

    fn node(&self, pid: u32) -> Option<&Node> {
        self.slot(pid)?.node.as_deref()
    }

    /// The children of a process, most recent first.
    pub(super) fn children(&self, pid: u32) -> Children<'_> {
        Children { table: self, next: self.node(pid).map_or(0, |node| node.first_child) }
    }

    fn link(&mut self, child: u32, parent: u32) {
        let first = match self.node_mut(parent) {
            Some(node) => core::mem::replace(&mut node.first_child, child),
            None => 0,
        };
        if let Some(node) = self.node_mut(first) {
            node.prev = child;
        }
        if let Some(node) = self.node_mut(child) {
            node.next = first;
            node.prev = 0;
            node.process.parent.store(parent, Relaxed);
        }
    }

    fn unlink(&mut self, child: u32) {
        let Some(node) = self.node(child) else { return };
        let (next, prev, parent) = (node.next, node.prev, node.process.parent());
        if let Some(node) = self.node_mut(next) {
            node.prev = prev;
        }
        if prev != 0 {
            if let Some(node) = self.node_mut(prev) {
                node.next = next;
            }
        } else if let Some(node) = self.node_mut(parent) {
            node.first_child = next;
        }
    }

    /// Gives every child of `from` to `to`.
    pub(super) fn reparent_children(&mut self, from: u32, to: u32) {
        while let Some(child) = self.children(from).next().map(|child| child.pid) {
            self.unlink(child);
            self.link(child, to);
        }
    }

    /// Who adopts the children of `pid`: its nearest ancestor that is a subreaper, else init.
    pub(super) fn reaper_of(&self, pid: u32) -> u32 {
        let mut at = self.process(pid).map_or(0, |process| process.parent());
        while at > 1 {
            match self.process(at) {
                Some(process) if process.subreaper.load(Relaxed) && !process.is_dead() => return at,
                Some(process) => at = process.parent(),
                None => break,
            }
        }
        1
    }

    /// Moves a process to a group.
    pub(super) fn set_group(&mut self, process: &Process, pgid: u32) {
        self.use_pid(pgid);
        let old = process.pgid.swap(pgid, Relaxed);
        self.unuse_pid(old);
    }

    /// Moves a process to a session.
    pub(super) fn set_session(&mut self, process: &Process, sid: u32) {
        self.use_pid(sid);
        let old = process.sid.swap(sid, Relaxed);
        self.unuse_pid(old);
    }

    /// The processes of a group, zombies included.
    pub(super) fn group(&self, pgid: u32) -> impl Iterator<Item = &Arc<Process>> {
        self.all.iter().filter(move |process| process.pgid() == pgid)
    }

    /// Takes a zombie out for good; its pid is free unless a group or session has it. The caller drops it unlocked.
    pub(super) fn reap(&mut self, pid: u32) -> Option<Arc<Process>> {
        self.unlink(pid);
        let node = self.slot_mut(pid)?.node.take()?;
        node.process.life.store(Life::Reaped as u32, SeqCst);
        self.all.swap_remove(node.index);
        if let Some(moved) = self.all.get(node.index).map(|process| process.pid)
            && let Some(moved) = self.node_mut(moved)
        {
            moved.index = node.index;
        }
        self.unuse_pid(node.process.pgid());
        self.unuse_pid(node.process.sid());
        self.unuse_pid(pid);
        Some(node.process)
    }

    /// Takes a task out of the table; frees its tid unless it is its process's pid.
    pub(super) fn remove_task(&mut self, tid: u32, pid: u32) -> Option<Arc<Task>> {
        let task = self.slot_mut(tid)?.task.take()?;
        self.tasks -= 1;
        if tid != pid {
            self.unuse_pid(tid);
        }
        Some(task)
    }

    /// After exec in a thread that is not the leader: the thread takes the leader's number.
    pub(super) fn take_over_pid(&mut self, task: &Arc<Task>, old_tid: u32, pid: u32) {
        let moved = self.slot_mut(old_tid).and_then(|slot| slot.task.take());
        self.unuse_pid(old_tid);
        if let Some(slot) = self.slot_mut(pid) {
            slot.task = moved.or_else(|| Some(task.clone()));
        }
    }

    /// Live tasks.
    pub(super) fn task_count(&self) -> usize {
        self.tasks
    }
}

/// See [`Table::children`].
pub(super) struct Children<'a> {
    table: &'a Table,
    next: u32,
}

impl<'a> Iterator for Children<'a> {
    type Item = &'a Arc<Process>;

    fn next(&mut self) -> Option<&'a Arc<Process>> {
        let node = self.table.node(self.next)?;
        self.next = node.next;
        Some(&node.process)
    }
}

/// A pid that has been taken for something that does not exist yet; given back by drop unless [`PidTaken::keep`].
pub(super) struct PidTaken(u32);

impl PidTaken {
    /// Takes a free pid, and sees to it that the table and the run queues have room for one more task.
    ///
    /// # Errors
    /// EAGAIN when all are in use, ENOMEM.
    pub(super) fn take() -> Result<PidTaken, Errno> {
        let (pid, tasks) = {
            let mut table = lock();
            if table.all.len().max(table.tasks) as u64 >= THREADS_MAX.load(Relaxed) {
                return Err(Errno::EAGAIN);
            }
            table.all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            (table.take_pid()?, table.tasks)
        };
        let taken = PidTaken(pid);
        super::sched::reserve(tasks + 1)?;
        Ok(taken)
    }

    /// The number.
    pub(super) fn pid(&self) -> u32 {
        self.0
    }

    /// Enters a new process with its first task, as a child of `parent`.
    pub(super) fn enter_process(self, table: &mut Table, task: &Arc<Task>, parent: u32) {
        let process = &task.process;
        let index = table.all.len();
        table.all.push(process.clone());
        let node = Node { process: process.clone(), index, first_child: 0, next: 0, prev: 0 };
        if let Some(slot) = table.slot_mut(self.0) {
            slot.task = Some(task.clone());
            slot.node = Some(Box::new(node));
        }
        table.tasks += 1;
        table.use_pid(process.pgid());
        table.use_pid(process.sid());
        table.link(self.0, parent);
        core::mem::forget(self);
    }

    /// Enters a further task of a process.
    pub(super) fn enter_thread(self, table: &mut Table, task: &Arc<Task>) {
        if let Some(slot) = table.slot_mut(self.0) {
            slot.task = Some(task.clone());
        }
        table.tasks += 1;
        core::mem::forget(self);
    }
}

impl Drop for PidTaken {
    fn drop(&mut self) {
        lock().unuse_pid(self.0);
    }
}

/// The process with this pid, zombies included.
pub fn find_process(pid: u32) -> Option<Arc<Process>> {
    lock().process(pid).cloned()
}

/// The live task with this tid.
pub fn find_task(tid: u32) -> Option<Arc<Task>> {
    lock().task(tid).cloned()
}

/// The process that has a task with this tid, or this pid.
pub fn find_process_of(tid: u32) -> Option<Arc<Process>> {
    let table = lock();
    match table.task(tid) {
        Some(task) => Some(task.process.clone()),
        None => table.process(tid).cloned(),
    }
}

/// Calls `f` for every process, zombies included, in the order of pids. No lock is held meanwhile.
pub fn for_each_process(mut f: impl FnMut(&Arc<Process>)) {
    let mut all: Vec<Arc<Process>> = lock().all().to_vec();
    all.sort_unstable_by_key(|process| process.pid);
    for process in &all {
        f(process);
    }
}

/// Every process, zombies included, in no order.
pub fn all_processes() -> Vec<Arc<Process>> {
    lock().all().to_vec()
}

/// The processes of a group, zombies included, in no order.
pub fn group_processes(pgid: u32) -> Vec<Arc<Process>> {
    lock().group(pgid).cloned().collect()
}

/// Processes, zombies included.
pub fn process_count() -> usize {
    lock().all().len()
}

/// Live tasks.
pub fn task_count() -> usize {
    lock().task_count()
}

/// The pid given out last (fifth field of /proc/loadavg).
pub fn last_pid() -> u32 {
    lock().last_pid
}
