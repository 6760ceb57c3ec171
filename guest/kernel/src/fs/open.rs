//! Opening: from a path and flags to an open file (open(2); Linux `path_openat`, `do_open`).

use super::caller;
use super::dentry::{Name, Path};
use super::file::{
    File, O_ACCMODE, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_LARGEFILE, O_NOATIME, O_NOCTTY, O_NOFOLLOW,
    O_NONBLOCK, O_PATH, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY, Ops,
};
use super::inode::{Inode, Kind, Regular, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG};
use super::mount::{MS_NODEV, MS_NOEXEC};
use super::namei;
use super::perm::{self, MAY_EXEC, MAY_READ, MAY_WRITE};
use super::regular::truncate;
use super::virt::Snapshot;
use super::walk::{AT_FDCWD, Last, Walker};
use super::{dentry::Dentry, device};
use crate::syscall::SysErr;
use crate::task::current;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;

/// Flags that an open file does not keep.
const DROPPED: u32 = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC;

/// open, openat. The descriptor is the caller's to make.
///
/// # Errors
/// As open(2).
pub fn open_at(dirfd: i32, text: Vec<u8>, flags: u32, mode: u32) -> Result<Arc<File>, SysErr> {
    crate::heap_room()?;
    let flags = if flags & O_PATH != 0 { flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW) } else { flags };
    if flags & O_TMPFILE != 0 {
        if flags & O_DIRECTORY == 0 || flags & O_ACCMODE == 0 || flags & O_CREAT != 0 {
            return Err(Errno::EINVAL.into());
        }
        return open_tmpfile(dirfd, text, flags, mode);
    }
    // Since Linux 6.4.
    if flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY {
        return Err(Errno::EINVAL.into());
    }
    let mut walker = Walker::new(dirfd, text)?;
    let mut created = false;
    let follow = flags & O_NOFOLLOW == 0 && flags & (O_CREAT | O_EXCL) != O_CREAT | O_EXCL;
    let path = loop {
        let tail = walker.walk_to_last()?;
        let (start, end) = match tail.last {
            Last::Here | Last::Dot => break walker.at.clone(),
            Last::DotDot => {
                walker.up();
                break walker.at.clone();
            }
            Last::Name(start, end) => (start, end),
        };
        match walker.look(start, end) {
            Ok(found) if found.inode().is_symlink() && (follow || tail.slash && flags & O_CREAT == 0) => {
                walker.follow(&found, tail.slash)?;
            }
            Ok(found) => {
                if flags & O_CREAT != 0 && flags & O_EXCL != 0 {
                    return Err(Errno::EEXIST.into());
                }
                if tail.slash && !found.inode().is_dir() {
                    return Err(if flags & O_CREAT != 0 { Errno::EISDIR } else { Errno::ENOTDIR }.into());
                }
                break found;
            }
            Err(Errno::ENOENT) if flags & O_CREAT != 0 => {
                if tail.slash {
                    return Err(Errno::EISDIR.into());
                }
                let name = walker.name(start, end).to_vec();
                let umask = current().process.fs().umask();
                let mode = S_IFREG | mode & 0o7777 & !umask;
                let kind = Kind::Regular(Regular::new_in(&walker.at.mount.sb));
                match namei::create(&walker.cred, &walker.at, &name, mode, kind) {
                    // Somebody else was faster.
                    Err(Errno::EEXIST) if flags & O_EXCL == 0 => {
                        let found = walker.look(start, end)?;
                        break found;
                    }
                    result => {
                        created = true;
                        break result?;
                    }
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    };
    open_found(path, flags, created)
}

fn open_tmpfile(dirfd: i32, text: Vec<u8>, flags: u32, mode: u32) -> Result<Arc<File>, SysErr> {
    let walker = Walker::new(dirfd, text)?;
    let cred = walker.cred.clone();
    let dir = walker.finish(true)?;
    if !dir.inode().is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    perm::writable(&dir)?;
    perm::check(&cred, dir.inode(), MAY_WRITE | MAY_EXEC)?;
    if dir.inode().dir().is_none() {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let umask = current().process.fs().umask();
    let new = namei::new_in(&cred, dir.inode(), S_IFREG | mode & 0o7777 & !umask);
    let sb = &dir.mount.sb;
    let ino = sb.next_ino();
    let inode = Inode::new(sb, ino, new, Kind::Regular(Regular::new_in(sb)));
    inode.add_links(-1);
    let mut name = super::text::Text::new();
    name.c(b'#').dec(ino);
    let dentry = Dentry::new(Some(dir.dentry.clone()), Name::Owned(name.into_bytes()), inode);
    dentry.set_unlinked();
    dentry.inode.get_write_access()?;
    Ok(File::new(Path { mount: dir.mount, dentry }, Ops::Regular, flags & !DROPPED | O_LARGEFILE))
}

/// Opens a file by its path, which has been found (or made just now: then its permissions do not matter).
fn open_found(path: Path, flags: u32, created: bool) -> Result<Arc<File>, SysErr> {
    let inode = path.inode().clone();
    let kind = inode.file_type();
    if flags & O_DIRECTORY != 0 && kind != S_IFDIR {
        return Err(if kind == S_IFLNK && flags & O_PATH == 0 { Errno::ELOOP } else { Errno::ENOTDIR }.into());
    }
    if flags & O_PATH != 0 {
        return Ok(File::new(path, Ops::Place, flags));
    }
    if kind == S_IFLNK {
        return Err(Errno::ELOOP.into());
    }
    let access = flags & O_ACCMODE;
    let mut want = match access {
        0 => MAY_READ,
        O_WRONLY => MAY_WRITE,
        _ => MAY_READ | MAY_WRITE,
    };
    if flags & O_TRUNC != 0 {
        want |= MAY_WRITE;
    }
    if kind == S_IFDIR && (want & MAY_WRITE != 0 || flags & O_CREAT != 0) {
        return Err(Errno::EISDIR.into());
    }
    if matches!(kind, S_IFCHR | S_IFBLK) && path.mount.has(MS_NODEV) {
        return Err(Errno::EACCES.into());
    }
    let cred = caller::creds();
    if !created {
        perm::check_path(&cred, &path, want)?;
    }
    if flags & O_NOATIME != 0 {
        perm::owner(&cred, &inode)?;
    }
    // Every open of a 64-bit kernel (`force_o_largefile`).
    let kept = flags & !DROPPED | O_LARGEFILE;
    let nonblock = flags & O_NONBLOCK != 0;
    match &inode.kind {
        Kind::Dir(_) => Ok(File::new(path, Ops::Dir, kept)),
        Kind::Regular(_) => {
            if access == O_WRONLY || access == O_RDWR {
                inode.get_write_access()?;
            }
            let file = File::new(path, Ops::Regular, kept);
            if flags & O_TRUNC != 0 && !created {
                truncate(&inode, 0)?;
            }
            Ok(file)
        }
        Kind::Device(_) if kind == S_IFBLK => Err(Errno::ENXIO.into()),
        Kind::Device(rdev) => {
            let (ops, instead) = device::open(*rdev, flags, flags & O_NOCTTY != 0)?;
            Ok(File::new(instead.unwrap_or(path), ops, kept))
        }
        Kind::Fifo(pipe) => {
            let (read, write) = (access != O_WRONLY, access != 0);
            if Arc::ptr_eq(&path.mount, &super::internal_mount()) {
                // A pipe without a name, through /proc/PID/fd: nobody is waited for (Linux fifo_open, `is_pipe`).
                pipe.open_again(read, write);
            } else {
                pipe.open_fifo(read, write, nonblock)?;
            }
            Ok(File::new(path, Ops::Pipe(pipe.clone()), kept))
        }
        Kind::Virtual(node) => {
            if path.mount.sb.fstype == "sysfs" {
                node.check_open(want & MAY_WRITE != 0)?;
            }
            Ok(File::new(path, Ops::Virtual(*node, Snapshot::new()), kept))
        }
        Kind::Socket(_) | Kind::Symlink(_) | Kind::Anonymous => Err(Errno::ENXIO.into()),
    }
}

/// Opens a program for execve: `path` from the caller's root or working directory.
///
/// # Errors
/// EACCES (no regular file, no execute permission, a mount with noexec), ETXTBSY, and what the walk says.
pub fn open_exec(path: &[u8]) -> Result<Arc<File>, Errno> {
    open_exec_at(AT_FDCWD, path, false, true)
}

/// Opens a program for execveat.
///
/// # Errors
/// As [`open_exec`]; ELOOP for a symbolic link that is not to be followed.
pub fn open_exec_at(dirfd: i32, path: &[u8], empty_ok: bool, follow: bool) -> Result<Arc<File>, Errno> {
    let found = super::walk::resolve(dirfd, path.to_vec(), follow, empty_ok)?;
    let inode = found.inode();
    if inode.is_symlink() {
        return Err(Errno::ELOOP);
    }
    if inode.file_type() != S_IFREG || found.mount.has(MS_NOEXEC) || inode.regular().is_none() {
        return Err(Errno::EACCES);
    }
    perm::check(&caller::creds(), inode, MAY_EXEC)?;
    File::new_exec(found)
}
