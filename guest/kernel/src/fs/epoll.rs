//! epoll(7): a set of files to wait for. Each wait polls every file of the set, which is what a set of a few dozen costs
//! least; edge-triggered files report again when their readiness has changed, or somebody has been woken for them since
//! ([`WaitQueue::wakes`]: what Linux takes for an edge).
//!
//! Sets may hold sets, and a wait then asks sets for sets. No ring of them is let in, and asking ends at
//! [`DEPTH_MAX`] in any case: a ring can be closed by two that add at the same time.

use super::file::{File, Ops};
use super::poll::{POLLERR, POLLHUP, POLLIN};
use super::text::Text;
use crate::task::WaitQueue;
use crate::task::wait::{WaitError, wait_many};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

const EPOLLET: u32 = 1 << 31;
const EPOLLONESHOT: u32 = 1 << 30;
/// Most files in one set.
const ITEMS_MAX: usize = 4096;
/// How deep sets may hold sets (Linux EP_MAX_NESTS).
const DEPTH_MAX: u32 = 4;
/// Most sets in one set: with [`DEPTH_MAX`] an end to what one look at a set can cost.
const SETS_MAX: usize = 16;
const EPOLLEXCLUSIVE: u32 = 1 << 28;

struct Item {
    fd: i32,
    file: Weak<File>,
    is_set: bool,
    events: u32,
    data: u64,
    /// Readiness last reported, for edge-triggered items, and how often somebody had been woken by then.
    last: u32,
    wakes: u32,
    armed: bool,
}

/// An epoll set.
pub struct Epoll {
    items: Lock<Vec<Item>>,
    changed: WaitQueue,
}

impl Default for Epoll {
    fn default() -> Self {
        Self::new()
    }
}

impl Epoll {
    /// An empty set.
    pub fn new() -> Self {
        Epoll { items: Lock::new(Rank::Files, Vec::new()), changed: WaitQueue::new() }
    }

    /// EPOLL_CTL_ADD (1), DEL (2), MOD (3).
    ///
    /// # Errors
    /// EEXIST, ENOENT, EINVAL, ENOSPC, ELOOP.
    pub fn control(&self, op: u32, fd: i32, file: &Arc<File>, events: u32, data: u64) -> Result<(), Errno> {
        let is_set = matches!(file.ops, Ops::Epoll(_));
        if op == 1 && is_set && (self.reached_from(file, 0) || depth(file, 0) > DEPTH_MAX) {
            return Err(Errno::ELOOP);
        }
        if events & EPOLLEXCLUSIVE != 0 && (op == 3 || op == 1 && is_set) {
            return Err(Errno::EINVAL);
        }
        let mut items = self.items.lock();
        items.retain(|item| item.file.strong_count() > 0);
        let is_it = |item: &Item| item.fd == fd && core::ptr::eq(item.file.as_ptr(), Arc::as_ptr(file));
        let at = items.iter().position(is_it);
        match (op, at) {
            (1, Some(_)) => return Err(Errno::EEXIST),
            (1, None) if items.len() >= ITEMS_MAX => return Err(Errno::ENOSPC),
            (1, None) if is_set && items.iter().filter(|item| item.is_set).count() >= SETS_MAX => {
                return Err(Errno::ENOSPC);
            }
            (1, None) => {
                items.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                let file = Arc::downgrade(file);
                items.push(Item { fd, file, is_set, events, data, last: 0, wakes: 0, armed: true });
            }
            (2, Some(at)) => {
                items.swap_remove(at);
            }
            (3, Some(at)) => {
                let item = &mut items[at];
                (item.events, item.data, item.last, item.armed) = (events, data, 0, true);
            }
            (2 | 3, None) => return Err(Errno::ENOENT),
            _ => return Err(Errno::EINVAL),
        }
        drop(items);
        self.changed.wake_all();
        Ok(())
    }

    fn files(&self) -> Vec<(Arc<File>, i32)> {
        let items = self.items.lock();
        items.iter().filter_map(|item| Some((item.file.upgrade()?, item.fd))).collect()
    }

