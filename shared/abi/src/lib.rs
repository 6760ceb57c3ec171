//! The Linux x86-64 system-call interface, as data: error numbers and the table of calls.
//!
//! Constants and structures come from `linux-raw-sys` (generated from the kernel's own headers) and are re-exported
//! as [`sys`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod errno;
pub mod table;

pub use errno::Errno;
pub use linux_raw_sys as sys;
