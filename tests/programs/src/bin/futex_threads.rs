//! Threads meet at mutexes, condition variables, barriers and joins, which are futexes underneath.

use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::{check, check_eq, errno, errno_name, judge, process};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;

fn futex(word: &AtomicU32, op: i32, value: u32, timeout_ms: Option<i64>) -> (i64, i32) {
    let time = timeout_ms.map(|ms| libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the timeout are live.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, value, time) };
    (result, if result < 0 { errno() } else { 0 })
}

fn main() {
    let total = Arc::new(Mutex::new(0u64));
    let barrier = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4u64)
        .map(|i| {
            let (total, barrier) = (total.clone(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                for _ in 0..500 {
                    if let Ok(mut total) = total.lock() {
                        *total += i;
                    }
                }
                barrier.wait();
                i
            })
        })
        .collect();
    let joined: u64 = threads.into_iter().map(|t| t.join().unwrap_or(100)).sum();
    println!("four threads: {joined}, total {}", total.lock().map(|t| *t).unwrap_or(0));

    let pair = Arc::new((Mutex::new(0u32), Condvar::new()));
    let other = pair.clone();
    let pong = thread::spawn(move || {
        let (turn, changed) = &*other;
        for round in 0..20 {
            let Ok(guard) = turn.lock() else { return };
            let Ok(mut guard) = changed.wait_while(guard, |turn| *turn != 2 * round + 1) else { return };
            *guard += 1;
            changed.notify_all();
        }
    });
    for round in 0..20 {
        if let Ok(mut turn) = pair.0.lock() {
            *turn = 2 * round + 1;
            pair.1.notify_all();
        }
        if let Ok(guard) = pair.0.lock() {
            drop(pair.1.wait_while(guard, |turn| *turn != 2 * round + 2));
        }
    }
    println!("ping-pong: {:?}, last turn {}", pong.join().is_ok(), pair.0.lock().map(|t| *t).unwrap_or(0));

    let (send, receive) = mpsc::channel();
    let workers: Vec<_> = (0..3)
        .map(|i| {
            let send = send.clone();
            thread::spawn(move || {
                // Memory of the thread's own, and of the allocator's arenas.
                let block = vec![i as u8; 100_000];
                let _ = send.send(block.iter().map(|&b| u64::from(b)).sum::<u64>());
            })
        })
        .collect();
    drop(send);
    let mut sums: Vec<u64> = receive.iter().collect();
    sums.sort_unstable();
    let ended = workers.into_iter().filter(|_| true).map(|w| w.join().is_ok()).filter(|&ok| ok).count();
    println!("channel: {sums:?}, {ended} workers joined");

    // A process that has threads forks; the child has one thread, and the memory is its own.
    let region = Region::private(16 * PAGE);
    region.mark_pages(1, 1);
    let stop = Arc::new(AtomicU32::new(0));
    let running = stop.clone();
    let spinner = thread::spawn(move || {
        while running.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
    });
    let status = process::in_child(|| {
        region.set_word(0, 99);
        i32::from(region.word(0) == 99)
    });
    check_eq!(region.word(0), 1);
    stop.store(1, Ordering::Relaxed);
    check!(spinner.join().is_ok(), "the spinner cannot be joined");
    println!("child of a process with threads: {status}");

    // The call itself: wrong value, time-out, nobody to wake, and across processes in shared memory.
    let word = AtomicU32::new(5);
    let private = libc::FUTEX_PRIVATE_FLAG;
    println!("wrong value: {}", errno_name(futex(&word, libc::FUTEX_WAIT | private, 4, None).1));
    println!("nobody to wake: {}", futex(&word, libc::FUTEX_WAKE | private, 1, None).0);
    let timed_out = futex(&word, libc::FUTEX_WAIT | private, 5, Some(20)).1;
    println!("time-out: {}", timed_out == libc::ETIMEDOUT);
    let shared = Region::shared(PAGE);
    // SAFETY: the page is mapped for the rest of the program, aligned, and only accessed as this atomic.
    let meeting = unsafe { &*(shared.base as *const AtomicU32) };
    let child = process::spawn(|| {
        while meeting.load(Ordering::SeqCst) == 0 {
            futex(meeting, libc::FUTEX_WAIT, 0, None);
        }
        3
    });
    process::sleep_ms(30);
    meeting.store(1, Ordering::SeqCst);
    futex(meeting, libc::FUTEX_WAKE, i32::MAX as u32, None);
    println!("woken across processes: {}", process::wait(child));
    judge::checkpoint("threads");
}
