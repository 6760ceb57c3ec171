//! Names in the tree. A [`Dentry`] is one name of an inode; a [`Path`] is a dentry in one mount.
//!
//! Directories in memory hold their dentries, and each dentry holds its parent; unlinking breaks the circle, and so
//! does the unmounting of a whole file system. A dentry's place changes only under the tree lock; its own lock
//! (`Rank::Dentry`) makes a look at it whole. Dentries of procfs and sysfs are made for each lookup.

use super::inode::{Inode, Kind};
use super::mount::Mount;
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use ptshare_sync::{Lock, Rank};

/// Bytes of a name, or of a link's target: owned, or part of the kernel or the initramfs.
pub type Name = Cow<'static, [u8]>;

struct Spot {
    parent: Option<Arc<Dentry>>,
    name: Name,
}

/// A name.
pub struct Dentry {
    /// What it names.
    pub inode: Arc<Inode>,
    spot: Lock<Spot>,
    /// The name is gone, the file may live on.
    unlinked: AtomicBool,
    /// Mounts that cover it.
    pub mounts: AtomicU32,
}

impl Dentry {
    /// A name under `parent`; without a parent it is a root, or the name of something outside the tree.
    pub fn new(parent: Option<Arc<Dentry>>, name: Name, inode: Arc<Inode>) -> Arc<Dentry> {
        Arc::new(Dentry {
            inode,
            spot: Lock::new(Rank::Dentry, Spot { parent, name }),
            unlinked: AtomicBool::new(false),
            mounts: AtomicU32::new(0),
        })
    }

    /// The directory that the name is in.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.spot.lock().parent.clone()
    }

    /// Is this its name?
    pub fn is_named(&self, name: &[u8]) -> bool {
        *self.spot.lock().name == *name
    }

    /// Runs `f` on the name.
    pub fn with_name<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        f(&self.spot.lock().name)
    }

    /// Moves it. Under the tree lock.
    pub fn set_spot(&self, parent: Arc<Dentry>, name: &[u8]) {
        let name = Name::Owned(name.to_vec());
        let old = core::mem::replace(&mut *self.spot.lock(), Spot { parent: Some(parent), name });
        drop(old);
    }

    /// Marks the name as gone.
    pub fn set_unlinked(&self) {
        self.unlinked.store(true, Relaxed);
    }

    /// Is the name gone?
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Relaxed)
    }

    /// The entry of a directory in memory with this name.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let hash = super::pathname::hash(name);
        let dir = self.inode.dir()?.lock();
        dir.entries.find(hash, |d| d.is_named(name)).map(|(_, d)| d.clone())
    }
}

/// A place in the tree: a dentry, and the mount through which it was reached.
#[derive(Clone)]
pub struct Path {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The name.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The inode.
    #[inline]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.dentry.inode
    }

    /// The same dentry in the same mount?
    pub fn is(&self, other: &Path) -> bool {
        let same_name = Arc::ptr_eq(&self.dentry, &other.dentry);
        // Names of procfs and sysfs are made anew at each look: there the inode number tells.
        let same_file = || {
            let (a, b) = (&self.dentry.inode, &other.dentry.inode);
            matches!(a.kind, Kind::Virtual(_)) && matches!(b.kind, Kind::Virtual(_)) && a.ino == b.ino
        };
        Arc::ptr_eq(&self.mount, &other.mount) && (same_name || same_file())
    }

    /// The path one step up, through mount points; `None` at the top of everything. Does not look at any root.
    pub fn up(&self) -> Option<Path> {
        let mut at = self.clone();
        while Arc::ptr_eq(&at.dentry, &at.mount.root) {
            at = at.mount.mountpoint()?;
        }
        let parent = at.dentry.parent()?;
        Some(Path { mount: at.mount, dentry: parent })
    }

    /// The path as text, seen from `root`, and whether it is under it. A name outside the tree comes as it is; a name
    /// that is gone has ` (deleted)` after it, as in Linux's `d_path`.
    pub fn text(&self, root: &Path) -> (Vec<u8>, bool) {
        let mut names: Vec<Path> = Vec::new();
        let mut at = self.clone();
        let mut under = true;
        while !at.is(root) {
            if Arc::ptr_eq(&at.dentry, &at.mount.root) {
                match at.mount.mountpoint() {
                    Some(above) => at = above,
                    None => {
                        under = false;
                        break;
                    }
                }
            } else {
                let Some(parent) = at.dentry.parent() else {
                    // A name outside the tree, or a root that is no mount's any more.
                    let mut text = at.dentry.with_name(|name| name.to_vec());
                    if self.dentry.is_unlinked() {
                        text.extend_from_slice(b" (deleted)");
                    }
                    return (text, false);
                };
                let mount = at.mount.clone();
                names.push(core::mem::replace(&mut at, Path { mount, dentry: parent }));
            }
        }
        let mut text = Vec::with_capacity(64);
        for name in names.iter().rev() {
            text.push(b'/');
            name.dentry.with_name(|name| text.extend_from_slice(name));
        }
        if text.is_empty() {
            text.push(b'/');
        }
        if self.dentry.is_unlinked() {
            text.extend_from_slice(b" (deleted)");
        }
        (text, under)
    }
}
