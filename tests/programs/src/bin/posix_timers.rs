//! POSIX timers: whom they tell and what, what is counted while nobody listens, and what the calls refuse. A thread that waits
//! for a signal gets it, whatever the signal would do otherwise.

use ptshare_programs::{check, check_eq, errno, errno_name, now_ns, process, signal};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};

const MS: u64 = 1_000_000;
/// `SI_TIMER`, and offsets in `struct siginfo`.
const SI_TIMER: i32 = -2;
const NUMBER: usize = 4;
const OVERRUN: usize = 5;
const VALUE: usize = 6;

static SEEN: AtomicU32 = AtomicU32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
/// Expiries without a signal of their own, as the signals say.
static MISSED: AtomicI32 = AtomicI32::new(0);
static LAST_VALUE: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let words = info.cast::<i32>();
    // SAFETY: the kernel passes a whole siginfo.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        MISSED.fetch_add(words.add(OVERRUN).read(), SeqCst);
        LAST_VALUE.store(words.add(VALUE).cast::<u64>().read(), SeqCst);
    }
    SEEN.fetch_add(1, SeqCst);
}

/// `struct sigevent`, as the kernel reads it.
#[repr(C)]
struct Event {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    padding: [i32; 11],
}

fn event(value: u64, signal: i32, notify: i32, thread: i32) -> Event {
    Event { value, signal, notify, thread, padding: [0; 11] }
}

fn create(clock: i32, event: Option<&Event>) -> Result<i32, String> {
    let mut number = -1;
    let event = event.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the event and the number are live.
    match unsafe { libc::syscall(libc::SYS_timer_create, clock, event, &mut number) } {
        0 => Ok(number),
        _ => Err(errno_name(errno())),
    }
}

fn made(clock: i32, event: &Event) -> i32 {
    let number = create(clock, Some(event));
    check!(number.is_ok(), "timer_create failed: {number:?}");
    number.unwrap_or(0)
}

fn set(number: i32, flags: i32, value: u64, interval: u64) -> String {
    let part = |ns: u64| [ns / (1000 * MS), ns % (1000 * MS)];
    let new = [part(interval), part(value)];
    // SAFETY: the value is live; the old one is not asked for.
    let result =
        unsafe { libc::syscall(libc::SYS_timer_settime, number, flags, &new, ptr::null::<[u64; 4]>()) };
    if result == 0 { "success".into() } else { errno_name(errno()) }
}

/// (rest, interval), ns.
fn get(number: i32) -> Result<(u64, u64), String> {
    let mut words = [0_u64; 4];
    // SAFETY: the words are live.
    match unsafe { libc::syscall(libc::SYS_timer_gettime, number, &mut words) } {
        0 => Ok((words[2] * 1000 * MS + words[3], words[0] * 1000 * MS + words[1])),
        _ => Err(errno_name(errno())),
    }
}

fn one(call: libc::c_long, number: i32) -> Result<i64, String> {
    // SAFETY: no pointer.
    match unsafe { libc::syscall(call, number) } {
        result if result >= 0 => Ok(result),
        _ => Err(errno_name(errno())),
    }
}

fn set_of(signal: i32) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset fills the set in.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        libc::sigaddset(&mut set, signal);
        set
    }
}

fn mask(how: i32, signal: i32) {
    // SAFETY: the set is live.
    check_eq!(unsafe { libc::pthread_sigmask(how, &set_of(signal), ptr::null_mut()) }, 0);
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begin = now_ns();
    while !holds() {
        check!(now_ns() - begin < 60_000 * MS, "{what} does not come");
        process::sleep_ms(2);
    }
}

fn main() {
    errors();
    signals();
    overruns();
    threads();
    clocks();
    a_waiting_thread();
    forged();
    // Not inherited.
    let number = made(libc::CLOCK_MONOTONIC, &event(0, libc::SIGUSR1, libc::SIGEV_SIGNAL, 0));
    let status = process::in_child(|| {
        println!("in a child: {:?}", get(number));
        0
    });
    println!("child: {status}");
    // A process ends with a timer on.
    check_eq!(set(number, 0, 100_000 * MS, 0), "success");
}

