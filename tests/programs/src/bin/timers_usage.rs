//! timerfd, and what a process is told of the time, memory and bytes that it used.

use ptshare_programs::{check, check_eq, errno, errno_name, process, signal};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};

fn answer(value: isize) -> String {
    if value < 0 { errno_name(errno()) } else { value.to_string() }
}

fn timer() {
    // SAFETY: no pointers.
    let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK) };
    check!(timer >= 0, "timerfd_create failed: {}", errno());
    let mut ticks = 0u64;
    let mut read = |len: usize| {
        let at: *mut u64 = &mut ticks;
        // SAFETY: `ticks` has 8 bytes, and no more are asked for.
        let got = unsafe { libc::read(timer, at.cast(), len) };
        (answer(got), ticks)
    };
    println!("off: {}", read(8).0);
    println!("too short: {}", read(4).0);
    let spec = |ns: i64| libc::timespec { tv_sec: 0, tv_nsec: ns };
    let set = |value: i64, interval: i64| {
        let new = libc::itimerspec { it_interval: spec(interval), it_value: spec(value) };
        // SAFETY: a live itimerspec.
        answer(unsafe { libc::timerfd_settime(timer, 0, &new, std::ptr::null_mut()) } as isize)
    };
    println!("bad: {}", set(-1, 0));
    println!("set: {}", set(20_000_000, 20_000_000));
    let mut entry = libc::pollfd { fd: timer, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry.
    println!("poll: {}", unsafe { libc::poll(&mut entry, 1, 5000) });
    check_eq!(read(8).0, "8");
    process::sleep_ms(90);
    let (got, count) = read(8);
    check!(got == "8" && count >= 3, "{got} bytes, {count} expiries in 90 ms of 20 ms each");
    println!("stop: {}", set(0, 0));
    println!("stopped: {}", read(8).0);
    // SAFETY: no pointers.
    println!("unknown clock: {}", answer(unsafe { libc::timerfd_create(77, 0) } as isize));
}

static EXPIRED: AtomicU32 = AtomicU32::new(0);

extern "C" fn expired(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    EXPIRED.fetch_add(if signal == libc::SIGXCPU { 1000 } else { 1 }, Ordering::Relaxed);
}

fn compute_until(enough: u32) {
    let mut sum = 0u64;
    while EXPIRED.load(Ordering::Relaxed) < enough {
        for i in 0..1000 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
    }
}

/// ITIMER_VIRTUAL and ITIMER_PROF count CPU time: not while the process sleeps.
fn interval_timers() {
    let time = |us: i64| libc::timeval { tv_sec: 0, tv_usec: us };
    for (which, signal, name) in
        [(libc::ITIMER_VIRTUAL, libc::SIGVTALRM, "virtual"), (libc::ITIMER_PROF, libc::SIGPROF, "prof")]
    {
        signal::handle(signal, expired, libc::SA_RESTART);
        let set = |value: i64, interval: i64| {
            let new = libc::itimerval { it_interval: time(interval), it_value: time(value) };
            let mut old = libc::itimerval { it_interval: time(0), it_value: time(0) };
            // SAFETY: two live structures.
            let done = unsafe { libc::setitimer(which, &new, &mut old) };
            (answer(done as isize), old)
        };
        EXPIRED.store(0, Ordering::Relaxed);
        println!("{name}: {}", set(60_000, 10_000).0);
        process::sleep_ms(150);
        check_eq!(EXPIRED.load(Ordering::Relaxed), 0);
        compute_until(3);
        let (done, old) = set(0, 0);
        let left = old.it_value.tv_usec;
        check!((1..=20_000).contains(&left), "{name}: {left} us were left");
        println!("{name}: {done}, every {} us", old.it_interval.tv_usec);
        let before = EXPIRED.load(Ordering::Relaxed);
        let until = std::time::Instant::now() + std::time::Duration::from_millis(60);
        while std::time::Instant::now() < until {}
        check_eq!(EXPIRED.load(Ordering::Relaxed), before);
        println!("{name}: bad: {}", set(-1, 0).0);
    }
    // SAFETY: a null pointer turns a timer off, and this one does not exist.
    let unknown = unsafe { libc::setitimer(7, std::ptr::null(), std::ptr::null_mut()) };
    println!("unknown timer: {}", answer(unknown as isize));
    // A forked child has no timers of its parent's; a limit of CPU time is a signal a second, and then the end.
    let child = process::in_child(|| {
        signal::handle(libc::SIGXCPU, expired, libc::SA_RESTART);
        EXPIRED.store(0, Ordering::Relaxed);
        let limit = libc::rlimit { rlim_cur: 1, rlim_max: 2 };
        // SAFETY: a live structure.
        check_eq!(unsafe { libc::setrlimit(libc::RLIMIT_CPU, &limit) }, 0);
        compute_until(1000);
        println!("a second of CPU time: SIGXCPU");
        compute_until(u32::MAX);
        0
    });
    println!("two: {child}");
}

fn usage(who: i32) -> libc::rusage {
    // SAFETY: an all-zero rusage is valid, and the call fills it in.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    }
}

fn microseconds(time: libc::timeval) -> i64 {
    time.tv_sec * 1_000_000 + time.tv_usec
}

fn times() {
    let before = usage(libc::RUSAGE_SELF);
    let mut sum = 0u64;
    for i in 0..30_000_000u64 {
        sum = std::hint::black_box(sum.wrapping_add(i));
    }
    let between = usage(libc::RUSAGE_SELF);
    // Into the kernel and back, until it shows.
    let mut block = [0u8; 65536];
    let Ok(mut zero) = std::fs::File::open("/dev/zero") else { process::leave(1) };
    let mut system = 0;
    for _ in 0..2000 {
        for _ in 0..20 {
            check_eq!(zero.read(&mut block).ok(), Some(block.len()));
        }
        system = microseconds(usage(libc::RUSAGE_SELF).ru_stime) - microseconds(between.ru_stime);
        if system > 0 {
            break;
        }
    }
    let user = microseconds(between.ru_utime) - microseconds(before.ru_utime);
    check!(user > 0 && system > 0, "{user} us of computing, {system} us of system calls");
    println!("user and system time are told apart");
}

fn memory() {
    const BYTES: usize = 24 << 20;
    let child = process::spawn(|| {
        let touched = vec![1u8; BYTES];
        i32::from(std::hint::black_box(&touched)[BYTES / 2]) - 1
    });
    check_eq!(process::wait(child).0, 0);
    let most = usage(libc::RUSAGE_CHILDREN).ru_maxrss;
    check!(most >= BYTES as i64 / 1024, "a child that touched 24 MiB had {most} KiB resident");
    println!("the child's largest resident set is known");
}

/// A line of /proc/self/io.
fn io(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok()).unwrap_or(u64::MAX)
}

fn transfers() {
    let (wchar, syscw) = (io("wchar"), io("syscw"));
    let Ok(mut null) = std::fs::OpenOptions::new().write(true).open("/dev/null") else { process::leave(1) };
    for _ in 0..10 {
        check_eq!(null.write(&[0; 100]).ok(), Some(100));
    }
    println!("written: {} bytes by {} calls", io("wchar") - wchar, io("syscw") - syscw);
}

fn main() {
    timer();
    interval_timers();
    times();
    memory();
    transfers();
}
