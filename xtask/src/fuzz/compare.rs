//! What differs between two reports of one trace.

use super::{Verdict, known};
use ptshare_trace::Trace;
use std::collections::BTreeSet;
use std::fmt;

/// A difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where: an operation in its text form, or a part of the final state.
    pub at: String,
    /// What Linux gave.
    pub linux: String,
    /// What the guest gave.
    pub guest: String,
    /// The guest did not survive it.
    pub fatal: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  Linux: {}\n  guest: {}", self.at, self.linux, self.guest)
    }
}

/// The first difference, or `None`.
pub fn compare(trace: &Trace, linux: &Verdict, guest: &Verdict) -> Option<Difference> {
    let (linux, guest) = match (linux, guest) {
        (Verdict::Report(linux), Verdict::Report(guest)) => (linux, guest),
        (_, Verdict::Died(how)) => {
            return Some(Difference {
                at: "the whole".into(),
                linux: "survives".into(),
                guest: how.clone(),
                fatal: true,
            });
        }
        (linux, guest) if linux == guest => return None,
        (linux, guest) => {
            let words =
                |verdict: &Verdict| if *verdict == Verdict::NotRun { "not run" } else { "run" }.into();
            let (linux, guest) = (words(linux), words(guest));
            return Some(Difference { at: "the whole".into(), linux, guest, fatal: false });
        }
    };
    let lines = linux.len().max(guest.len());
    let line = |of: &Vec<String>, at: usize| of.get(at).cloned().unwrap_or_else(|| "nothing".into());
    for at in 0..lines {
        if linux.get(at) == guest.get(at) {
            continue;
        }
        match known::reason(trace, linux.get(at), guest.get(at)) {
            Some(known) if known.last => return None,
            Some(_) => {}
            None => {
                return Some(Difference {
                    at: place(trace, linux.get(at).or(guest.get(at))),
                    linux: line(linux, at),
                    guest: line(guest, at),
                    fatal: false,
                });
            }
        }
    }
    None
}

/// The names of the known differences between two reports.
pub fn explained(trace: &Trace, linux: &Verdict, guest: &Verdict) -> BTreeSet<&'static str> {
    let (Verdict::Report(linux), Verdict::Report(guest)) = (linux, guest) else { return BTreeSet::new() };
    let pairs = linux.iter().zip(guest).filter(|(linux, guest)| linux != guest);
    pairs.filter_map(|(linux, guest)| Some(known::reason(trace, Some(linux), Some(guest))?.name)).collect()
}

/// The operation that a line of a report is about, in words.
fn place(trace: &Trace, line: Option<&String>) -> String {
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    match number {
        Some(at) => match trace.ops.get(at) {
            Some(op) => format!("operation {at}: {op}"),
            None => format!("the end of process p{}", ptshare_trace::PROCS - 1 + trace.ops.len() - at),
        },
        None => "the final state".into(),
    }
}

/// Both reports beside the operations.
pub fn side_by_side(trace: &Trace, linux: &Verdict, guest: &Verdict) -> String {
    let lines = |verdict: &Verdict| match verdict {
        Verdict::Report(lines) => lines.clone(),
        Verdict::Died(how) => vec![how.clone()],
        Verdict::NotRun => vec!["not run".into()],
    };
    let (linux, guest) = (lines(linux), lines(guest));
    let mut text = String::new();
    for at in 0..linux.len().max(guest.len()) {
        let l = linux.get(at).map_or("", String::as_str);
        let g = guest.get(at).map_or("", String::as_str);
        let op = trace.ops.get(at).map(|op| format!("{op}")).unwrap_or_default();
        let mark = if l == g { ' ' } else { '!' };
        text += &match l == g {
            true => format!("{mark} {op:<70} {l}\n"),
            false => format!("{mark} {op:<70} Linux: {l}\n{:>72} guest: {g}\n", ""),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptshare_trace::text::parse_all;

    fn report(lines: &[&str]) -> Verdict {
        Verdict::Report(lines.iter().map(|&line| line.to_owned()).collect())
    }

    #[test]
    fn the_first_difference_is_named_with_its_operation() {
        let trace = parse_all("trace 1\np0 load a+0x0\np0 fork p1").unwrap().remove(0);
        let linux = report(&["0 0x0 0x5", "1 0x0", "2 -", "memory p0 12"]);
        assert_eq!(compare(&trace, &linux, &linux), None);
        let found = compare(&trace, &linux, &report(&["0 0x0", "1 0x0", "2 -", "memory p0 12"])).unwrap();
        assert_eq!((found.at.as_str(), found.guest.as_str()), ("operation 0: p0 load a+0x0", "0 0x0"));
        let found = compare(&trace, &linux, &report(&["0 0x0 0x5", "1 0x0", "2 -"])).unwrap();
        assert_eq!((found.at.as_str(), found.guest.as_str()), ("the final state", "nothing"));
        let found = compare(&trace, &linux, &Verdict::Died("panic".into())).unwrap();
        assert!(found.fatal && found.guest == "panic");
        assert!(compare(&trace, &linux, &Verdict::NotRun).is_some());
    }
}
