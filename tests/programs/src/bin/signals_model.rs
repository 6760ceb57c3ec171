//! The process model of test libraries: a library process with restarting handlers and an alarm, a test process in its own
//! group that reports through an unlinked shared file and signals its parent, and a kill of the whole group at the end.

use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::{check, check_eq, errno, judge, process, signal};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

static HEARD: AtomicU32 = AtomicU32::new(0);

extern "C" fn heard(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; a signal sent by kill(2) holds the sender.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    // SI_USER is 0.
    if signal == libc::SIGUSR1 && code == 0 && sender > 1 {
        HEARD.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who waits for a signal takes it, though its action is to end the process.
fn awaited() {
    signal::default(libc::SIGUSR2);
    let me = std::process::id() as i32;
    // SAFETY: an all-zero set is valid, and the calls write to live ones alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGUSR2);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let child = process::spawn(|| {
            process::sleep_ms(30);
            check_eq!(process::kill(me, libc::SIGUSR2), Ok(()));
            0
        });
        let mut which = 0;
        check_eq!(libc::sigwait(&set, &mut which), 0);
        println!("waited for SIGUSR2: {}", which == libc::SIGUSR2);
        process::wait(child);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}

fn main() {
    for signal in [libc::SIGALRM, libc::SIGUSR1, libc::SIGINT, libc::SIGTERM] {
        signal::handle(signal, heard, libc::SA_RESTART);
    }
    // SAFETY: no pointer.
    unsafe { libc::alarm(60) };
    let folder = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let name = format!("{folder}/ptshare-results-{}", std::process::id());
    let file = std::fs::File::options().create_new(true).read(true).write(true).open(&name);
    check!(file.is_ok(), "{name}: {file:?}");
    let Ok(file) = file else { return };
    check!(file.set_len(PAGE as u64).is_ok(), "ftruncate failed");
    let results = Region::of_file(file.as_raw_fd(), PAGE, RW, libc::MAP_SHARED);
    let _ = std::fs::remove_file(&name);
    drop(file);

    let test = process::spawn(|| {
        signal::default(libc::SIGALRM);
        signal::default(libc::SIGUSR1);
        signal::default(libc::SIGTERM);
        // SAFETY: no pointers.
        let parent = unsafe {
            check_eq!(libc::setpgid(0, 0), 0);
            check_eq!(libc::getpgid(0), libc::getpid());
            libc::getppid()
        };
        check!(parent > 1, "the parent is {parent}");
        for heartbeat in 1..=3 {
            results.set_word(4, heartbeat);
            check_eq!(process::kill(parent, libc::SIGUSR1), Ok(()));
            process::sleep_ms(10);
        }
        // Two more that outlive this process and are found by their group only.
        for slot in [8, 12] {
            process::spawn(|| {
                results.set_word(slot, std::process::id());
                loop {
                    process::sleep_ms(1000);
                }
            });
        }
        while results.word(8) == 0 || results.word(12) == 0 {
            process::sleep_ms(5);
        }
        results.set_word(0, 4711);
        judge::checkpoint("test-process-ends");
        5
    });
    // Interrupted by SIGUSR1, and restarted.
    let mut status = 0;
    // SAFETY: `status` is live.
    let pid = unsafe { libc::wait4(test, &mut status, 0, std::ptr::null_mut()) };
    check!(pid == test, "wait4 was not restarted: {}", errno());
    println!("test process: {}", process::Status(status));
    println!("heartbeats heard: {}", HEARD.load(Ordering::Relaxed) > 0);
    check_eq!(results.word(4), 3);
    println!("result: {}", results.word(0));
    check_eq!(process::kill(-test, 0), Ok(()));
    check_eq!(process::kill(-test, libc::SIGKILL), Ok(()));
    // The two are orphans now; their new parent reaps them, and then the group is empty.
    let mut tries = 0;
    while process::kill(-test, 0).is_ok() {
        process::sleep_ms(10);
        tries += 1;
        check!(tries < 500, "the group does not end");
    }
    println!(
        "the group is gone: {}",
        ptshare_programs::errno_name(process::kill(-test, 0).err().unwrap_or(0))
    );
    // SAFETY: `status` is live.
    let none = unsafe { libc::wait4(-1, &mut status, 0, std::ptr::null_mut()) };
    println!("nobody is left: {none} {}", ptshare_programs::errno_name(errno()));
    // SAFETY: no pointer.
    let left = unsafe { libc::alarm(0) };
    check!((1..=60).contains(&left), "the alarm had {left} s left");

    // Without SA_RESTART the same wait is interrupted.
    signal::handle(libc::SIGUSR1, heard, 0);
    let me = std::process::id() as i32;
    let child = process::spawn(|| {
        process::sleep_ms(30);
        check_eq!(process::kill(me, libc::SIGUSR1), Ok(()));
        loop {
            process::sleep_ms(1000);
        }
    });
    // SAFETY: `status` is live.
    let interrupted = unsafe { libc::wait4(child, &mut status, 0, std::ptr::null_mut()) };
    println!("without SA_RESTART: {interrupted} {}", ptshare_programs::errno_name(errno()));
    check_eq!(process::kill(child, libc::SIGTERM), Ok(()));
    // The child inherited the handler for SIGTERM: only SIGKILL ends it.
    process::sleep_ms(20);
    check_eq!(process::kill(child, libc::SIGKILL), Ok(()));
    println!("child: {}", process::wait(child));
    awaited();
    println!("done");
}
