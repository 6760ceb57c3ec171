//! `Lock` and `RwLock`: spin locks with a rank.

use crate::rank::{Rank, acquire, release, spin_wait, waiting};
use core::ops::{Deref, DerefMut};
use ptshare_wire::Wait;
use spin::relax::RelaxStrategy;

/// How our locks wait: see [`crate::set_spin_hook`].
pub struct Poll;

impl RelaxStrategy for Poll {
    #[inline]
    fn relax() {
        spin_wait();
    }
}

/// What a CPU waits for that does not get this lock at once.
fn wait_for<T: ?Sized>(lock: &T, rank: Rank) -> Wait {
    Wait::Lock { rank: rank as u8, address: core::ptr::from_ref(lock).cast::<u8>() as u64 }
}

/// A mutual-exclusion spin lock with a place in the order.
pub struct Lock<T: ?Sized> {
    rank: Rank,
    inner: spin::mutex::SpinMutex<T, Poll>,
}

/// Holds a [`Lock`].
pub struct Guard<'a, T: ?Sized> {
    inner: spin::mutex::SpinMutexGuard<'a, T>,
    rank: Rank,
}

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Lock { rank, inner: spin::mutex::SpinMutex::new(value) }
    }

    /// The value, when nobody else can hold the lock any more.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Lock<T> {
    /// Takes the lock, spinning until it is free.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        acquire(self.rank);
        let inner = match self.inner.try_lock() {
            Some(inner) => inner,
            None => waiting(wait_for(self, self.rank), || self.inner.lock()),
        };
        Guard { inner, rank: self.rank }
    }

    /// The value, through a unique borrow: no locking needed.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// Is somebody holding it? For reports only.
    pub fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        release(self.rank);
    }
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A reader-writer spin lock with a place in the order.
pub struct RwLock<T: ?Sized> {
    rank: Rank,
    inner: spin::rwlock::RwLock<T, Poll>,
}

/// Holds an [`RwLock`] for reading.
pub struct ReadGuard<'a, T: ?Sized> {
    inner: spin::rwlock::RwLockReadGuard<'a, T>,
    rank: Rank,
}

/// Holds an [`RwLock`] for writing.
pub struct WriteGuard<'a, T: ?Sized> {
    inner: spin::rwlock::RwLockWriteGuard<'a, T, Poll>,
    rank: Rank,
}

impl<T> RwLock<T> {
    /// A free lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        RwLock { rank, inner: spin::rwlock::RwLock::new(value) }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Takes the lock for reading.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        acquire(self.rank);
        let inner = match self.inner.try_read() {
            Some(inner) => inner,
            None => waiting(wait_for(self, self.rank), || self.inner.read()),
        };
        ReadGuard { inner, rank: self.rank }
    }

    /// Takes the lock for writing.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        self.write_as(self.rank)
    }

    /// Takes the lock for writing with another place in the order: for a second lock of the same kind.
    #[inline]
    pub fn write_as(&self, rank: Rank) -> WriteGuard<'_, T> {
        acquire(rank);
        let inner = match self.inner.try_write() {
            Some(inner) => inner,
            None => waiting(wait_for(self, rank), || self.inner.write()),
        };
        WriteGuard { inner, rank }
    }

    /// The value, through a unique borrow: no locking needed.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        release(self.rank);
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        release(self.rank);
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}
