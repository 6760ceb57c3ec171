//! Everything that guest and host must agree on, and nothing else: where things lie, hypercalls, and the *census*, the
//! `repr(C)` records through which the guest shows its books to the judge.
//!
//! Both sides import this crate; neither side's algorithms live here. A record's fields are atomics because the host
//! reads them while guest CPUs are paused at any instruction; every field is naturally aligned and read whole.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod answers;
pub mod census;
pub mod epitaph;
pub mod frame;
pub mod huge;
pub mod hypercall;
pub mod layout;
pub mod stats;
pub mod vma;
pub mod waits;

pub use answers::Answers;
pub use census::{CensusHeader, CpuRec, MmRec, RamRange, ReservedRange};
pub use epitaph::Epitaph;
pub use frame::{FrameKind, FrameMeta};
pub use huge::{HugeSize, HugetlbCounts};
pub use stats::Stats;
pub use vma::VmaRec;
pub use waits::Wait;
