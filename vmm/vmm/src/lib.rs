//! A tiny KVM virtual machine monitor that runs the ptshare guest and has its page tables judged. Where there is no KVM,
//! QEMU emulates the machine and the rest stays the same ([`engine`]).
//!
//! ```text
//!  Config --run()--> Outcome
//!     |                 ^
//!     |   boot, regs    |  machine (memory, record, ending)  <-- device/* <-- vcpu threads (KVM_RUN)
//!     +-> kvm, ram -----+                    ^    ^------------- checkpoint --> ptshare-verifier
//!                                            +-- console <----- reader thread (stdin)
//! ```
//!
//! The library is used in-process by `cargo xtask` and by tests; the binary is a thin shell around [`run`]. One run owns
//! everything that it makes; several may go on in one process, but only one of them may use the host's console.
//!
//! The guest uses one CPU in this version: further vCPUs are created and stay parked. Whoever looks at guest memory stops
//! those that run ([`pause`]).
//!
//! Unsafe code is confined to [`ram`] and [`sys`].

mod boot;
mod census;
mod checkpoint;
mod cmdline;
pub mod config;
mod console;
mod cpu;
mod device;
mod diagnose;
pub mod engine;
pub mod error;
pub mod exit_code;
pub mod json;
mod kvm;
mod machine;
pub mod outcome;
mod pause;
mod qemu;
mod ram;
mod random;
mod regs;
mod runner;
pub mod scenario;
mod symbols;
mod sys;
mod vcpu;
mod watchdog;

pub mod profile;
pub use config::{
    Config, Console, Initramfs, RandomVerify, Verify, VerifyMode, Watchdog, parse_size, show_size,
};
pub use engine::{Engine, EngineChoice};
pub use error::VmmError;
pub use outcome::{Ending, Event, Outcome, RandomTotals, Snapshot, VerifierTotals};
pub use runner::run;
pub use scenario::Scenario;

/// Starts logging to stderr: lines of the VMM and, under the target `guest`, of the guest kernel. Does nothing when the
/// process logs already.
pub fn init_logging(level: log::LevelFilter) {
    let _ = env_logger::Builder::new().filter_level(level).try_init();
}

/// The log level for this many `-v`.
pub fn verbosity(count: u8) -> log::LevelFilter {
    match count {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    }
}