fn errors() {
    let usual = event(0, libc::SIGUSR1, libc::SIGEV_SIGNAL, 0);
    println!("no such clock: {:?}", create(77, Some(&usual)));
    println!("no such signal: {:?}", create(0, Some(&event(0, 65, libc::SIGEV_SIGNAL, 0))));
    println!("no signal: {:?}", create(0, Some(&event(0, 0, libc::SIGEV_SIGNAL, 0))));
    println!("no such way: {:?}", create(0, Some(&event(0, libc::SIGUSR1, 3, 0))));
    println!("somebody else's thread: {:?}", create(0, Some(&event(0, libc::SIGUSR1, 4, 1))));
    // SAFETY: the call is to find that nothing can be written there.
    let result = unsafe { libc::syscall(libc::SYS_timer_create, 0, ptr::null::<Event>(), 8) };
    println!("nowhere to put the number: {result} {}", errno_name(errno()));
    println!("no such timer: {} {:?}", set(99, 0, 1, 1), get(99));
    let calls = [libc::SYS_timer_getoverrun, libc::SYS_timer_delete].map(|call| one(call, 99));
    println!("no such timer: {calls:?}");
    let number = made(0, &usual);
    println!("more than a second: {}", set(number, 0, u64::MAX, 0).len() > 3);
    // SAFETY: nothing is read.
    let result = unsafe { libc::syscall(libc::SYS_timer_settime, number, 0, 0, 0) };
    println!("no value: {result} {}", errno_name(errno()));
    println!("deleted: {:?}, then {:?}", one(libc::SYS_timer_delete, number), get(number));
}

/// A signal each time, with the timer's value; once, and again and again.
fn signals() {
    let real_time = libc::SIGRTMIN() + 3;
    signal::handle(real_time, note, 0);
    let number = made(libc::CLOCK_MONOTONIC, &event(4242, real_time, libc::SIGEV_SIGNAL, 0));
    println!("off: {:?}", get(number));
    check_eq!(set(number, 0, 20 * MS, 0), "success");
    wait_until("the signal", || SEEN.load(SeqCst) == 1);
    println!("once: code {}, value {}, then {:?}", CODE.load(SeqCst), LAST_VALUE.load(SeqCst), get(number));
    check_eq!(CODE.load(SeqCst), SI_TIMER);
    check_eq!(set(number, 0, 20 * MS, 15 * MS), "success");
    wait_until("the fourth signal", || SEEN.load(SeqCst) >= 4);
    let (rest, interval) = get(number).unwrap_or_default();
    println!("again and again: {} {interval}", rest <= 20 * MS);
    check_eq!(set(number, 0, 0, 0), "success");
    println!("off again: {:?}", get(number));
    check_eq!(one(libc::SYS_timer_delete, number), Ok(0));
    // Without an event: SIGALRM, and the timer's number for a value.
    signal::handle(libc::SIGALRM, note, 0);
    let (before, number) = (SEEN.load(SeqCst), create(0, None).unwrap_or(-1));
    check_eq!(set(number, 0, 5 * MS, 0), "success");
    wait_until("SIGALRM", || SEEN.load(SeqCst) > before);
    println!("without an event: its number {}", LAST_VALUE.load(SeqCst) as u32 == number as u32);
    check_eq!(one(libc::SYS_timer_delete, number), Ok(0));
}

/// While its signal is blocked a timer counts.
fn overruns() {
    let usual = libc::SIGUSR2;
    signal::handle(usual, note, 0);
    mask(libc::SIG_BLOCK, usual);
    let timers = [1, 2].map(|value| made(libc::CLOCK_MONOTONIC, &event(value, usual, libc::SIGEV_SIGNAL, 0)));
    let before = SEEN.load(SeqCst);
    check_eq!(set(timers[0], 0, 10 * MS, 10 * MS), "success");
    check_eq!(set(timers[1], 0, 10 * MS, 0), "success");
    process::sleep_ms(150);
    check_eq!(set(timers[0], 0, 0, 0), "success");
    // What a timer had sent is gone when it is set anew.
    mask(libc::SIG_UNBLOCK, usual);
    println!("both signals of a kind wait, one is taken back: {}", SEEN.load(SeqCst) - before);
    check_eq!(LAST_VALUE.load(SeqCst), 2);

    mask(libc::SIG_BLOCK, usual);
    let before = SEEN.load(SeqCst);
    MISSED.store(0, SeqCst);
    check_eq!(set(timers[0], 0, 10 * MS, 10 * MS), "success");
    process::sleep_ms(150);
    mask(libc::SIG_UNBLOCK, usual);
    // It has not stopped: a second signal may be there by now.
    let signals = SEEN.load(SeqCst) - before;
    let count = one(libc::SYS_timer_getoverrun, timers[0]).unwrap_or(-1);
    check!(signals > 0 && (0..2000).contains(&count), "{signals} signals, {count} passed over by the last");
    let told = MISSED.load(SeqCst);
    println!("told of those while it was blocked: {}", (8..2000).contains(&told));
    check_eq!(set(timers[0], 0, 0, 0), "success");
    println!("set anew: {:?}", one(libc::SYS_timer_getoverrun, timers[0]));
    for timer in timers {
        check_eq!(one(libc::SYS_timer_delete, timer), Ok(0));
    }
}

