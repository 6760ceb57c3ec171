//! What tests of the judge need, here and in other crates (feature `testing`): a synthetic guest ([`Builder`],
//! [`sample`], [`sample_gib`]) and seeded corruptions of any image ([`corruptions`], [`run_corruptions`]).

mod builder;
mod crimes;
mod fuzz;
mod large;
mod sample;
mod scout;

pub use builder::{Builder, Guest, MmIndex};
pub use crimes::{Corruption, Trial, Verdict, corrupt, corruptions, run_corruptions};
pub use fuzz::{Fuzzed, fuzz};
pub use large::{Shape, large};
pub use sample::{sample, sample_gib};
