//! Inodes: what a file is, whatever its names.
//!
//! Attributes are atomics, so that a stat takes no lock. What a directory holds is under the inode's lock
//! (`Rank::Inode`), held for one look or one change only; changes to the tree also hold the tree lock (`namei.rs`),
//! which makes "look, then change" safe.

use super::dentry::{Dentry, Name};
use super::entries::Entries;
use super::hold::Hold;
use super::locks::FileLocks;
use super::pipe::Pipe;
use super::socket::Place;
use super::superblock::SuperBlock;
use super::virt::Node;
use crate::KObject;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_machine::{Machine, time};
use ptshare_mm::hugetlb::{HugeSize, Quota};
use ptshare_mm::{ObjectInfo, ObjectKind};
use ptshare_sync::{Lock, Rank};

/// `st_mode`'s type field.
pub const S_IFMT: u32 = 0o170_000;
/// A socket.
pub const S_IFSOCK: u32 = 0o140_000;
/// A symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// A regular file.
pub const S_IFREG: u32 = 0o100_000;
/// A block device.
pub const S_IFBLK: u32 = 0o060_000;
/// A directory.
pub const S_IFDIR: u32 = 0o040_000;
/// A character device.
pub const S_IFCHR: u32 = 0o020_000;
/// A FIFO or pipe.
pub const S_IFIFO: u32 = 0o010_000;
/// Set-user-ID.
pub const S_ISUID: u32 = 0o4000;
/// Set-group-ID.
pub const S_ISGID: u32 = 0o2000;
/// Sticky.
pub const S_ISVTX: u32 = 0o1000;

/// A directory in memory.
pub struct Dir {
    /// Its names.
    pub entries: Entries<Arc<Dentry>>,
    /// Removed: takes no new names.
    pub dead: bool,
}

/// Where a regular file's bytes are.
enum Content {
    /// Nowhere yet: the file is empty.
    Empty,
    /// In the initramfs, at this physical address, this many bytes; untouched so far.
    Initramfs(u64, u64),
    /// In a page cache.
    Object(Arc<KObject>),
}

/// A regular file: its page cache, made when first needed, and its seals.
pub struct Regular {
    content: Lock<Content>,
    /// `F_SEAL_*` bits.
    pub seals: AtomicU32,
    /// Pages charged to the super block.
    pub charged: AtomicU64,
    /// Huge pages back it (hugetlbfs, MFD_HUGETLB).
    pub hugetlb: Option<HugeSize>,
    /// The limit of the hugetlbfs mount that it belongs to.
    quota: Option<Arc<Quota>>,
}

/// What kind of thing an inode is.
pub enum Kind {
    /// A directory in memory.
    Dir(Lock<Dir>),
    /// A regular file in memory.
    Regular(Regular),
    /// A symbolic link and its target.
    Symlink(Name),
    /// A device; block or character as the mode says. `makedev` encoding.
    Device(u64),
    /// A FIFO or pipe.
    Fifo(Arc<Pipe>),
    /// A socket's name, and whose it is.
    Socket(Place),
    /// A file or directory of procfs or sysfs.
    Virtual(Node),
    /// Something with a descriptor and no name: event counters and the like.
    Anonymous,
}

/// An inode.
pub struct Inode {
    /// Number, unique within the super block.
    pub ino: u64,
    /// The file system it belongs to.
    pub sb: Arc<SuperBlock>,
    /// What it is.
    pub kind: Kind,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    nlink: AtomicU32,
    /// Times in nanoseconds since 1970.
    atime: AtomicI64,
    mtime: AtomicI64,
    ctime: AtomicI64,
    btime: i64,
    /// Above zero: open for writing so many times. Below: being executed so many times (Linux `i_writecount`).
    writers: AtomicI32,
    /// Record locks and flocks, made when first needed.
    pub locks: Lock<Option<Box<FileLocks>>>,
    /// Excludes writers (and truncations) among themselves.
    pub write_hold: Hold,
}

/// Owner and times of a new inode.
#[derive(Clone, Copy)]
pub struct NewInode {
    /// `st_mode`, type included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All times, nanoseconds since 1970.
    pub time_ns: i64,
}

/// Now, nanoseconds since 1970.
pub fn now() -> i64 {
    time::realtime_ns() as i64
}

impl Regular {
    /// An empty file.
    pub fn new() -> Self {
        Regular {
            content: Lock::new(Rank::Inode, Content::Empty),
            seals: AtomicU32::new(super::memfd::F_SEAL_SEAL),
            charged: AtomicU64::new(0),
            hugetlb: None,
            quota: None,
        }
    }

