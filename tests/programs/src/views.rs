//! What /proc shows of this process: pagemap, smaps, status.

use crate::check;
use crate::memory::PAGE;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bits of a word of /proc/PID/pagemap (Linux: Documentation/admin-guide/mm/pagemap.rst).
pub const PRESENT: u64 = 1 << 63;
/// A page of a file, or of shared anonymous memory.
pub const OF_FILE: u64 = 1 << 61;
/// Mapped once.
pub const EXCLUSIVE: u64 = 1 << 56;

/// The word of the page at `address` in /proc/self/pagemap.
pub fn pagemap(address: usize) -> u64 {
    let mut word = [0; 8];
    let file = File::open("/proc/self/pagemap");
    check!(file.is_ok(), "/proc/self/pagemap: {file:?}");
    if let Ok(file) = file {
        let read = file.read_exact_at(&mut word, (address / PAGE * 8) as u64);
        check!(read.is_ok(), "/proc/self/pagemap at {address:#x}: {read:?}");
    }
    u64::from_le_bytes(word)
}

/// Frame number in a word of pagemap; 0 without CAP_SYS_ADMIN.
pub fn frame(word: u64) -> u64 {
    word & ((1 << 55) - 1)
}

/// A frame's word in /proc/kpagecount or /proc/kpageflags, which only root may read.
pub fn of_frame(path: &str, frame: u64) -> Option<u64> {
    let mut word = [0; 8];
    let file = File::open(path).ok()?;
    file.read_exact_at(&mut word, frame * 8).ok()?;
    Some(u64::from_le_bytes(word))
}

/// The number behind `name:` in a line of a text.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path);
    check!(text.is_ok(), "{path}: {text:?}");
    text.unwrap_or_default()
}

/// A number of /proc/self/status, in kB.
pub fn status(name: &str) -> Option<u64> {
    number(&read("/proc/self/status"), name)
}

/// A number of /proc/meminfo, in kB.
pub fn meminfo(name: &str) -> Option<u64> {
    number(&read("/proc/meminfo"), name)
}

/// What /proc/self/smaps says of the mapping that begins at an address.
pub struct Smaps(String);

impl Smaps {
    /// The lines of that mapping.
    pub fn of(base: usize) -> Smaps {
        let text = read("/proc/self/smaps");
        let start = format!("{base:08x}-");
        let is_head =
            |line: &str| line.split_once('-').is_some_and(|(a, _)| u64::from_str_radix(a, 16).is_ok());
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
        let head: Vec<&str> = lines.next().into_iter().collect();
        check!(!head.is_empty(), "no mapping begins at {base:#x}");
        let body: Vec<&str> = lines.take_while(|line| !is_head(line)).collect();
        Smaps(body.join("\n"))
    }

    /// A number, in kB; `None` if there is no such line.
    pub fn get(&self, name: &str) -> Option<u64> {
        number(&self.0, name)
    }
}
