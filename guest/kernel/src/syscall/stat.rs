//! Attributes of files: stat, access, chmod, chown, times, truncate, statfs: argument decoding; the work is in `fs`.

use super::dir::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW};
use super::file::{file, files, path};
use super::{Args, SysErr, SysResult};
use crate::fs::caller::{self, CAP_CHOWN, CAP_FSETID};
use crate::fs::device::{major, minor};
use crate::fs::hugetlbfs::{self, HUGETLBFS_MAGIC};
use crate::fs::inode::{Inode, S_IFDIR, S_IFIFO, S_IFREG, S_IFSOCK, S_ISGID, now};
use crate::fs::perm::{self, MAY_WRITE};
use crate::fs::superblock::TMPFS_MAGIC;
use crate::fs::walk::{AT_FDCWD, resolve};
use crate::fs::{Path, default_limit, memfd, regular};
use crate::task::current;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{Pod, uaccess};
use ptshare_mm::hugetlb::HugeSize;
use ptshare_paging::PAGE_BYTES;

const CWD: i32 = AT_FDCWD;
const NS: i64 = 1_000_000_000;

/// The size of the pages that a file is made of.
fn block_bytes(inode: &Inode) -> u64 {
    let own = inode.regular().and_then(|regular| regular.hugetlb);
    let size = own.or_else(|| inode.sb.huge.as_ref().map(|huge| huge.size));
    size.map_or(PAGE_BYTES, HugeSize::bytes)
}

fn write_stat(inode: &Inode, va: u64) -> SysResult {
    let mut out = abi::stat::zeroed();
    let [atime, mtime, ctime, _] = inode.times();
    out.st_dev = inode.sb.dev;
    out.st_ino = inode.ino;
    out.st_nlink = u64::from(inode.nlink());
    out.st_mode = inode.mode();
    out.st_uid = inode.uid();
    out.st_gid = inode.gid();
    out.st_rdev = inode.rdev();
    out.st_size = inode.size() as i64;
    out.st_blksize = block_bytes(inode) as i64;
    out.st_blocks = inode.blocks() as i64;
    out.st_atime = atime.div_euclid(NS) as u64;
    out.st_atime_nsec = atime.rem_euclid(NS) as u64;
    out.st_mtime = mtime.div_euclid(NS) as u64;
    out.st_mtime_nsec = mtime.rem_euclid(NS) as u64;
    out.st_ctime = ctime.div_euclid(NS) as u64;
    out.st_ctime_nsec = ctime.rem_euclid(NS) as u64;
    uaccess::write(va, &out)?;
    Ok(0)
}

/// stat(2).
pub fn stat(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_stat(resolve(CWD, path(a[0])?, true, false)?.inode(), a[1])
}

/// lstat(2).
pub fn lstat(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_stat(resolve(CWD, path(a[0])?, false, false)?.inode(), a[1])
}

/// fstat(2).
pub fn fstat(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_stat(files().get(a[0] as i32)?.inode(), a[1])
}

const AT_NO_AUTOMOUNT: u64 = 0x800;
const AT_STATX_SYNC_TYPE: u64 = 0x6000;

/// The place that a descriptor, a path and `AT_*` flags name. A null path with AT_EMPTY_PATH counts as empty.
fn place(dirfd: u64, name: u64, flags: u64) -> Result<Path, SysErr> {
    let empty_ok = flags & AT_EMPTY_PATH != 0;
    let text = if name == 0 && empty_ok { alloc::vec::Vec::new() } else { path(name)? };
    Ok(resolve(dirfd as i32, text, flags & AT_SYMLINK_NOFOLLOW == 0, empty_ok)?)
}

/// newfstatat(2).
pub fn newfstatat(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[3] & 0xffff_ffff;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE) != 0 {
        return Err(Errno::EINVAL.into());
    }
    write_stat(place(a[0], a[1], flags)?.inode(), a[2])
}

