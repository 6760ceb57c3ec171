//! A process replaces its program eight times: PID, open files, environment and working directory go on; memory, handlers
//! and files marked close-on-exec do not.

use ptshare_programs::memory::Region;
use ptshare_programs::{check, check_eq, process, signal};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

const TIMES: u32 = 8;

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn handler_of(signal: i32) -> usize {
    // SAFETY: all zeros are a valid sigaction, which the call overwrites.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action);
        action.sa_sigaction
    }
}

fn is_open(fd: i32) -> bool {
    // SAFETY: no pointer.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(step) = arguments.next() else {
        let status = process::in_child(start);
        println!("the chain: {status}");
        check_eq!(status.code(), Some(TIMES as i32));
        return;
    };
    let step: u32 = step.parse().unwrap_or(0);
    let numbers: Vec<i32> = arguments.filter_map(|n| n.parse().ok()).collect();
    let [pid, kept, closed] = numbers[..] else { process::leave(99) };
    check_eq!(std::process::id() as i32, pid);
    check!(is_open(kept), "the file was closed");
    check!(!is_open(closed), "the file marked close-on-exec is open");
    check_eq!(handler_of(libc::SIGUSR1), libc::SIG_DFL);
    check_eq!(handler_of(libc::SIGUSR2), libc::SIG_IGN);
    check_eq!(std::env::var("CHAIN").ok(), Some(format!("link-{step}")));
    let mut text = String::new();
    // SAFETY: the descriptor was just seen to be open, and this process image owns it.
    let file = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(kept) });
    use std::io::{Read, Seek};
    let _ = (&*file).rewind();
    let _ = (&*file).read_to_string(&mut text);
    check_eq!(text, "written before the first exec\n");
    if step == TIMES {
        process::leave(TIMES as i32);
    }
    next(step + 1, pid, kept);
}

fn start() -> i32 {
    use std::io::Write;
    let name = "chain.txt";
    let file = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(name);
    check!(file.is_ok(), "chain.txt: {file:?}");
    let Ok(mut file) = file else { return 98 };
    let _ = file.write_all(b"written before the first exec\n");
    // SAFETY: no pointer; the copy of the descriptor is not close-on-exec.
    let kept = unsafe { libc::dup(file.as_raw_fd()) };
    let _ = std::fs::remove_file(name);
    next(1, std::process::id() as i32, kept)
}

fn next(step: u32, pid: i32, kept: i32) -> ! {
    // Dirty memory and a handler that must both be gone afterwards.
    Region::private(1 << 20).mark_pages(16, step);
    signal::handle(libc::SIGUSR1, nothing, 0);
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
    // SAFETY: no pointer.
    let closed = unsafe { libc::fcntl(kept, libc::F_DUPFD_CLOEXEC, 50) };
    let path = std::env::current_exe();
    check!(path.is_ok(), "/proc/self/exe: {path:?}");
    let error = Command::new(path.unwrap_or_default())
        .args([step.to_string(), pid.to_string(), kept.to_string(), closed.to_string()])
        .env("CHAIN", format!("link-{step}"))
        .exec();
    check!(false, "exec failed: {error}");
    process::leave(97)
}
