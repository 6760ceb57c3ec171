//! userfaultfd(2): faults in registered ranges become messages, and user mode fills the pages in.
//!
//! ```text
//!   thread --fault--> fault.rs: message --------read()----> handler thread
//!      ^                  |  (the entry is looked at and the message posted under the table's lock)
//!      |                  v
//!      +----wake---- mod.rs: who waits <----UFFDIO_COPY, ZEROPAGE, CONTINUE, WRITEPROTECT, WAKE
//!
//!  register.rs  ranges come and go: VM_UFFD_* flags and the context in the VMAs
//!  fault.rs     which fault becomes a message
//!  fill.rs      COPY, ZEROPAGE, CONTINUE: one page each
//!  protect.rs   WRITEPROTECT: `Pte::UFFD_WP` in leaves, and as a marker where none is
//! ```
//!
//! The file object, its readers and the sleeping are the kernel's; errors and their order are those of Linux's
//! fs/userfaultfd.c and mm/userfaultfd.c.
//!
//! **Sharing.** Absence and write protection are what one mm has been promised to hear of. Tables under a range whose
//! entries hold such a state ([`crate::Vma::owns_tables`]) are that mm's alone: registering takes them out of the sharing,
//! faults do not bring them back, and fork copies them (without the marks: a child is not registered).

mod fault;
mod fill;
mod protect;
mod register;
#[cfg(test)]
mod tests;

pub(crate) use fault::Spot;
pub use fill::{Call, HeldPage, Source, Staging};
pub(crate) use protect::{is_marker, mark_of, unmarked};
pub use register::Registered;

use crate::error::MmError;
use crate::{Env, FaultOutcome, Mm};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use ptshare_abi::sys::general as abi;
use ptshare_sync::{Lock, Rank};

/// The features that work, as UFFDIO_API reports them.
pub const FEATURES: u64 = (abi::UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | abi::UFFD_FEATURE_MISSING_HUGETLBFS
    | abi::UFFD_FEATURE_MISSING_SHMEM
    | abi::UFFD_FEATURE_SIGBUS
    | abi::UFFD_FEATURE_THREAD_ID
    | abi::UFFD_FEATURE_MINOR_HUGETLBFS
    | abi::UFFD_FEATURE_MINOR_SHMEM
    | abi::UFFD_FEATURE_EXACT_ADDRESS
    | abi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | abi::UFFD_FEATURE_WP_UNPOPULATED) as u64;

/// In `Userfault::features`: the handshake is done. No feature has this bit.
const READY: u64 = 1 << 63;

/// A fault that waits for user mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Which [`Userfault`].
    pub context: u32,
    /// Which of its faults.
    pub number: u32,
}

/// What user mode reads of a fault (`struct uffd_msg`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// `UFFD_PAGEFAULT_FLAG_*`.
    pub flags: u64,
    /// Start of the page, or with UFFD_FEATURE_EXACT_ADDRESS the address.
    pub address: u64,
    /// Who waits; 0 without UFFD_FEATURE_THREAD_ID.
    pub thread: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Posted by the fault; not readable before its thread has said who it is.
    New,
    /// To be read.
    Pending,
    /// Read.
    Known,
}

struct Waiting {
    number: u32,
    stage: Stage,
    message: Message,
}