/// A timer tells one thread, which waits for it: how a libc does SIGEV_THREAD.
fn threads() {
    let usual = libc::SIGUSR1;
    mask(libc::SIG_BLOCK, usual);
    let waiter = std::thread::spawn(move || {
        // SAFETY: no precondition.
        let number = made(libc::CLOCK_MONOTONIC, &event(7, usual, 4, unsafe { libc::gettid() }));
        check_eq!(set(number, 0, 10 * MS, 10 * MS), "success");
        for _ in 0..3 {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            // SAFETY: the set and the siginfo are live.
            let got = unsafe { libc::sigwaitinfo(&set_of(usual), info.as_mut_ptr()) };
            let words = info.as_ptr().cast::<i32>();
            // SAFETY: zeros, or what the kernel has written.
            let (told, value) = unsafe { (words.add(NUMBER).read(), words.add(VALUE).cast::<u64>().read()) };
            check_eq!((got, told, value), (usual, number, 7));
        }
        one(libc::SYS_timer_delete, number)
    });
    println!("a thread was told: {:?}", waiter.join().map_err(|_| ()));
}

fn clocks() {
    let nobody = event(0, 0, libc::SIGEV_NONE, 0);
    for clock in [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_TAI] {
        let number = made(clock, &nobody);
        check_eq!(set(number, 0, 100_000 * MS, 0), "success");
        let rest = get(number).map_or(0, |times| times.0);
        println!("clock {clock}: {}", (90_000 * MS..=100_000 * MS).contains(&rest));
        check_eq!(one(libc::SYS_timer_delete, number), Ok(0));
    }
    let number = made(libc::CLOCK_MONOTONIC, &nobody);
    check_eq!(set(number, 1, now_ns() + 50_000 * MS, 0), "success");
    let rest = get(number).map_or(0, |times| times.0);
    println!("an absolute time: {}", (40_000 * MS..=50_000 * MS).contains(&rest));
    check_eq!(set(number, 0, 5 * MS, 0), "success");
    process::sleep_ms(10);
    println!("a timer that tells nobody, past: {:?}", get(number));
    check_eq!(one(libc::SYS_timer_delete, number), Ok(0));
}

/// A thread waits for a signal that ends processes; another sends it to the process, and to the thread.
fn a_waiting_thread() {
    static READY: AtomicI32 = AtomicI32::new(0);
    let fatal = libc::SIGRTMIN() + 5;
    mask(libc::SIG_BLOCK, fatal);
    let waiter = std::thread::spawn(move || {
        // SAFETY: no precondition.
        READY.store(unsafe { libc::gettid() }, SeqCst);
        (0..2).all(|_| {
            let mut got = 0;
            // SAFETY: the set and the number are live.
            unsafe { libc::sigwait(&set_of(fatal), &mut got) == 0 && got == fatal }
        })
    });
    wait_until("the thread", || READY.load(SeqCst) != 0);
    for to_thread in [false, true] {
        process::sleep_ms(30);
        // SAFETY: no pointer.
        let result = unsafe {
            let pid = libc::getpid();
            match to_thread {
                false => libc::kill(pid, fatal).into(),
                true => libc::syscall(libc::SYS_tgkill, pid, READY.load(SeqCst), fatal),
            }
        };
        check_eq!(result, 0);
    }
    println!("a thread waited for signals that end processes: {:?}", waiter.join().map_err(|_| ()));
}

/// A program that says of its own signals that a timer sent them gets them as those of other signals: once, until taken.
fn forged() {
    mask(libc::SIG_BLOCK, libc::SIGUSR2);
    let number = made(libc::CLOCK_MONOTONIC, &event(0, libc::SIGUSR2, libc::SIGEV_SIGNAL, 0));
    // SAFETY: all zero is a value of the record, and large enough for what is written to it and read from it.
    let taken = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (info.si_signo, info.si_code) = (libc::SIGUSR2, libc::SI_TIMER);
        for _ in 0..3 {
            check_eq!(libc::syscall(libc::SYS_rt_sigqueueinfo, libc::getpid(), libc::SIGUSR2, &info), 0);
        }
        let now: libc::timespec = std::mem::zeroed();
        (0..3).filter(|_| libc::sigtimedwait(&set_of(libc::SIGUSR2), &mut info, &now) > 0).count()
    };
    println!("forged signals of a timer: {taken} of 3 queued, {:?}", one(libc::SYS_timer_getoverrun, number));
    check!(one(libc::SYS_timer_delete, number).is_ok(), "a timer cannot be deleted");
}
