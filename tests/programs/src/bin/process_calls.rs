//! Descriptors of processes, waiting by descriptor, waiting for several futexes, killing what uses most memory last.

use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, errno, errno_name};

fn name(result: i64) -> String {
    if result < 0 { errno_name(errno()) } else { "ok".into() }
}

fn pidfd_open(pid: i32, flags: u32) -> i64 {
    // SAFETY: no pointer.
    unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) }
}

fn send(fd: i64, signal: i32) -> i64 {
    // SAFETY: no information goes along.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0_usize, 0) }
}

fn readable(fd: i64) -> bool {
    let mut poll = libc::pollfd { fd: fd as i32, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live entry.
    check!(unsafe { libc::poll(&mut poll, 1, 0) } >= 0, "poll failed");
    poll.revents & libc::POLLIN != 0
}

fn pidfds() {
    let gate = Gate::new();
    let child = process::spawn(|| {
        gate.pass();
        3
    });
    let fd = pidfd_open(child, 0);
    check!(fd >= 0, "pidfd_open failed: {}", errno_name(errno()));
    println!("running: readable {}, signal 0 {}", readable(fd), name(send(fd, 0)));
    let mut poll = libc::pollfd { fd: fd as i32, events: libc::POLLIN, revents: 0 };
    gate.open();
    // SAFETY: one live entry.
    check_eq!(unsafe { libc::poll(&mut poll, 1, -1) }, 1);
    // SAFETY: all zeros is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the information is live.
    let waited = unsafe { libc::waitid(libc::P_PIDFD, fd as u32, &mut info, libc::WEXITED) };
    // SAFETY: waitid has filled in the fields of a child's end.
    println!("waited: {}, code {}, status {}", name(i64::from(waited)), info.si_code, unsafe {
        info.si_status()
    });
    println!("gone: {}", name(send(fd, 0)));
    println!("no such process: {}", name(pidfd_open(child, 0)));
    println!("bad flags: {}", name(pidfd_open(1, 1)));
    println!("not a pidfd: {}", name(send(1, 0)));

    let sleeper = process::spawn(|| {
        process::sleep_ms(60_000);
        0
    });
    let fd = pidfd_open(sleeper, 0);
    println!("killed: {}", name(send(fd, libc::SIGKILL)));
    println!("ended by: {}", process::wait(sleeper));

    let (mut parent_fd, mut status) = (-1_i32, 0);
    // SAFETY: as fork, in a process with one thread; the descriptor's place is live.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::CLONE_PIDFD | libc::SIGCHLD,
            0_usize,
            &raw mut parent_fd,
            0_usize,
            0_usize,
        )
    };
    if pid == 0 {
        process::leave(5);
    }
    check!(parent_fd >= 0, "clone gave no descriptor");
    // SAFETY: the status is live.
    check_eq!(i64::from(unsafe { libc::waitpid(pid as i32, &mut status, 0) }), pid);
    println!("cloned with a descriptor: {}", process::Status(status));
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Waiter {
    value: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

const SIZE_U32: u32 = 2;
const SYS_FUTEX_WAITV: i64 = 449;

fn waitv(waiters: &[Waiter], timeout: Option<&libc::timespec>) -> i64 {
    let timeout = timeout.map_or(std::ptr::null(), |t| t as *const libc::timespec);
    // SAFETY: the waiters and the time are live.
    unsafe {
        libc::syscall(SYS_FUTEX_WAITV, waiters.as_ptr(), waiters.len(), 0, timeout, libc::CLOCK_MONOTONIC)
    }
}

fn futexes() {
    let words = Region::shared(PAGE);
    let waiter =
        |i: usize| Waiter { value: 0, addr: (words.base + 4 * i) as u64, flags: SIZE_U32, reserved: 0 };
    let all: Vec<Waiter> = (0..8).map(waiter).collect();
    let ready = Gate::new();
    let child = process::spawn(|| {
        ready.open();
        waitv(&all, None) as i32
    });
    ready.pass();
    // SAFETY: the word is live.
    while unsafe { libc::syscall(libc::SYS_futex, words.base + 4 * 6, libc::FUTEX_WAKE, 1) } == 0 {
        process::sleep_ms(5);
    }
    println!("woken at: {}", process::wait(child));
    words.set_word(4, 1);
    println!("another value: {}", name(waitv(&all, None)));
    println!("none: {}", name(waitv(&[], None)));
    println!("a bad flag: {}", name(waitv(&[Waiter { flags: 0, ..all[0] }], None)));
    let past = libc::timespec { tv_sec: 0, tv_nsec: 1 };
    println!("time out: {}", name(waitv(&all[2..], Some(&past))));
}

fn main() {
    pidfds();
    futexes();
}
