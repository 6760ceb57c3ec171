//! Locks that know their order.
//!
//! Every lock has a [`Rank`]. In builds with debug assertions a CPU that takes a lock whose rank is not above all the
//! ranks that it holds panics, naming both. The enum *is* the lock order of the kernel: outermost first.
//!
//! The kernel runs with interrupts disabled and never sleeps with a lock held, so there are no irq-saving variants.
//! A CPU that spins calls [`set_spin_hook`]'s function, which is where it answers TLB shootdowns.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod lock;
mod rank;

pub use lock::{Guard, Lock, Poll, ReadGuard, RwLock, WriteGuard};
pub use rank::{
    Rank, acquire, assert_none_held, release, set_held_hook, set_spin_hook, set_wait_hook, spin_wait, waiting,
};