    /// An empty file of this file system.
    pub fn new_in(sb: &SuperBlock) -> Self {
        let (hugetlb, quota) = sb.huge.clone().map(|huge| (huge.size, huge.quota)).unzip();
        Regular { hugetlb, quota, ..Regular::new() }
    }

    /// A file whose bytes lie in the initramfs.
    pub fn from_initramfs(pa: u64, bytes: u64) -> Self {
        Regular { content: Lock::new(Rank::Inode, Content::Initramfs(pa, bytes)), ..Regular::new() }
    }

    /// Says where in the initramfs the bytes lie (once, at boot).
    pub fn set_initramfs(&self, pa: u64, bytes: u64) {
        *self.content.lock() = Content::Initramfs(pa, bytes);
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match &*self.content.lock() {
            Content::Empty => 0,
            Content::Initramfs(_, bytes) => *bytes,
            Content::Object(object) => object.size_bytes(),
        }
    }

    /// The page cache, if it exists.
    pub fn cached(&self) -> Option<Arc<KObject>> {
        match &*self.content.lock() {
            Content::Object(object) => Some(object.clone()),
            _ => None,
        }
    }

    /// The page cache, made now if there was none.
    pub fn object(&self, dev: u64, ino: u64) -> Arc<KObject> {
        let mut content = self.content.lock();
        let kind = match &*content {
            Content::Object(object) => return object.clone(),
            Content::Empty => match self.hugetlb {
                Some(size) => {
                    let info = ObjectInfo::new(dev, ino, String::new());
                    let object = KObject::hugetlb(Machine, size, info, 0, self.quota.clone());
                    *content = Content::Object(object.clone());
                    return object;
                }
                None => ObjectKind::Tmpfs,
            },
            Content::Initramfs(pa, bytes) => ObjectKind::Initramfs { pa: *pa, bytes: *bytes },
        };
        let object = KObject::new(Machine, kind, ObjectInfo::new(dev, ino, String::new()));
        *content = Content::Object(object.clone());
        object
    }
}

impl Inode {
    /// A new inode with one link (two for a directory).
    pub fn new(sb: &Arc<SuperBlock>, ino: u64, new: NewInode, kind: Kind) -> Arc<Inode> {
        let nlink = if new.mode & S_IFMT == S_IFDIR { 2 } else { 1 };
        sb.inodes.fetch_add(1, Relaxed);
        Arc::new(Inode {
            ino,
            sb: sb.clone(),
            kind,
            mode: AtomicU32::new(new.mode),
            uid: AtomicU32::new(new.uid),
            gid: AtomicU32::new(new.gid),
            nlink: AtomicU32::new(nlink),
            atime: AtomicI64::new(new.time_ns),
            mtime: AtomicI64::new(new.time_ns),
            ctime: AtomicI64::new(new.time_ns),
            btime: new.time_ns,
            writers: AtomicI32::new(0),
            locks: Lock::new(Rank::Inode, None),
            write_hold: Hold::new(),
        })
    }

    /// An empty directory's [`Kind`].
    pub fn empty_dir() -> Kind {
        // Cookies 1 and 2 are taken by "." and "..".
        Kind::Dir(Lock::new(Rank::Inode, Dir { entries: Entries::new(3), dead: false }))
    }

    /// `st_mode`.
    pub fn mode(&self) -> u32 {
        self.mode.load(Relaxed)
    }

