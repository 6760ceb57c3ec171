//! Forking, waiting, leaving.

use crate::check;
use std::io::Write;

/// How a process ended, in words that are the same everywhere: `exit 3`, `signal 11`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i32);

impl Status {
    /// The exit status, when it exited.
    pub fn code(self) -> Option<i32> {
        libc::WIFEXITED(self.0).then(|| libc::WEXITSTATUS(self.0))
    }

    /// The signal, when one killed it.
    pub fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.0).then(|| libc::WTERMSIG(self.0))
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code(), self.signal()) {
            (Some(code), _) => write!(f, "exit {code}"),
            (_, Some(signal)) => write!(f, "signal {signal}"),
            _ => write!(f, "status {:#x}", self.0),
        }
    }
}

/// Ends this process at once: buffers are written out, nothing else is run.
pub fn leave(code: i32) -> ! {
    let _ = std::io::stdout().flush();
    // SAFETY: no precondition.
    unsafe { libc::_exit(code) }
}

/// fork(2): the child's PID in the parent, 0 in the child, or the error number.
///
/// The programs that call it have one thread.
pub fn try_fork() -> Result<i32, i32> {
    let _ = std::io::stdout().flush();
    // SAFETY: the process has a single thread, so the child's copy of every lock is free.
    match unsafe { libc::fork() } {
        -1 => Err(crate::errno()),
        pid => Ok(pid),
    }
}

/// As [`try_fork`]; a failure ends the program.
pub fn fork() -> i32 {
    let result = try_fork();
    check!(result.is_ok(), "fork failed: {result:?}");
    result.unwrap_or(0)
}

/// Runs `body` in a child, which exits with its result; the child's PID.
pub fn spawn(body: impl FnOnce() -> i32) -> i32 {
    match fork() {
        0 => leave(body()),
        pid => pid,
    }
}

/// Waits for a child to end.
pub fn wait(pid: i32) -> Status {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live i32.
        let result = unsafe { libc::waitpid(pid, &mut status, 0) };
        if result == pid {
            return Status(status);
        }
        check!(crate::errno() == libc::EINTR, "waitpid({pid}) failed: {}", crate::errno_name(crate::errno()));
    }
}

/// Runs `body` in a child and waits for it.
pub fn in_child(body: impl FnOnce() -> i32) -> Status {
    wait(spawn(body))
}

/// Sends a signal.
pub fn kill(pid: i32, signal: i32) -> Result<(), i32> {
    // SAFETY: no pointer.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(crate::errno()) }
}

/// Page faults that this process has taken without reading anything in (ru_minflt).
pub fn faults() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: all zero is a value of the record, which the call may fill.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_minflt as u64
}

/// Sleeps.
pub fn sleep_ms(ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

/// A pipe that processes meet at: one byte is one step.
pub struct Gate {
    read: i32,
    write: i32,
}

impl Default for Gate {
    fn default() -> Self {
        Gate::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        let result = unsafe { libc::pipe(ends.as_mut_ptr()) };
        check!(result == 0, "pipe failed");
        Gate { read: ends[0], write: ends[1] }
    }

    /// Lets one process through.
    pub fn open(&self) {
        // SAFETY: the byte is readable.
        let n = unsafe { libc::write(self.write, [1u8].as_ptr().cast(), 1) };
        check!(n == 1, "a gate cannot be opened");
    }

    /// Waits to be let through.
    pub fn pass(&self) {
        let mut byte = [0u8];
        loop {
            // SAFETY: the byte is writable.
            let n = unsafe { libc::read(self.read, byte.as_mut_ptr().cast(), 1) };
            if n == 1 {
                return;
            }
            check!(n < 0 && crate::errno() == libc::EINTR, "a gate cannot be passed");
        }
    }
}
