//! The guest kernel. Built for the guest by `cargo xtask`; as an ordinary host program it only says so.
#![cfg_attr(guest, no_std, no_main)]
#![cfg_attr(guest, deny(unsafe_code))]

#[cfg(not(guest))]
fn main() {
    eprintln!("the guest kernel is built by `cargo xtask build` and run by `cargo xtask run`");
    std::process::exit(2);
}
