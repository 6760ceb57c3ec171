//! Names and directories: argument decoding; the work is in `fs`.

use super::file::{file, path};
use super::{Args, SysErr, SysResult};
use crate::fs::caller::{self, CAP_SYS_CHROOT};
use crate::fs::file::{File, Ops};
use crate::fs::inode::{Kind, S_IFMT};
use crate::fs::perm::{self, MAY_EXEC};
use crate::fs::virt::FIRST_COOKIE;
use crate::fs::walk::{AT_FDCWD, Walker, resolve};
use crate::fs::{Path, namei};
use crate::task::current;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;

pub(super) const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_REMOVEDIR: u64 = 0x200;
const AT_SYMLINK_FOLLOW: u64 = 0x400;
pub(super) const AT_EMPTY_PATH: u64 = 0x1000;

fn walker(dirfd: u64, name: u64) -> Result<Walker, SysErr> {
    Ok(Walker::new(dirfd as i32, path(name)?)?)
}

const CWD: u64 = AT_FDCWD as u64;

fn done(result: Result<(), Errno>) -> SysResult {
    result?;
    Ok(0)
}

fn mode_less_umask(mode: u64) -> u32 {
    mode as u32 & !current().process.fs().umask()
}

/// mkdir(2).
pub fn mkdir(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(namei::mkdir(walker(CWD, a[0])?, mode_less_umask(a[1])))
}

/// mkdirat(2).
pub fn mkdirat(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(namei::mkdir(walker(a[0], a[1])?, mode_less_umask(a[2])))
}

/// mknod(2).
pub fn mknod(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(namei::mknod(walker(CWD, a[0])?, mode_less_umask(a[1]), a[2]))
}

/// mknodat(2).
pub fn mknodat(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(namei::mknod(walker(a[0], a[1])?, mode_less_umask(a[2]), a[3]))
}

/// rmdir(2).
pub fn rmdir(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(namei::remove(walker(CWD, a[0])?, true))
}

/// unlink(2).
pub fn unlink(a: &Args, _: &mut TrapFrame) -> SysResult {
    done(namei::remove(walker(CWD, a[0])?, false))
}

/// unlinkat(2).
pub fn unlinkat(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[2] & !AT_REMOVEDIR & 0xffff_ffff != 0 {
        return Err(Errno::EINVAL.into());
    }
    done(namei::remove(walker(a[0], a[1])?, a[2] & AT_REMOVEDIR != 0))
}

fn renamed(old_dir: u64, old: u64, new_dir: u64, new: u64, flags: u64) -> SysResult {
    let flags = flags & 0xffff_ffff;
    let both = namei::RENAME_NOREPLACE | namei::RENAME_EXCHANGE;
    if flags & !both != 0 || flags == both {
        return Err(Errno::EINVAL.into());
    }
    done(namei::rename(walker(old_dir, old)?, walker(new_dir, new)?, flags))
}

/// rename(2).
pub fn rename(a: &Args, _: &mut TrapFrame) -> SysResult {
    renamed(CWD, a[0], CWD, a[1], 0)
}

/// renameat(2).
pub fn renameat(a: &Args, _: &mut TrapFrame) -> SysResult {
    renamed(a[0], a[1], a[2], a[3], 0)
}

/// renameat2(2).
pub fn renameat2(a: &Args, _: &mut TrapFrame) -> SysResult {
    renamed(a[0], a[1], a[2], a[3], a[4])
}

fn linked(old_dir: u64, old: u64, new_dir: u64, new: u64, flags: u64) -> SysResult {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let text = path(old)?;
    let by_descriptor = text.is_empty() || text.starts_with(b"/proc/");
    let found = resolve(old_dir as i32, text, flags & AT_SYMLINK_FOLLOW != 0, flags & AT_EMPTY_PATH != 0)?;
    let tmpfile = by_descriptor && found.dentry.with_name(|name| name.first() == Some(&b'#'));
    done(namei::link(&found, walker(new_dir, new)?, tmpfile))
}

/// link(2).
pub fn link(a: &Args, _: &mut TrapFrame) -> SysResult {
    linked(CWD, a[0], CWD, a[1], 0)
}

/// linkat(2).
pub fn linkat(a: &Args, _: &mut TrapFrame) -> SysResult {
    linked(a[0], a[1], a[2], a[3], a[4] & 0xffff_ffff)
}

/// symlink(2).
pub fn symlink(a: &Args, _: &mut TrapFrame) -> SysResult {
    let target = path(a[0])?;
    done(namei::symlink(walker(CWD, a[1])?, target))
}

/// symlinkat(2).
pub fn symlinkat(a: &Args, _: &mut TrapFrame) -> SysResult {
    let target = path(a[0])?;
    done(namei::symlink(walker(a[1], a[2])?, target))
}

fn read_link(dirfd: u64, name: u64, buf: u64, size: u64) -> SysResult {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let text = path(name)?;
    let empty = text.is_empty();
    let link = resolve(dirfd as i32, text, false, empty && dirfd as i32 != AT_FDCWD)?;
    let target = match &link.inode().kind {
        Kind::Symlink(target) => target.to_vec(),
        Kind::Virtual(node) => node.link_text()?,
        _ => return Err(if empty { Errno::ENOENT } else { Errno::EINVAL }.into()),
    };
    let len = target.len().min(size as u32 as usize);
    uaccess::copy_out(buf, target.get(..len).unwrap_or(&[]))?;
    Ok(len as u64)
}

/// readlink(2).
pub fn readlink(a: &Args, _: &mut TrapFrame) -> SysResult {
    read_link(CWD, a[0], a[1], a[2])
}

