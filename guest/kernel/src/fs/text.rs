//! Text for /proc: numbers into bytes, without the formatting machinery, which costs hundreds of instructions a number.

use alloc::vec::Vec;

/// Longest text, bytes: a map of 65530 areas with paths of ordinary length.
const LONGEST: usize = 8 << 20;

/// A text under construction. One that finds no memory, or gets too long, is cut and says so.
#[derive(Default)]
pub struct Text {
    bytes: Vec<u8>,
    cut: bool,
}

impl Text {
    /// An empty text.
    pub const fn new() -> Self {
        Text { bytes: Vec::new(), cut: false }
    }

    /// The text so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Has something been left out?
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Drops bytes from the front.
    pub fn drop_front(&mut self, bytes: usize) {
        self.bytes.drain(..bytes.min(self.bytes.len()));
    }

    /// Makes room for so many more bytes.
    #[inline]
    fn room(&mut self, more: usize) -> bool {
        if self.bytes.capacity() - self.bytes.len() >= more {
            return true;
        }
        let room = self.bytes.len() + more <= LONGEST && self.bytes.try_reserve(more).is_ok();
        self.cut |= !room;
        room
    }

    /// Adds a string.
    #[inline]
    pub fn s(&mut self, text: &str) -> &mut Self {
        self.b(text.as_bytes())
    }

    /// Adds bytes.
    #[inline]
    pub fn b(&mut self, bytes: &[u8]) -> &mut Self {
        if self.room(bytes.len()) {
            self.bytes.extend_from_slice(bytes);
        }
        self
    }

    /// Adds one byte.
    #[inline]
    pub fn c(&mut self, byte: u8) -> &mut Self {
        if self.room(1) {
            self.bytes.push(byte);
        }
        self
    }

    /// Adds a decimal number.
    pub fn dec(&mut self, n: u64) -> &mut Self {
        self.padded(n, 0, b' ')
    }

    /// Adds a signed decimal number.
    pub fn int(&mut self, n: i64) -> &mut Self {
        if n < 0 {
            self.c(b'-');
        }
        self.dec(n.unsigned_abs())
    }

    /// Adds a decimal number, filled on the left to `width`.
    pub fn padded(&mut self, n: u64, width: usize, fill: u8) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut left = n;
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        for _ in digits.len() - at..width {
            self.c(fill);
        }
        self.b(&digits[at..])
    }

    /// Adds a lower-case hexadecimal number of at least `width` digits.
    pub fn hex(&mut self, n: u64, width: usize) -> &mut Self {
        let digits = ((64 - n.leading_zeros() as usize).div_ceil(4)).max(1).max(width);
        for at in (0..digits).rev() {
            let nibble = if at < 16 { (n >> (4 * at) & 15) as u8 } else { 0 };
            self.c(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
        }
        self
    }

    /// Adds an octal number of at least `width` digits.
    pub fn oct(&mut self, n: u64, width: usize) -> &mut Self {
        let digits = ((64 - n.leading_zeros() as usize).div_ceil(3)).max(1).max(width);
        for at in (0..digits).rev() {
            self.c(b'0' + (n >> (3 * at) & 7) as u8);
        }
        self
    }

    /// Adds spaces until the last line is `column` bytes long.
    pub fn pad_to(&mut self, line_start: usize, column: usize) -> &mut Self {
        while self.bytes.len() - line_start < column {
            if !self.room(1) {
                break;
            }
            self.bytes.push(b' ');
        }
        self
    }

    /// Adds a line `name` (with its colon and blanks), a number of kB filled to 8 digits, and `kB`.
    pub fn kb(&mut self, name: &str, kb: u64) -> &mut Self {
        self.s(name).padded(kb, 8, b' ').s(" kB\n")
    }

    /// Adds a path, with blanks, tabs, newlines and backslashes as octal escapes (Linux `mangle`).
    pub fn path(&mut self, path: &[u8], escape: &[u8]) -> &mut Self {
        for &byte in path {
            if escape.contains(&byte) {
                self.c(b'\\').oct(u64::from(byte), 3);
            } else {
                self.c(byte);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_formatter_writes_them() {
        for n in [0u64, 1, 9, 10, 255, 4096, u64::from(u32::MAX), u64::MAX] {
            let mut t = Text::new();
            t.dec(n).c(b' ').hex(n, 1).c(b' ').hex(n, 8).c(b' ').oct(n, 1).c(b' ').padded(n, 8, b' ');
            assert_eq!(t.bytes(), alloc::format!("{n} {n:x} {n:08x} {n:o} {n:8}").as_bytes());
        }
        let mut t = Text::new();
        t.int(-5).c(b' ').int(i64::MIN).c(b' ').path(b"a b\\", b" \\").kb("X:", 7);
        assert_eq!(t.bytes(), b"-5 -9223372036854775808 a\\040b\\134X:       7 kB\n");
    }
}
