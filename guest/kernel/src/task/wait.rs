//! Wait queues: tasks that sleep until a condition may hold.
//!
//! A waiter enters the queue, marks itself asleep, checks its condition and only then gives up the CPU; a waker makes
//! the condition true and only then looks at the queue. Every wake-up may be spurious, so every wait is a loop.

use super::sched::{self, wake};
use super::thread::{Task, TaskState};
use super::{current, timer};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst, fence};
use ptshare_sync::{Lock, Rank};

/// Why a wait ended without its condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// A signal (or, for a killable wait, the end of the process) came first.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

/// Tasks that wait for one thing.
pub struct WaitQueue {
    count: AtomicU32,
    /// Times that anybody was to be woken.
    wakes: AtomicU32,
    waiters: Lock<VecDeque<Arc<Task>>>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        WaitQueue::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        let waiters = Lock::new(Rank::WaitQueue, VecDeque::new());
        WaitQueue { count: AtomicU32::new(0), wakes: AtomicU32::new(0), waiters }
    }

    /// Sleeps until `cond` gives a value, a signal arrives, or the clock passes `deadline_ns` (monotonic). Hold no lock.
    ///
    /// # Errors
    /// [`WaitError`]; the condition is checked once more before either.
    pub fn wait<T>(&self, deadline_ns: Option<u64>, cond: impl FnMut() -> Option<T>) -> Result<T, WaitError> {
        wait_on(&[self], TaskState::Interruptible, deadline_ns, cond)
    }

    /// Like [`WaitQueue::wait`], but only the end of the process interrupts it.
    ///
    /// # Errors
    /// [`WaitError::Interrupted`] when the process must end.
    pub fn wait_killable<T>(&self, cond: impl FnMut() -> Option<T>) -> Result<T, WaitError> {
        wait_on(&[self], TaskState::Killable, None, cond)
    }

    /// Like [`WaitQueue::wait`], but nothing interrupts it: for what is certain to come soon.
    pub fn wait_uninterruptible<T>(&self, mut cond: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Ok(value) = wait_on(&[self], TaskState::Uninterruptible, None, &mut cond) {
                return value;
            }
        }
    }

    /// Wakes everybody.
    #[inline]
    pub fn wake_all(&self) {
        // A lost addition does no harm: the number has changed all the same.
        self.wakes.store(self.wakes.load(Relaxed).wrapping_add(1), Relaxed);
        if self.has_waiters() {
            // As many as wait now: who wakes may queue again at once.
            for _ in 0..self.count.load(Relaxed) {
                let Some(task) = self.pop() else { break };
                wake(&task);
            }
        }
    }

    /// How often [`WaitQueue::wake_all`] has been called, wrapping.
    pub fn wakes(&self) -> u32 {
        self.wakes.load(Relaxed)
    }

    /// Does somebody wait? Ordered after the caller's change of the condition.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        fence(SeqCst);
        self.count.load(Relaxed) != 0
    }

    fn pop(&self) -> Option<Arc<Task>> {
        let mut waiters = self.waiters.lock();
        let task = waiters.pop_front();
        self.count.store(waiters.len() as u32, Relaxed);
        task
    }

    fn enter(&self, task: &Arc<Task>) {
        let mut waiters = self.waiters.lock();
        waiters.push_back(task.clone());
        self.count.store(waiters.len() as u32, Relaxed);
    }

    /// Leaves the queue, if a waker has not taken the task out already.
    fn leave(&self, task: &Arc<Task>) {
        let mut waiters = self.waiters.lock();
        if let Some(at) = waiters.iter().position(|t| Arc::ptr_eq(t, task)) {
            waiters.remove(at);
        }
        self.count.store(waiters.len() as u32, Relaxed);
    }

    fn holds(&self, task: &Arc<Task>) -> bool {
        self.waiters.lock().iter().any(|t| Arc::ptr_eq(t, task))
    }
}

/// Sleeps on several queues at once until `cond` gives a value: for poll and select. See [`WaitQueue::wait`].
///
/// # Errors
/// [`WaitError`].
pub fn wait_many<T>(
    queues: &[&WaitQueue],
    deadline_ns: Option<u64>,
    cond: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    wait_on(queues, TaskState::Interruptible, deadline_ns, cond)
}

/// Sleeps until a signal or the deadline: for pause, nanosleep and the like.
///
/// # Errors
/// Always one of [`WaitError`].
pub fn sleep_until(deadline_ns: Option<u64>) -> WaitError {
    match wait_on(&[], TaskState::Interruptible, deadline_ns, || None::<()>) {
        Ok(()) => WaitError::TimedOut,
        Err(error) => error,
    }
}

pub(super) fn wait_on<T>(
    queues: &[&WaitQueue],
    state: TaskState,
    deadline_ns: Option<u64>,
    mut cond: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    if let Some(value) = cond() {
        return Ok(value);
    }
    let task = current().arc();
    for queue in queues {
        queue.enter(&task);
    }
    let mut armed = None;
    let result = loop {
        task.set_state(state);
        if let Some(value) = cond() {
            break Ok(value);
        }
        let interrupted = match state {
            TaskState::Interruptible => task.signal_pending(),
            TaskState::Killable => task.fatal_signal_pending(),
            _ => false,
        };
        if interrupted {
            break Err(WaitError::Interrupted);
        }
        if let Some(deadline) = deadline_ns {
            if ptshare_machine::time::now_ns() >= deadline {
                break Err(WaitError::TimedOut);
            }
            if armed.is_none() {
                armed = Some(timer::arm_wake(deadline, &task));
            }
        }
        sched::schedule();
        if let Some(value) = cond() {
            break Ok(value);
        }
        for queue in queues {
            // A waker took us out; the condition does not hold (any more), so we queue again.
            if !queue.holds(&task) {
                queue.enter(&task);
            }
        }
    };
    task.set_state(TaskState::Running);
    for queue in queues {
        queue.leave(&task);
    }
    if let Some(id) = armed {
        timer::cancel(id);
    }
    result
}
