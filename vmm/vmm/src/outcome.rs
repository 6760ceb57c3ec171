//! What a run leaves behind: how it ended, what it printed, and what was counted.

use crate::engine::Engine;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How a run that had started ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The guest ended the run with this status.
    Exited(u8),
    /// The verifier found an invariant violated.
    Violation {
        /// The verifier's report, and where the dump went.
        report: String,
    },
    /// The guest kernel panicked, or misused the machine.
    GuestPanic {
        /// Message, registers and symbolised backtrace.
        text: String,
    },
    /// KVM or the VMM cannot go on.
    InternalError {
        /// What happened, where, and the registers.
        text: String,
    },
    /// The time limit ran out.
    Timeout {
        /// The limit, and where the guest was.
        text: String,
    },
    /// Nothing goes on any more.
    Hang {
        /// Where every CPU of the guest is.
        text: String,
    },
    /// A signal, or Ctrl-] on the terminal.
    Interrupted,
    /// The reader of the output went away.
    OutputClosed,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(status) => write!(f, "the guest exited with status {status}"),
            Ending::Violation { report: text }
            | Ending::GuestPanic { text }
            | Ending::InternalError { text }
            | Ending::Timeout { text }
            | Ending::Hang { text } => f.write_str(text.trim_end()),
            Ending::Interrupted => f.write_str("interrupted: the run was ended before the guest was done"),
            Ending::OutputClosed => f.write_str("the reader of the output went away; the run was ended"),
        }
    }
}

/// The guest's counters and frame counts at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Every counter of [`ptshare_wire::Stats`] by name.
    pub stats: BTreeMap<&'static str, u64>,
    /// Frames that the allocator manages.
    pub frames_total: u64,
    /// Frames that it could give out.
    pub frames_free: u64,
}

/// A line that a program wrote to `/dev/ptshare`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Time since the guest's first instruction, microseconds.
    pub micros: u64,
    /// The line, without its newline.
    pub line: String,
    /// The counters when a `scenario`, `metric` or `result` line arrived, once the guest has published its census.
    pub snapshot: Option<Snapshot>,
}

/// What the verifier did in the whole run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifierTotals {
    /// Checkpoints that the guest asked for.
    pub checkpoints: u64,
    /// Verdicts: checkpoints that were verified (none with `verify=off`), and random instants.
    pub verified: u64,
    /// Process exits that were left to the next checkpoint (see [`crate::VerifyMode::Exit`]).
    pub coalesced: u64,
    /// At random instants; these verdicts count as verified too.
    pub random: RandomTotals,
    /// Page-table entries walked.
    pub entries_walked: u64,
    /// Tables walked, each counted once a verdict.
    pub tables_walked: u64,
    /// Shared tables compared word by word with the verdict before.
    pub tables_compared: u64,
    /// Addresses that the engine translated as the judge did.
    pub translated: u64,
    /// Dumps written of a guest in which nothing was wrong.
    pub dumps: u64,
    /// Names of the rules that were checked.
    pub rules: Vec<String>,
    /// Findings, as text; not empty only when the run ended with [`Ending::Violation`].
    pub violations: Vec<String>,
    /// Names of the rules that they break, each once.
    pub broken: Vec<String>,
    /// Time spent verifying, microseconds.
    pub micros: u64,
    /// The same, nanoseconds, each verdict exactly.
    pub nanos: u64,
}

/// What the judge did at random instants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RandomTotals {
    /// Times that all CPUs were stopped.
    pub pauses: u64,
    /// Pauses that found a CPU inside a critical section, so that the guest went on and was stopped again soon.
    pub retries: u64,
    /// Pauses that ended in a verdict.
    pub verdicts: u64,
    /// Verdicts that found some CPU in the kernel.
    pub in_kernel: u64,
}

/// All there is to know about a finished run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What ran it.
    pub engine: Engine,
    /// How it ended.
    pub ending: Ending,
    /// The exit status that goes with it; see [`crate::exit_code`].
    pub status: u8,
    /// What the guest wrote to stdout, when captured.
    pub stdout: Vec<u8>,
    /// What the guest wrote to stderr, when captured.
    pub stderr: Vec<u8>,
    /// From the kernel's first instruction to the first in user mode, microseconds. QEMU's firmware is not counted.
    pub first_user_instruction_us: Option<u64>,
    /// Guest kernel instructions up to the first in user mode, where KVM interprets and counts them or QEMU's clock does.
    pub insn_emulation_at_first_user: Option<u64>,
    /// From the call of [`crate::run`] to the first guest instruction.
    pub setup: Duration,
    /// From the first guest instruction to the end.
    pub wall: Duration,
    /// Lines from `/dev/ptshare`, in order.
    pub events: Vec<Event>,
    /// The counters at the end; `None` when the guest never published its census.
    pub last: Option<Snapshot>,
    /// Numbers of unknown system calls that programs made, in the order met.
    pub syscalls_unknown: Vec<u64>,
    /// The verifier's work.
    pub verifier: VerifierTotals,
    /// Where the guest spent its time, if asked for.
    pub profile: Option<crate::profile::Samples>,
    /// The guest kernel's log and what it wrote to the serial port.
    pub kernel_log: String,
}

impl Outcome {
    /// A counter's value at the end, by its name in [`ptshare_wire::Stats`]; 0 when it is not known.
    pub fn stat(&self, name: &str) -> u64 {
        self.last.as_ref().and_then(|s| s.stats.get(name)).copied().unwrap_or(0)
    }
}
