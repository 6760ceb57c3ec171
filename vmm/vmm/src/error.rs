//! Why a run could not begin. Each message is one sentence that says what failed, where, and what to do.

use std::path::PathBuf;

/// A failure before the guest's first instruction. How a started run ended is [`crate::Ending`] instead.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// An option has a value that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no /dev/kvm.
    #[error(
        "/dev/kvm does not exist ({0}): this machine has no KVM, or its module is not loaded (try `modprobe kvm_intel` \
         or `modprobe kvm_amd`, and turn on virtualisation in the firmware)"
    )]
    NoKvm(std::io::Error),
    /// /dev/kvm may not be opened.
    #[error(
        "/dev/kvm may not be opened ({0}): add this user to the group that owns it (usually `kvm`) and log in again"
    )]
    KvmPermission(std::io::Error),
    /// /dev/kvm opens but is of no use.
    #[error("/dev/kvm cannot be used: {0}")]
    KvmUnusable(String),
    /// QEMU is not installed.
    #[error(
        "qemu-system-x86_64 is not in PATH: install QEMU (Debian and Ubuntu: `apt-get install qemu-system-x86`; Fedora: \
         `dnf install qemu-system-x86-core`)"
    )]
    NoQemu,
    /// Neither KVM nor QEMU.
    #[error(
        "{0}; and QEMU, which does without KVM, is not installed (Debian and Ubuntu: `apt-get install qemu-system-x86`)"
    )]
    NoEngine(#[source] Box<VmmError>),
    /// QEMU does not start.
    #[error("QEMU does not start: {0}")]
    Qemu(String),
    /// A file that the run needs cannot be read or makes no sense.
    #[error("{what} {}: {why}", path.display())]
    BadFile {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A request to KVM failed.
    #[error("KVM refused to {what}: {source}")]
    Kvm {
        /// What was asked, as an infinitive.
        what: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// A request to the host's kernel, other than to KVM, failed.
    #[error("the host refused to {what}: {source}")]
    Host {
        /// What was asked, as an infinitive.
        what: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
    /// Boot structures do not fit into guest memory.
    #[error("guest memory is too small: {0}; give more with --mem")]
    NoRoom(String),
}

impl VmmError {
    /// For `map_err` on a KVM request.
    pub(crate) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmmError {
        move |source| VmmError::Kvm { what, source }
    }

    /// For `map_err` on any other request to the host.
    pub(crate) fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> VmmError {
        move |source| VmmError::Host { what, source }
    }
}
