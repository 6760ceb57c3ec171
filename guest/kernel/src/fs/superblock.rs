//! Super blocks: one instance of a file system, its number, its limit.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use ptshare_mm::hugetlb::{HugeSize, Quota};

/// `f_type` of tmpfs (statfs(2)).
pub const TMPFS_MAGIC: u64 = 0x0102_1994;
/// `f_type` of procfs.
pub const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// `f_type` of sysfs.
pub const SYSFS_MAGIC: u64 = 0x6265_6572;
/// `f_type` of the anonymous-inode file system.
pub const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;

/// Device number of the next file system: major 0, as Linux numbers those without a device.
static NEXT_DEV: AtomicU64 = AtomicU64::new(1);

/// One mounted (or internal) file system.
pub struct SuperBlock {
    /// Type name as in /proc/filesystems.
    pub fstype: &'static str,
    /// `f_type`.
    pub magic: u64,
    /// `st_dev`.
    pub dev: u64,
    /// Cannot be written to.
    pub read_only: AtomicBool,
    /// Most pages that its files may hold; `u64::MAX`: no limit.
    pub limit_pages: AtomicU64,
    /// Pages that its files hold, as far as writes were counted.
    pub used_pages: AtomicU64,
    /// Inodes that exist.
    pub inodes: AtomicU64,
    /// Mounts of it, bind mounts included.
    pub mounts: AtomicU64,
    /// hugetlbfs: the pages of its files.
    pub huge: Option<HugePages>,
    /// Most inodes; `u64::MAX`: no limit.
    pub limit_inodes: AtomicU64,
    next_ino: AtomicU64,
}

/// The pages that a mount of hugetlbfs gives its files.
#[derive(Clone)]
pub struct HugePages {
    /// Their size (`pagesize=`).
    pub size: HugeSize,
    /// How many there may be (`size=`).
    pub quota: Arc<Quota>,
}

impl SuperBlock {
    /// A new file system of a type.
    pub fn new(fstype: &'static str, magic: u64) -> Arc<SuperBlock> {
        Self::with_pages(fstype, magic, None)
    }

    /// The same for a file system of huge pages.
    pub fn with_pages(fstype: &'static str, magic: u64, huge: Option<HugePages>) -> Arc<SuperBlock> {
        Arc::new(SuperBlock {
            fstype,
            magic,
            dev: NEXT_DEV.fetch_add(1, Relaxed),
            read_only: AtomicBool::new(false),
            limit_pages: AtomicU64::new(u64::MAX),
            used_pages: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            mounts: AtomicU64::new(0),
            huge,
            limit_inodes: AtomicU64::new(u64::MAX),
            next_ino: AtomicU64::new(1),
        })
    }

    /// A fresh inode number.
    pub fn next_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Relaxed)
    }

    /// Gives pages back.
    pub fn uncharge(&self, pages: u64) {
        let give = |used: u64| Some(used.saturating_sub(pages));
        let _ = self.used_pages.fetch_update(Relaxed, Relaxed, give);
    }
}
