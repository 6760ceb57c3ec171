//! The hypercall device (`ptshare_wire::hypercall`): decodes what a guest CPU asks for, checks every address, does it.
//!
//! A call that makes no sense is a bug of the guest kernel: it is never answered with an error, it ends the run with the
//! call, its arguments and the guest's registers.

use crate::census;
use crate::checkpoint;
use crate::cpu::{Cpu, CpuState};
use crate::diagnose;
use crate::machine::Machine;
use crate::outcome::{Ending, Event};
use crate::ram::GuestRam;
use crate::sys::KvmCounter;
use kvm_bindings::kvm_regs;
use log::{Level, log, warn};
use ptshare_paging::PAGE_SHIFT;
use ptshare_wire::hypercall::{Block, CONSOLE_EOF, CheckpointReason, MARK_FIRST_USER, MARK_KERNEL, Op};
use std::mem::{offset_of, size_of};

/// Longest text of an event, a label or a log line; the rest of a longer one is dropped. Bytes.
const TEXT_MAX: u64 = 4096;
/// Console output is taken in pieces of this many bytes.
const OUTPUT_STEP: u64 = 64 << 10;
/// Most input handed over at once, bytes.
const INPUT_STEP: u64 = 64 << 10;

/// A call that has been checked: every range lies in RAM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// See [`Op::ConsoleWrite`].
    ConsoleWrite {
        /// Text.
        pa: u64,
        /// Bytes.
        len: u64,
        /// 1 or 2.
        stream: u64,
    },
    /// See [`Op::ConsoleRead`].
    ConsoleRead {
        /// Buffer.
        pa: u64,
        /// Its bytes.
        capacity: u64,
    },
    /// See [`Op::Clear`].
    Clear {
        /// First byte.
        pa: u64,
        /// Bytes.
        len: u64,
    },
    /// See [`Op::Copy`].
    Copy {
        /// First byte written.
        dst: u64,
        /// First byte read.
        src: u64,
        /// Bytes.
        len: u64,
    },
    /// See [`Op::Checkpoint`].
    Checkpoint {
        /// Why.
        reason: CheckpointReason,
        /// The program's label, or empty.
        label: String,
    },
    /// See [`Op::Exit`].
    Exit(u8),
    /// See [`Op::Event`].
    Event(String),
    /// See [`Op::Mark`]: the mark and the time-stamp counter.
    Mark(u64, u64),
    /// See [`Op::Panic`].
    Panic(u64),
    /// See [`Op::Census`].
    Census(u64),
    /// See [`Op::Log`].
    Log(Level, String),
    /// See [`Op::StartCpu`].
    StartCpu {
        /// Its number.
        cpu: u32,
        /// First instruction.
        entry: u64,
        /// RDI there.
        arg: u64,
    },
}

/// What the device does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Store this result and let the guest go on.
    Result(u64),
    /// The run is over.
    End(Ending),
}

