//! The task that runs on this CPU.

use super::thread::Task;
use alloc::sync::Arc;
use ptshare_machine::current::{CurrentRef, CurrentSlot};

/// A borrow of the current task: dereferences to [`Task`]; `arc()` makes a counted reference.
pub type CurrentTask = CurrentRef<Task>;

static CURRENT: CurrentSlot<Task> = CurrentSlot::new();

/// The task on whose behalf this CPU runs.
///
/// # Panics
/// Before the idle task exists.
#[inline]
pub fn current() -> CurrentTask {
    CURRENT.get()
}

/// For the scheduler: see [`CurrentSlot::replace`].
pub(super) fn replace_current(next: Arc<Task>) -> Option<Arc<Task>> {
    CURRENT.replace(next)
}
