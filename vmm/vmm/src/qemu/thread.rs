//! The threads of a run under QEMU: one answers the doorbell, one reads the serial port.

use super::qmp::{Client, QmpError, Wake};
use super::{Emulator, registers, with_complaint};
use crate::cpu::{Cpu, CpuState};
use crate::device::hypercall::{self, Caller};
use crate::diagnose;
use crate::machine::Machine;
use crate::outcome::Ending;
use crate::sys::{self, Want};
use ptshare_wire::hypercall::Block;
use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::mem::offset_of;
use std::os::fd::AsFd;

/// A CPU, through the monitor; the machine must stand still.
struct Emulated<'a> {
    client: &'a RefCell<Client>,
    /// Its number.
    index: u32,
    /// How many the machine has.
    cpus: u32,
}

impl Emulated<'_> {
    fn monitor(&self, cpu: u32, line: &str) -> Result<String, String> {
        let mut client = self.client.try_borrow_mut().map_err(|_| "QEMU is busy".to_owned())?;
        client.monitor(cpu, line).map_err(|e| e.to_string())
    }

    fn registers(&self, cpu: u32) -> Result<CpuState, String> {
        let text = self.monitor(cpu, "info registers")?;
        registers::parse(&text).ok_or_else(|| format!("QEMU does not give the registers of CPU {cpu}"))
    }
}

impl Cpu for Emulated<'_> {
    fn state(&self) -> Result<CpuState, String> {
        self.registers(self.index)
    }

    fn states(&self) -> Result<Vec<CpuState>, String> {
        (0..self.cpus).map(|cpu| self.registers(cpu)).collect()
    }

    fn translate(&self, va: u64) -> Result<Option<u64>, String> {
        self.translate_on(self.index, va)
    }

    fn translate_on(&self, cpu: u32, va: u64) -> Result<Option<u64>, String> {
        let text = self.monitor(cpu, &format!("gva2gpa {va:#x}"))?;
        translation(&text).ok_or_else(|| format!("QEMU answers gva2gpa with `{}`", text.trim()))
    }
}

/// Reads the answer of the monitor's `gva2gpa`: `gpa: 0x1234`, or `Unmapped`.
fn translation(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "Unmapped" => Some(None),
        text => {
            let hex = text.strip_prefix("gpa: ")?;
            u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok().map(Some)
        }
    }
}

/// Runs the guest until the run stops.
pub fn run(machine: &Machine, emulator: Emulator) {
    let Emulator { child, client, mut errors, block, icount } = emulator;
    let client = RefCell::new(client);
    machine.started();
    let served = serve(machine, &client, block, icount);
    let alive = !matches!(served, Err(QmpError::Gone));
    match served {
        Ok(Some(ending)) => machine.end(ending),
        Ok(None) => {}
        Err(QmpError::Gone) => {
            let text = with_complaint("QEMU has gone before the guest was done", &mut errors);
            machine.end(Ending::InternalError { text });
        }
        Err(error) => machine.end(Ending::InternalError { text: error.to_string() }),
    }
    if machine.ending().is_none() && alive {
        // What is on the CPU is only exact when it stands still.
        let stopped = client.borrow_mut().command("stop", None);
        let cpu = Emulated { client: &client, index: 0, cpus: machine.cpus };
        let state = match stopped {
            Ok(_) => diagnose::state_of(&machine.ram, &machine.symbols, &cpu),
            Err(error) => format!("  ({error})\n"),
        };
        machine.record().stopped_at.get_or_insert(format!("CPU 0 of the guest was here:\n{state}"));
    }
    Emulator { child, client: client.into_inner(), errors, block, icount }.shut_down();
}

/// Answers the doorbell until the run ends, or is to stop (`None`).
fn serve(
    machine: &Machine,
    client: &RefCell<Client>,
    block: u64,
    icount: bool,
) -> Result<Option<Ending>, QmpError> {
    let cpu = |index| Emulated { client, index, cpus: machine.cpus };
    let boot_cpu = cpu(0);
    let guest_bug = |what: &str| {
        let state = diagnose::state_of(&machine.ram, &machine.symbols, &boot_cpu);
        Some(Ending::GuestPanic { text: format!("CPU 0 of the guest: {what}\n{state}") })
    };
    let _member = machine.pause.join(0);
    client.borrow_mut().command("cont", None)?;
    let mut sampling = false;
    while !machine.stopping() {
        let wake = client.borrow_mut().event(sys::event_fd(&machine.stop), None)?;
        let event = match wake {
            Wake::Event(event) => event,
            Wake::Other => {
                // A kick by the profiler's clock, or by the judge's. One STOP comes, by this command or by a bell that was
                // quicker.
                let judged = machine.pause.wanted();
                sampling = !machine.stopping() && !judged && machine.record().profile.is_some();
                if sampling || judged {
                    client.borrow_mut().command("stop", None)?;
                }
                continue;
            }
        };
        match event.name.as_str() {
            "STOP" => {}
            "SHUTDOWN" => {
                let reason = event.data.get("reason").and_then(|r| r.as_str()).unwrap_or("unknown");
                return Ok(match reason {
                    "guest-reset" => guest_bug("shut down by a triple fault"),
                    _ => Some(Ending::InternalError { text: format!("QEMU was shut down: {reason}") }),
                });
            }
            _ => continue,
        }
        if std::mem::take(&mut sampling)
            && let Ok(state) = boot_cpu.state()
            && let Some(samples) = &mut machine.record().profile
        {
            samples.take(&machine.symbols, state.regs.rip);
        }
        // Memory says whether the guest waits for an answer: a stop of ours may have come between call and bell, which
        // then rings for nothing.
        let word = |offset: usize| machine.ram.read_u64(block + offset as u64).unwrap_or(0);
        let (calls, answers) = (word(offset_of!(Block, calls)), word(offset_of!(Block, answers)));
        if calls != answers {
            let op = word(offset_of!(Block, op)) as u32;
            let index = (word(offset_of!(Block, cpu)) as u32).min(machine.cpus - 1);
            let cpu = cpu(index);
            let tsc_counts_instructions = icount;
            let caller = Caller { cpu: Some(&cpu), index, member: 0, counter: None, tsc_counts_instructions };
            if let Some(ending) = hypercall::call(machine, &caller, Some(block), op) {
                return Ok(Some(ending));
            }
            machine.ram.write_u64(block + offset_of!(Block, answers) as u64, calls);
        }
        machine.pause.point(0, &boot_cpu);
        client.borrow_mut().command("cont", None)?;
    }
    Ok(None)
}

/// Moves what the guest writes to its serial port into the kernel log.
pub fn read_serial(machine: &Machine, mut serial: File) {
    let mut buffer = [0; 4096];
    loop {
        match sys::poll(&[(sys::event_fd(&machine.stop), Want::Read), (serial.as_fd(), Want::Read)], None) {
            Ok(ready) if ready[1] => match serial.read(&mut buffer) {
                Ok(n) if n > 0 => machine.serial_text(&buffer[..n]),
                _ => return,
            },
            Ok(ready) if ready[0] => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
