//! Tables of open files (Linux `files_struct`).
//!
//! The table's lock (`Rank::Files`) is held for a look or a change. Files taken out are dropped after it is released,
//! because closing reaches inodes, which rank before.

use super::file::File;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// Most descriptors a table can hold whatever RLIMIT_NOFILE says (`fs.nr_open`).
pub const NR_OPEN: u64 = 1 << 20;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    cloexec: bool,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    /// No descriptor below is free.
    first_free: usize,
}

/// A table of open files, shared between tasks made with CLONE_FILES.
pub struct FileTable {
    /// Owner of POSIX record locks.
    pub id: u64,
    inner: Lock<Slots>,
}

impl Slots {
    /// Makes room at the lowest free place not below `from`.
    fn free_place(&mut self, from: usize, limit: usize) -> Result<usize, Errno> {
        let mut fd = from.max(self.first_free);
        while fd < self.slots.len() && self.slots[fd].is_some() {
            fd += 1;
        }
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        self.grow(fd)?;
        if from <= self.first_free {
            self.first_free = fd + 1;
        }
        Ok(fd)
    }

    fn grow(&mut self, fd: usize) -> Result<(), Errno> {
        if fd >= self.slots.len() {
            self.slots.try_reserve(fd + 1 - self.slots.len()).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(fd + 1, || None);
        }
        Ok(())
    }
}

impl FileTable {
    /// An empty table.
    pub fn new() -> Arc<FileTable> {
        Self::with(Slots::default())
    }

    fn with(slots: Slots) -> Arc<FileTable> {
        Arc::new(FileTable { id: NEXT_ID.fetch_add(1, Relaxed), inner: Lock::new(Rank::Files, slots) })
    }

    /// A copy for a forked process: the same open files.
    pub fn fork_copy(&self) -> Arc<FileTable> {
        let inner = self.inner.lock();
        let slots = Slots { slots: inner.slots.clone(), first_free: inner.first_free };
        drop(inner);
        Self::with(slots)
    }

    /// The file behind a descriptor.
    ///
    /// # Errors
    /// EBADF.
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Arc<File>, Errno> {
        // Negative numbers become too large ones.
        let inner = self.inner.lock();
        match inner.slots.get(fd as u32 as usize) {
            Some(Some(slot)) => Ok(slot.file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// Puts a file at the lowest free descriptor not below `from`.
    ///
    /// # Errors
    /// EMFILE at the limit (RLIMIT_NOFILE of the caller), ENOMEM.
    pub fn install_from(&self, from: u64, file: Arc<File>, cloexec: bool) -> Result<u64, Errno> {
        let limit = super::caller::nofile();
        // On an error `file` is dropped after the lock is released: it is the older variable.
        let mut inner = self.inner.lock();
        let fd = inner.free_place(from as usize, limit as usize)?;
        inner.slots[fd] = Some(Slot { file, cloexec });
        Ok(fd as u64)
    }

    /// Puts a file at the lowest free descriptor.
    ///
    /// # Errors
    /// As [`FileTable::install_from`].
    pub fn install(&self, file: Arc<File>, cloexec: bool) -> Result<u64, Errno> {
        self.install_from(0, file, cloexec)
    }

    /// Puts a file at one descriptor; gives the file that was there.
    ///
    /// # Errors
    /// EBADF beyond the limit, ENOMEM.
    pub fn install_at(&self, fd: u64, file: Arc<File>, cloexec: bool) -> Result<Option<Arc<File>>, Errno> {
        if fd >= super::caller::nofile() {
            return Err(Errno::EBADF);
        }
        let fd = fd as usize;
        let mut inner = self.inner.lock();
        inner.grow(fd)?;
        let old = inner.slots[fd].replace(Slot { file, cloexec });
        if inner.first_free == fd {
            inner.first_free = fd + 1;
        }
        drop(inner);
        Ok(old.map(|slot| slot.file))
    }

    /// Takes a file out. The caller closes it with [`super::file::closed`].
    ///
    /// # Errors
    /// EBADF.
    pub fn remove(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let fd = fd as u32 as usize;
        let mut inner = self.inner.lock();
        let slot = inner.slots.get_mut(fd).and_then(Option::take).ok_or(Errno::EBADF)?;
        inner.first_free = inner.first_free.min(fd);
        drop(inner);
        Ok(slot.file)
    }

    /// FD_CLOEXEC of a descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn cloexec(&self, fd: i32) -> Result<bool, Errno> {
        match self.inner.lock().slots.get(fd as u32 as usize) {
            Some(Some(slot)) => Ok(slot.cloexec),
            _ => Err(Errno::EBADF),
        }
    }

    /// Sets FD_CLOEXEC of a descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn set_cloexec(&self, fd: i32, on: bool) -> Result<(), Errno> {
        match self.inner.lock().slots.get_mut(fd as u32 as usize) {
            Some(Some(slot)) => slot.cloexec = on,
            _ => return Err(Errno::EBADF),
        }
        Ok(())
    }

    /// Closes what exec closes.
    pub fn close_on_exec(&self) {
        self.close_where(|_, cloexec| cloexec);
    }

    /// Closes everything: the process ends.
    pub fn close_all(&self) {
        self.close_where(|_, _| true);
    }

    /// Closes the descriptors that `choose` picks, given number and FD_CLOEXEC.
    pub fn close_where(&self, mut choose: impl FnMut(u64, bool) -> bool) {
        let mut from = 0;
        loop {
            let mut inner = self.inner.lock();
            let Some(fd) = (from..inner.slots.len())
                .find(|&fd| inner.slots[fd].as_ref().is_some_and(|slot| choose(fd as u64, slot.cloexec)))
            else {
                return;
            };
            let slot = inner.slots[fd].take();
            inner.first_free = inner.first_free.min(fd);
            drop(inner);
            if let Some(slot) = slot {
                super::file::closed(self, slot.file);
            }
            from = fd + 1;
        }
    }

    /// Sets FD_CLOEXEC on a range of descriptors, both ends included.
    pub fn set_cloexec_range(&self, first: u64, last: u64) {
        let mut inner = self.inner.lock();
        let end = (inner.slots.len() as u64).min(last.saturating_add(1));
        for fd in first..end {
            if let Some(Some(slot)) = inner.slots.get_mut(fd as usize) {
                slot.cloexec = true;
            }
        }
    }

    /// The first open descriptor not below `from`, with its file: for /proc/PID/fd.
    pub fn next_open(&self, from: u64) -> Option<(u64, Arc<File>)> {
        let inner = self.inner.lock();
        let rest = inner.slots.get(from as usize..)?;
        let (n, slot) = rest.iter().enumerate().find_map(|(n, slot)| Some((n, slot.as_ref()?)))?;
        Some((from + n as u64, slot.file.clone()))
    }

    /// Size of the table in slots (FDSize in /proc/PID/status).
    pub fn capacity(&self) -> u64 {
        (self.inner.lock().slots.len() as u64).next_multiple_of(64).max(64)
    }
}

impl Drop for FileTable {
    fn drop(&mut self) {
        self.close_all();
    }
}