/// statx(2).
pub fn statx(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[2] & 0xffff_ffff;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE) != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE
        || a[3] & u64::from(abi::STATX__RESERVED) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    let place = place(a[0], a[1], flags)?;
    let inode = place.inode();
    let time = |ns: i64| {
        let mut out = abi::statx::zeroed().stx_atime;
        out.tv_sec = ns.div_euclid(NS);
        out.tv_nsec = ns.rem_euclid(NS) as u32;
        out
    };
    let [atime, mtime, ctime, btime] = inode.times();
    let mut out = abi::statx::zeroed();
    out.stx_mask = abi::STATX_BASIC_STATS | abi::STATX_BTIME | abi::STATX_MNT_ID;
    out.stx_blksize = block_bytes(inode) as u32;
    out.stx_nlink = inode.nlink();
    out.stx_uid = inode.uid();
    out.stx_gid = inode.gid();
    out.stx_mode = inode.mode() as u16;
    out.stx_ino = inode.ino;
    out.stx_size = inode.size();
    out.stx_blocks = inode.blocks();
    out.stx_attributes_mask = u64::from(abi::STATX_ATTR_MOUNT_ROOT);
    if Arc::ptr_eq(&place.dentry, &place.mount.root) {
        out.stx_attributes = u64::from(abi::STATX_ATTR_MOUNT_ROOT);
    }
    (out.stx_atime, out.stx_mtime, out.stx_ctime, out.stx_btime) =
        (time(atime), time(mtime), time(ctime), time(btime));
    (out.stx_rdev_major, out.stx_rdev_minor) = (major(inode.rdev()) as u32, minor(inode.rdev()) as u32);
    (out.stx_dev_major, out.stx_dev_minor) = (major(inode.sb.dev) as u32, minor(inode.sb.dev) as u32);
    out.stx_mnt_id = u64::from(place.mount.id);
    uaccess::write(a[4], &out)?;
    Ok(0)
}

/// statfs of what has no name in any mounted file system: Linux keeps each kind on an internal mount of its own type
/// (include/uapi/linux/magic.h).
fn write_statfs_nameless(place: &Path, va: u64) -> SysResult {
    const PIPEFS_MAGIC: u64 = 0x5049_5045;
    const SOCKFS_MAGIC: u64 = 0x534f_434b;
    let inode = place.inode();
    let huge = inode.regular().and_then(|regular| regular.hugetlb);
    let magic = match inode.file_type() {
        _ if huge.is_some() => HUGETLBFS_MAGIC,
        S_IFREG if inode.regular().is_some() => TMPFS_MAGIC,
        S_IFIFO => PIPEFS_MAGIC,
        S_IFSOCK => SOCKFS_MAGIC,
        _ => place.mount.sb.magic,
    };
    let block = huge.map_or(4096, |size| size.bytes());
    let mut out = abi::statfs64::zeroed();
    out.f_type = magic as i64;
    (out.f_bsize, out.f_frsize) = (block as _, block as _);
    out.f_namelen = 255;
    out.f_fsid.val = [place.mount.sb.dev as i32, 0];
    out.f_flags = 0x20;
    uaccess::write(va, &out)?;
    Ok(0)
}

fn write_statfs(place: &Path, va: u64) -> SysResult {
    if Arc::ptr_eq(&place.mount, &crate::fs::internal_mount()) {
        return write_statfs_nameless(place, va);
    }
    let sb = &place.mount.sb;
    let mut out = abi::statfs64::zeroed();
    out.f_type = sb.magic as i64;
    out.f_bsize = 4096;
    out.f_frsize = 4096;
    out.f_namelen = 255;
    out.f_fsid.val = [sb.dev as i32, 0];
    // ST_VALID, and ST_RDONLY, NOSUID, NODEV, NOEXEC, which have the numbers of the mount flags; ST_RELATIME.
    out.f_flags = 0x20 | 0x1000 | (place.mount.flags() & 0xf) as i64;
    if sb.magic == TMPFS_MAGIC {
        let limit = sb.limit_pages.load(Relaxed);
        let blocks = if limit == u64::MAX { default_limit() } else { limit };
        let free = blocks.saturating_sub(sb.used_pages.load(Relaxed));
        out.f_blocks = blocks;
        out.f_bfree = free;
        out.f_bavail = free;
        out.f_files = blocks;
        out.f_ffree = blocks.saturating_sub(sb.inodes.load(Relaxed));
    }
    if sb.magic == HUGETLBFS_MAGIC {
        let [blocks, free, files, left] = hugetlbfs::statfs(sb);
        let block = sb.huge.as_ref().map_or(0, |huge| huge.size.bytes());
        (out.f_bsize, out.f_frsize) = (block as _, block as _);
        (out.f_blocks, out.f_bfree, out.f_bavail) = (blocks, free, free);
        (out.f_files, out.f_ffree) = (files, left);
    }
    uaccess::write(va, &out)?;
    Ok(0)
}

/// statfs(2).
pub fn statfs(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_statfs(&resolve(CWD, path(a[0])?, true, false)?, a[1])
}

