//! Restartable sequences and membarrier(2): what the calls refuse, what an area tells, what interrupts a critical section,
//! and counters that threads of several CPUs keep without a lock.
//!
//! The libc registers an area for each thread, and there is only one: the program begins anew with the libc told not to.

mod area;
mod barrier;
mod calls;
mod sections;

use area::{Area, BYTES, SIGNATURE};
use ptshare_programs::{check, check_eq, judge};
use std::os::unix::process::CommandExt;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

/// How glibc is told to leave rseq alone (its manual, "POSIX Thread Tunables").
const TUNABLE: (&str, &str) = ("GLIBC_TUNABLES", "glibc.pthread.rseq=0");

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => {
            libc_knows_the_cpu();
            begin_anew("alone")
        }
        Some("alone") => {
            barrier::registrations();
            calls::errors();
            calls::fields();
            calls::children();
            sections::signals();
            sections::another_task();
            sections::bad_sections();
            sections::counters("CPU", area::CPU);
            sections::counters("number", area::CID);
            barrier::restarts();
            judge::checkpoint("rseq");
            // The area goes at exec.
            let _ = Area::registered();
            begin_anew("after exec")
        }
        Some(_) => {
            let area = Area::default();
            println!("after exec: {}", area::named(area.address(), BYTES, 0, SIGNATURE));
            area.unregister();
        }
    }
}

fn begin_anew(word: &str) {
    let itself = std::env::current_exe().unwrap_or_default();
    let error = std::process::Command::new(itself).arg(word).env(TUNABLE.0, TUNABLE.1).exec();
    check!(false, "exec: {error}");
}

/// The CPUs on which the program might run when it began.
fn cpus() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(|| {
        // SAFETY: all zeros are an empty set, which the call fills in.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            check_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
            set
        };
        // SAFETY: the set is whole, and the numbers lie in it.
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    })
}

/// Has the calling thread run on these CPUs only.
fn run_on(cpus: &[usize]) {
    // SAFETY: a whole set, and numbers that lie in it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    check_eq!(result, 0);
}

/// getcpu(2): CPU and node.
fn getcpu() -> (u32, u32) {
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    // SAFETY: both words are live.
    let result = unsafe { libc::syscall(libc::SYS_getcpu, &mut cpu, &mut node, std::ptr::null::<u8>()) };
    check_eq!(result, 0);
    (cpu, node)
}

/// sched_getcpu reads the area of the libc's, on every CPU, in every thread.
fn libc_knows_the_cpu() {
    cpus();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                for &cpu in cpus().iter().cycle().take(8) {
                    run_on(&[cpu]);
                    // SAFETY: no precondition.
                    check_eq!(unsafe { libc::sched_getcpu() }, cpu as i32);
                    check_eq!(getcpu().0, cpu as u32);
                }
            })
        })
        .collect();
    check!(threads.into_iter().all(|thread| thread.join().is_ok()), "a thread failed");
    let area = Area::default();
    println!("an area beside the libc's: {}", area::named(area.address(), BYTES, 0, SIGNATURE));
    // SAFETY: no pointer.
    let auxiliary = |key| unsafe { libc::getauxval(key) };
    check_eq!(area.cpu.load(Relaxed), 0);
    println!("auxiliary vector: {} bytes are used, aligned to {}", auxiliary(27), auxiliary(28));
}
