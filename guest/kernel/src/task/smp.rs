//! CPUs other than the first: brought up at boot, each with an idle task of its own.

use super::{exec, sched};
use ptshare_machine::boot;
use ptshare_machine::smp::{self, StartError};
use ptshare_wire::census::CPUS_MAX;

/// Starts the CPUs that the command line asks for (the last `cpus=N`: the VMM's own comes first), or all that the machine
/// has. One that does not start is said to be missing.
pub fn start_others() {
    let asked = boot::words().filter_map(|word| word.strip_prefix("cpus=")).last();
    let asked = asked.and_then(|n| n.parse().ok());
    for index in 1..asked.unwrap_or(CPUS_MAX) {
        let why = match smp::start(index) {
            Ok(()) => continue,
            Err(StartError::Absent) if asked.is_none() => return,
            Err(StartError::NoMemory) => "there is no memory for it",
            Err(StartError::Absent) => "the machine does not start it",
            Err(StartError::Silent) => "it does not answer",
        };
        klog!(2, "CPU {index} is left out: {why}");
        return;
    }
}

/// What a CPU runs first.
pub fn main() -> ! {
    match exec::become_idle() {
        Ok(()) => sched::run_idle(),
        Err(errno) => panic!("no idle task for another CPU: {errno:?}"),
    }
}
