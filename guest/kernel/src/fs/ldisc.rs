//! The terminal's line discipline (Linux n_tty; termios(3)): from keys to lines, echo and signals. Pure.
//!
//! Characters come in one by one; what is to be echoed goes to a buffer that the caller writes out, and a signal for the
//! foreground group is the return value. Finished characters wait as 16-bit words: a byte, or [`END`] for an end of
//! file typed with VEOF.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Characters held at most, finished and unfinished (N_TTY_BUF_SIZE).
const LIMIT: usize = 4095;
const END: u16 = 0x100;
/// Marks a finished character that ends a line.
const EOL: u16 = 0x200;

/// Map carriage return to newline on input.
pub const ICRNL: u32 = 0o400;
const IGNCR: u32 = 0o200;
const INLCR: u32 = 0o100;
const ISTRIP: u32 = 0o40;
const IXON: u32 = 0o2000;
const IUTF8: u32 = 0o40000;
/// Process output.
pub const OPOST: u32 = 1;
/// Newline becomes carriage return and newline.
pub const ONLCR: u32 = 4;
const OCRNL: u32 = 0o10;
const ISIG: u32 = 1;
const ICANON: u32 = 2;
const ECHO: u32 = 0o10;
const ECHOE: u32 = 0o20;
const ECHOK: u32 = 0o40;
const ECHONL: u32 = 0o100;
const NOFLSH: u32 = 0o200;
/// Stop background writers.
pub const TOSTOP: u32 = 0o400;
const ECHOCTL: u32 = 0o1000;
const ECHOKE: u32 = 0o4000;
const IEXTEN: u32 = 0o100_000;

const VINTR: usize = 0;
const VQUIT: usize = 1;
const VERASE: usize = 2;
const VKILL: usize = 3;
const VEOF: usize = 4;
/// Tenths of a second that a raw read waits.
pub const VTIME: usize = 5;
/// Characters that a raw read waits for.
pub const VMIN: usize = 6;
const VSTART: usize = 8;
const VSTOP: usize = 9;
const VSUSP: usize = 10;
const VEOL: usize = 11;
const VREPRINT: usize = 12;
const VWERASE: usize = 14;
const VLNEXT: usize = 15;
const VEOL2: usize = 16;

/// Settings, as in the kernel's `struct termios`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Termios {
    /// Input modes.
    pub iflag: u32,
    /// Output modes.
    pub oflag: u32,
    /// Control modes.
    pub cflag: u32,
    /// Local modes.
    pub lflag: u32,
    /// Line discipline number.
    pub line: u8,
    /// Control characters.
    pub cc: [u8; 19],
}

impl Termios {
    /// Linux's `tty_std_termios`, at 38400 baud, with IUTF8.
    pub const fn standard() -> Termios {
        Termios {
            iflag: ICRNL | IXON | IUTF8,
            oflag: OPOST | ONLCR,
            // B38400 | CS8 | CREAD | HUPCL
            cflag: 0o17 | 0o60 | 0o200 | 0o2000,
            lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            line: 0,
            cc: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
        }
    }
}

/// The discipline's state.
pub struct LineDiscipline {
    /// Settings.
    pub termios: Termios,
    /// What reads may take.
    ready: VecDeque<u16>,
    /// Ends of lines in `ready`.
    lines: usize,
    /// The line being typed.
    edit: Vec<u8>,
    literal: bool,
}

impl LineDiscipline {
    /// Nothing typed yet.
    pub const fn new() -> Self {
        LineDiscipline {
            termios: Termios::standard(),
            ready: VecDeque::new(),
            lines: 0,
            edit: Vec::new(),
            literal: false,
        }
    }

    fn local(&self, flag: u32) -> bool {
        self.termios.lflag & flag != 0
    }

    fn is(&self, byte: u8, which: usize) -> bool {
        byte != 0 && self.termios.cc[which] == byte
    }

    /// Is input given out line by line?
    pub fn canonical(&self) -> bool {
        self.local(ICANON)
    }

    /// Takes one character. Adds what is to be echoed to `echo`; gives the signal that it stands for.
    pub fn input(&mut self, byte: u8, echo: &mut Vec<u8>) -> Option<u8> {
        let mut byte = byte;
        if self.termios.iflag & ISTRIP != 0 {
            byte &= 0x7f;
        }
        if self.literal {
            self.literal = false;
            self.add(byte, echo);
            return None;
        }
        if self.local(ISIG) {
            let signal = if self.is(byte, VINTR) {
                Some(2)
            } else if self.is(byte, VQUIT) {
                Some(3)
            } else if self.is(byte, VSUSP) {
                Some(20)
            } else {
                None
            };
            if signal.is_some() {
                if !self.local(NOFLSH) {
                    self.flush();
                }
                if self.local(ECHO) {
                    self.echo_char(byte, echo);
                }
                return signal;
            }
        }
        if self.termios.iflag & IXON != 0 && (self.is(byte, VSTART) || self.is(byte, VSTOP)) {
            return None;
        }
        match byte {
            b'\r' if self.termios.iflag & IGNCR != 0 => return None,
            b'\r' if self.termios.iflag & ICRNL != 0 => byte = b'\n',
            b'\n' if self.termios.iflag & INLCR != 0 => byte = b'\r',
            _ => {}
        }
        if self.canonical() {
            self.input_canonical(byte, echo)
        } else {
            self.add(byte, echo)
        }
        None
    }

