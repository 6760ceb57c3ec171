//! What the test programs share.
//!
//! Each program in `bin/` is an ordinary Linux executable that checks itself and prints the same lines wherever it is
//! right: tests run it on the host and in the guest and compare. In the guest it also talks to the judge ([`judge`]);
//! nothing of that reaches stdout.
//!
//! A program that finds something wrong says so on stderr and exits with status 1: see [`check`].

pub mod huge;
pub mod init;
pub mod judge;
pub mod memory;
pub mod probe;
pub mod process;
pub mod signal;
pub mod uffd;
pub mod views;

/// Ends the program with status 1 and a message unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr) => {
        $crate::check!($condition, "{}", stringify!($condition))
    };
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::fail(file!(), line!(), format_args!($($message)+));
        }
    };
}

/// Ends the program with status 1 and a message unless both values are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr) => {{
        let (left, right) = (&$left, &$right);
        $crate::check!(left == right, "{} is {left:?}, not {right:?}", stringify!($left));
    }};
}

/// Says what is wrong and ends the process with status 1, at once, also in a forked child. In a guest, where a program has
/// a process group of its own, the others of the group are killed: they may be waiting for this one.
pub fn fail(file: &str, line: u32, message: std::fmt::Arguments<'_>) -> ! {
    eprintln!("{file}:{line}: check failed: {message}");
    if judge::present() {
        let _ = process::kill(0, libc::SIGKILL);
    }
    process::leave(1)
}

/// `CLOCK_MONOTONIC`, nanoseconds.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec that the call fills in.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The error number of the last libc call of this thread that failed.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The usual name of an error number, as far as the programs print any.
pub fn errno_name(errno: i32) -> String {
    let name = match errno {
        0 => "success",
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::ENOEXEC => "ENOEXEC",
        libc::EBADF => "EBADF",
        libc::ECHILD => "ECHILD",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EEXIST => "EEXIST",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ESPIPE => "ESPIPE",
        libc::EPIPE => "EPIPE",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ENOSYS => "ENOSYS",
        libc::ELOOP => "ELOOP",
        _ => return format!("errno {errno}"),
    };
    name.into()
}
