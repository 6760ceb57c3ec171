//! The memory-management core of ptshare: page tables as shared, counted nodes.
//!
//! ```text
//!   kernel (system calls, faults)
//!      |  Mm::mmap, munmap, mprotect, fork, fault ...           space/
//!      v
//!   VMAs (vma/)   objects (object/)   tables and sharing (table/, share/)
//!      |                 |                  |
//!      +-----------------+---- Env (env.rs): words, frames, TLBs, census ----+
//!                                           |
//!                     guest/machine (linear map)   testing::Arena (vectors)
//! ```
//!
//! Lock order, outermost first: `mmap_lock`, `i_mmap`, `page_table_lock`, `pte_page_lock`, page cache, frame allocator
//! (see `ptshare_sync::Rank`).
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod env;
pub mod error;
pub mod flush;
pub mod frame;
pub mod hugetlb;
pub mod object;
pub mod rmap;
mod share;
pub mod space;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod userfault;
pub mod vma;

pub use env::{Env, FlushRange};
pub use error::MmError;
pub use flush::FlushBatch;
pub use frame::{Buddy, NoMemory, Priority};
pub use object::{Object, ObjectError, ObjectInfo, ObjectKind};
pub use rmap::Mms;
pub use share::ObjectTables;
pub use space::{Access, FaultOutcome, MapRequest, Mm, MmUsage, Sharing, SmapsEntry, VmaView};
pub use userfault::{Ticket, Userfault};
pub use vma::{Layout, Limits, Vma, VmaSet};