    /// What is ready now, at most `max`: events and data. `consume`: counts as reported. `depth`: sets above this one.
    fn ready(&self, max: usize, consume: bool, depth: u32) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let files = self.files();
        // Readiness is asked for with no lock held; the item may have changed meanwhile.
        let look = |file: &File| match &file.ops {
            Ops::Epoll(set) => (set.poll_below(depth + 1), wakes(file)),
            // The count first: who is woken between the two is news next time.
            _ => {
                let before = wakes(file);
                (file.poll(), before)
            }
        };
        let now: Vec<(u32, u32)> = files.iter().map(|(file, _)| look(file)).collect();
        let mut items = self.items.lock();
        for ((file, fd), (events, woken)) in files.iter().zip(now) {
            let is_it =
                |item: &&mut Item| item.fd == *fd && core::ptr::eq(item.file.as_ptr(), Arc::as_ptr(file));
            let Some(item) = items.iter_mut().find(is_it) else { continue };
            let hit = events & (item.events | POLLERR | POLLHUP);
            if !item.armed || found.len() >= max {
                continue;
            }
            let news = item.events & EPOLLET == 0 || hit & !item.last != 0 || woken != item.wakes;
            let report = hit != 0 && news;
            if consume {
                (item.last, item.wakes) = (hit, woken);
                if report && item.events & EPOLLONESHOT != 0 {
                    item.armed = false;
                }
            }
            if report {
                found.push((hit, item.data));
            }
        }
        drop(items);
        found
    }

    /// Its lines in /proc/PID/fdinfo.
    pub fn fd_info(&self, t: &mut Text) {
        for item in self.items.lock().iter().filter(|item| item.file.strong_count() > 0) {
            t.s("tfd: ").dec(item.fd as u64).s(" events: ").hex(u64::from(item.events), 1);
            t.s(" data: ").hex(item.data, 1).c(b'\n');
        }
    }

    /// Waits for events.
    ///
    /// # Errors
    /// A signal, or the deadline (monotonic, ns).
    pub fn wait(&self, max: usize, deadline_ns: Option<u64>) -> Result<Vec<(u32, u64)>, WaitError> {
        let attempt = || {
            let found = self.ready(max, true, 0);
            (!found.is_empty()).then_some(found)
        };
        let files = self.files();
        let mut queues: Vec<&WaitQueue> = Vec::new();
        queues.push(&self.changed);
        for (file, _) in &files {
            file.poll_queues(&mut |queue| queues.push(queue));
        }
        wait_many(&queues, deadline_ns, attempt)
    }

    /// Readiness of the set itself.
    pub fn poll(&self) -> u32 {
        self.poll_below(0)
    }

    /// As [`Epoll::poll`], for a set in a set: with `depth` of them above it.
    fn poll_below(&self, depth: u32) -> u32 {
        if depth > DEPTH_MAX || self.ready(1, false, depth).is_empty() { 0 } else { POLLIN }
    }

    /// Is this set in `file`, or in a set of it?
    fn reached_from(&self, file: &File, depth: u32) -> bool {
        let Ops::Epoll(set) = &file.ops else { return false };
        core::ptr::eq(set, self)
            || depth <= DEPTH_MAX && set.sets().iter().any(|inner| self.reached_from(inner, depth + 1))
    }

    /// The sets in it.
    fn sets(&self) -> Vec<Arc<File>> {
        let items = self.items.lock();
        items.iter().filter(|item| item.is_set).filter_map(|item| item.file.upgrade()).collect()
    }

    /// Woken when the set changes.
    pub fn queue(&self) -> &WaitQueue {
        &self.changed
    }
}

/// How often anybody has been woken for a file.
fn wakes(file: &File) -> u32 {
    let mut sum = 0u32;
    file.poll_queues(&mut |queue| sum = sum.wrapping_add(queue.wakes()));
    sum
}

/// How deep a file holds sets, itself included; looked at down to one more than may be.
fn depth(file: &File, above: u32) -> u32 {
    match &file.ops {
        Ops::Epoll(set) if above <= DEPTH_MAX => {
            1 + set.sets().iter().map(|inner| depth(inner, above + 1)).max().unwrap_or(0)
        }
        _ => 0,
    }
}
