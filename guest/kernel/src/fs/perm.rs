//! Permission checks (Linux `generic_permission`, fs/namei.c; path_resolution(7), capabilities(7)).

use super::caller::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER};
use super::dentry::Path;
use super::inode::{Inode, S_IFDIR, S_IFLNK, S_IFREG, S_ISVTX};
use super::mount::{MS_NOEXEC, MS_RDONLY};
use crate::task::Creds;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;

/// Execute a file, search a directory.
pub const MAY_EXEC: u32 = 1;
/// Write.
pub const MAY_WRITE: u32 = 2;
/// Read.
pub const MAY_READ: u32 = 4;

/// May these credentials do this with the inode?
///
/// # Errors
/// EACCES.
pub fn check(cred: &Creds, inode: &Inode, want: u32) -> Result<(), Errno> {
    let mode = inode.mode();
    let dir = inode.is_dir();
    if cred.capable(CAP_DAC_OVERRIDE) && (dir || want & MAY_EXEC == 0 || mode & 0o111 != 0) {
        return Ok(());
    }
    let granted = if cred.fsuid == inode.uid() {
        mode >> 6
    } else if cred.in_group(inode.gid()) {
        mode >> 3
    } else {
        mode
    };
    if want & !granted & 7 == 0 {
        return Ok(());
    }
    let reads_only = if dir { want & MAY_WRITE == 0 } else { want == MAY_READ };
    if reads_only && cred.capable(CAP_DAC_READ_SEARCH) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// [`check`], and whether mount and file system allow writing.
///
/// # Errors
/// EACCES; EROFS.
pub fn check_path(cred: &Creds, path: &Path, want: u32) -> Result<(), Errno> {
    let kind = path.inode().file_type();
    if want & MAY_WRITE != 0 && matches!(kind, S_IFREG | S_IFDIR | S_IFLNK) {
        writable(path)?;
    }
    if want & MAY_EXEC != 0 && kind == S_IFREG && path.mount.has(MS_NOEXEC) {
        return Err(Errno::EACCES);
    }
    check(cred, path.inode(), want)
}

/// Can anything be changed through this path?
///
/// # Errors
/// EROFS.
pub fn writable(path: &Path) -> Result<(), Errno> {
    if path.mount.has(MS_RDONLY) || path.mount.sb.read_only.load(Relaxed) {
        return Err(Errno::EROFS);
    }
    Ok(())
}

/// Is it the caller's own, or is the caller privileged (CAP_FOWNER)?
///
/// # Errors
/// EPERM.
pub fn owner(cred: &Creds, inode: &Inode) -> Result<(), Errno> {
    if cred.fsuid == inode.uid() || cred.capable(CAP_FOWNER) { Ok(()) } else { Err(Errno::EPERM) }
}

/// May a name for `victim` be taken out of `dir`?
///
/// # Errors
/// EACCES without write and search permission on the directory; EPERM where its sticky bit protects the file.
pub fn may_delete(cred: &Creds, dir: &Inode, victim: &Inode) -> Result<(), Errno> {
    check(cred, dir, MAY_WRITE | MAY_EXEC)?;
    let sticky = dir.mode() & S_ISVTX != 0;
    if sticky && cred.fsuid != victim.uid() && cred.fsuid != dir.uid() && !cred.capable(CAP_FOWNER) {
        return Err(Errno::EPERM);
    }
    Ok(())
}
