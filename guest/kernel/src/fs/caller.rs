//! What the file system asks of the process that calls it: credentials, limits, signals.

use crate::task::{Creds, current};
use alloc::sync::Arc;
use ptshare_abi::Errno;

/// CAP_CHOWN.
pub const CAP_CHOWN: u32 = 0;
/// CAP_DAC_OVERRIDE.
pub const CAP_DAC_OVERRIDE: u32 = 1;
/// CAP_DAC_READ_SEARCH.
pub const CAP_DAC_READ_SEARCH: u32 = 2;
/// CAP_FOWNER.
pub const CAP_FOWNER: u32 = 3;
/// CAP_FSETID.
pub const CAP_FSETID: u32 = 4;
/// CAP_SYS_CHROOT.
pub const CAP_SYS_CHROOT: u32 = 18;
/// CAP_SYS_ADMIN.
pub const CAP_SYS_ADMIN: u32 = 21;
/// CAP_SYS_RESOURCE.
pub const CAP_SYS_RESOURCE: u32 = 24;
/// CAP_MKNOD.
pub const CAP_MKNOD: u32 = 27;

const RLIMIT_FSIZE: usize = 1;
const RLIMIT_NOFILE: usize = 7;
const SIGPIPE: u32 = 13;
const SIGXFSZ: u32 = 25;

/// The caller's credentials.
pub fn creds() -> Arc<Creds> {
    current().process.creds()
}

/// Most descriptors that the caller may have open.
pub fn nofile() -> u64 {
    current().process.rlimit(RLIMIT_NOFILE).min(super::table::NR_OPEN)
}

/// Longest file that the caller may make, in bytes.
pub fn fsize() -> u64 {
    current().process.rlimit(RLIMIT_FSIZE)
}

/// Checks a capability.
///
/// # Errors
/// EPERM without it.
pub fn need(cap: u32) -> Result<(), Errno> {
    if current().process.capable(cap) { Ok(()) } else { Err(Errno::EPERM) }
}

/// A write to a pipe that nobody reads.
pub fn sigpipe() -> Errno {
    crate::signal::send_to_current(SIGPIPE);
    Errno::EPIPE
}

/// A write beyond the file size limit.
pub fn sigxfsz() -> Errno {
    crate::signal::send_to_current(SIGXFSZ);
    Errno::EFBIG
}
