//! Replays traces (`shared/trace`) on the core alone: no guest, no KVM. Gives the same report as the interpreter on Linux and in
//! the guest does (`tests/programs/src/bin/trace_run`).
//!
//! ```text
//!  mod.rs      processes and turns
//!  memory.rs   operations on memory
//!  files.rs    operations on descriptors and the pipe
//!  outcome.rs  what is compared when a process ends
//! ```
//!
//! Traces with System V segments or huge pages are not replayed: what they test is above the core, or needs its pool.

mod files;
mod memory;
mod outcome;

use files::Descriptor;
use ptshare_mm::testing::{FlatConfig, FlatKernel};
use ptshare_mm::{FaultOutcome, Layout, Limits, Sharing};
use ptshare_trace::call::NONE;
use ptshare_trace::place::{ARENA_BYTES, ARENA_START, Base};
use ptshare_trace::report::{Answer, State, mix};
use ptshare_trace::watch::{Watch, watch};
use ptshare_trace::{Call, Op, PAGE, PROCS, Place, SLOTS, Trace};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where the heap begins.
const HEAP: u64 = 0x5555_5560_0000;
/// The heap's part that is the trace's, bytes.
const HEAP_BYTES: u64 = 16 << 20;
/// Lengths from here on are wrong on purpose: the end would be below the start.
const ABSURD: u64 = 0_u64.wrapping_sub(1 << 30);
/// Frames of the machine: traces touch few pages of what they map.
const FRAMES: usize = 1 << 13;
const SIGKILL: u64 = 9;

/// A process of a trace.
#[derive(Clone, Debug)]
struct Process {
    pid: u32,
    parent: Option<usize>,
    handles: [(u64, u64); SLOTS],
    fds: [Option<Descriptor>; SLOTS],
}

/// A trace being replayed.
pub struct Replay<'a> {
    trace: &'a Trace,
    watched: Watch,
    /// The kernel, for whoever wants to look at it between two operations.
    pub kernel: FlatKernel,
    procs: [Option<Process>; PROCS],
    used: [bool; PROCS],
    names: BTreeMap<u64, usize>,
    pipe: Vec<Vec<u8>>,
    answers: Vec<Answer>,
    notes: String,
    memory: Vec<(usize, u64)>,
    files: Vec<(usize, u64)>,
}

/// Replays a trace and tells what it gave, line by line. `look` is called after each operation.
pub fn replay(trace: &Trace, sharing: Sharing, look: &mut dyn FnMut(usize, &FlatKernel)) -> Vec<String> {
    let mut trace = trace.clone();
    trace.ops.extend(Trace::endings());
    let mut replay = Replay::new(&trace, sharing);
    for (at, op) in trace.ops.iter().enumerate() {
        replay.step(op, at);
        look(at, &replay.kernel);
    }
    replay.report()
}

