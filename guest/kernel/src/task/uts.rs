//! The names that uname(2) gives.

use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// Bytes of a name, its NUL included.
pub const NAME_BYTES: usize = 65;
/// Kernel release.
pub const RELEASE: &str = "6.1.0-ptshare";
/// Kernel version.
pub const VERSION: &str = "#1 ptshare";

type Name = [u8; NAME_BYTES];

static HOSTNAME: Lock<Name> = Lock::new(Rank::Registry, name(b"ptshare"));
static DOMAINNAME: Lock<Name> = Lock::new(Rank::Registry, name(b"(none)"));

const fn name(text: &[u8]) -> Name {
    let mut name = [0; NAME_BYTES];
    let mut i = 0;
    while i < text.len() && i < NAME_BYTES - 1 {
        name[i] = text[i];
        i += 1;
    }
    name
}

/// The host's name, filled up with NULs.
pub fn hostname() -> Name {
    *HOSTNAME.lock()
}

fn set(cell: &Lock<Name>, text: &[u8]) -> Result<(), Errno> {
    if text.len() >= NAME_BYTES {
        return Err(Errno::EINVAL);
    }
    *cell.lock() = name(text);
    Ok(())
}

/// Sets the host's name.
///
/// # Errors
/// EINVAL when it is longer than 64 bytes.
pub fn set_hostname(text: &[u8]) -> Result<(), Errno> {
    set(&HOSTNAME, text)
}

/// Sets the domain's name.
///
/// # Errors
/// EINVAL when it is longer than 64 bytes.
pub fn set_domainname(text: &[u8]) -> Result<(), Errno> {
    set(&DOMAINNAME, text)
}

/// `struct new_utsname`: system, node, release, version, machine, domain.
pub fn utsname() -> [Name; 6] {
    [
        name(b"Linux"),
        hostname(),
        name(RELEASE.as_bytes()),
        name(VERSION.as_bytes()),
        name(b"x86_64"),
        *DOMAINNAME.lock(),
    ]
}