/// fstatfs(2).
pub fn fstatfs(a: &Args, _: &mut TrapFrame) -> SysResult {
    write_statfs(&files().get(a[0] as i32)?.path, a[1])
}

fn check_access(dirfd: u64, name: u64, mode: u64, flags: u64) -> SysResult {
    const AT_EACCESS: u64 = 0x200;
    if mode & !7 != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut cred = (*caller::creds()).clone();
    if flags & AT_EACCESS == 0 {
        // The real ids decide; capabilities count only when the real user is root (Linux access_override_creds).
        cred.fsuid = cred.uid;
        cred.fsgid = cred.gid;
        cred.cap_effective = if cred.uid == 0 { cred.cap_permitted } else { 0 };
    }
    let place = place(dirfd, name, flags)?;
    if mode != 0 {
        perm::check_path(&cred, &place, mode as u32)?;
    }
    Ok(0)
}

/// access(2).
pub fn access(a: &Args, _: &mut TrapFrame) -> SysResult {
    check_access(CWD as u64, a[0], a[1] & 0xffff_ffff, 0)
}

/// faccessat(2).
pub fn faccessat(a: &Args, _: &mut TrapFrame) -> SysResult {
    check_access(a[0], a[1], a[2] & 0xffff_ffff, 0)
}

/// faccessat2(2).
pub fn faccessat2(a: &Args, _: &mut TrapFrame) -> SysResult {
    check_access(a[0], a[1], a[2] & 0xffff_ffff, a[3] & 0xffff_ffff)
}

fn change_mode(place: &Path, mode: u64) -> SysResult {
    perm::writable(place)?;
    let cred = caller::creds();
    let inode = place.inode();
    perm::owner(&cred, inode)?;
    if inode.is_symlink() {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if memfd::is_exec_sealed(inode) && (inode.mode() ^ mode as u32) & 0o111 != 0 {
        return Err(Errno::EPERM.into());
    }
    let mut bits = mode as u32 & 0o7777;
    if inode.file_type() == S_IFREG && !cred.in_group(inode.gid()) && !cred.capable(CAP_FSETID) {
        bits &= !S_ISGID;
    }
    inode.set_permissions(bits);
    Ok(0)
}

/// chmod(2).
pub fn chmod(a: &Args, _: &mut TrapFrame) -> SysResult {
    change_mode(&resolve(CWD, path(a[0])?, true, false)?, a[1])
}

/// fchmod(2).
pub fn fchmod(a: &Args, _: &mut TrapFrame) -> SysResult {
    change_mode(&file(a[0])?.path, a[1])
}

/// fchmodat(2).
pub fn fchmodat(a: &Args, _: &mut TrapFrame) -> SysResult {
    change_mode(&resolve(a[0] as i32, path(a[1])?, true, false)?, a[2])
}

/// fchmodat2(2).
pub fn fchmodat2(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[3] & 0xffff_ffff;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    change_mode(&place(a[0], a[1], flags)?, a[2])
}

fn change_owner(place: &Path, uid: u64, gid: u64) -> SysResult {
    perm::writable(place)?;
    let cred = caller::creds();
    let inode = place.inode();
    let (uid, gid) = (uid as u32, gid as u32);
    let new_uid = if uid == u32::MAX { inode.uid() } else { uid };
    let new_gid = if gid == u32::MAX { inode.gid() } else { gid };
    let owns = cred.fsuid == inode.uid();
    let uid_ok = uid == u32::MAX || owns && new_uid == inode.uid();
    let gid_ok = gid == u32::MAX || owns && (new_gid == inode.gid() || cred.in_group(new_gid));
    let allowed = uid_ok && gid_ok || cred.capable(CAP_CHOWN);
    if !allowed {
        return Err(Errno::EPERM.into());
    }
    if !inode.is_dir() {
        inode.drop_privilege_bits();
    }
    inode.set_owner(new_uid, new_gid);
    Ok(0)
}

/// chown(2).
pub fn chown(a: &Args, _: &mut TrapFrame) -> SysResult {
    change_owner(&resolve(CWD, path(a[0])?, true, false)?, a[1], a[2])
}

/// lchown(2).
pub fn lchown(a: &Args, _: &mut TrapFrame) -> SysResult {
    change_owner(&resolve(CWD, path(a[0])?, false, false)?, a[1], a[2])
}

/// fchown(2).
pub fn fchown(a: &Args, _: &mut TrapFrame) -> SysResult {
    change_owner(&file(a[0])?.path, a[1], a[2])
}

/// fchownat(2).
pub fn fchownat(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[4] & 0xffff_ffff;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    change_owner(&place(a[0], a[1], flags)?, a[2], a[3])
}

/// umask(2).
pub fn umask(a: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.fs().set_umask(a[0] as u32)))
}

