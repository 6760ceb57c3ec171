//! Mounts: which file system covers which directory.
//!
//! The list of mounts is under its own lock (`Rank::Namespace`). A mount lives as long as a path through it is in use;
//! with the last mount of a file system in memory its tree is taken apart, which breaks the circles between
//! directories and names.

use super::dentry::{Dentry, Path};
use super::inode::Kind;
use super::superblock::SuperBlock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// Read-only.
pub const MS_RDONLY: u64 = 1;
/// Set-user-ID bits have no effect.
pub const MS_NOSUID: u64 = 2;
/// Device nodes cannot be opened.
pub const MS_NODEV: u64 = 4;
/// Programs cannot be executed.
pub const MS_NOEXEC: u64 = 8;
/// Flags that are a mount's own, as /proc/mounts shows them.
pub const MS_KEPT: u64 = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | 1024 | 2048 | (1 << 21);

static MOUNTS: Lock<Vec<Arc<Mount>>> = Lock::new(Rank::Namespace, Vec::new());
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// One mount.
pub struct Mount {
    /// Its root directory.
    pub root: Arc<Dentry>,
    /// The file system.
    pub sb: Arc<SuperBlock>,
    /// First column of /proc/mounts.
    pub source: Box<[u8]>,
    /// Mount ID.
    pub id: u32,
    on: Lock<Option<Path>>,
    flags: AtomicU32,
}

impl Mount {
    /// A mount that is in no list yet.
    pub fn new(sb: Arc<SuperBlock>, root: Arc<Dentry>, source: &[u8], flags: u64) -> Arc<Mount> {
        sb.mounts.fetch_add(1, Relaxed);
        Arc::new(Mount {
            root,
            sb,
            source: source.into(),
            id: NEXT_ID.fetch_add(1, Relaxed),
            on: Lock::new(Rank::Dentry, None),
            flags: AtomicU32::new((flags & MS_KEPT) as u32),
        })
    }

    /// The directory that it covers; `None` for the first mount, and for what is not mounted (any more).
    pub fn mountpoint(&self) -> Option<Path> {
        self.on.lock().clone()
    }

    /// The path of its root.
    pub fn root_path(self: &Arc<Self>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }

    /// Is a flag (`MS_*`) set?
    #[inline]
    pub fn has(&self, flag: u64) -> bool {
        u64::from(self.flags.load(Relaxed)) & flag != 0
    }

    /// All its flags.
    pub fn flags(&self) -> u64 {
        u64::from(self.flags.load(Relaxed))
    }

    /// Replaces its flags (MS_REMOUNT).
    pub fn set_flags(&self, flags: u64) {
        self.flags.store((flags & MS_KEPT) as u32, Relaxed);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.sb.mounts.fetch_sub(1, Relaxed) == 1 {
            take_apart(&self.root);
        }
    }
}

/// Breaks the circles of a tree that nobody can reach any more.
fn take_apart(root: &Arc<Dentry>) {
    let mut dirs: Vec<Arc<Dentry>> = Vec::new();
    dirs.push(root.clone());
    while let Some(dir) = dirs.pop() {
        let Some(lock) = dir.inode.dir() else { continue };
        let children = lock.lock().entries.drain();
        dirs.extend(children.into_iter().filter(|child| child.inode.is_dir()));
    }
}

/// Follows mounts upward: the root of whatever is mounted on `path`, or `path` itself.
#[inline]
pub fn cross(mut path: Path) -> Path {
    while path.dentry.mounts.load(Relaxed) != 0 || is_virtual(&path) && VIRTUAL_MOUNTS.load(Relaxed) != 0 {
        match mounted_on(&path) {
            Some(mount) => path = mount.root_path(),
            None => break,
        }
    }
    path
}

/// Mounts on names of procfs or sysfs, which do not last as long as the mount.
static VIRTUAL_MOUNTS: AtomicU32 = AtomicU32::new(0);

fn is_virtual(path: &Path) -> bool {
    matches!(path.dentry.inode.kind, Kind::Virtual(_))
}

fn mounted_on(path: &Path) -> Option<Arc<Mount>> {
    let mounts = MOUNTS.lock();
    mounts.iter().rev().find(|m| m.on.lock().as_ref().is_some_and(|on| on.is(path))).cloned()
}

/// Mounts on a directory (on the first mount's root, when there is no `on`).
///
/// # Errors
/// EBUSY when that very file system is mounted there already.
pub fn attach(mount: Arc<Mount>, on: Option<Path>) -> Result<(), Errno> {
    if let Some(on) = on {
        if Arc::ptr_eq(&on.mount.sb, &mount.sb) && Arc::ptr_eq(&on.dentry, &mount.root) {
            return Err(Errno::EBUSY);
        }
        on.dentry.mounts.fetch_add(1, Relaxed);
        VIRTUAL_MOUNTS.fetch_add(u32::from(is_virtual(&on)), Relaxed);
        *mount.on.lock() = Some(on);
    }
    MOUNTS.lock().push(mount);
    Ok(())
}

/// Unmounts what `path` is the root of.
///
/// # Errors
/// EINVAL when it is no root of a mount (or of the first one); EBUSY while it is in use, unless `lazy`.
pub fn detach(path: Path, lazy: bool) -> Result<(), Errno> {
    let Path { mount, dentry } = path;
    if !Arc::ptr_eq(&dentry, &mount.root) {
        return Err(Errno::EINVAL);
    }
    drop(dentry);
    let mut gone = Vec::new();
    {
        let mut mounts = MOUNTS.lock();
        if mounts.first().is_some_and(|first| Arc::ptr_eq(first, &mount)) {
            return Err(if lazy { Errno::EINVAL } else { Errno::EBUSY });
        }
        let at = mounts.iter().position(|m| Arc::ptr_eq(m, &mount)).ok_or(Errno::EINVAL)?;
        // The list holds one reference and this function another.
        if !lazy && Arc::strong_count(&mount) > 2 {
            return Err(Errno::EBUSY);
        }
        gone.push(mounts.remove(at));
        // A lazy unmount takes what is mounted inside along.
        let mut next = 0;
        while lazy && next < gone.len() {
            let (inside, rest) = core::mem::take(&mut *mounts).into_iter().partition::<Vec<_>, _>(|m| {
                m.on.lock().as_ref().is_some_and(|on| Arc::ptr_eq(&on.mount, &gone[next]))
            });
            *mounts = rest;
            gone.extend(inside);
            next += 1;
        }
    }
    for mount in gone {
        let on = mount.on.lock().take();
        if let Some(on) = on {
            on.dentry.mounts.fetch_sub(1, Relaxed);
            VIRTUAL_MOUNTS.fetch_sub(u32::from(is_virtual(&on)), Relaxed);
        }
    }
    Ok(())
}

/// The mounts, oldest first.
pub fn all() -> Vec<Arc<Mount>> {
    MOUNTS.lock().clone()
}