/// Checks a call.
///
/// # Errors
/// What is wrong with it.
pub fn decode(op: u32, args: [u64; 4], ram: &GuestRam) -> Result<Request, String> {
    let op = Op::from_u32(op).ok_or_else(|| format!("there is no operation {op}"))?;
    let [a, b, c, _] = args;
    let range = |pa: u64, len: u64| {
        if ram.contains(pa, len) { Ok(()) } else { Err(format!("[{pa:#x}, +{len:#x}) is not RAM")) }
    };
    let text = |pa: u64, len: u64| {
        range(pa, len)?;
        let bytes = ram.read(pa, len.min(TEXT_MAX)).unwrap_or_default();
        Ok::<_, String>(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
    };
    Ok(match op {
        Op::ConsoleWrite => {
            range(a, b)?;
            if c != 1 && c != 2 {
                return Err(format!("there is no stream {c}"));
            }
            Request::ConsoleWrite { pa: a, len: b, stream: c }
        }
        Op::ConsoleRead => {
            range(a, b)?;
            Request::ConsoleRead { pa: a, capacity: b }
        }
        Op::Clear => {
            range(a, b)?;
            Request::Clear { pa: a, len: b }
        }
        Op::Copy => {
            range(a, c)?;
            range(b, c)?;
            if a < b.saturating_add(c) && b < a.saturating_add(c) {
                return Err(format!("{a:#x} and {b:#x} overlap over {c:#x} bytes"));
            }
            Request::Copy { dst: a, src: b, len: c }
        }
        Op::Checkpoint => Request::Checkpoint {
            reason: CheckpointReason::from_u64(a)
                .ok_or_else(|| format!("there is no checkpoint reason {a}"))?,
            label: text(b, c)?,
        },
        Op::Exit => Request::Exit(u8::try_from(a).map_err(|_| format!("{a} is no exit status"))?),
        Op::Event => Request::Event(text(a, b)?),
        Op::Mark => Request::Mark(a, b),
        Op::Panic => Request::Panic(a),
        Op::Census => match census::complaint(ram, a) {
            Some(why) => return Err(why),
            None => Request::Census(a),
        },
        Op::Log => {
            let level = match a {
                1 => Level::Error,
                2 => Level::Warn,
                3 => Level::Info,
                4 => Level::Debug,
                5 => Level::Trace,
                _ => return Err(format!("there is no log level {a}")),
            };
            Request::Log(level, text(b, c)?)
        }
        Op::StartCpu => Request::StartCpu {
            cpu: u32::try_from(a).map_err(|_| format!("{a} is no CPU's number"))?,
            entry: b,
            arg: c,
        },
    })
}

/// The CPU that calls. In tests it has neither registers nor counters.
#[derive(Default)]
pub struct Caller<'a> {
    /// Its registers.
    pub cpu: Option<&'a dyn Cpu>,
    /// Its number.
    pub index: u32,
    /// The number under which its thread stands still: see [`crate::pause`].
    pub member: u32,
    /// Counts the instructions that KVM interpreted for it.
    pub counter: Option<&'a KvmCounter>,
    /// Its time-stamp counter counts instructions.
    pub tsc_counts_instructions: bool,
}

/// Carries out a checked call.
pub fn execute(machine: &Machine, caller: &Caller<'_>, request: Request) -> Answer {
    let ram = &machine.ram;
    let done = |ok: bool| {
        // Ranges were checked by decode; only a host that takes memory away gets here.
        if ok {
            Answer::Result(0)
        } else {
            Answer::End(Ending::InternalError { text: "guest RAM has gone".into() })
        }
    };
    match request {
        Request::ConsoleWrite { pa, len, stream } => {
            let mut at = 0;
            while at < len && !machine.stopping() {
                let step = OUTPUT_STEP.min(len - at);
                match ram.read(pa + at, step) {
                    Some(bytes) => machine.output(stream, &bytes),
                    None => return done(false),
                }
                at += step;
            }
            Answer::Result(len)
        }
        Request::ConsoleRead { pa, capacity } => {
            match machine.console.take(capacity.min(INPUT_STEP) as usize) {
                None => Answer::Result(CONSOLE_EOF),
                Some(bytes) if ram.write(pa, &bytes) => Answer::Result(bytes.len() as u64),
                Some(_) => done(false),
            }
        }
        Request::Clear { pa, len } => done(ram.clear(pa, len)),
        Request::Copy { dst, src, len } => done(ram.copy(dst, src, len)),
        Request::Checkpoint { reason, label } => checkpoint::run(machine, caller, reason, &label),
        Request::StartCpu { cpu, entry, arg } => match caller.cpu.map(Cpu::state) {
            Some(Ok(state)) => {
                Answer::Result(u64::from(machine.start_cpu(cpu, start_state(state, entry, arg))))
            }
            Some(Err(text)) => Answer::End(Ending::InternalError { text }),
            None => Answer::Result(0),
        },
        Request::Exit(status) => Answer::End(Ending::Exited(status)),
        Request::Event(line) => {
            let wanted =
                line.starts_with("scenario ") || line.starts_with("result ") || line.starts_with("metric ");
            let snapshot = if wanted { machine.snapshot() } else { None };
            let event = Event { micros: machine.micros(), line, snapshot };
            machine.record().events.push(event);
            Answer::Result(0)
        }
        Request::Mark(MARK_KERNEL, tsc) => {
            let micros = machine.micros();
            machine.record().kernel_began.get_or_insert((micros, tsc));
            Answer::Result(0)
        }
        Request::Mark(mark, tsc) => {
            if mark == MARK_FIRST_USER {
                let micros = machine.micros();
                let instructions = caller.counter.and_then(KvmCounter::read);
                let mut record = machine.record();
                if record.first_user_us.is_none() {
                    let (began, tsc_then) = record.kernel_began.unwrap_or_default();
                    record.first_user_us = Some(micros.saturating_sub(began));
                    record.insn_at_first_user = if caller.tsc_counts_instructions {
                        Some(tsc.saturating_sub(tsc_then))
                    } else {
                        // Where KVM runs the guest's kernel half on the CPU the counter sees next to nothing.
                        instructions.filter(|&n| n >= INTERPRETED_MIN)
                    };
                }
                drop(record);
                // An interrupt raised before the guest had set its controller up was lost.
                if machine.console.ready() {
                    machine.raise_console();
                }
            } else {
                warn!("the guest marks an unknown moment, {mark}");
            }
            Answer::Result(0)
        }
        Request::Panic(pa) => {
            let text = diagnose::epitaph(ram, &machine.symbols, pa, caller.cpu).unwrap_or_else(|| {
                let state =
                    caller.cpu.map(|cpu| diagnose::state_of(ram, &machine.symbols, cpu)).unwrap_or_default();
                format!("guest kernel panicked, and its crash record at {pa:#x} does not lie in RAM\n{state}")
            });
            Answer::End(Ending::GuestPanic { text })
        }
        Request::Census(pa) => {
            machine.set_census(pa);
            Answer::Result(0)
        }
        Request::Log(level, line) => {
            {
                let mut record = machine.record();
                record.kernel_log.push_str(&line);
                record.kernel_log.push('\n');
            }
            log!(target: "guest", level, "{line}");
            Answer::Result(0)
        }
    }
}

