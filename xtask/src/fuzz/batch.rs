//! The output of the interpreter (`tests/programs/src/bin/trace_run`), taken apart.

use ptshare_trace::Trace;
use std::fmt::Write as _;

/// What a system gave for a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The interpreter's report, line by line.
    Report(Vec<String>),
    /// The system, or the interpreter, did not survive it; how it ended.
    Died(String),
    /// It was never started.
    NotRun,
}

/// The traces as a file for the interpreter.
pub fn file_of(traces: &[Trace]) -> String {
    traces.iter().fold(String::new(), |mut text, trace| {
        let _ = write!(text, "{trace}");
        text
    })
}

/// Splits an output into one verdict a trace. The trace that was begun and did not end died as `ending` says.
pub fn split(output: &str, count: usize, ending: &str) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::NotRun; count];
    let mut open: Option<(usize, Vec<String>)> = None;
    for line in output.lines() {
        let number = |word: &str| {
            line.strip_prefix(word).and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok())
        };
        if let Some(index) = number("begin ") {
            open = Some((index, Vec::new()));
        } else if let Some(index) = number("end ") {
            if let (Some((begun, lines)), Some(place)) = (open.take(), verdicts.get_mut(index))
                && begun == index
            {
                *place = Verdict::Report(lines);
            }
        } else if let Some((_, lines)) = &mut open {
            lines.push(line.into());
        }
    }
    if let Some((index, _)) = open
        && let Some(place) = verdicts.get_mut(index)
    {
        *place = Verdict::Died(ending.into());
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_that_was_running_is_the_one_that_died() {
        let output = "begin 0 0x1\n0 0x0\nend 0\nbegin 1 0x2\n0 0x0\n";
        let verdicts = split(output, 3, "panic");
        assert_eq!(
            verdicts,
            [Verdict::Report(vec!["0 0x0".into()]), Verdict::Died("panic".into()), Verdict::NotRun]
        );
    }

    #[test]
    fn nothing_is_invented() {
        assert_eq!(split("", 2, "x"), [Verdict::NotRun, Verdict::NotRun]);
        assert_eq!(split("end 0\nbegin 7 0x1\nend 7\n", 1, "x"), [Verdict::NotRun]);
    }
}
