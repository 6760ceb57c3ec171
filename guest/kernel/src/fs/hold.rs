//! `Hold`: exclusion that may last over copies from and to user memory.
//!
//! A ranked lock must never be held while user memory is touched, because the fault takes `mmap_lock`. Yet a write with
//! O_APPEND, an update of a file position, and a pipe's ring need exclusion over just that. A hold is a flag outside the
//! lock order, for which others sleep, because a page may come from a userfaultfd's handler. The rules:
//!
//! - order among holds: a file's position, then an inode's writers, then a pipe's end; no hold while a ranked lock is
//!   held;
//! - kept over no wait but one for such a page (as Linux keeps an inode's lock);
//! - a fault taken while one is held never asks for a hold (faults know objects, not files).

use crate::task::WaitQueue;
use core::sync::atomic::{AtomicBool, Ordering};

/// An exclusion flag; see the module's rules.
#[derive(Default)]
pub struct Hold {
    taken: AtomicBool,
    free: WaitQueue,
}

/// Keeps a [`Hold`] until dropped.
pub struct Held<'a>(&'a Hold);

impl Hold {
    /// A free hold.
    pub const fn new() -> Self {
        Hold { taken: AtomicBool::new(false), free: WaitQueue::new() }
    }

    /// Takes it, sleeping while another task has it.
    #[inline]
    pub fn take(&self) -> Held<'_> {
        if self.taken.swap(true, Ordering::Acquire) {
            self.free.wait_uninterruptible(|| (!self.taken.swap(true, Ordering::Acquire)).then_some(()));
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
        self.0.free.wake_all();
    }
}
