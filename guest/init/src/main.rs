//! The first process of a ptshare guest.
#![cfg_attr(guest, no_std, no_main)]

#[cfg(not(guest))]
fn main() {}
