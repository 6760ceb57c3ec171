//! Builds, runs and tests ptshare: the library behind `cargo xtask`, also used by the boot tests.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | the verbs and their options |
//! | [`guest`] | how the guest's binaries are built, and the one place that knows their compiler flags |
//! | [`isa`] | the check that the kernel holds no instruction that it must not hold |
//! | [`cpio`], [`image`], [`elf`] | the root file system that a guest boots with |
//! | [`batch`] | what the jobs of one boot printed and how they ended |
//! | [`run`], [`tour`], [`report`] | `cargo xtask run` and its JSON |
//! | [`fuzz`] | `cargo xtask fuzz` |
//! | [`inspect`] | `cargo xtask inspect` |
//! | [`bench`] | `cargo xtask bench` |
//! | [`mutants`] | `cargo xtask mutants` |
//! | [`ci`] | `cargo xtask ci` |
//! | [`test`] | `cargo xtask test` |
//! | [`lint`] | `cargo xtask lint` |
//! | [`docs`] | documents that are generated from the code |

pub mod batch;
pub mod bench;
pub mod ci;
pub mod cli;
pub mod cpio;
pub mod docs;
pub mod elf;
pub mod fuzz;
pub mod guest;
pub mod image;
pub mod inspect;
pub mod isa;
pub mod lint;
pub mod mutants;
pub mod paths;
pub mod process;
pub mod report;
pub mod run;
pub mod stress;
pub mod test;
pub mod tour;
