//! Critical sections: what interrupts them, and what must not be in their description.

use crate::area::{Area, SIGNATURE, Section};
use crate::{calls, cpus, run_on};
use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::{check, check_eq, now_ns, process, signal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Where the last handler's program was interrupted.
static INTERRUPTED_AT: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_rip(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted context.
    let rip = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] };
    INTERRUPTED_AT.store(rip as u64, SeqCst);
}

/// A signal ends a section, and its handler sees the thread where it goes on.
pub fn signals() {
    signal::handle(libc::SIGALRM, note_rip, 0);
    let area = Area::registered();
    let soon = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 100_000 },
    };
    // SAFETY: the value is live.
    check_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &soon, std::ptr::null_mut()) }, 0);
    // Another task may interrupt it first.
    let mut went_on = 0;
    while INTERRUPTED_AT.load(SeqCst) == 0 {
        went_on = area.stay_until_aborted();
    }
    check_eq!(INTERRUPTED_AT.load(SeqCst), went_on);
    area.unregister();
    println!("a signal ends a section");
}

/// A task that wants the same CPU ends a section.
pub fn another_task() {
    run_on(&cpus()[..1]);
    let other = process::spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    let area = Area::registered();
    for _ in 0..3 {
        area.stay_until_aborted();
    }
    area.unregister();
    check!(process::kill(other, libc::SIGKILL).is_ok(), "the other cannot be killed");
    println!("another task ends a section, and ends with {}", process::wait(other));
}

/// What is wrong in the description of a section ends the process, whatever its handlers.
pub fn bad_sections() {
    let hole = Region::private(PAGE);
    hole.unmap();
    let code = Box::leak(Box::new([SIGNATURE, 0]));
    let start = std::ptr::from_ref(code) as u64 + 4096;
    let good = Section { version: 0, flags: 0, start, len: 16, abort: std::ptr::from_ref(&code[1]) as u64 };
    let cases: [(&str, Section); 9] = [
        ("that is left", good),
        ("with flags, that is left", Section { flags: 7, ..good }),
        ("of another version", Section { version: 1, ..good }),
        ("with another signature", Section { abort: good.abort + 4, ..good }),
        ("that goes on inside itself", Section { start: good.abort - 8, len: 16, ..good }),
        ("that goes on in the kernel", Section { abort: 0xffff_8000_0000_0000, ..good }),
        ("that goes on in a hole", Section { abort: hole.base as u64 + 16, ..good }),
        ("that wraps", Section { len: u64::MAX, ..good }),
        ("that begins in the kernel", Section { start: 1 << 47, ..good }),
    ];
    for (what, section) in cases {
        let section = Box::leak(Box::new(section));
        println!("a section {what}: {}", with_section(std::ptr::from_ref(section) as u64, 0));
    }
    println!("a section in a hole: {}", with_section(hole.base as u64, 0));
    println!("a section in the kernel: {}", with_section(0xffff_8000_0000_0000, 0));
    let section = Box::leak(Box::new(good));
    println!(
        "an area with flags, outside of a section: {}",
        with_section(std::ptr::from_ref(section) as u64, 7)
    );
}

/// A child sleeps with its area pointing to a section.
fn with_section(at: u64, flags: u32) -> process::Status {
    extern "C" fn mend(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: may be called from a handler.
        unsafe { libc::_exit(3) }
    }
    process::in_child(|| {
        signal::handle(libc::SIGSEGV, mend, 0);
        let area = Area::registered();
        area.flags.store(flags, Relaxed);
        area.section.store(at, Relaxed);
        // So long that it does give up the CPU, however slow the way there is.
        process::sleep_ms(50);
        i32::from(area.section.load(Relaxed) != 0)
    })
}

/// Threads that count, on two CPUs at most, so that they interrupt each other.
const THREADS: usize = 5;
/// How long they count at least, and at most, ns.
const SHORTEST_NS: u64 = 200_000_000;
const LONGEST_NS: u64 = 60_000_000_000;

/// Threads add to a counter for each value of a word of the area, with no lock: nothing is lost.
pub fn counters(what: &str, offset: u64) {
    let all = cpus();
    run_on(&all[..all.len().min(2)]);
    // A place for every CPU and every thread.
    let counters: Arc<Vec<AtomicU64>> = Arc::new((0..1024).map(|_| AtomicU64::new(0)).collect());
    let interrupted = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (counters, interrupted) = (counters.clone(), interrupted.clone());
            std::thread::spawn(move || {
                let area = Area::registered();
                let (begin, mut added) = (now_ns(), 0);
                let enough = || interrupted.load(Relaxed) && now_ns() - begin > SHORTEST_NS;
                while !enough() && now_ns() - begin < LONGEST_NS {
                    for _ in 0..10_000 {
                        // SAFETY: there are more counters than CPUs, and than threads.
                        if unsafe { area.add_one(offset, counters.as_ptr()) } {
                            added += 1;
                        } else {
                            interrupted.store(true, Relaxed);
                        }
                    }
                    calls::check_cid(area, THREADS as u32 + 1);
                }
                area.unregister();
                added
            })
        })
        .collect();
    let added: u64 = threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum();
    check_eq!(counters.iter().map(|counter| counter.load(Relaxed)).sum::<u64>(), added);
    check!(interrupted.load(Relaxed), "no section was ever interrupted");
    run_on(all);
    println!("counters by {what} lose nothing");
}
