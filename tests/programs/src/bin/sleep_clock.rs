//! Clocks go forward, sleeps last as long as asked, and signals interrupt them.

use ptshare_programs::{check, check_eq, errno, errno_name, now_ns, signal};

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is live.
    let result = unsafe { libc::clock_gettime(id, &mut time) };
    check_eq!(result, 0);
    time
}

fn sleep(ms: i64) -> (i32, libc::timespec) {
    let request = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    let mut rest = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both structures are live.
    let result = unsafe { libc::nanosleep(&request, &mut rest) };
    (if result == 0 { 0 } else { errno() }, rest)
}

fn main() {
    let start = now_ns();
    let (result, _) = sleep(30);
    let took = now_ns() - start;
    println!("sleep: {}", errno_name(result));
    check!((30_000_000..3_000_000_000).contains(&took), "a sleep of 30 ms took {took} ns");

    let mut last = now_ns();
    for _ in 0..200 {
        let now = now_ns();
        check!(now >= last, "the monotonic clock went back");
        last = now;
    }
    println!("the monotonic clock goes forward");
    // 2024 and later: the guest knows the host's time.
    check!(clock(libc::CLOCK_REALTIME).tv_sec > 1_700_000_000, "the wall clock is wrong");
    let before = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    let mut x = 1u64;
    for i in 0..20_000_000u64 {
        x = std::hint::black_box(x.wrapping_mul(i | 1));
    }
    let after = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    check!((after.tv_sec, after.tv_nsec) > (before.tv_sec, before.tv_nsec), "no CPU time was used");
    println!("CPU time is counted");

    signal::handle(libc::SIGALRM, nothing, 0);
    let timer = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 50_000 },
    };
    // SAFETY: the structure is live, no old value is asked for.
    check_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }, 0);
    let (result, rest) = sleep(20_000);
    println!("interrupted sleep: {}", errno_name(result));
    check!(rest.tv_sec >= 15, "the rest of the sleep is {} s", rest.tv_sec);

    // An absolute deadline in the past returns at once.
    let past = libc::timespec { tv_sec: 0, tv_nsec: 1 };
    // SAFETY: the structure is live.
    let result = unsafe {
        libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &past, std::ptr::null_mut())
    };
    println!("a deadline in the past: {}", errno_name(result));
    let bad = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    // SAFETY: the structure is live.
    let result = unsafe { libc::nanosleep(&bad, std::ptr::null_mut()) };
    println!("a bad number of nanoseconds: {} {}", result, errno_name(errno()));
    // SAFETY: alarm takes and returns numbers.
    let (first, second) = unsafe { (libc::alarm(100), libc::alarm(0)) };
    check!(first == 0 && (99..=100).contains(&second), "alarm answers {first} and {second}");
    println!("done");
}