/// The registers of a CPU that begins at `entry`, in the mode of the one that starts it.
fn start_state(caller: CpuState, entry: u64, arg: u64) -> CpuState {
    /// The bit that is always set; interrupts are off.
    const RFLAGS: u64 = 2;
    let regs = kvm_regs { rip: entry, rdi: arg, rflags: RFLAGS, ..Default::default() };
    CpuState { regs, sregs: caller.sregs }
}

/// Fewer interpreted instructions than this up to user mode mean that KVM does not interpret the guest's kernel.
const INTERPRETED_MIN: u64 = 500;

/// One call from start to end: reads the block at `block`, decodes, executes, stores the result.
pub fn call(machine: &Machine, caller: &Caller<'_>, block: Option<u64>, op: u32) -> Option<Ending> {
    let outcome = (|| {
        let block = block.ok_or("no block has been registered for this CPU")?;
        let mut args = [0; 4];
        for (i, arg) in args.iter_mut().enumerate() {
            *arg = machine
                .ram
                .read_u64(block + (offset_of!(Block, args) + 8 * i) as u64)
                .ok_or("its block has gone")?;
        }
        match decode(op, args, &machine.ram) {
            Ok(request) => Ok((block, execute(machine, caller, request))),
            Err(why) => Err(format!(
                "{why} (operation {op}{}, arguments {})",
                Op::from_u32(op).map(|o| format!(" {o:?}")).unwrap_or_default(),
                args.map(|a| format!("{a:#x}")).join(", ")
            )),
        }
    })();
    match outcome {
        Ok((block, Answer::Result(value))) => {
            machine.ram.write_u64(block + offset_of!(Block, result) as u64, value);
            None
        }
        Ok((_, Answer::End(ending))) => Some(ending),
        Err(why) => {
            let state = caller
                .cpu
                .map(|cpu| diagnose::state_of(&machine.ram, &machine.symbols, cpu))
                .unwrap_or_default();
            let text =
                format!("CPU {} of the guest misused the hypercall device: {why}\n{state}", caller.index);
            Some(Ending::GuestPanic { text })
        }
    }
}

/// The block that page frame `pfn` would hold, if it is RAM.
pub fn block_at(ram: &GuestRam, pfn: u32) -> Option<u64> {
    let pa = u64::from(pfn) << PAGE_SHIFT;
    ram.contains(pa, size_of::<Block>() as u64).then_some(pa)
}

#[cfg(test)]
mod tests;
