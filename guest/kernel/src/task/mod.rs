//! Tasks and processes.
//!
//! ```text
//!   Task (thread, tid) --Arc--> Process (pid)  --Slot--> mm, files, fs, credentials, limits, signal actions
//!     |  kernel stack, FPU                |
//!     |  blocked set, per-thread work     +-- SignalState: threads, pending queues, group stop and exit
//!     v
//!   run queue / wait queues / timers (hold an Arc<Task> while it waits)
//!
//!   table (table.rs): pid -> task, process, parent and children; the only list of everything
//! ```
//!
//! A task that runs on a CPU is kept alive by that CPU's current slot; one that waits, by what it waits on and by the
//! table. A dead task is dropped by its CPU after the switch away from its stack.
//!
//! Lock order: the table ([`Rank::Tasks`](ptshare_sync::Rank)) before one process's signal state
//! (`Rank::Signals`), wait queues, run queues, timers; a [`Slot`](process::Slot) (`Rank::Registry`) is a leaf. No lock
//! is held across a wait, a user-memory access, or the drop of an mm, a file table or a process.

pub mod cpu_timer;
pub mod creds;
mod current;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod futex;
pub mod jobs;
pub mod limits;
pub mod membarrier;
pub mod oom;
pub mod posix_timer;
pub mod process;
pub mod reap;
pub mod robust;
pub mod rseq;
pub mod sched;
pub mod smp;
pub mod table;
pub mod thread;
pub mod timer;
pub mod trace;
pub mod transfers;
pub mod usage;
pub mod uts;
pub mod wait;

pub use creds::Creds;
pub use current::{CurrentTask, current};
pub use process::Process;
pub use sched::{on_ipi, on_timer_interrupt, return_to_user, run_idle};
pub use table::{find_process, find_process_of, find_task, for_each_process, process_count, task_count};
pub use thread::{Task, TaskState};
pub use wait::{WaitError, WaitQueue};
