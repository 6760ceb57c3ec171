//! Devices that are ptshare's own.

pub mod ptshare;
