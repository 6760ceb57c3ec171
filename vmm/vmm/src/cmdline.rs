//! The guest kernel's command line, built from the configuration.
//!
//! `sharing=.. tsc_khz=.. realtime_ns=.. verify=off|exit verify_faults=N stdin=tty|pipe stdout=.. stderr=.. rows=R
//! cols=C cpus=N loglevel=L linear_pud=PA`, then the user's own words. Where the machine is emulated there are no tables of
//! the linear map, and there is a doorbell: `doorbell=1`, `input_poll_ms=N` where input may come at any time.

use crate::config::{Config, VerifyMode};
use ptshare_wire::hypercall::DOORBELL_OPTION;
use std::fmt::Write;

/// What the host knows and the guest cannot find out.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFacts {
    /// Frequency of the guest's TSC, kHz; 0 when KVM does not say.
    pub tsc_khz: u64,
    /// The wall clock at the start, nanoseconds since 1970.
    pub realtime_ns: u64,
    /// The guest has a doorbell, and firmware below it; and how often it must look for input, ms, 0 for never.
    pub doorbell: Option<u64>,
    /// Whether stdin, stdout and stderr are terminals.
    pub terminals: [bool; 3],
    /// Rows and columns of the terminal; 0 when there is none.
    pub window: (u16, u16),
}

/// The whole command line, without its NUL.
pub fn build(config: &Config, host: &HostFacts) -> String {
    let mut line = format!("sharing={}", config.sharing);
    if host.tsc_khz != 0 {
        let _ = write!(line, " tsc_khz={}", host.tsc_khz);
    }
    let _ = write!(line, " realtime_ns={}", host.realtime_ns);
    match host.doorbell {
        None => {
            let _ = write!(line, " linear_pud={}", crate::boot::linear_tables(config.mem_bytes).start);
        }
        Some(poll_ms) => {
            let _ = write!(line, " {DOORBELL_OPTION}=1");
            if poll_ms != 0 {
                let _ = write!(line, " input_poll_ms={poll_ms}");
            }
        }
    }
    let (verify, faults) = match config.verify {
        VerifyMode::Off => ("off", 0),
        VerifyMode::Exit | VerifyMode::EveryExit => ("exit", 0),
        VerifyMode::Faults(n) => ("exit", n),
    };
    let _ = write!(line, " verify={verify} verify_faults={faults}");
    for (name, tty) in ["stdin", "stdout", "stderr"].iter().zip(host.terminals) {
        let _ = write!(line, " {name}={}", if tty { "tty" } else { "pipe" });
    }
    let _ = write!(line, " rows={} cols={} cpus={}", host.window.0, host.window.1, config.cpus);
    let _ = write!(line, " loglevel={}", config.log_level as usize);
    let extra = config.cmdline_extra.trim();
    if !extra.is_empty() {
        let _ = write!(line, " {extra}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_there_once() {
        let config = Config {
            verify: VerifyMode::Faults(50),
            cmdline_extra: " init=/bin/x ".into(),
            ..Config::default()
        };
        let host = HostFacts {
            tsc_khz: 2_000_000,
            realtime_ns: 17,
            doorbell: None,
            terminals: [true, false, false],
            window: (24, 80),
        };
        assert_eq!(
            build(&config, &host),
            "sharing=pte tsc_khz=2000000 realtime_ns=17 linear_pud=536862720 verify=exit verify_faults=50 stdin=tty \
             stdout=pipe stderr=pipe rows=24 cols=80 cpus=1 loglevel=2 init=/bin/x"
        );
    }

    #[test]
    fn an_emulated_machine_has_a_doorbell_and_no_tables() {
        let line = build(&Config::default(), &HostFacts { doorbell: Some(10), ..HostFacts::default() });
        assert!(line.contains(" doorbell=1 input_poll_ms=10 "), "{line}");
        assert!(!line.contains("linear_pud"), "{line}");
    }

    #[test]
    fn an_unknown_tsc_frequency_is_left_out() {
        let line = build(&Config { verify: VerifyMode::Off, ..Config::default() }, &HostFacts::default());
        assert!(!line.contains("tsc_khz"), "{line}");
        assert!(line.contains("verify=off verify_faults=0"), "{line}");
    }
}
