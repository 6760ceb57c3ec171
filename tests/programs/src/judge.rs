//! The line to the judge: `/dev/ptshare`, which only a ptshare guest has. Elsewhere every call here does nothing.
//!
//! Nothing here allocates or touches new memory between opening and closing, so that counters can be read exactly around
//! a single write.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI32, Ordering};

const UNKNOWN: i32 = -2;
static DEVICE: AtomicI32 = AtomicI32::new(UNKNOWN);

fn device() -> Option<i32> {
    let mut fd = DEVICE.load(Ordering::Relaxed);
    if fd == UNKNOWN {
        // SAFETY: the path is a NUL-terminated constant.
        fd = unsafe { libc::open(c"/dev/ptshare".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        DEVICE.store(fd, Ordering::Relaxed);
    }
    (fd >= 0).then_some(fd)
}

/// Whether this is a ptshare guest.
pub fn present() -> bool {
    device().is_some()
}

/// A line on the stack; what does not fit is cut off.
struct Line {
    bytes: [u8; 120],
    len: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for &byte in text.as_bytes() {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

fn send(text: std::fmt::Arguments<'_>) {
    if let Some(fd) = device() {
        let mut line = Line { bytes: [0; 120], len: 0 };
        let _ = line.write_fmt(text);
        // SAFETY: the first `len` bytes of the buffer are readable.
        unsafe { libc::write(fd, line.bytes.as_ptr().cast(), line.len) };
    }
}

/// Asks for a verification now.
pub fn checkpoint(label: &str) {
    send(format_args!("checkpoint {label}\n"));
}

/// Asks for a verification of what the kernel says of reverse maps and of /proc's numbers.
pub fn answer(label: &str) {
    send(format_args!("answer {label}\n"));
}

/// Asks where a frame is mapped; [`Counters::mapped`] has the answer.
pub fn reverse_map(pfn: u64) {
    send(format_args!("rmap {pfn}\n"));
}

/// Reports a number for the JSON report.
pub fn metric(name: &str, value: u64) {
    send(format_args!("metric {name} {value}\n"));
}

/// The guest's counters at one moment, as text.
pub struct Counters {
    bytes: [u8; 8192],
    len: usize,
}

impl Counters {
    /// No counters yet.
    pub const fn new() -> Self {
        Counters { bytes: [0; 8192], len: 0 }
    }

    /// Reads the counters. The memory of `self` is all that it writes to.
    pub fn read(&mut self) {
        self.len = 0;
        let Some(fd) = device() else { return };
        // SAFETY: no pointer.
        unsafe { libc::lseek(fd, 0, libc::SEEK_SET) };
        loop {
            let rest = &mut self.bytes[self.len..];
            // SAFETY: the buffer's rest is writable for its whole length.
            let n = unsafe { libc::read(fd, rest.as_mut_ptr().cast(), rest.len()) };
            if n <= 0 {
                return;
            }
            self.len += n as usize;
        }
    }

    /// A counter by name; 0 outside of a ptshare guest.
    pub fn get(&self, name: &str) -> u64 {
        let text = std::str::from_utf8(&self.bytes[..self.len]).unwrap_or("");
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
            .unwrap_or(0)
    }
}

impl Counters {
    /// Process and address of each place where the frame of the last [`reverse_map`] was mapped.
    pub fn mapped(&self) -> Vec<(i32, usize)> {
        let text = std::str::from_utf8(&self.bytes[..self.len]).unwrap_or("");
        let place = |line: &str| {
            let (pid, va) = line.strip_prefix("mapped ")?.split_once(" 0x")?;
            Some((pid.parse().ok()?, usize::from_str_radix(va, 16).ok()?))
        };
        text.lines().filter_map(place).collect()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters::new()
    }
}
