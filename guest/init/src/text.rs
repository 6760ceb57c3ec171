//! Lines of text built in a fixed buffer, and the words for the errors that starting a program can end in.

use crate::sys;

/// A line under construction; what does not fit is cut off.
pub struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    /// An empty line.
    pub fn new() -> Self {
        Line { bytes: [0; 512], len: 0 }
    }

    /// Appends bytes.
    pub fn text(&mut self, text: &[u8]) -> &mut Self {
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        self
    }

    /// Appends a number in decimal.
    pub fn number(&mut self, mut n: u64) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        self.text(&digits[at..])
    }

    /// Writes the line to a descriptor in one call; a failure changes nothing for init.
    pub fn send(&self, fd: i32) {
        sys::write(fd, self.bytes.get(..self.len).unwrap_or(&[]));
    }
}

/// The words of an error number, as far as execve(2) gives them.
pub fn of_errno(errno: i32) -> &'static [u8] {
    match errno {
        1 => b"Operation not permitted",
        2 => b"No such file or directory",
        5 => b"Input/output error",
        7 => b"Argument list too long",
        8 => b"Exec format error",
        12 => b"Cannot allocate memory",
        13 => b"Permission denied",
        14 => b"Bad address",
        20 => b"Not a directory",
        21 => b"Is a directory",
        22 => b"Invalid argument",
        26 => b"Text file busy",
        36 => b"File name too long",
        40 => b"Too many levels of symbolic links",
        _ => b"error",
    }
}
