//! The text form, one operation a line:
//!
//! ```text
//! trace 0x2a
//! p0 mmap a+0x1ff000 2p rw- private|anon|fixed - 0 -
//! p0 store a+0x200000 0x5
//! p0 fork p1
//! p1 load a+0x200000
//! ```
//!
//! `a+` is in the arena, `h3+` relative to a handle, `b+` to the heap, `null` lets the kernel choose; `2p` are two pages. `#` begins a comment. A file may
//! hold many traces, each from its `trace` line to the next. `trace SEED huge` wants huge pages.

use crate::call::NONE;
use crate::place::Base;
use crate::{Call, Kind, OPS_MAX, Op, PAGE, PROCS, Place, SLOTS, Trace, names};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What is wrong with a text, and in which line, counted from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The line.
    pub line: usize,
    /// What.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl core::error::Error for ParseError {}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{} {}", self.proc, self.call.text())?;
        self.arguments().try_for_each(|(kind, arg)| write!(f, " {}", print(kind, arg)))
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "trace {:#x}{}", self.seed, if self.huge { " huge" } else { "" })?;
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}

fn print(kind: Kind, arg: u64) -> String {
    match kind {
        Kind::Addr => {
            let place = Place(arg);
            match place.base() {
                Base::Arena => format!("a+{:#x}", place.offset()),
                Base::Handle(n) => format!("h{n}+{:#x}", place.offset()),
                Base::Heap => format!("b+{:#x}", place.offset()),
                Base::Null => "null".into(),
            }
        }
        Kind::Bytes if arg != 0 && arg.is_multiple_of(PAGE) => format!("{}p", arg / PAGE),
        Kind::Bytes | Kind::Value => format!("{arg:#x}"),
        Kind::Count => format!("{arg}"),
        Kind::Prot => {
            let bit = |bit: u64, letter| if arg & bit != 0 { letter } else { '-' };
            format!("{}{}{}", bit(1, 'r'), bit(2, 'w'), bit(4, 'x'))
        }
        Kind::Flags(table) => names::TABLES.get(table).map_or_else(String::new, |t| names::print(t, arg)),
        Kind::Fd | Kind::Handle | Kind::Segment if arg == NONE => "-".into(),
        Kind::Fd => format!("f{arg}"),
        Kind::Segment => format!("s{arg}"),
        Kind::Handle => format!("h{arg}"),
        Kind::Proc => format!("p{arg}"),
    }
}

fn parse(kind: Kind, text: &str) -> Option<u64> {
    let slot = |letter: char, count: usize| {
        let n = names::number(text.strip_prefix(letter)?)?;
        (n < count as u64).then_some(n)
    };
    match kind {
        Kind::Addr if text == "null" => Some(Place::NULL.0),
        Kind::Addr => {
            let (base, offset) = text.split_once('+')?;
            let offset = names::number(offset).filter(|&offset| offset < 1 << 48)?;
            let place = match base {
                "a" => Place::arena(offset),
                "b" => Place::heap(offset),
                handle => {
                    let n = names::number(handle.strip_prefix('h')?)? as usize;
                    (n < SLOTS).then(|| Place::handle(n, offset))?
                }
            };
            Some(place.0)
        }
        Kind::Bytes => match text.strip_suffix('p') {
            Some(pages) => names::number(pages)?.checked_mul(PAGE),
            None => names::number(text),
        },
        Kind::Value | Kind::Count => names::number(text),
        Kind::Prot => text.chars().try_fold(0, |prot, letter| match letter {
            'r' => Some(prot | 1),
            'w' => Some(prot | 2),
            'x' => Some(prot | 4),
            '-' => Some(prot),
            _ => None,
        }),
        Kind::Flags(table) => names::parse(names::TABLES.get(table)?, text),
        Kind::Fd | Kind::Handle | Kind::Segment if text == "-" => Some(NONE),
        Kind::Fd => slot('f', SLOTS),
        Kind::Segment => slot('s', SLOTS),
        Kind::Handle => slot('h', SLOTS),
        Kind::Proc => slot('p', PROCS),
    }
}

fn parse_op(text: &str) -> Result<Op, String> {
    let mut words = text.split_whitespace();
    let (proc, call) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let proc =
        parse(Kind::Proc, proc).ok_or_else(|| format!("`{proc}` is no process, p0 to p{}", PROCS - 1))?;
    let call = Call::ALL
        .iter()
        .copied()
        .find(|known| known.text() == call)
        .ok_or_else(|| format!("there is no operation `{call}`"))?;
    let mut op = Op::new(proc as u8, call, &[]);
    for (&kind, place) in call.kinds().iter().zip(&mut op.args) {
        let word = words
            .next()
            .ok_or_else(|| format!("`{}` takes {} arguments", call.text(), call.kinds().len()))?;
        *place = parse(kind, word).ok_or_else(|| format!("`{word}` is no argument of kind {kind:?}"))?;
    }
    match words.next() {
        Some(word) => Err(format!("`{word}` is one argument too many")),
        None => Ok(op),
    }
}

/// All traces of a text.
///
/// # Errors
/// The first line that makes no sense.
pub fn parse_all(text: &str) -> Result<Vec<Trace>, ParseError> {
    let mut traces: Vec<Trace> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        let fail = |what: String| ParseError { line: index + 1, what };
        if let Some(header) = line.strip_prefix("trace") {
            let mut words = header.split_whitespace();
            let seed = words.next().and_then(names::number);
            let huge = match words.next() {
                None => false,
                Some("huge") => true,
                Some(word) => return Err(fail(format!("`{word}` is not `huge`"))),
            };
            let seed = seed.ok_or_else(|| fail("`trace` wants a seed".into()))?;
            traces.push(Trace { seed, huge, ops: Vec::new() });
        } else if !line.is_empty() {
            let trace = traces.last_mut().ok_or_else(|| fail("a `trace SEED` line comes first".into()))?;
            if trace.ops.len() >= OPS_MAX {
                return Err(fail(format!("a trace has at most {OPS_MAX} operations")));
            }
            trace.ops.push(parse_op(line).map_err(fail)?);
        }
    }
    Ok(traces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;

    #[test]
    fn text_and_traces_are_the_same_thing() {
        let traces: Vec<Trace> = (0..300).map(generate::generate).collect();
        let text: String = traces.iter().map(|trace| format!("# one\n{trace}\n")).collect();
        assert_eq!(parse_all(&text).unwrap(), traces);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let fails = |text: &str| parse_all(text).unwrap_err();
        assert_eq!(fails("p0 maps").line, 1);
        assert_eq!(fails("trace 1\n\np0 nothing").line, 3);
        assert!(fails("trace 1\np9 maps").what.contains("p9"));
        assert!(fails("trace 1\np0 munmap a+0x1000").what.contains("2 arguments"));
        assert!(fails("trace 1\np0 munmap a+0x1000 1p 2").what.contains("too many"));
        assert!(fails("trace 1\np0 munmap h8+0x1000 1p").what.contains("h8"));
        assert!(fails("trace 1\np0 madvise a+0x0 1p never").what.contains("never"));
        assert!(fails("trace 1 small").what.contains("small"));
    }
}
