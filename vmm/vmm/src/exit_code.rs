//! The exit status of the process, in one place.
//!
//! A guest that ends by itself passes its own status through, 0..=255. Everything else has a code of its own below, and
//! one sentence on stderr that begins with `ptshare:`, so that a program which happens to exit with one of these
//! numbers can be told from a failure of the machine.

use crate::{Ending, VmmError};

/// A bad option or value.
pub const USAGE: u8 = 100;
/// No /dev/kvm, or one that is of no use; with the engine left open or QEMU asked for, no QEMU either.
pub const NO_ENGINE: u8 = 101;
/// /dev/kvm exists but may not be opened.
pub const KVM_PERMISSION: u8 = 102;
/// The kernel, the initramfs or another file is missing or malformed.
pub const BAD_FILE: u8 = 103;
/// The verifier found an invariant violated.
pub const VIOLATION: u8 = 104;
/// The guest kernel panicked, died of an exception, or misused the hypercall device.
pub const GUEST_PANIC: u8 = 105;
/// KVM stopped in a way that the VMM cannot handle, or the VMM itself failed.
pub const INTERNAL: u8 = 106;
/// `--timeout` ran out.
pub const TIMEOUT: u8 = 107;
/// The watchdog saw that nothing goes on in the guest any more.
pub const HANG: u8 = 108;
/// SIGINT, SIGTERM, SIGHUP, or Ctrl-] on the terminal.
pub const INTERRUPTED: u8 = 130;
/// The reader of stdout or stderr went away (as a program killed by SIGPIPE: 128 + 13).
pub const OUTPUT_CLOSED: u8 = 141;

/// Every code with its meaning, for documentation and `--help`.
pub const TABLE: &[(u8, &str)] = &[
    (USAGE, "bad option or value"),
    (NO_ENGINE, "no usable /dev/kvm, or QEMU is missing where it is needed"),
    (KVM_PERMISSION, "no permission to open /dev/kvm"),
    (BAD_FILE, "a file is missing or malformed (kernel, initramfs, program)"),
    (VIOLATION, "the verifier found an invariant violated"),
    (GUEST_PANIC, "the guest kernel panicked"),
    (INTERNAL, "unhandled KVM exit, or a failure inside the VMM"),
    (TIMEOUT, "--timeout ran out"),
    (HANG, "the guest hangs: the watchdog saw nothing go on"),
    (INTERRUPTED, "interrupted (SIGINT, SIGTERM, SIGHUP, Ctrl-])"),
    (OUTPUT_CLOSED, "the reader of the output went away"),
];

/// The code of a run that could not begin.
pub fn of_error(error: &VmmError) -> u8 {
    match error {
        VmmError::Usage(_) | VmmError::NoRoom(_) => USAGE,
        VmmError::NoKvm(_) | VmmError::KvmUnusable(_) | VmmError::NoQemu | VmmError::NoEngine(_) => NO_ENGINE,
        VmmError::KvmPermission(_) => KVM_PERMISSION,
        VmmError::BadFile { .. } => BAD_FILE,
        VmmError::Kvm { .. } | VmmError::Host { .. } | VmmError::Qemu(_) => INTERNAL,
    }
}

/// The code of a run that has ended.
pub fn of_ending(ending: &Ending) -> u8 {
    match ending {
        Ending::Exited(status) => *status,
        Ending::Violation { .. } => VIOLATION,
        Ending::GuestPanic { .. } => GUEST_PANIC,
        Ending::InternalError { .. } => INTERNAL,
        Ending::Timeout { .. } => TIMEOUT,
        Ending::Hang { .. } => HANG,
        Ending::Interrupted => INTERRUPTED,
        Ending::OutputClosed => OUTPUT_CLOSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_all_in_the_table() {
        let mut codes: Vec<u8> = TABLE.iter().map(|row| row.0).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), TABLE.len());
        let text = String::new;
        for ending in [
            Ending::Violation { report: text() },
            Ending::GuestPanic { text: text() },
            Ending::InternalError { text: text() },
            Ending::Timeout { text: text() },
            Ending::Hang { text: text() },
            Ending::Interrupted,
            Ending::OutputClosed,
        ] {
            assert!(codes.contains(&of_ending(&ending)), "{ending:?}");
        }
        let io = || std::io::Error::from_raw_os_error(libc::ENOENT);
        for error in [
            VmmError::Usage(text()),
            VmmError::NoKvm(io()),
            VmmError::KvmPermission(io()),
            VmmError::KvmUnusable(text()),
            VmmError::NoQemu,
            VmmError::NoEngine(Box::new(VmmError::NoKvm(io()))),
            VmmError::Qemu(text()),
            VmmError::BadFile { what: "kernel", path: "k".into(), why: text() },
            VmmError::Kvm { what: "x", source: kvm_ioctls::Error::new(1) },
            VmmError::Host { what: "x", source: io() },
            VmmError::NoRoom(text()),
        ] {
            assert!(codes.contains(&of_error(&error)), "{error:?}");
        }
    }

    #[test]
    fn the_guests_own_status_passes_through() {
        for status in [0, 1, 104, 255] {
            assert_eq!(of_ending(&Ending::Exited(status)), status);
        }
    }
}
