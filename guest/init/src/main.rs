//! The first process of a ptshare guest: a static program without libc that runs the jobs of the initramfs.
//!
//! What it reads (written by `xtask::image`):
//!
//! | file | content |
//! |---|---|
//! | `/etc/ptshare/jobs` | NUL-terminated strings: the [`Mode`], then for each job its name, how many arguments it has, and the arguments (the first is the path) |
//! | `/etc/ptshare/env` | NUL-terminated `NAME=value` strings, the environment of every job |
//! | `/etc/ptshare/cwd` | the directory that jobs start in |
//!
//! It connects descriptors 0, 1 and 2 to the host, forks for each job (so that no job has PID 1 as itself, and every
//! job has a parent that reaps), reaps orphans too, and reports to `/dev/ptshare` (see `wire/stats.rs`). Between jobs
//! nothing survives. It exits with the status of the single job, or 0 or 1 for a list.
//!
//! It is kept small on purpose: every page that it touches is a page fault before the first program runs.
#![cfg_attr(guest, no_std, no_main)]

#[cfg(guest)]
mod jobs;
#[cfg(guest)]
mod runtime;
#[cfg(guest)]
mod sys;
#[cfg(guest)]
mod text;

#[cfg(not(guest))]
fn main() {
    eprintln!("this program is PID 1 of a ptshare guest: `cargo xtask run` builds it and puts it there");
    std::process::exit(2);
}
