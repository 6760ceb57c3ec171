//! The current object of each CPU: what the kernel's scheduler says that the CPU works for.

use crate::cpu::current_word;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::ops::Deref;
use core::sync::atomic::Ordering::Relaxed;

/// The per-CPU slot of current objects. The kernel has exactly one value of this type, in a static.
pub struct CurrentSlot<T>(PhantomData<fn() -> T>);

/// The current object, borrowed by code that runs on its stack. Neither `Send` nor `Sync`: it stays on that stack.
pub struct CurrentRef<T: 'static> {
    target: &'static T,
    _stays_here: PhantomData<*const ()>,
}

impl<T> Clone for CurrentRef<T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for CurrentRef<T> {}

impl<T> Deref for CurrentRef<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.target
    }
}

impl<T: Send + Sync + 'static> CurrentRef<T> {
    /// A counted reference to it, which may go anywhere.
    #[inline]
    pub fn arc(&self) -> Arc<T> {
        let pointer = core::ptr::from_ref(self.target);
        // SAFETY: the slot holds a pointer from `Arc::into_raw` whose count it keeps, so the count is above 0.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }
}

impl<T: Send + Sync + 'static> CurrentSlot<T> {
    /// The slot.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        CurrentSlot(PhantomData)
    }

    /// This CPU's current object.
    ///
    /// # Panics
    /// Before the first [`CurrentSlot::replace`] on this CPU.
    #[inline]
    pub fn get(&self) -> CurrentRef<T> {
        let pointer = current_word().load(Relaxed) as *const T;
        assert!(!pointer.is_null(), "no current task");
        // SAFETY: the slot keeps a count of the object while it is current, and the scheduler keeps the object of a
        // stack alive for as long as code can run on that stack: it drops a dead task only from another stack.
        CurrentRef { target: unsafe { &*pointer }, _stays_here: PhantomData }
    }

    /// Is there one on this CPU yet?
    pub fn is_set(&self) -> bool {
        current_word().load(Relaxed) != 0
    }

    /// Makes `next` current on this CPU and gives the object that was. The caller is the scheduler: it switches stacks
    /// next, and keeps what it was given until nothing can run on the old stack any more.
    pub fn replace(&self, next: Arc<T>) -> Option<Arc<T>> {
        let old = current_word().swap(Arc::into_raw(next) as u64, Relaxed) as *const T;
        // SAFETY: a non-zero word is a pointer from `Arc::into_raw` of this very type, stored by this function.
        (!old.is_null()).then(|| unsafe { Arc::from_raw(old) })
    }
}
