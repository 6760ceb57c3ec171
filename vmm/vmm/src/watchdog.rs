//! The watchdog: ends a run in which nothing goes on any more, and says where every CPU of the guest is.
//!
//! Progress is any counter of the census that moves. A kernel that hangs has a CPU which is in the kernel at every look, and
//! not in `hlt`, while no counter moves. A guest that sleeps, waits for input or computes moves none either: that counts
//! as a hang only for a guest of which it is known that it never does so ([`Watchdog::strict`]).

use crate::census::{self, CpuRecord};
use crate::config::Watchdog;
use crate::cpu::CpuState;
use crate::diagnose;
use crate::machine::Machine;
use crate::outcome::Ending;
use std::fmt::Write;

/// Looks that must find the same before a guest is said to hang. Each comes after a sleep of its own share of the limit, so
/// that time for which the whole machine stood still (a long verdict, a host that slept) does not count.
const LOOKS: u32 = 8;
/// HLT: RIP is behind it while a CPU waits, or at it.
const HLT: u8 = 0xf4;

/// Watches until the run stops, or hangs.
pub fn run(machine: &Machine, how: Watchdog) {
    let mut last = None;
    let mut looks = 0;
    while machine.sleep(how.limit / LOOKS) {
        let now = machine.snapshot();
        if now.is_none() || now != last {
            (last, looks) = (now, 0);
            continue;
        }
        let Some(stopped) = machine.pause.stop(None) else { return };
        // A verdict may have been under way, and the guest may have gone on behind it.
        let cpus = match stopped.cpus() {
            Ok(cpus) if machine.snapshot() == last => cpus,
            _ => continue,
        };
        if !how.strict && !cpus.iter().any(|(_, state)| in_kernel(machine, state)) {
            looks = 0;
            continue;
        }
        looks += 1;
        if looks == LOOKS {
            return machine.end(Ending::Hang { text: report(machine, how, &cpus) });
        }
    }
}

/// Is the CPU in the kernel, and not waiting for an interrupt there?
fn in_kernel(machine: &Machine, state: &CpuState) -> bool {
    let rip = state.regs.rip;
    let byte = |va| diagnose::byte(&machine.ram, &state.sregs, va);
    state.sregs.cs.selector & 3 == 0 && byte(rip) != Some(HLT) && byte(rip.wrapping_sub(1)) != Some(HLT)
}

fn report(machine: &Machine, how: Watchdog, cpus: &[(u32, CpuState)]) -> String {
    let mut text = format!("the guest hangs: no counter of its kernel has moved for {:?}\n", how.limit);
    for (index, state) in cpus {
        let record = machine.census().and_then(|pa| census::cpu(&machine.ram, pa, *index));
        let _ = writeln!(text, "CPU {index}: {}", what(record));
        text += &diagnose::cpu_state(&machine.ram, &machine.symbols, &state.regs, &state.sregs);
    }
    text
}

/// What the census says of a CPU.
fn what(record: Option<CpuRecord>) -> String {
    let Some(record) = record else { return "not in the census".into() };
    if !record.online {
        return "not started".into();
    }
    let mut text = match record.pid {
        0 => "idle".to_owned(),
        pid => format!("process {pid}"),
    };
    match record.mm_slot {
        0 => text += ", the kernel's own root",
        slot => {
            let _ = write!(text, ", mm {}", slot - 1);
        }
    }
    if record.critical != 0 {
        let _ = write!(text, ", {} deep in critical sections", record.critical);
    }
    if let Some(wait) = record.waits_for {
        let _ = write!(text, ", waits for {wait}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptshare_wire::Wait;

    #[test]
    fn a_record_is_told_in_words() {
        assert_eq!(what(None), "not in the census");
        assert_eq!(what(Some(CpuRecord::default())), "not started");
        let record = CpuRecord {
            online: true,
            pid: 7,
            mm_slot: 3,
            critical: 2,
            waits_for: Some(Wait::Lock { rank: 10, address: 0xffff_8880_0000_1000 }),
        };
        let text =
            "process 7, mm 2, 2 deep in critical sections, waits for the Mmap lock at 0xffff888000001000";
        assert_eq!(what(Some(record)), text);
        let idle = CpuRecord { online: true, ..CpuRecord::default() };
        assert_eq!(what(Some(idle)), "idle, the kernel's own root");
    }
}
