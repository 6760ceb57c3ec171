//! The judge: walks guest page tables with a walker of its own and checks the sharing invariants.
//!
//! ```text
//!  census (guest memory) --parse--> Census, Mm[], frames         census.rs, frames.rs
//!  every root, slots 0..256 ------> Graph: tables, edges, maps   graph.rs   (each table once)
//!  every mm, path by path --------> rights and VMAs              spaces.rs  (shared subtrees once)
//!  frames, tables, mms, CPUs -----> the books                    rules/     (one file, one name, one invariant)
//!                                   Report of Findings           report.rs
//! ```
//!
//! The guest is the accused: nothing here calls its code or trusts its memory. Only bit positions and record layouts are
//! common ([`ptshare_paging`], [`ptshare_wire`]). Whatever the memory holds, [`verify`] neither panics nor loops: counts
//! are bounded, additions are checked, and a walk that exceeds [`Options::entry_budget`] ends with a finding.
//!
//! # When it may be called
//! Every vCPU is paused. If one stands inside a critical section ([`ptshare_wire::CpuRec::critical`]) the books need not
//! add up; the report then has [`Report::in_critical`] set, holds no findings, and the caller resumes and tries again.
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod dump;
pub mod inspect;
pub mod report;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod view;

mod answers;
mod census;
mod frames;
mod graph;
mod history;
mod opinion;
mod recount;
mod rules;
mod spaces;
mod verify;

pub use history::History;
pub use opinion::Translate;
pub use report::{Finding, KindCounts, MmId, Report, RuleInfo};
pub use rules::rules;
pub use verify::{Aids, Options, Vcpu, verify, verify_with};
pub use view::{Image, PhysView};

#[cfg(test)]
mod tests;
