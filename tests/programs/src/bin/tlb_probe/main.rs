//! Touches known addresses right after a change of what they mean, and knows from content and signals whether the
//! processor used a translation from before. Page tables that are right do not help where a flush was forgotten: only an
//! access tells.
//!
//! Each probe first uses the addresses, so that their translations are cached, then makes one call, then uses them again
//! without anything between that would flush by accident (no other process runs in between unless the probe is about
//! that). A probe that meets a stale translation names itself on stderr; all of them run, and the exit status is 1 if any
//! did. `tlb_probe NAME...` runs those alone.
//!
//! SDM 3A, 4.10.4 "Invalidation of TLBs and Paging-Structure Caches" says when a translation may still be used.

mod family;
mod one;
mod shared;
mod threads;

use ptshare_programs::{check, probe, process};
use std::sync::atomic::{AtomicU32, Ordering};

/// How many stale translations were met.
static STALE: AtomicU32 = AtomicU32::new(0);
/// How many of them each process describes.
const SHOWN: u32 = 12;

/// Notes a stale translation unless what the processor did is what it must do now.
fn expect<T: PartialEq + std::fmt::Debug>(probe: &str, what: &str, seen: T, right: T) {
    if seen != right {
        if STALE.fetch_add(1, Ordering::Relaxed) >= SHOWN {
            return;
        }
        eprintln!("stale translation in {probe}: {what}: {seen:?}, not {right:?}");
    }
}

/// What a child that probes exits with.
fn verdict() -> i32 {
    i32::from(STALE.load(Ordering::Relaxed) != 0)
}

/// Adds a child's verdict to this process's.
fn join(pid: i32) {
    let status = process::wait(pid);
    match status.code() {
        Some(0) => {}
        Some(1) => drop(STALE.fetch_add(1, Ordering::Relaxed)),
        _ => check!(false, "a child that probes ended with {status}"),
    }
}

/// `Err` of a probe where no access is allowed.
const SEGV: i32 = libc::SIGSEGV;
const BUS: i32 = libc::SIGBUS;

type Probe = (&'static str, fn(&str));

fn main() {
    probe::install();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all = [one::PROBES, family::PROBES, shared::PROBES, threads::PROBES].concat();
    for name in &wanted {
        check!(all.iter().any(|(known, _)| known == name), "there is no probe {name}");
    }
    for (name, run) in all.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        let before = STALE.load(Ordering::Relaxed);
        run(name);
        let fresh = STALE.load(Ordering::Relaxed) == before;
        println!("{name}: {}", if fresh { "no stale translation" } else { "STALE" });
    }
    process::leave(verdict());
}