impl<'a> Replay<'a> {
    fn new(trace: &'a Trace, sharing: Sharing) -> Replay<'a> {
        let kernel = FlatKernel::new(FlatConfig { frames: FRAMES, sharing, ..FlatConfig::default() });
        kernel.set_layout(1, Layout { start_brk: HEAP, brk: HEAP, ..Layout::default() });
        kernel.set_limits(1, Limits { privileged: true, ..Limits::default() });
        let mut procs: [Option<Process>; PROCS] = Default::default();
        procs[0] = Some(Process { pid: 1, parent: None, handles: [(0, 0); SLOTS], fds: [None; SLOTS] });
        let mut used = [false; PROCS];
        used[0] = true;
        Replay {
            trace,
            watched: watch(trace),
            kernel,
            procs,
            used,
            names: BTreeMap::new(),
            pipe: Vec::new(),
            answers: vec![Answer::default(); trace.ops.len()],
            notes: String::new(),
            memory: Vec::new(),
            files: Vec::new(),
        }
    }

    fn step(&mut self, op: &Op, at: usize) {
        let who = usize::from(op.proc);
        if self.procs[who].is_none() {
            return;
        }
        let mut answer = Answer { state: State::Done, ..Answer::default() };
        match op.call {
            Call::Exit => {
                self.final_state(who, at);
                // Nobody waits for a process whose parent is gone.
                let parent = self.procs[who].as_ref().and_then(|process| process.parent);
                let waits = parent.is_none_or(|parent| self.procs[parent].is_some());
                answer.extra = if waits { (op.args[0] & 0xff) << 8 } else { 0 };
                self.end(who);
            }
            _ => match self.carry_out(who, op, at, &mut answer) {
                Some(result) => answer.result = result,
                None => answer.state = State::LeftOut,
            },
        }
        self.answers[at] = answer;
    }

    fn end(&mut self, who: usize) {
        if let Some(process) = self.procs[who].take() {
            self.kernel.exit(process.pid);
        }
    }

    fn process(&mut self, who: usize) -> &mut Process {
        self.procs[who].as_mut().expect("a process that carries out an operation is alive")
    }

    fn pid(&self, who: usize) -> u32 {
        self.procs[who].as_ref().map_or(0, |process| process.pid)
    }

    /// The address of a place if `bytes` from there on are the trace's; `None` otherwise.
    fn resolve(&self, who: usize, place: Place, bytes: u64) -> Option<u64> {
        let bytes = if bytes >= ABSURD { 1 } else { bytes };
        let (start, limit) = match place.base() {
            Base::Arena => (ARENA_START, ARENA_BYTES),
            Base::Heap => (HEAP, HEAP_BYTES),
            Base::Handle(handle) => self.procs[who].as_ref()?.handles[handle],
            Base::Null => return Some(0),
        };
        (start != 0 && place.offset() + bytes <= limit).then_some(start + place.offset())
    }

    fn fork(&mut self, who: usize, child: usize) -> Option<i64> {
        if self.used[child] {
            return None;
        }
        let parent = self.process(who).clone();
        Some(match self.kernel.fork(parent.pid) {
            Ok(pid) => {
                self.used[child] = true;
                self.procs[child] = Some(Process { pid, parent: Some(who), ..parent });
                0
            }
            Err(error) => failed(error),
        })
    }

    fn kill(&mut self, who: usize, child: usize, answer: &mut Answer) -> Option<i64> {
        let mine = self.procs[child].as_ref().is_some_and(|process| process.parent == Some(who));
        if !mine {
            return None;
        }
        answer.extra = SIGKILL;
        self.end(child);
        Some(0)
    }

    fn report(&self) -> Vec<String> {
        let numbered = self.trace.ops.iter().zip(&self.answers).enumerate();
        let mut text = String::new();
        for (at, (op, answer)) in numbered {
            let _ = writeln!(text, "{at} {}", answer.words(op.call));
        }
        text += &self.notes;
        let mut memory = self.memory.clone();
        memory.sort_unstable();
        for (proc, sum) in memory {
            let _ = writeln!(text, "memory p{proc} {sum:x}");
        }
        for (slot, sum) in &self.files {
            let _ = writeln!(text, "file f{slot} {sum:x}");
        }
        text.lines().map(str::to_owned).collect()
    }
}

/// A negative error number.
fn failed(error: ptshare_abi::Errno) -> i64 {
    -i64::from(error.number())
}

/// What a call gives that gives nothing but success.
fn done(result: Result<(), ptshare_abi::Errno>) -> i64 {
    result.map_or_else(failed, |()| 0)
}

/// Signal and code of a fault.
fn signal(outcome: FaultOutcome) -> (i32, i32) {
    match outcome {
        FaultOutcome::SegvMapErr => (11, 1),
        FaultOutcome::SegvAccErr => (11, 2),
        FaultOutcome::BusAdrErr => (7, 2),
        outcome => panic!("an access ended with {outcome:?}"),
    }
}

/// The value of an access, or 0 after its signal has been noted.
fn noted(result: Result<u64, FaultOutcome>, address: u64, answer: &mut Answer) -> u64 {
    result.unwrap_or_else(|outcome| {
        let (signal, code) = signal(outcome);
        answer.signal = (signal, code, address);
        0
    })
}

/// The slot, if it is one.
fn slot(arg: u64) -> Option<usize> {
    (arg != NONE).then_some(arg as usize)
}

/// A sum of numbers.
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, mix)
}

/// Up to the next page.
fn to_page_end(address: u64) -> u64 {
    PAGE - address % PAGE
}