/// readlinkat(2).
pub fn readlinkat(a: &Args, _: &mut TrapFrame) -> SysResult {
    read_link(a[0], a[1], a[2], a[3])
}

/// getcwd(2).
pub fn getcwd(a: &Args, _: &mut TrapFrame) -> SysResult {
    let fs = current().process.fs();
    let cwd = fs.cwd();
    if cwd.dentry.is_unlinked() {
        return Err(Errno::ENOENT.into());
    }
    let (mut text, under) = cwd.text(&fs.root());
    if !under {
        let mut marked = b"(unreachable)".to_vec();
        marked.append(&mut text);
        text = marked;
    }
    text.push(0);
    if text.len() as u64 > a[1] {
        return Err(Errno::ERANGE.into());
    }
    uaccess::copy_out(a[0], &text)?;
    Ok(text.len() as u64)
}

/// A directory that the caller may enter.
fn enterable(place: &Path) -> Result<(), Errno> {
    if !place.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    perm::check(&caller::creds(), place.inode(), MAY_EXEC)
}

/// chdir(2).
pub fn chdir(a: &Args, _: &mut TrapFrame) -> SysResult {
    let place = resolve(AT_FDCWD, path(a[0])?, true, false)?;
    enterable(&place)?;
    current().process.fs().set_cwd(place);
    Ok(0)
}

/// fchdir(2).
pub fn fchdir(a: &Args, _: &mut TrapFrame) -> SysResult {
    let place = super::file::files().get(a[0] as i32)?.path.clone();
    enterable(&place)?;
    current().process.fs().set_cwd(place);
    Ok(0)
}

/// chroot(2).
pub fn chroot(a: &Args, _: &mut TrapFrame) -> SysResult {
    let place = resolve(AT_FDCWD, path(a[0])?, true, false)?;
    enterable(&place)?;
    caller::need(CAP_SYS_CHROOT)?;
    current().process.fs().set_root(place);
    Ok(0)
}

/// One entry of a listing.
struct Entry {
    next: u64,
    ino: u64,
    file_type: u32,
    name: Vec<u8>,
}

/// The entry of a directory at a position or after it.
fn entry_at(file: &File, pos: u64) -> Option<Entry> {
    let inode = file.inode();
    if pos == 0 {
        return Some(Entry { next: 1, ino: inode.ino, file_type: 0o040_000, name: b".".to_vec() });
    }
    if pos == 1 {
        let up = file.path.up().map_or(inode.ino, |up| up.inode().ino);
        return Some(Entry { next: FIRST_COOKIE, ino: up, file_type: 0o040_000, name: b"..".to_vec() });
    }
    match &inode.kind {
        Kind::Dir(dir) => {
            let dir = dir.lock();
            let (cookie, dentry) = dir.entries.at_or_after(pos)?;
            let (ino, file_type) = (dentry.inode.ino, dentry.inode.mode() & S_IFMT);
            Some(Entry { next: cookie + 1, ino, file_type, name: dentry.with_name(|name| name.to_vec()) })
        }
        Kind::Virtual(node) => {
            let listed = node.list(pos)?;
            Some(Entry { next: listed.next, ino: listed.ino, file_type: listed.file_type, name: listed.name })
        }
        _ => None,
    }
}

/// Lists a directory into user memory. `old`: the records of getdents(2).
fn list(a: &Args, old: bool) -> SysResult {
    let file = file(a[0])?;
    let is_listing =
        matches!(file.ops, Ops::Dir) || matches!(file.ops, Ops::Virtual(..)) && file.inode().is_dir();
    if !is_listing {
        return Err(Errno::ENOTDIR.into());
    }
    if file.dentry_gone() {
        return Err(Errno::ENOENT.into());
    }
    let size = a[2] & 0xffff_ffff;
    let mut pos = file.position();
    // Records are gathered in the kernel and copied in pieces.
    let mut batch: Vec<u8> = Vec::new();
    batch.try_reserve(1024).map_err(|_| Errno::ENOMEM)?;
    let mut done = 0u64;
    while let Some(entry) = entry_at(&file, pos) {
        let head = if old { 18 } else { 19 };
        // Name, NUL, and in the old records the type as last byte; to a multiple of 8.
        let len = (head + entry.name.len() + 1 + usize::from(old)).next_multiple_of(8);
        if done + (batch.len() + len) as u64 > size {
            if done == 0 && batch.is_empty() {
                return Err(Errno::EINVAL.into());
            }
            break;
        }
        let kind = (entry.file_type >> 12) as u8;
        let end = batch.len() + len;
        batch.extend_from_slice(&entry.ino.to_le_bytes());
        batch.extend_from_slice(&entry.next.to_le_bytes());
        batch.extend_from_slice(&(len as u16).to_le_bytes());
        if !old {
            batch.push(kind);
        }
        batch.extend_from_slice(&entry.name);
        batch.resize(end, 0);
        if let (true, Some(last)) = (old, batch.last_mut()) {
            *last = kind;
        }
        pos = entry.next;
        if batch.len() >= 960 {
            uaccess::copy_out(a[1].wrapping_add(done), &batch)?;
            done += batch.len() as u64;
            batch.clear();
            file.set_position(pos);
        }
    }
    uaccess::copy_out(a[1].wrapping_add(done), &batch)?;
    done += batch.len() as u64;
    file.set_position(pos);
    file.inode().touch_atime();
    Ok(done)
}

/// getdents(2).
pub fn getdents(a: &Args, _: &mut TrapFrame) -> SysResult {
    list(a, true)
}

/// getdents64(2).
pub fn getdents64(a: &Args, _: &mut TrapFrame) -> SysResult {
    list(a, false)
}
