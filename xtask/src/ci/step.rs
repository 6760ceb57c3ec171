//! One step of CI: a verb of this program, in a process of its own, until it ends or its time is over.

use super::output::{self, Case};
use crate::{cli, paths, process};
use ptshare_vmm::Engine;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Lines of output that a report of a failure shows.
const TAIL_LINES: usize = 60;
/// What timeout(1) exits with when the time is over; 128 + SIGKILL where the command did not heed SIGTERM.
const TIMED_OUT: [i32; 2] = [124, 137];
/// From SIGTERM to SIGKILL, seconds.
const GRACE_SECONDS: &str = "10";

/// A step to be done.
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// The verb and its options.
    pub arguments: Vec<String>,
    /// Longest time that it may take.
    pub limit: Duration,
}

/// How a step ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// It exited with 0.
    Passed,
    /// It did not; how it ended.
    Failed(String),
    /// Its time was over.
    TimedOut,
    /// It was not begun, and why.
    Skipped(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Passed => f.write_str("passed"),
            Status::Failed(how) => write!(f, "FAILED ({how})"),
            Status::TimedOut => f.write_str("FAILED (its time was over)"),
            Status::Skipped(why) => write!(f, "skipped ({why})"),
        }
    }
}

/// A step that is over.
pub struct Done {
    /// Its name.
    pub name: &'static str,
    /// The command, for whoever wants to repeat it.
    pub command: String,
    /// How it ended.
    pub status: Status,
    /// How long it took.
    pub took: Duration,
    /// Tests that it named.
    pub cases: Vec<Case>,
    /// What it said that it left out.
    pub left_out: Vec<String>,
    /// The end of its output.
    pub tail: String,
}

impl Step {
    /// A step that calls this verb.
    pub fn new(name: &'static str, arguments: &[&str], limit: Duration) -> Step {
        Step { name, arguments: arguments.iter().map(|word| (*word).to_owned()).collect(), limit }
    }

    /// Does it.
    pub fn carry_out(&self, engine: Engine) -> Done {
        let start = Instant::now();
        let mut watch = Watch::default();
        let verb = self.arguments.first().map_or("", String::as_str);
        let status = if cli::has_verb(verb) {
            match self.start(engine, &mut watch) {
                Ok(status) => ending(status),
                Err(error) => Status::Failed(format!("cannot be run: {error}")),
            }
        } else {
            Status::Skipped(format!("there is no verb `{verb}` here"))
        };
        Done {
            name: self.name,
            command: format!("cargo xtask {}", self.arguments.join(" ")),
            status,
            took: start.elapsed(),
            cases: output::last_word(watch.cases),
            left_out: watch.left_out,
            tail: watch.tail.into_iter().collect::<Vec<_>>().join("\n"),
        }
    }

    fn start(&self, engine: Engine, watch: &mut Watch) -> io::Result<ExitStatus> {
        let (reader, writer) = io::pipe()?;
        // timeout(1) ends the whole group: Cargo, test programs and emulators too.
        let mut child = Command::new("timeout")
            .args(["-k", GRACE_SECONDS, &self.limit.as_secs().to_string()])
            // Not this very file: a step may build it anew, after which it is no more.
            .arg(process::cargo_program())
            .arg("xtask")
            .args(&self.arguments)
            .current_dir(paths::root())
            .env(ptshare_vmm::engine::VARIABLE, engine.name())
            .env("CARGO_TERM_COLOR", "never")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        for line in BufReader::new(reader).split(b'\n') {
            let mut line = line?;
            line.push(b'\n');
            // What cannot be shown is in the report all the same.
            let _ = io::stderr().write_all(&line);
            watch.line(String::from_utf8_lossy(&line).trim_end());
        }
        child.wait()
    }
}

fn ending(status: ExitStatus) -> Status {
    match status.code() {
        Some(0) => Status::Passed,
        Some(code) if TIMED_OUT.contains(&code) => Status::TimedOut,
        Some(code) => Status::Failed(format!("exit status {code}")),
        None => Status::Failed(status.to_string()),
    }
}

/// What is kept of a step's output.
#[derive(Default)]
struct Watch {
    cases: Vec<Case>,
    left_out: Vec<String>,
    tail: VecDeque<String>,
}

impl Watch {
    fn line(&mut self, line: &str) {
        self.cases.extend(output::case(line));
        if let Some(what) = line.trim_start().strip_prefix("SKIP: ") {
            self.left_out.push(what.to_owned());
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn exit_statuses_are_told_apart() {
        let of = |code: i32| ending(ExitStatus::from_raw(code << 8));
        assert_eq!(of(0), Status::Passed);
        assert_eq!(of(124), Status::TimedOut);
        assert_eq!(of(104), Status::Failed("exit status 104".into()));
        assert!(matches!(ending(ExitStatus::from_raw(9)), Status::Failed(_)));
    }

    #[test]
    fn output_is_watched() {
        let mut watch = Watch::default();
        watch.line("test a ... ok");
        watch.line("SKIP: there is no busybox");
        for n in 0..2 * TAIL_LINES {
            watch.line(&n.to_string());
        }
        assert_eq!(watch.cases.len(), 1);
        assert_eq!(watch.left_out, ["there is no busybox"]);
        assert_eq!((watch.tail.len(), watch.tail.back().unwrap().as_str()), (TAIL_LINES, "119"));
    }
}
