//! `Hold`: exclusion that may last over copies from and to user memory.
//!
//! A ranked lock must never be held while user memory is touched, because the fault takes `mmap_lock`. Yet a write with
//! O_APPEND, an update of a file position, and a pipe's ring need exclusion over just that. A hold is a spin flag
//! outside the lock order, with these rules:
//!
//! - order among holds: a file's position, then an inode's writers, then a pipe's end; no hold while a ranked lock is
//!   held;
//! - never kept over a wait: the kernel does not switch tasks while one is held;
//! - a fault taken while one is held never asks for a hold (faults know objects, not files).

use core::sync::atomic::{AtomicBool, Ordering};

/// An exclusion flag; see the module's rules.
#[derive(Default)]
pub struct Hold(AtomicBool);

/// Keeps a [`Hold`] until dropped.
pub struct Held<'a>(&'a Hold);

impl Hold {
    /// A free hold.
    pub const fn new() -> Self {
        Hold(AtomicBool::new(false))
    }

    /// Takes it, spinning while another CPU has it.
    #[inline]
    pub fn take(&self) -> Held<'_> {
        while self.0.swap(true, Ordering::Acquire) {
            ptshare_sync::spin_wait();
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}
