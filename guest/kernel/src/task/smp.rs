//! CPUs other than the first: brought up at boot, each with an idle task of its own.

use super::{exec, sched};
use ptshare_machine::smp::{self, StartError};

/// Starts the CPUs that the command line names (`cpus=N`). One that does not start is said to be missing.
pub fn start_others(cpus: usize) {
    for index in 1..cpus {
        let why = match smp::start(index) {
            Ok(()) => continue,
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
