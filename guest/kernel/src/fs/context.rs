//! A process's place in the file system: root, working directory, umask (Linux `fs_struct`).

use super::dentry::Path;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use ptshare_sync::{Lock, Rank};

/// Root, working directory and umask; shared between tasks made with CLONE_FS, else cloned.
pub struct FsContext {
    places: Lock<(Path, Path)>,
    umask: AtomicU32,
}

impl FsContext {
    /// Root and working directory at the root of the first mount, umask 022.
    ///
    /// # Panics
    /// Before [`super::init`].
    pub fn new() -> FsContext {
        let root = super::root();
        FsContext { places: Lock::new(Rank::Files, (root.clone(), root)), umask: AtomicU32::new(0o022) }
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.places.lock().0.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Path {
        self.places.lock().1.clone()
    }

    /// Sets the working directory.
    pub fn set_cwd(&self, path: Path) {
        let old = core::mem::replace(&mut self.places.lock().1, path);
        drop(old);
    }

    /// Sets the root directory.
    pub fn set_root(&self, path: Path) {
        let old = core::mem::replace(&mut self.places.lock().0, path);
        drop(old);
    }

    /// The umask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Relaxed)
    }

    /// Sets the umask; gives the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Relaxed)
    }
}

impl Clone for FsContext {
    fn clone(&self) -> Self {
        let places = self.places.lock().clone();
        FsContext { places: Lock::new(Rank::Files, places), umask: AtomicU32::new(self.umask()) }
    }
}

impl Default for FsContext {
    fn default() -> Self {
        Self::new()
    }
}
