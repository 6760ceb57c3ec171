//! Threads: one uses an address without pause while another changes what it means. On several CPUs this is what a TLB
//! shootdown is for; on one, threads of a process take turns without a load of CR3 that would flush by accident.
//!
//! `phase` says what the user may still do: it is advanced after a call that takes something away has returned, and before
//! one that gives it back begins.

use crate::{Probe, SEGV, expect, join, verdict};
use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{Gate, spawn};
use ptshare_programs::{check, probe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

pub const PROBES: &[Probe] = &[
    ("thread-mprotect", protect),
    ("thread-munmap", unmap),
    ("thread-dontneed", dont_need),
    ("thread-fork", fork),
];

const ROUNDS: u64 = 8;
/// What the other thread has seen of a phase before it ends.
const PROBES_A_PHASE: u64 = 3;
const DONE: u64 = u64::MAX;

/// Runs `user` over and over with the phase read before, beside `changer`, which is given a function that enters a phase and waits
/// until it has been probed.
fn beside(user: impl Fn(u64) + Sync, changer: impl FnOnce(&dyn Fn(u64))) {
    let (phase, probed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let now = phase.load(Ordering::SeqCst);
                if now == DONE {
                    return;
                }
                user(now);
                // A probe that the phase changed under proves nothing.
                if phase.load(Ordering::SeqCst) == now {
                    probed.fetch_add(1, Ordering::SeqCst);
                }
                thread::yield_now();
            }
        });
        let enter = |next: u64| {
            probed.store(0, Ordering::SeqCst);
            phase.store(next, Ordering::SeqCst);
            while probed.load(Ordering::SeqCst) < PROBES_A_PHASE {
                thread::yield_now();
            }
        };
        changer(&enter);
        phase.store(DONE, Ordering::SeqCst);
    });
}

/// Odd phases: the memory is read-only.
fn protect(name: &str) {
    let region = Region::private(4 * PAGE);
    let address = region.base + PAGE;
    beside(
        |phase| {
            let written = probe::write(address, 3);
            // In an even phase the change may be under way.
            if phase % 2 == 1 {
                expect(name, "a write to read-only memory", written, Err(SEGV));
            }
        },
        |enter| {
            for round in 0..ROUNDS {
                enter(2 * round);
                region.protect(libc::PROT_READ);
                enter(2 * round + 1);
                // The right comes back only when nobody counts on its absence.
                enter(2 * round + 2);
                region.protect(RW);
            }
        },
    );
    region.unmap();
}

/// Odd phases: nothing is mapped.
fn unmap(name: &str) {
    let region = Region::aligned(TABLE);
    let address = region.base + 5 * PAGE;
    beside(
        |phase| {
            let read = probe::read(address);
            if phase % 2 == 1 {
                expect(name, "a read of unmapped memory", read, Err(SEGV));
            }
        },
        |enter| {
            for round in 0..ROUNDS {
                check!(probe::write(address, 9).is_ok(), "fresh memory cannot be written to");
                enter(2 * round);
                region.unmap();
                enter(2 * round + 1);
                enter(2 * round + 2);
                region.map_over(RW);
            }
        },
    );
    region.unmap();
}

/// Odd phases: the page has been thrown away, and its frame given to somebody else.
fn dont_need(name: &str) {
    let (region, other) = (Region::private(4 * PAGE), Region::private(4 * PAGE));
    let address = region.base;
    beside(
        |phase| {
            let read = probe::read(address);
            if phase % 2 == 1 {
                expect(name, "a read of memory thrown away", read, Ok(0));
            }
        },
        |enter| {
            for round in 0..ROUNDS {
                check!(probe::write(address, 9).is_ok(), "memory cannot be written to");
                enter(2 * round);
                region.advise(libc::MADV_DONTNEED);
                other.advise(libc::MADV_DONTNEED);
                other.mark_pages(1, 0x4d4d_4d4d);
                enter(2 * round + 1);
                enter(2 * round + 2);
            }
        },
    );
    region.unmap();
    other.unmap();
}

/// A thread writes while another forks: what it writes after the fork must not reach the child.
fn fork(name: &str) {
    let region = Region::aligned(5 * TABLE);
    for table in 0..5 {
        region.set(table * TABLE, 1);
    }
    let count = AtomicU64::new(0);
    beside(
        |_| {
            let next = count.fetch_add(1, Ordering::SeqCst) as u8;
            for table in 0..5 {
                check!(probe::write(region.base + table * TABLE, next).is_ok(), "a write failed");
            }
        },
        |enter| {
            for round in 0..ROUNDS {
                let (has_read, gate) = (Gate::new(), Gate::new());
                enter(round);
                let child = spawn(|| {
                    let read = || -> [_; 5] { std::array::from_fn(|t| probe::read(region.base + t * TABLE)) };
                    let at_first = read();
                    // The writer goes from table to table: the first are one ahead of the others, or none is.
                    let ahead = at_first.map(|byte| byte.map(|b| b.wrapping_sub(at_first[4].unwrap_or(0))));
                    let sound = ahead.is_sorted_by(|a, b| a >= b) && ahead[0].is_ok_and(|a| a < 2);
                    expect(name, "the child's memory is that of one moment", sound, true);
                    has_read.open();
                    gate.pass();
                    expect(name, "the child's second read", read(), at_first);
                    verdict()
                });
                has_read.pass();
                enter(round + 1);
                gate.open();
                join(child);
            }
        },
    );
    region.unmap();
}