    fn input_canonical(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if self.is(byte, VERASE) {
            self.erase_one(echo);
        } else if self.is(byte, VWERASE) && self.local(IEXTEN) {
            while self.edit.last().is_some_and(|b| *b == b' ') {
                self.erase_one(echo);
            }
            while self.edit.last().is_some_and(|b| *b != b' ') {
                self.erase_one(echo);
            }
        } else if self.is(byte, VKILL) {
            if self.local(ECHOKE) {
                while !self.edit.is_empty() {
                    self.erase_one(echo);
                }
            } else {
                self.edit.clear();
                if self.local(ECHO) && self.local(ECHOK) {
                    self.echo_char(byte, echo);
                    echo.push(b'\n');
                }
            }
        } else if self.is(byte, VLNEXT) && self.local(IEXTEN) {
            self.literal = true;
        } else if self.is(byte, VREPRINT) && self.local(IEXTEN) {
            echo.push(b'\n');
            echo.extend_from_slice(&self.edit);
        } else if self.is(byte, VEOF) {
            self.finish(END | EOL);
        } else if byte == b'\n' {
            if self.local(ECHO) || self.local(ECHONL) {
                echo.push(b'\n');
            }
            self.finish(u16::from(b'\n') | EOL);
        } else if self.is(byte, VEOL) || self.is(byte, VEOL2) && self.local(IEXTEN) {
            if self.local(ECHO) {
                self.echo_char(byte, echo);
            }
            self.finish(u16::from(byte) | EOL);
        } else {
            self.add(byte, echo);
        }
    }

    /// Adds an ordinary character: to the line, or, without lines, to what is ready.
    fn add(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if self.ready.len() + self.edit.len() >= LIMIT {
            echo.push(7);
            return;
        }
        if self.canonical() {
            self.edit.push(byte);
        } else {
            self.ready.push_back(u16::from(byte));
        }
        if self.local(ECHO) {
            if byte == b'\n' { echo.push(byte) } else { self.echo_char(byte, echo) }
        }
    }

    fn finish(&mut self, last: u16) {
        self.ready.extend(self.edit.drain(..).map(u16::from));
        self.ready.push_back(last);
        self.lines += 1;
    }

    fn echo_char(&self, byte: u8, echo: &mut Vec<u8>) {
        let control = byte < 32 && byte != b'\t' && byte != b'\n' || byte == 127;
        if control && self.local(ECHOCTL) {
            echo.push(b'^');
            echo.push(byte ^ 0x40);
        } else {
            echo.push(byte);
        }
    }

    fn erase_one(&mut self, echo: &mut Vec<u8>) {
        let Some(byte) = self.edit.pop() else { return };
        if self.termios.iflag & IUTF8 != 0 && byte & 0xc0 == 0x80 {
            while let Some(&more) = self.edit.last() {
                if more & 0xc0 == 0x80 {
                    self.edit.pop();
                    continue;
                }
                if more & 0xc0 == 0xc0 {
                    self.edit.pop();
                }
                break;
            }
        }
        if self.local(ECHO) && self.local(ECHOE) {
            let columns = if byte < 32 && self.local(ECHOCTL) || byte == 127 { 2 } else { 1 };
            for _ in 0..columns {
                echo.extend_from_slice(b"\x08 \x08");
            }
        }
    }

    /// Forgets all input (TCIFLUSH).
    pub fn flush(&mut self) {
        self.ready.clear();
        self.edit.clear();
        self.lines = 0;
        self.literal = false;
    }

    /// Changes settings. What was being typed becomes readable when lines are given up.
    pub fn set(&mut self, termios: Termios) {
        let was = self.canonical();
        self.termios = termios;
        if was && !self.canonical() {
            self.ready.extend(self.edit.drain(..).map(u16::from));
        }
    }

    /// Bytes that a read could get now (FIONREAD).
    pub fn waiting(&self) -> usize {
        if self.canonical() && self.lines == 0 {
            0
        } else {
            self.ready.iter().filter(|w| **w & END == 0).count()
        }
    }

    /// Would a read end at once? Without lines: when `min` characters are there.
    pub fn readable(&self, min: usize) -> bool {
        if self.canonical() { self.lines > 0 } else { self.ready.len() >= min.max(1) }
    }