    /// The type field of `st_mode`.
    pub fn file_type(&self) -> u32 {
        self.mode() & S_IFMT
    }

    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        self.file_type() == S_IFDIR
    }

    /// Is it a symbolic link?
    pub fn is_symlink(&self) -> bool {
        self.file_type() == S_IFLNK
    }

    /// Sets the twelve permission bits and touches ctime.
    pub fn set_permissions(&self, bits: u32) {
        self.mode.store(self.mode() & S_IFMT | bits & 0o7777, Relaxed);
        self.touch_ctime();
    }

    /// Clears set-user-ID, and set-group-ID where it is not a lock mark: after a write or a change of owner.
    pub fn drop_privilege_bits(&self) {
        let mode = self.mode();
        let group = if mode & (S_ISGID | 0o010) == S_ISGID | 0o010 { S_ISGID } else { 0 };
        if mode & (S_ISUID | group) != 0 && self.file_type() == S_IFREG {
            self.mode.store(mode & !(S_ISUID | group), Relaxed);
        }
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.uid.load(Relaxed)
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.gid.load(Relaxed)
    }

    /// Sets owner and group and touches ctime.
    pub fn set_owner(&self, uid: u32, gid: u32) {
        self.uid.store(uid, Relaxed);
        self.gid.store(gid, Relaxed);
        self.touch_ctime();
    }

    /// Number of names.
    pub fn nlink(&self) -> u32 {
        self.nlink.load(Relaxed)
    }

    /// Adds to the number of names. Under the tree lock.
    pub fn add_links(&self, n: i32) {
        let old = self.nlink();
        self.nlink.store(old.saturating_add_signed(n), Relaxed);
    }

    /// Times of last access, modification, change and birth, nanoseconds since 1970.
    pub fn times(&self) -> [i64; 4] {
        [self.atime.load(Relaxed), self.mtime.load(Relaxed), self.ctime.load(Relaxed), self.btime]
    }

    /// Sets access and modification times where given, and touches ctime.
    pub fn set_times(&self, atime: Option<i64>, mtime: Option<i64>) {
        if let Some(t) = atime {
            self.atime.store(t, Relaxed);
        }
        if let Some(t) = mtime {
            self.mtime.store(t, Relaxed);
        }
        self.touch_ctime();
    }

    /// Notes a change of attributes.
    pub fn touch_ctime(&self) {
        self.ctime.store(now(), Relaxed);
    }

    /// Notes a change of content.
    pub fn touch_mtime(&self) {
        let now = now();
        self.mtime.store(now, Relaxed);
        self.ctime.store(now, Relaxed);
    }

    /// Notes an access, as `relatime` does: only when the last one is not after the last change, or a day old.
    pub fn touch_atime(&self) {
        const DAY_NS: i64 = 86_400_000_000_000;
        let atime = self.atime.load(Relaxed);
        if atime > self.mtime.load(Relaxed) && atime > self.ctime.load(Relaxed) {
            return;
        }
        let now = now();
        if atime <= self.mtime.load(Relaxed) || atime <= self.ctime.load(Relaxed) || now - atime > DAY_NS {
            self.atime.store(now, Relaxed);
        }
    }

    /// The directory's entries, when they are in memory.
    pub fn dir(&self) -> Option<&Lock<Dir>> {
        match &self.kind {
            Kind::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// The regular file in memory.
    pub fn regular(&self) -> Option<&Regular> {
        match &self.kind {
            Kind::Regular(regular) => Some(regular),
            _ => None,
        }
    }

    /// The page cache of a regular file, made now if there was none.
    pub fn object(&self) -> Option<Arc<KObject>> {
        self.regular().map(|r| r.object(self.sb.dev, self.ino))
    }

    /// `st_size`.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Regular(regular) => regular.size(),
            Kind::Symlink(target) => target.len() as u64,
            // As tmpfs: a notional 20 bytes for each entry (mm/shmem.c, BOGO_DIRENT_SIZE).
            Kind::Dir(dir) => 20 * (dir.lock().entries.len() as u64 + 2),
            _ => 0,
        }
    }

    /// `st_blocks`: units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        match &self.kind {
            Kind::Regular(regular) => match regular.cached() {
                Some(object) => 8 * object.pages(),
                None => regular.size().div_ceil(4096) * 8,
            },
            _ => 0,
        }
    }

    /// `st_rdev`.
    pub fn rdev(&self) -> u64 {
        match self.kind {
            Kind::Device(rdev) => rdev,
            _ => 0,
        }
    }

    /// Counts one more opening for writing.
    ///
    /// # Errors
    /// ETXTBSY when the file is being executed.
    pub fn get_write_access(&self) -> Result<(), Errno> {
        let more = |n: i32| (n >= 0).then_some(n + 1);
        self.writers.fetch_update(Relaxed, Relaxed, more).map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    /// Ends one opening for writing.
    pub fn put_write_access(&self) {
        self.writers.fetch_sub(1, Relaxed);
    }

    /// Counts one more execution, which keeps writers out.
    ///
    /// # Errors
    /// ETXTBSY when the file is open for writing.
    pub fn deny_write_access(&self) -> Result<(), Errno> {
        let less = |n: i32| (n <= 0).then_some(n - 1);
        self.writers.fetch_update(Relaxed, Relaxed, less).map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    /// Ends one execution.
    pub fn allow_write_access(&self) {
        self.writers.fetch_add(1, Relaxed);
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.sb.inodes.fetch_sub(1, Relaxed);
        if let Kind::Regular(regular) = &self.kind {
            self.sb.uncharge(regular.charged.load(Relaxed));
        }
    }
}
