//! membarrier(2).

use crate::area::Area;
use crate::{cpus, run_on};
use ptshare_programs::{check, check_eq, errno, errno_name, process};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, compiler_fence};

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const GLOBAL_EXPEDITED: i32 = 2;
const REGISTER_GLOBAL: i32 = 4;
const PRIVATE: i32 = 8;
const REGISTER_PRIVATE: i32 = 16;
const CORE: i32 = 32;
const REGISTER_CORE: i32 = 64;
const RSEQ: i32 = 128;
const REGISTER_RSEQ: i32 = 256;
const REGISTRATIONS: i32 = 512;

fn call(command: i32, flags: u32, cpu: i32) -> String {
    // SAFETY: no pointer.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) };
    if result < 0 { errno_name(errno()) } else { format!("{result:#x}") }
}

/// Commands, what they need, and what is inherited. Before any other use of the call.
pub fn registrations() {
    let tell = |what: &str| println!("{what}: {}", call(REGISTRATIONS, 0, 0));
    println!("commands: {}", call(QUERY, 0, 0));
    for (what, command, flags) in [
        ("no such command", 3, 0),
        ("no such flag", RSEQ, 2),
        ("a flag for another command", PRIVATE, 1),
        ("private", PRIVATE, 0),
        ("private with serialising", CORE, 0),
        ("private with restarts", RSEQ, 0),
        ("global", GLOBAL, 0),
        ("global expedited", GLOBAL_EXPEDITED, 0),
    ] {
        println!("{what}: {}", call(command, flags, 0));
    }
    tell("registered at first");
    println!("register with restarts: {}", call(REGISTER_RSEQ, 0, 0));
    tell("registered then");
    println!("with restarts: {}, private: {}", call(RSEQ, 0, 0), call(PRIVATE, 0, 0));
    println!("with restarts on a CPU that is not there: {}", call(RSEQ, 1, 100_000));
    for command in [REGISTER_GLOBAL, REGISTER_PRIVATE, REGISTER_CORE] {
        check_eq!(call(command, 0, 0), "0x0");
    }
    tell("registered at last");
    for command in [PRIVATE, CORE, GLOBAL, GLOBAL_EXPEDITED] {
        check_eq!(call(command, 0, 0), "0x0");
    }
    process::in_child(|| {
        println!("in a child: {}", call(REGISTRATIONS, 0, 0));
        0
    });
    orders_stores();
}

/// One thread stores and loads without a barrier, the other stores, calls and loads: they cannot both miss the other's
/// store.
fn orders_stores() {
    static WORDS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    static SEEN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    static STOP: AtomicBool = AtomicBool::new(false);
    let fast = std::thread::spawn(|| {
        let mut round = 0;
        while !STOP.load(Relaxed) {
            round += 1;
            WORDS[0].store(round, Relaxed);
            compiler_fence(SeqCst);
            let other = WORDS[1].load(Relaxed);
            // What this thread saw of the other when its own word was `round`.
            SEEN[0].store(other, SeqCst);
            SEEN[1].store(round, SeqCst);
        }
    });
    for mine in 1..200 {
        WORDS[1].store(mine, Relaxed);
        check_eq!(call(PRIVATE, 0, 0), "0x0");
        let its = WORDS[0].load(Relaxed);
        // Any later round than the one whose store was seen began after the barrier.
        while SEEN[1].load(SeqCst) <= its {
            std::thread::yield_now();
        }
        check!(SEEN[0].load(SeqCst) >= mine, "a store from before the barrier was missed");
    }
    STOP.store(true, Relaxed);
    check!(fast.join().is_ok(), "the thread failed");
    println!("stores are ordered");
}

/// The section that another thread runs begins anew.
pub fn restarts() {
    static ABORTED: AtomicU64 = AtomicU64::new(0);
    let all = cpus();
    let last = all.last().copied().unwrap_or(0);
    for flags in [0, 1] {
        let before = ABORTED.load(SeqCst);
        let thread = std::thread::spawn(move || {
            let area = Area::registered();
            run_on(&[last]);
            area.stay_until_aborted();
            ABORTED.fetch_add(1, SeqCst);
            area.unregister();
        });
        run_on(&all[..1]);
        while ABORTED.load(SeqCst) == before {
            check_eq!(call(RSEQ, flags, last as i32), "0x0");
            std::thread::yield_now();
        }
        check!(thread.join().is_ok(), "the thread failed");
    }
    println!("sections are restarted by a barrier");
}
