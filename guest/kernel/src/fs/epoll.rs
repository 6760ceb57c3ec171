//! epoll(7): a set of files to wait for. Each wait polls every file of the set, which is what a set of a few dozen costs
//! least; edge-triggered files report again when their readiness has changed.

use super::file::File;
use super::poll::{POLLERR, POLLHUP, POLLIN};
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
/// How deep sets may hold sets.
const DEPTH_MAX: u32 = 4;

struct Item {
    fd: i32,
    file: Weak<File>,
    events: u32,
    data: u64,
    /// Readiness last reported, for edge-triggered items.
    last: u32,
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
        if op == 1 && depth(file) >= DEPTH_MAX {
            return Err(Errno::ELOOP);
        }
        let mut items = self.items.lock();
        items.retain(|item| item.file.strong_count() > 0);
        let is_it = |item: &Item| item.fd == fd && core::ptr::eq(item.file.as_ptr(), Arc::as_ptr(file));
        let at = items.iter().position(is_it);
        match (op, at) {
            (1, Some(_)) => return Err(Errno::EEXIST),
            (1, None) if items.len() >= ITEMS_MAX => return Err(Errno::ENOSPC),
            (1, None) => {
                items.push(Item { fd, file: Arc::downgrade(file), events, data, last: 0, armed: true });
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

    /// What is ready now, at most `max`: events and data. `consume`: counts as reported.
    fn ready(&self, max: usize, consume: bool) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let files = self.files();
        // Readiness is asked for with no lock held; the item may have changed meanwhile.
        let now: Vec<u32> = files.iter().map(|(file, _)| file.poll()).collect();
        let mut items = self.items.lock();
        for ((file, fd), events) in files.iter().zip(now) {
            let is_it =
                |item: &&mut Item| item.fd == *fd && core::ptr::eq(item.file.as_ptr(), Arc::as_ptr(file));
            let Some(item) = items.iter_mut().find(is_it) else { continue };
            let hit = events & (item.events | POLLERR | POLLHUP);
            if !item.armed || found.len() >= max {
                continue;
            }
            let report = if item.events & EPOLLET != 0 { hit & !item.last != 0 } else { hit != 0 };
            if consume {
                item.last = hit;
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

    /// Waits for events.
    ///
    /// # Errors
    /// A signal, or the deadline (monotonic, ns).
    pub fn wait(&self, max: usize, deadline_ns: Option<u64>) -> Result<Vec<(u32, u64)>, WaitError> {
        let attempt = || {
            let found = self.ready(max, true);
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
        if self.ready(1, false).is_empty() { 0 } else { POLLIN }
    }

    /// Woken when the set changes.
    pub fn queue(&self) -> &WaitQueue {
        &self.changed
    }
}

fn depth(file: &File) -> u32 {
    match &file.ops {
        super::file::Ops::Epoll(epoll) => {
            1 + epoll.files().iter().map(|(inner, _)| depth(inner)).max().unwrap_or(0)
        }
        _ => 0,
    }
}
