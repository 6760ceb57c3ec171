//! Runs traces (`shared/trace`) from a file, one after the other, and prints what each operation gave: the same lines on
//! Linux and in the guest, wherever the guest is right.
//!
//! ```text
//!  main.rs     the supervisor: a process tree for each trace, a deadline, the report
//!  turns.rs    whose turn it is: pipes carry it from process to process, so that the interleaving is the trace's
//!  calls.rs    the operations
//!  files.rs    those on descriptors and segments
//!  access.rs   accesses that may raise signals
//!  final_state.rs  what is compared when a process ends
//!  control.rs  the memory that all of them share
//! ```
//!
//! `trace_run [-v] [--deadline SECS] FILE`, in a directory on tmpfs of its own; `-v` prints the content of each page.

mod access;
mod calls;
mod control;
mod files;
mod final_state;
mod turns;

use control::{Control, Record};
use ptshare_programs::{check, process};
use ptshare_trace::place::{ARENA_BYTES, ARENA_START};
use ptshare_trace::watch::{Watch, watch};
use ptshare_trace::{Call, PAGE, PROCS, SLOTS, Trace, text};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::Ordering::SeqCst;
use turns::{Ended, Gates, Machine};

struct Options {
    verbose: bool,
    deadline_ms: i32,
    file: String,
}

fn options() -> Result<Options, String> {
    let mut options = Options { verbose: false, deadline_ms: 20_000, file: String::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-v" => options.verbose = true,
            "--deadline" => {
                let seconds: Option<i32> = arguments.next().and_then(|s| s.parse().ok());
                options.deadline_ms =
                    seconds.and_then(|s| s.checked_mul(1000)).ok_or("--deadline wants seconds")?;
            }
            _ => options.file = argument,
        }
    }
    if options.file.is_empty() { Err("no FILE".into()) } else { Ok(options) }
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("trace_run: {error}; usage: trace_run [-v] [--deadline SECS] FILE");
            process::leave(2);
        }
    };
    let traces = std::fs::read_to_string(&options.file)
        .map_err(|error| error.to_string())
        .and_then(|text| text::parse_all(&text).map_err(|error| error.to_string()));
    let traces = match traces {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("trace_run: {}: {error}", options.file);
            process::leave(2);
        }
    };
    access::install();
    // SAFETY: no pointers. Neither call is needed: orphans then go elsewhere, and huge pages come where none are expected.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
    let control: &'static Control = control::shared();
    let scratch: &'static [std::sync::atomic::AtomicU64; control::SCRATCH / 8] = control::shared();
    let mut gates = Gates::new();
    let mut out = std::io::stdout();
    for (index, trace) in traces.iter().enumerate() {
        // Written before it starts: if the system dies, this is the trace that did it.
        let _ = out.write_all(format!("begin {index} {:#x}\n", trace.seed).as_bytes());
        let mut trace = trace.clone();
        trace.ops.extend(Trace::endings());
        let watched = watch(&trace);
        control.reset();
        let ended = run(&trace, &watched, control, scratch, &gates, options.deadline_ms);
        if ended == Ended::Late {
            gates.close();
            gates = Gates::new();
        }
        let mut report = report(&trace, &watched, control, ended, options.verbose);
        let _ = writeln!(report, "end {index}");
        let _ = out.write_all(report.as_bytes());
    }
}

/// Runs one trace to its end.
fn run(
    trace: &Trace,
    watched: &Watch,
    control: &'static Control,
    scratch: &'static [std::sync::atomic::AtomicU64],
    gates: &Gates,
    deadline_ms: i32,
) -> Ended {
    let mut pipe = [0_i32; 2];
    // SAFETY: `pipe` has room for two descriptors.
    check!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK) } == 0, "no pipe");
    // SAFETY: asks for the break and changes nothing.
    let heap = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    let mut machine = Machine {
        trace,
        watched,
        control,
        scratch: scratch.as_ptr() as u64,
        gates,
        me: PROCS,
        heap: heap.next_multiple_of(PAGE),
        handles: [(0, 0); SLOTS],
        fds: [-1; SLOTS],
        segments: [-1; SLOTS],
        pipe,
    };
    let ended = machine.supervise(deadline_ms);
    // SAFETY: the descriptors are this function's own.
    unsafe {
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
    control.remove_segments();
    for file in 0..4 {
        let _ = std::fs::remove_file(files::name(file));
    }
    ended
}

fn report(trace: &Trace, watched: &Watch, control: &Control, ended: Ended, verbose: bool) -> String {
    let mut text = String::new();
    if ended == Ended::Late {
        let _ = writeln!(text, "late at {}", control.pc.load(SeqCst));
    }
    for (at, (op, record)) in trace.ops.iter().zip(&control.records).enumerate() {
        let _ = writeln!(text, "{at} {}", words(op.call, record));
    }
    text += &control.notes();
    for (proc, pages) in control.pages.iter().enumerate() {
        let pages = &pages[..watched.places.len()];
        let sum = pages.iter().fold(0, |sum, page| final_state::mix(sum, page.load(SeqCst)));
        if sum != 0 {
            let _ = writeln!(text, "memory p{proc} {sum:x}");
        }
        for (place, page) in watched.places.iter().zip(pages) {
            let page = page.load(SeqCst);
            if verbose && page != 0 {
                let _ = writeln!(text, "  p{proc} {:#x} {}", place.0, final_state::page_words(page));
            }
        }
    }
    for (slot, pages) in control.files.iter().enumerate() {
        let sum = pages.iter().fold(0, |sum, page| final_state::mix(sum, page.load(SeqCst)));
        if sum != 0 {
            let _ = writeln!(text, "file f{slot} {sum:x}");
        }
        for (at, page) in pages.iter().enumerate() {
            let page = page.load(SeqCst);
            if verbose && page != 0 {
                let _ = writeln!(text, "  f{slot} {at} {page:x}");
            }
        }
    }
    text
}

/// The record of an operation in words.
fn words(call: Call, record: &Record) -> String {
    match record.state.load(SeqCst) {
        0 => return "-".into(),
        2 => return "left out".into(),
        _ => {}
    }
    let result = record.result.load(SeqCst);
    let mut text = match result as i64 {
        error @ -4095..0 => format!("E{}", -error),
        _ if matches!(call, Call::Mmap | Call::Mremap | Call::Shmat) => place(result),
        number => format!("{number:#x}"),
    };
    let signal = record.signal.load(SeqCst);
    if signal != 0 {
        let at = place(record.address.load(SeqCst));
        let _ = write!(text, " signal {} code {} at {at}", signal as u32, (signal >> 32) as i32);
    }
    let extra = record.extra.load(SeqCst);
    if extra != 0 {
        let _ = write!(text, " {extra:#x}");
    }
    text
}

/// An address as offset in the arena; all others are alike.
fn place(address: u64) -> String {
    match address.checked_sub(ARENA_START) {
        Some(offset) if offset < ARENA_BYTES => format!("a+{offset:#x}"),
        _ => "elsewhere".into(),
    }
}