/// Sets times; `None`: both to now, for which write permission is enough.
fn change_times(place: &Path, times: Option<[Option<i64>; 2]>) -> SysResult {
    perm::writable(place)?;
    let cred = caller::creds();
    let inode = place.inode();
    match times {
        None => {
            if perm::owner(&cred, inode).is_err() {
                perm::check(&cred, inode, MAY_WRITE)?;
            }
            let now = now();
            inode.set_times(Some(now), Some(now));
        }
        Some([None, None]) => {}
        Some([atime, mtime]) => {
            perm::owner(&cred, inode)?;
            inode.set_times(atime, mtime);
        }
    }
    Ok(0)
}

/// utimensat(2).
pub fn utimensat(a: &Args, _: &mut TrapFrame) -> SysResult {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let flags = a[3] & 0xffff_ffff;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut times = None;
    if a[2] != 0 {
        let [as_, an, ms, mn] = uaccess::read::<[i64; 4]>(a[2])?;
        let now = now();
        let one = |s: i64, ns: i64| match ns {
            UTIME_NOW => Ok(Some(now)),
            UTIME_OMIT => Ok(None),
            0..NS => Ok(Some(s.saturating_mul(NS).saturating_add(ns))),
            _ => Err(Errno::EINVAL),
        };
        times = Some([one(as_, an)?, one(ms, mn)?]);
        if an == UTIME_NOW && mn == UTIME_NOW {
            times = None;
        }
    }
    let place = if a[1] == 0 {
        if flags & AT_SYMLINK_NOFOLLOW != 0 {
            return Err(Errno::EINVAL.into());
        }
        file(a[0])?.path.clone()
    } else {
        place(a[0], a[1], flags)?
    };
    change_times(&place, times)
}

/// Two (seconds, microseconds) pairs.
fn micro_times(va: u64) -> Result<Option<[Option<i64>; 2]>, SysErr> {
    if va == 0 {
        return Ok(None);
    }
    let [as_, au, ms, mu] = uaccess::read::<[i64; 4]>(va)?;
    if !(0..1_000_000).contains(&au) || !(0..1_000_000).contains(&mu) {
        return Err(Errno::EINVAL.into());
    }
    let ns = |s: i64, us: i64| Some(s.saturating_mul(NS).saturating_add(us * 1000));
    Ok(Some([ns(as_, au), ns(ms, mu)]))
}

/// utimes(2).
pub fn utimes(a: &Args, _: &mut TrapFrame) -> SysResult {
    let times = micro_times(a[1])?;
    change_times(&resolve(CWD, path(a[0])?, true, false)?, times)
}

/// futimesat(2).
pub fn futimesat(a: &Args, _: &mut TrapFrame) -> SysResult {
    let times = micro_times(a[2])?;
    let place = if a[1] == 0 { file(a[0])?.path.clone() } else { place(a[0], a[1], 0)? };
    change_times(&place, times)
}

/// utime(2).
pub fn utime(a: &Args, _: &mut TrapFrame) -> SysResult {
    let mut times = None;
    if a[1] != 0 {
        let [atime, mtime] = uaccess::read::<[i64; 2]>(a[1])?;
        times = Some([Some(atime.saturating_mul(NS)), Some(mtime.saturating_mul(NS))]);
    }
    change_times(&resolve(CWD, path(a[0])?, true, false)?, times)
}

/// truncate(2).
pub fn truncate(a: &Args, _: &mut TrapFrame) -> SysResult {
    if (a[1] as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let place = resolve(CWD, path(a[0])?, true, false)?;
    let inode = place.inode();
    match inode.file_type() {
        S_IFDIR => return Err(Errno::EISDIR.into()),
        S_IFREG => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    perm::check_path(&caller::creds(), &place, MAY_WRITE)?;
    inode.get_write_access()?;
    let result = regular::truncate(inode, a[1]);
    inode.put_write_access();
    result?;
    Ok(0)
}

/// ftruncate(2).
pub fn ftruncate(a: &Args, _: &mut TrapFrame) -> SysResult {
    if (a[1] as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = file(a[0])?;
    if !file.writable() || file.inode().regular().is_none() {
        return Err(Errno::EINVAL.into());
    }
    file.truncate(a[1])?;
    Ok(0)
}