    /// Takes what one read gets: at most a line, or what is there. Gives the number of bytes.
    pub fn take(&mut self, out: &mut [u8]) -> usize {
        let mut n = 0;
        let canonical = self.canonical();
        if canonical && self.lines == 0 {
            return 0;
        }
        while n < out.len() {
            let Some(word) = self.ready.pop_front() else { break };
            if word & EOL != 0 {
                self.lines = self.lines.saturating_sub(1);
            }
            if word & END == 0 {
                out[n] = word as u8;
                n += 1;
            }
            if canonical && word & EOL != 0 {
                return n;
            }
        }
        // A full buffer right before a typed end of file takes the mark along.
        if canonical && n > 0 && self.ready.front() == Some(&(END | EOL)) {
            self.ready.pop_front();
            self.lines = self.lines.saturating_sub(1);
        }
        n
    }

    /// Output as the terminal gets it.
    pub fn output(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let flags = self.termios.oflag;
        if flags & OPOST == 0 {
            out.extend_from_slice(bytes);
            return;
        }
        for &byte in bytes {
            match byte {
                b'\n' if flags & ONLCR != 0 => out.extend_from_slice(b"\r\n"),
                b'\r' if flags & OCRNL != 0 => out.push(b'\n'),
                _ => out.push(byte),
            }
        }
    }
}

impl Default for LineDiscipline {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(tty: &mut LineDiscipline, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut echo = Vec::new();
        let signals = bytes.iter().filter_map(|b| tty.input(*b, &mut echo)).collect();
        (echo, signals)
    }

    fn line(tty: &mut LineDiscipline) -> Vec<u8> {
        let mut out = [0; 256];
        let n = tty.take(&mut out);
        out[..n].to_vec()
    }

    #[test]
    fn a_line_can_be_read_when_it_is_finished() {
        let mut tty = LineDiscipline::new();
        assert_eq!(keys(&mut tty, b"ab\x7fc"), (b"ab\x08 \x08c".to_vec(), Vec::new()));
        assert!(!tty.readable(1));
        keys(&mut tty, b"\rnext\n");
        assert!(tty.readable(1));
        assert_eq!(tty.waiting(), 8);
        assert_eq!(line(&mut tty), b"ac\n");
        assert_eq!(line(&mut tty), b"next\n");
        assert!(!tty.readable(1));
    }

    #[test]
    fn end_of_file_ends_a_line_or_reads_as_nothing() {
        let mut tty = LineDiscipline::new();
        keys(&mut tty, b"ab\x04\x04");
        assert_eq!(line(&mut tty), b"ab");
        assert!(tty.readable(1));
        assert_eq!(line(&mut tty), b"");
        assert!(!tty.readable(1));
        keys(&mut tty, b"xy\x04");
        let mut two = [0; 2];
        assert_eq!(tty.take(&mut two), 2);
        assert!(!tty.readable(1), "the mark went with the last byte");
    }

    #[test]
    fn signal_characters_flush_what_was_typed() {
        let mut tty = LineDiscipline::new();
        assert_eq!(keys(&mut tty, b"ab\x03"), (b"ab^C".to_vec(), alloc::vec![2]));
        keys(&mut tty, b"c\n");
        assert_eq!(line(&mut tty), b"c\n");
        assert_eq!(keys(&mut tty, b"\x1c\x1a").1, [3, 20]);
    }

    #[test]
    fn without_lines_every_character_counts() {
        let mut tty = LineDiscipline::new();
        keys(&mut tty, b"typed");
        let mut raw = tty.termios;
        raw.lflag &= !(ICANON | ECHO | ISIG);
        raw.iflag &= !ICRNL;
        tty.set(raw);
        let (echo, signals) = keys(&mut tty, b"\x03\r");
        assert!(echo.is_empty() && signals.is_empty());
        assert!(tty.readable(7) && !tty.readable(8));
        assert_eq!(line(&mut tty), b"typed\x03\r");
    }

    #[test]
    fn words_and_lines_are_erased_and_literals_are_not_commands() {
        let mut tty = LineDiscipline::new();
        keys(&mut tty, b"one two \x17three\x15four\x16\x03\n");
        assert_eq!(line(&mut tty), b"four\x03\n");
        keys(&mut tty, "aä\x7f\n".as_bytes());
        assert_eq!(line(&mut tty), b"a\n");
    }

    #[test]
    fn output_gets_carriage_returns_and_input_is_bounded() {
        let mut tty = LineDiscipline::new();
        let mut out = Vec::new();
        tty.output(b"a\nb", &mut out);
        assert_eq!(out, b"a\r\nb");
        keys(&mut tty, &[b'x'; 5000]);
        keys(&mut tty, b"\n");
        let mut big = [0; 8192];
        assert_eq!(tty.take(&mut big), LIMIT + 1);
    }
}
