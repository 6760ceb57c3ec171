//! hugetlbfs (fs/hugetlbfs/inode.c): a tree in memory like tmpfs, whose regular files are made of huge pages. They are
//! sized by truncate or by a writable mapping, mapped, read, allocated and punched, and never written.

use super::Mount;
use super::dentry::{Dentry, Name};
use super::inode::{Inode, NewInode, S_IFDIR, now};
use super::superblock::SuperBlock;
use crate::fs::virt::number;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::hugetlb::{self, HUGE_BYTES, HUGE_SHIFT, Quota};

/// `f_type` (include/uapi/linux/magic.h).
pub const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// An empty file system with the options of mount(2).
///
/// # Errors
/// EINVAL for an option that hugetlbfs does not know, or a page size that there is not.
pub fn new(source: &[u8], flags: u64, options: &[u8]) -> Result<Arc<Mount>, Errno> {
    let quota = Arc::new(Quota::new());
    let sb = SuperBlock::with_quota("hugetlbfs", HUGETLBFS_MAGIC, Some(quota.clone()));
    let new = NewInode { mode: S_IFDIR | 0o755, uid: 0, gid: 0, time_ns: now() };
    let root =
        Dentry::new(None, Name::Borrowed(b"/"), Inode::new(&sb, sb.next_ino(), new, Inode::empty_dir()));
    let mount = Mount::new(sb, root, source, flags);
    for option in options.split(|b| *b == b',').filter(|o| !o.is_empty()) {
        let mut halves = option.splitn(2, |b| *b == b'=');
        let name = halves.next().unwrap_or(b"");
        apply(&mount, &quota, name, halves.next().unwrap_or(b""))?;
    }
    Ok(mount)
}

fn apply(mount: &Mount, quota: &Quota, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let root = &mount.root.inode;
    let id = || number(value).and_then(|n| u32::try_from(n).ok()).ok_or(Errno::EINVAL);
    match name {
        b"size" => {
            let pages = match value.strip_suffix(b"%") {
                // Of the pool.
                Some(part) => {
                    let [total, ..] = hugetlb::counts(&Machine);
                    number(part).and_then(|n| n.checked_mul(total)).ok_or(Errno::EINVAL)? / 100
                }
                None => bytes(value)? >> HUGE_SHIFT,
            };
            quota.max.store(pages, Relaxed);
        }
        b"min_size" => {
            bytes(value)?;
        }
        b"pagesize" if bytes(value)? == HUGE_BYTES => {}
        b"nr_inodes" => mount.sb.limit_inodes.store(bytes(value)?, Relaxed),
        b"mode" => {
            let octal = |n: u32, b: &u8| match b {
                b'0'..=b'7' => n.checked_mul(8).map(|n| n + u32::from(b - b'0')),
                _ => None,
            };
            let mode = value.iter().try_fold(0, octal).filter(|_| !value.is_empty()).ok_or(Errno::EINVAL)?;
            root.set_permissions(mode & 0o1777);
        }
        b"uid" => root.set_owner(id()?, root.gid()),
        b"gid" => root.set_owner(root.uid(), id()?),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// A number with a unit, as `memparse` reads it.
fn bytes(value: &[u8]) -> Result<u64, Errno> {
    let (digits, shift) = match value.split_last() {
        Some((b'k' | b'K', digits)) => (digits, 10),
        Some((b'm' | b'M', digits)) => (digits, 20),
        Some((b'g' | b'G', digits)) => (digits, 30),
        _ => (value, 0),
    };
    number(digits).and_then(|n| n.checked_mul(1 << shift)).ok_or(Errno::EINVAL)
}

/// Total and free blocks of 2 MiB, files and free files, for statfs: all zero where there is no limit.
pub fn statfs(sb: &SuperBlock) -> [u64; 4] {
    let Some(quota) = &sb.quota else { return [0; 4] };
    let (max, used) = (quota.max.load(Relaxed), quota.used.load(Relaxed));
    let (files, inodes) = (sb.limit_inodes.load(Relaxed), sb.inodes.load(Relaxed));
    let [blocks, free] = if max == u64::MAX { [0; 2] } else { [max, max.saturating_sub(used)] };
    let [files, left] = if files == u64::MAX { [0; 2] } else { [files, files.saturating_sub(inodes)] };
    [blocks, free, files, left]
}

/// Checks a new size (`hugetlbfs_setattr`).
///
/// # Errors
/// EINVAL unless it is a multiple of 2 MiB.
pub fn check_size(size: u64) -> Result<(), Errno> {
    if hugetlb::is_huge_aligned(size) { Ok(()) } else { Err(Errno::EINVAL) }
}
