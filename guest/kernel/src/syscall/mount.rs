//! mount(2) and umount2(2): argument decoding; the work is in `fs`.

use super::file::path;
use super::{Args, SysErr, SysResult};
use crate::fs::caller::{self, CAP_SYS_ADMIN};
use crate::fs::mount::{self, MS_KEPT, MS_RDONLY, Mount};
use crate::fs::walk::{AT_FDCWD, resolve};
use crate::fs::{Path, default_limit, new_mount};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;

const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_PROPAGATION: u64 = (1 << 17) | (1 << 18) | (1 << 19) | (1 << 20);
const MS_MGC_VAL: u64 = 0xc0ed_0000;
const MS_MGC_MSK: u64 = 0xffff_0000;

/// A string argument that may be absent.
fn text(va: u64) -> Result<Vec<u8>, SysErr> {
    if va == 0 { Ok(Vec::new()) } else { path(va) }
}

/// A size with a unit (`k`, `m`, `g`, `%` of RAM) in pages.
fn pages(value: &[u8]) -> Option<u64> {
    let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
    let n = crate::fs::virt::number(value.get(..digits)?)?;
    let bytes = match value.get(digits..)? {
        b"" => n,
        b"k" | b"K" => n.checked_mul(1 << 10)?,
        b"m" | b"M" => n.checked_mul(1 << 20)?,
        b"g" | b"G" => n.checked_mul(1 << 30)?,
        b"%" => return Some(default_limit().checked_mul(2)?.checked_mul(n)? / 100),
        _ => return None,
    };
    Some(bytes.div_ceil(4096))
}

/// Applies tmpfs's options: size, nr_blocks, mode, uid, gid; the others that Linux knows are taken and have no effect.
fn tmpfs_options(made: &Arc<Mount>, data: &[u8]) -> Result<(), Errno> {
    let root = &made.root.inode;
    for option in data.split(|b| *b == b',').filter(|o| !o.is_empty()) {
        let mut halves = option.splitn(2, |b| *b == b'=');
        let name = halves.next().unwrap_or(b"");
        let value = halves.next().unwrap_or(b"");
        let decimal = || crate::fs::virt::number(value).ok_or(Errno::EINVAL);
        match name {
            b"size" => {
                let limit = pages(value).ok_or(Errno::EINVAL)?;
                made.sb.limit_pages.store(if limit == 0 { u64::MAX } else { limit }, Relaxed);
            }
            b"nr_blocks" => {
                let limit = decimal()?;
                made.sb.limit_pages.store(if limit == 0 { u64::MAX } else { limit }, Relaxed);
            }
            b"mode" => {
                let mode = value.iter().try_fold(0u32, |n, b| match b {
                    b'0'..=b'7' => n.checked_mul(8).map(|n| n + u32::from(b - b'0')),
                    _ => None,
                });
                root.set_permissions(mode.filter(|m| *m <= 0o7777).ok_or(Errno::EINVAL)?);
            }
            b"uid" => root.set_owner(decimal()? as u32, root.gid()),
            b"gid" => root.set_owner(root.uid(), decimal()? as u32),
            b"nr_inodes" | b"huge" | b"mpol" | b"inode32" | b"inode64" | b"noswap" => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(())
}

fn bind(source: Vec<u8>, on: Path, flags: u64) -> Result<(), Errno> {
    let from = resolve(AT_FDCWD, source, true, false)?;
    if from.inode().is_dir() != on.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let name = from.mount.source.clone();
    let made = Mount::new(from.mount.sb.clone(), from.dentry.clone(), &name, from.mount.flags() | flags);
    mount::attach(made, Some(on))
}

/// mount(2): tmpfs, ramfs, proc, sysfs, devtmpfs, devpts, bind mounts, and remounts.
pub fn mount(a: &Args, _: &mut TrapFrame) -> SysResult {
    let fstype = text(a[2])?;
    let source = text(a[0])?;
    let data = if a[4] == 0 { Vec::new() } else { text(a[4]).unwrap_or_default() };
    let target = path(a[1])?;
    let mut flags = a[3];
    if flags & MS_MGC_MSK == MS_MGC_VAL {
        flags &= !MS_MGC_MSK;
    }
    let on = resolve(AT_FDCWD, target, true, false)?;
    caller::need(CAP_SYS_ADMIN)?;
    crate::heap_room()?;
    if flags & MS_REMOUNT != 0 {
        if !Arc::ptr_eq(&on.dentry, &on.mount.root) {
            return Err(Errno::EINVAL.into());
        }
        on.mount.set_flags(flags & MS_KEPT);
        if flags & MS_BIND == 0 {
            on.mount.sb.read_only.store(flags & MS_RDONLY != 0, Relaxed);
            if on.mount.sb.fstype == "tmpfs" {
                tmpfs_options(&on.mount, &data)?;
            }
        }
        return Ok(0);
    }
    if flags & MS_BIND != 0 {
        bind(source, on, flags & MS_KEPT)?;
        return Ok(0);
    }
    if flags & MS_PROPAGATION != 0 {
        // Nothing here propagates; there is one mount namespace.
        return if Arc::ptr_eq(&on.dentry, &on.mount.root) { Ok(0) } else { Err(Errno::EINVAL.into()) };
    }
    if flags & MS_MOVE != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !on.inode().is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    if a[2] == 0 {
        return Err(Errno::EINVAL.into());
    }
    if matches!(&*fstype, b"ext2" | b"ext3" | b"ext4" | b"vfat" | b"iso9660" | b"squashfs") {
        return Err(Errno::ENODEV.into());
    }
    let made = new_mount(&fstype, if a[0] == 0 { b"none" } else { &source }, flags, &data)?;
    made.sb.read_only.store(flags & MS_RDONLY != 0, Relaxed);
    if fstype == b"tmpfs" {
        made.sb.limit_pages.store(default_limit(), Relaxed);
        tmpfs_options(&made, &data)?;
    }
    mount::attach(made, Some(on))?;
    Ok(0)
}

/// umount2(2).
pub fn umount2(a: &Args, _: &mut TrapFrame) -> SysResult {
    const FORCE: u64 = 1;
    const DETACH: u64 = 2;
    const EXPIRE: u64 = 4;
    const NOFOLLOW: u64 = 8;
    let flags = a[1];
    if flags & !(FORCE | DETACH | EXPIRE | NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let target = path(a[0])?;
    caller::need(CAP_SYS_ADMIN)?;
    let place = resolve(AT_FDCWD, target, flags & NOFOLLOW == 0, false)?;
    if flags & EXPIRE != 0 {
        return Err(if flags & (FORCE | DETACH) != 0 { Errno::EINVAL } else { Errno::EAGAIN }.into());
    }
    mount::detach(place, flags & DETACH != 0)?;
    Ok(0)
}
