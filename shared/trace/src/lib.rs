//! Traces: small programs of memory operations by several processes, whose interleaving is part of the program.
//!
//! A trace is a list of operations, each with the number of the process that carries it out (see [`Call`]). The same trace
//! is run by an interpreter on Linux and in the guest, and by the model test on the core alone; what they report must be
//! the same.
//!
//! | module | what |
//! |---|---|
//! | [`call`] | the operations and the types of their arguments, as a table |
//! | [`place`] | addresses that mean the same on every system |
//! | [`text`] | the text form, parsed and printed |
//! | [`names`] | flags by name |
//! | [`random`] | the random numbers: written out here, so that one seed is one trace for ever |
//! | [`generate`] | from a seed to a trace |
//! | [`watch`] | the pages whose content is compared at the end |
//! | [`report`] | what a system gave for a trace, as text |
//! | [`shrink`] | smaller traces to try when one fails |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod call;
pub mod generate;
pub mod names;
pub mod place;
pub mod random;
pub mod report;
pub mod shrink;
pub mod text;
pub mod watch;

pub use call::{Call, Kind, Op};
pub use place::Place;

use alloc::vec::Vec;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Most processes of a trace.
pub const PROCS: usize = 6;
/// Slots of each sort: descriptors, segments, handles.
pub const SLOTS: usize = 8;
/// Most operations of a trace.
pub const OPS_MAX: usize = 400;
/// Arguments of an operation.
pub const ARGS: usize = 7;

/// One program.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// The seed that it comes from; a name and no more once it is shrunk.
    pub seed: u64,
    /// It wants huge pages, so it cannot run where there is no pool of them.
    pub huge: bool,
    /// What is done, in this order.
    pub ops: Vec<Op>,
}

impl Trace {
    /// Whether the core alone can run it: segments are above the core, and huge pages need a pool.
    pub fn is_for_the_core(&self) -> bool {
        let segments = [Call::Shmget, Call::Shmat, Call::Shmdt, Call::Shmrm, Call::Shmstat];
        !self.huge && !self.ops.iter().any(|op| segments.contains(&op.call))
    }

    /// The operations that end what still runs: children before parents, as far as numbers tell.
    pub fn endings() -> impl Iterator<Item = Op> {
        (0..PROCS as u8).rev().map(|proc| Op::new(proc, Call::Exit, &[0]))
    }
}
