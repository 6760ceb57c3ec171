//! hugetlbfs (fs/hugetlbfs/inode.c): a tree in memory like tmpfs, whose regular files are made of huge pages. They are
//! sized by truncate or by a writable mapping, mapped, read, allocated and punched, and never written.

use super::Mount;
use super::dentry::{Dentry, Name};
use super::inode::{Inode, NewInode, S_IFDIR, now};
use super::superblock::{HugePages, SuperBlock};
use crate::fs::virt::number;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::hugetlb::{self, HugeSize, Quota, memparse};

/// `f_type` (include/uapi/linux/magic.h).
pub const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// An empty file system with the options of mount(2).
///
/// # Errors
/// EINVAL for an option that hugetlbfs does not know, or a page size that there is not.
pub fn new(source: &[u8], flags: u64, options: &[u8]) -> Result<Arc<Mount>, Errno> {
    // First of all, since `size=` counts in its pages.
    let mut huge = HugePages { size: hugetlb::default_size(&Machine), quota: Arc::new(Quota::new()) };
    for (_, value) in options_of(options).filter(|(name, _)| *name == b"pagesize") {
        let bytes = bytes_of(value)?;
        let known = |size: &HugeSize| size.bytes() == bytes && hugetlb::has_size(&Machine, *size);
        huge.size = HugeSize::ALL.into_iter().find(known).ok_or(Errno::EINVAL)?;
    }
    let sb = SuperBlock::with_pages("hugetlbfs", HUGETLBFS_MAGIC, Some(huge.clone()));
    let new = NewInode { mode: S_IFDIR | 0o755, uid: 0, gid: 0, time_ns: now() };
    let root =
        Dentry::new(None, Name::Borrowed(b"/"), Inode::new(&sb, sb.next_ino(), new, Inode::empty_dir()));
    let mount = Mount::new(sb, root, source, flags);
    for (name, value) in options_of(options) {
        apply(&mount, &huge, name, value)?;
    }
    Ok(mount)
}

/// The options of mount(2): names and values.
fn options_of(options: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    options.split(|b| *b == b',').filter(|o| !o.is_empty()).map(|option| {
        let mut halves = option.splitn(2, |b| *b == b'=');
        (halves.next().unwrap_or(b""), halves.next().unwrap_or(b""))
    })
}

fn apply(mount: &Mount, huge: &HugePages, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let root = &mount.root.inode;
    let id = || number(value).and_then(|n| u32::try_from(n).ok()).ok_or(Errno::EINVAL);
    match name {
        b"size" => {
            let pages = match value.strip_suffix(b"%") {
                // Of the pool.
                Some(part) => {
                    let [total, ..] = hugetlb::counts(&Machine, huge.size);
                    number(part).and_then(|n| n.checked_mul(total)).ok_or(Errno::EINVAL)? / 100
                }
                None => bytes_of(value)? >> huge.size.shift(),
            };
            huge.quota.max.store(pages, Relaxed);
        }
        b"min_size" => {
            bytes_of(value)?;
        }
        // Seen to before.
        b"pagesize" => {}
        b"nr_inodes" => mount.sb.limit_inodes.store(bytes_of(value)?, Relaxed),
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

/// A number with a unit.
///
/// # Errors
/// EINVAL for anything else.
fn bytes_of(value: &[u8]) -> Result<u64, Errno> {
    core::str::from_utf8(value).ok().and_then(memparse).ok_or(Errno::EINVAL)
}

/// Total and free huge pages, files and free files, for statfs: all zero where no size has been set, and a number of files
/// without a limit is -1 (`hugetlbfs_statfs`).
pub fn statfs(sb: &SuperBlock) -> [u64; 4] {
    let Some(HugePages { quota, .. }) = &sb.huge else { return [0; 4] };
    let (max, used) = (quota.max.load(Relaxed), quota.used.load(Relaxed));
    let (files, inodes) = (sb.limit_inodes.load(Relaxed), sb.inodes.load(Relaxed));
    if max == u64::MAX {
        return [0; 4];
    }
    let left = if files == u64::MAX { files } else { files.saturating_sub(inodes) };
    [max, max.saturating_sub(used), files, left]
}

/// Checks a new size (`hugetlbfs_setattr`).
///
/// # Errors
/// EINVAL unless it is a multiple of the page size.
pub fn check_size(unit: HugeSize, size: u64) -> Result<(), Errno> {
    if unit.is_aligned(size) { Ok(()) } else { Err(Errno::EINVAL) }
}
