//! The x86-64 machine: the only guest crate that is unsafe at heart.
