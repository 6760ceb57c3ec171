//! Argument and environment strings on their way from the caller to the new program, and `#!` lines. Pure, but for the
//! reading.

use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::uaccess::{self, CStrError};

/// Longest single string, its NUL included (MAX_ARG_STRLEN).
const STRING_MAX: usize = 32 * 4096;
/// Least and most room for all strings and pointers (fs/exec.c, bprm_stack_limits).
const ROOM_MIN: u64 = 128 << 10;
const ROOM_MAX: u64 = 6 << 20;

/// NUL-terminated strings, one after the other.
#[derive(Default, Clone)]
pub struct Strings {
    /// The bytes, each string with its NUL.
    pub bytes: Vec<u8>,
    /// Length of each, its NUL included.
    pub lengths: Vec<u32>,
}

/// Room for strings with this stack limit, in bytes.
pub fn room(stack_limit: u64) -> u64 {
    (stack_limit / 4).clamp(ROOM_MIN, ROOM_MAX)
}

impl Strings {
    /// Adds a string (without its NUL).
    ///
    /// # Errors
    /// ENOMEM.
    pub fn push(&mut self, string: &[u8]) -> Result<(), Errno> {
        self.bytes.try_reserve(string.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.lengths.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.lengths.push(string.len() as u32 + 1);
        Ok(())
    }

    /// Number of strings.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Bytes of the strings and of the pointers to them.
    pub fn cost(&self) -> u64 {
        (self.bytes.len() + 8 * self.count()) as u64
    }

    /// Reads a NULL-terminated array of strings at user address `array` (0: empty), of at most `room` bytes in all.
    ///
    /// # Errors
    /// EFAULT, E2BIG, ENOMEM.
    pub fn read(array: u64, room: u64) -> Result<Strings, Errno> {
        let mut strings = Strings::default();
        if array == 0 {
            return Ok(strings);
        }
        let mut at = array;
        loop {
            let pointer: u64 = uaccess::read(at)?;
            if pointer == 0 {
                return Ok(strings);
            }
            let string = uaccess::read_cstr(pointer, STRING_MAX - 1).map_err(|error| match error {
                CStrError::Fault => Errno::EFAULT,
                CStrError::TooLong => Errno::E2BIG,
                CStrError::NoMemory => Errno::ENOMEM,
            })?;
            strings.push(&string)?;
            if strings.cost() > room {
                return Err(Errno::E2BIG);
            }
            at = at.checked_add(8).ok_or(Errno::EFAULT)?;
        }
    }

    /// Replaces the first string by these (a `#!` line's interpreter, its argument, the script).
    ///
    /// # Errors
    /// ENOMEM.
    pub fn replace_first(&mut self, with: &[&[u8]]) -> Result<(), Errno> {
        let mut fresh = Strings::default();
        for string in with {
            fresh.push(string)?;
        }
        let first = self.lengths.first().copied().unwrap_or(0) as usize;
        let rest = self.bytes.get(first..).unwrap_or(&[]);
        fresh.bytes.try_reserve(rest.len()).map_err(|_| Errno::ENOMEM)?;
        fresh.bytes.extend_from_slice(rest);
        let lengths = self.lengths.get(1..).unwrap_or(&[]);
        fresh.lengths.try_reserve(lengths.len()).map_err(|_| Errno::ENOMEM)?;
        fresh.lengths.extend_from_slice(lengths);
        *self = fresh;
        Ok(())
    }
}

/// What a `#!` line says: the interpreter and its one argument.
pub struct Shebang<'a> {
    /// Path of the interpreter.
    pub interpreter: &'a [u8],
    /// The rest of the line.
    pub argument: Option<&'a [u8]>,
}

/// Reads the `#!` line at the head of a file, given its first bytes (fs/binfmt_script.c). `None`: there is none.
///
/// # Errors
/// ENOEXEC when it names no interpreter, or is cut off inside the interpreter's name.
pub fn parse_shebang(head: &[u8]) -> Result<Option<Shebang<'_>>, Errno> {
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let newline = rest.iter().position(|&b| b == b'\n');
    let line = match newline {
        Some(end) => rest.get(..end).unwrap_or(rest),
        None => rest,
    };
    // A file shorter than what was read ends in NULs.
    let line = line.split(|&b| b == 0).next().unwrap_or(line);
    let cut_off = newline.is_none() && line.len() == rest.len();
    let line = trim(line);
    if line.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    let end = line.iter().position(blank);
    if end.is_none() && cut_off {
        return Err(Errno::ENOEXEC);
    }
    let (interpreter, rest) = line.split_at(end.unwrap_or(line.len()));
    let argument = trim(rest);
    Ok(Some(Shebang { interpreter, argument: (!argument.is_empty()).then_some(argument) }))
}

fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = line {
        line = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = line {
        line = rest;
    }
    line
}
