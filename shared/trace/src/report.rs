//! What a system gave for a trace, as text: the same lines from every system that is right.

use crate::place::{ARENA_BYTES, ARENA_START};
use crate::{Call, PAGE};
use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;

/// What an operation gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Whether it was carried out.
    pub state: State,
    /// The result, or the negative error number; for calls that give an address, the address.
    pub result: i64,
    /// The signal that stopped it (0: none), its `si_code` and its address.
    pub signal: (i32, i32, u64),
    /// What it read.
    pub extra: u64,
}

/// Whether an operation was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Its process was not there.
    #[default]
    Absent,
    /// It was.
    Done,
    /// It would have reached outside of the trace's memory.
    LeftOut,
}

impl Answer {
    /// In words.
    pub fn words(&self, call: Call) -> String {
        match self.state {
            State::Absent => return "-".into(),
            State::LeftOut => return "left out".into(),
            State::Done => {}
        }
        let mut text = match self.result {
            error @ -4095..0 => format!("E{}", -error),
            address if matches!(call, Call::Mmap | Call::Mremap | Call::Shmat) => place(address as u64),
            number => format!("{number:#x}"),
        };
        let (signal, code, address) = self.signal;
        if signal != 0 {
            let _ = write!(text, " signal {signal} code {code} at {}", place(address));
        }
        if self.extra != 0 {
            let _ = write!(text, " {:#x}", self.extra);
        }
        text
    }
}

/// An address as offset in the arena; all others are alike.
fn place(address: u64) -> String {
    match address.checked_sub(ARENA_START) {
        Some(offset) if offset < ARENA_BYTES => format!("a+{offset:#x}"),
        _ => "elsewhere".into(),
    }
}

/// Adds a number to a sum in which order counts; zeros leave 0 what it is.
pub fn mix(sum: u64, number: u64) -> u64 {
    (sum ^ number).rotate_left(9).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A number that stands for the content of a page, given word by word; 0 if all of it is zero.
///
/// # Errors
/// The first of `load`.
pub fn page_sum<T>(mut load: impl FnMut(u64) -> Result<u64, T>) -> Result<u64, T> {
    let (mut sum, mut any) = (0, 0);
    for offset in (0..PAGE).step_by(8) {
        let word = load(offset)?;
        any |= word;
        sum = mix(sum, word);
    }
    Ok(if any == 0 { 0 } else { sum | 1 })
}

/// In place of a page's sum: it cannot be read, and gives this signal.
pub fn unreadable(signal: i32, code: i32) -> u64 {
    UNREADABLE | (code as u64 & 0xffff) << 16 | signal as u64 & 0xffff
}

const UNREADABLE: u64 = 0xdead_0000_0000_0000;

/// A page's sum in words.
pub fn page_words(page: u64) -> String {
    if page >> 32 == UNREADABLE >> 32 {
        format!("signal {} code {}", page as u16, (page >> 16) as u16)
    } else {
        format!("{page:x}")
    }
}

/// The line for a range of a process's mappings, noted by the operation with this number.
///
/// # Errors
/// Those of `out`.
pub fn note_range(
    out: &mut dyn core::fmt::Write,
    at: usize,
    proc: usize,
    range: (u64, u64, &str),
) -> core::fmt::Result {
    let (start, end, rights) = range;
    writeln!(out, "maps {at} p{proc}: {:#x} {}p {rights}", start - ARENA_START, (end - start) / PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_words_for_everything_that_counts() {
        let done = Answer { state: State::Done, ..Answer::default() };
        assert_eq!(Answer::default().words(Call::Load), "-");
        assert_eq!(Answer { result: -22, ..done }.words(Call::Mmap), "E22");
        assert_eq!(Answer { result: ARENA_START as i64 + 0x1000, ..done }.words(Call::Mmap), "a+0x1000");
        assert_eq!(Answer { result: 0x7000_0000, ..done }.words(Call::Mremap), "elsewhere");
        let signal = (11, 1, ARENA_START);
        let faulted = Answer { result: 3, signal, extra: 7, ..done };
        assert_eq!(faulted.words(Call::Sum), "0x3 signal 11 code 1 at a+0x0 0x7");
    }

    #[test]
    fn sums_tell_pages_apart() {
        let sum = |at: u64| page_sum(|offset| Ok::<u64, ()>(u64::from(offset == at))).unwrap();
        assert_eq!(sum(1), 0);
        assert_ne!(sum(0), 0);
        assert_ne!(sum(0), sum(8));
        assert_eq!(page_words(unreadable(7, 2)), "signal 7 code 2");
    }
}