/// One userfaultfd: the address space that it serves, and the faults that wait.
pub struct Userfault<E: Env> {
    id: u32,
    mm: Weak<Mm<E>>,
    user_mode_only: bool,
    features: AtomicU64,
    closed: AtomicBool,
    last: AtomicU32,
    waiting: Lock<Vec<Waiting>>,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl<E: Env> Userfault<E> {
    /// A context for `mm`. With `user_mode_only` (UFFD_USER_MODE_ONLY) faults of the kernel's own accesses fail.
    pub fn new(mm: &Arc<Mm<E>>, user_mode_only: bool) -> Arc<Self> {
        Arc::new(Userfault {
            id: NEXT_ID.fetch_add(1, Relaxed),
            mm: Arc::downgrade(mm),
            user_mode_only,
            features: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            last: AtomicU32::new(0),
            waiting: Lock::new(Rank::Userfault, Vec::new()),
        })
    }

    /// Its number, as in [`Ticket::context`].
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The address space that it serves.
    ///
    /// # Errors
    /// `Gone` once that has ended.
    pub fn mm(&self) -> Result<Arc<Mm<E>>, MmError> {
        self.mm.upgrade().ok_or(MmError::Gone)
    }

    /// Ends the handshake: these features are on.
    ///
    /// # Errors
    /// `Invalid` for features that there are not, or the second time.
    pub fn enable(&self, features: u64) -> Result<(), MmError> {
        if features & !FEATURES != 0 {
            return Err(MmError::Invalid);
        }
        match self.features.compare_exchange(0, features | READY, Relaxed, Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(MmError::Invalid),
        }
    }

    /// Has the handshake been done?
    pub fn is_ready(&self) -> bool {
        self.features.load(Relaxed) & READY != 0
    }

    /// The features that are on.
    pub fn features(&self) -> u64 {
        self.features.load(Relaxed) & !READY
    }

    fn has(&self, feature: u32) -> bool {
        self.features.load(Relaxed) & u64::from(feature) != 0
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Makes a message of a fault. `None` when nobody listens any more.
    fn post(&self, address: u64, page: u64, flags: u32, user: bool) -> Option<FaultOutcome> {
        if self.is_closed() {
            return None;
        }
        if self.has(abi::UFFD_FEATURE_SIGBUS) || (self.user_mode_only && !user) {
            return Some(FaultOutcome::BusAdrErr);
        }
        let address = if self.has(abi::UFFD_FEATURE_EXACT_ADDRESS) { address } else { page };
        let message = Message { flags: u64::from(flags), address, thread: 0 };
        let mut waiting = self.waiting.lock();
        if waiting.try_reserve(1).is_err() {
            return Some(FaultOutcome::OutOfMemory);
        }
        let number = self.last.fetch_add(1, Relaxed).wrapping_add(1);
        waiting.push(Waiting { number, stage: Stage::New, message });
        Some(FaultOutcome::Userfault(Ticket { context: self.id, number }))
    }

    /// The thread that waits for fault `number` says who it is; from now on the message can be read.
    pub fn announce(&self, number: u32, thread: u32) {
        let named = self.has(abi::UFFD_FEATURE_THREAD_ID);
        if let Some(fault) = self.waiting.lock().iter_mut().find(|fault| fault.number == number) {
            fault.stage = Stage::Pending;
            fault.message.thread = if named { thread } else { 0 };
        }
    }

    /// Does fault `number` still wait?
    pub fn is_waiting(&self, number: u32) -> bool {
        !self.is_closed() && self.waiting.lock().iter().any(|fault| fault.number == number)
    }

    /// The thread of fault `number` waits no longer: a signal has come.
    pub fn withdraw(&self, number: u32) {
        self.waiting.lock().retain(|fault| fault.number != number);
    }

    /// The oldest message not read yet.
    pub fn read(&self) -> Option<Message> {
        let mut waiting = self.waiting.lock();
        let fault = waiting.iter_mut().find(|fault| fault.stage == Stage::Pending)?;
        fault.stage = Stage::Known;
        Some(fault.message)
    }

    /// Is there a message to read?
    pub fn is_readable(&self) -> bool {
        self.waiting.lock().iter().any(|fault| fault.stage == Stage::Pending)
    }

    /// Messages not read yet, and all faults that wait: for /proc/PID/fdinfo.
    pub fn counts(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.iter().filter(|fault| fault.stage != Stage::Known).count(), waiting.len())
    }

    /// Ends the wait of all faults in `[start, start + len)`. The caller wakes the threads.
    pub fn wake(&self, start: u64, len_bytes: u64) {
        self.waiting.lock().retain(|fault| fault.message.address.wrapping_sub(start) >= len_bytes);
    }

    /// Nobody listens any more: takes all registrations back and ends all waits. The caller wakes the threads.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        if let Ok(mm) = self.mm() {
            mm.release_userfault(self);
        }
        self.waiting.lock().clear();
    }
}
