//! Objects: what a file, a shared-memory segment or a memfd holds, page by page. Linux's `address_space`.
//!
//! ```text
//!   inode / shm segment --Arc--> Object <--Arc-- Vma of any number of mms
//!                                  |  cache: index -> frame (kind Cache)      Rank::PageCache
//!                                  |  i_mmap: the mms that map it             Rank::IMmap
//! ```
//!
//! **Pages.** A page of the cache has kind Cache, `FLAG_IN_CACHE`, the object's id and its index in its metadata, and
//! one reference for being in the cache. Leaves that map it and I/O under way add their own. A page that is not in the
//! cache reads as zero, or as the initramfs has it; it comes into being when it is mapped or written.
//!
//! **Size.** `size_bytes` changes first and the pages go after it, so that whoever looks up a page under the cache lock
//! either sees the new size or leaves a page that truncate still finds. The caller (an inode lock) keeps truncate,
//! write and hole punching of one object apart from each other.

mod cache;
mod huge;
mod io;
mod mapping;
mod resize;
mod rmap;
#[cfg(test)]
mod tests;

use crate::error::MmError;
use crate::frame::{self, Priority};
use crate::hugetlb::HugeSize;
use crate::space::limits::recommit;
use crate::vma::{VM_MAYWRITE, VM_SHARED};
use crate::{Env, Mm, NoMemory};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use cache::PageMap;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mapping::Mappings;
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, Pfn, page_floor};
use ptshare_sync::{Lock, Rank};
use ptshare_wire::FrameKind;
use ptshare_wire::frame::{FLAG_IN_CACHE, state};

/// Largest size of an object in bytes: Linux's `MAX_LFS_FILESIZE`, rounded down to pages.
pub const MAX_OBJECT_BYTES: u64 = i64::MAX as u64 & !(PAGE_BYTES - 1);

/// Why an object cannot give a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectError {
    /// The page lies beyond the end of the object.
    BeyondEnd,
    /// No frame.
    NoMemory,
}

impl From<NoMemory> for ObjectError {
    fn from(_: NoMemory) -> ObjectError {
        ObjectError::NoMemory
    }
}

/// What stands behind the pages that are not in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectKind {
    /// A regular file in memory.
    Tmpfs,
    /// A regular file whose first content lies in the initramfs.
    Initramfs {
        /// Guest-physical address of the first byte.
        pa: u64,
        /// Length of that content.
        bytes: u64,
    },
    /// A shared anonymous mapping, or a System V segment.
    Shm,
    /// A memfd.
    Memfd,
    /// Huge pages of this size: `huge.rs`.
    Hugetlb(HugeSize),
}

/// What `/proc/PID/maps` says of a mapping of the object.
pub struct ObjectInfo {
    /// Device number, as `stat` gives it in `st_dev`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Path; changes by rename and gets ` (deleted)` by unlink.
    pub path: Lock<String>,
}

impl ObjectInfo {
    /// Information with these numbers and this path.
    pub fn new(dev: u64, ino: u64, path: String) -> Self {
        ObjectInfo { dev, ino, path: Lock::new(Rank::Registry, path) }
    }
}

/// The content of a file, a shared-memory segment or a memfd.
pub struct Object<E: Env> {
    env: E,
    id: u64,
    kind: ObjectKind,
    info: ObjectInfo,
    size_bytes: AtomicU64,
    /// Bytes of initramfs content that still count: truncate lowers it, nothing raises it.
    initial_bytes: AtomicU64,
    /// Pages promised for its whole size; 0 where each page counts when it comes into being.
    promised: AtomicU64,
    pages: Lock<PageMap>,
    mappings: Lock<Mappings<E>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static CACHED_PAGES: AtomicU64 = AtomicU64::new(0);

/// Pages in all page caches, for `/proc/meminfo`. (In host-side tests: of every arena of the process.)
pub fn cached_pages() -> u64 {
    CACHED_PAGES.load(Relaxed)
}

impl<E: Env> Object<E> {
    /// An object of this kind: empty, or as long as its initramfs content.
    pub fn new(env: E, kind: ObjectKind, info: ObjectInfo) -> Arc<Self> {
        let bytes = match kind {
            ObjectKind::Initramfs { bytes, .. } => bytes,
            _ => 0,
        };
        Self::build(env, NEXT_ID.fetch_add(1, Relaxed), kind, info, bytes)
    }

    /// Is it a System V segment? Shared anonymous memory is of the same kinds.
    pub fn is_segment(&self) -> bool {
        matches!(self.kind, ObjectKind::Shm | ObjectKind::Hugetlb(_))
            && self.info.path.lock().starts_with("/SYSV")
    }

    /// The object behind a shared anonymous mapping of `bytes`: an unlinked file of Linux's internal tmpfs.
    pub fn shared_anonymous(env: E, bytes: u64) -> Arc<Self> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let info = ObjectInfo::new(1, id, String::from("/dev/zero (deleted)"));
        Self::build(env, id, ObjectKind::Shm, info, bytes)
    }

    fn build(env: E, id: u64, kind: ObjectKind, info: ObjectInfo, bytes: u64) -> Arc<Self> {
        let initial = if matches!(kind, ObjectKind::Initramfs { .. }) { bytes } else { 0 };
        Arc::new(Object {
            env,
            id,
            kind,
            info,
            size_bytes: AtomicU64::new(bytes),
            initial_bytes: AtomicU64::new(initial),
            promised: AtomicU64::new(0),
            pages: Lock::new(Rank::PageCache, PageMap::new()),
            mappings: Lock::new(Rank::IMmap, Mappings::new()),
        })
    }

    /// Counts its whole size as promised (Committed_AS), once and before it has pages: a segment, or a shared anonymous
    /// mapping, without NORESERVE.
    pub fn promise(&self) {
        let pages = self.size_in_pages();
        recommit(self.promised.swap(pages, Relaxed), pages);
    }

    /// Does each of its pages count as promised by itself?
    fn promises_pages(&self) -> bool {
        self.is_shmem() && self.promised.load(Relaxed) == 0
    }

    /// Its number, unique since boot and never 0.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What stands behind it.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Does its memory count as shared memory (RssShmem), rather than as a file's (RssFile)?
    pub fn is_shmem(&self) -> bool {
        !matches!(self.kind, ObjectKind::Initramfs { .. })
    }

    /// What `/proc/PID/maps` says of it.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// Its length in bytes.
    #[inline]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Relaxed)
    }

    /// Pages in its cache.
    pub fn pages(&self) -> u64 {
        self.pages.lock().len() * self.huge_size().map_or(1, HugeSize::frames)
    }

    /// Does a read of page `index` find its content in memory? True for initramfs content, which always is.
    pub fn resident(&self, index: u64) -> bool {
        if let Some(unit) = self.huge_size() {
            return self.pages.lock().get(index >> unit.order()).is_some();
        }
        self.pages.lock().get(index).is_some()
            || index.checked_mul(PAGE_BYTES).is_some_and(|off| off < self.initial_bytes.load(Relaxed))
    }

    /// The page-cache page at `index`, brought in if need be, with a reference taken for the leaf about to be installed.
    ///
    /// # Errors
    /// `BeyondEnd` for a page that begins at or after the end; `NoMemory`.
    pub fn map_page(&self, index: u64) -> Result<Pfn, ObjectError> {
        self.page(index, true)
    }

    /// Is the page at `index` (of 4 KiB, in a huge object too) in the cache?
    ///
    /// # Errors
    /// `BeyondEnd` as for [`Object::map_page`].
    pub(crate) fn has_page(&self, index: u64) -> Result<bool, ObjectError> {
        let pages = self.pages.lock();
        let (unit, size) = match self.huge_size() {
            Some(unit) => (unit.frames(), self.size_in_huge()),
            None => (1, self.size_in_pages()),
        };
        if index / unit >= size {
            return Err(ObjectError::BeyondEnd);
        }
        Ok(pages.get(index / unit).is_some())
    }

    /// Puts a frame of the caller's, with one reference, into the cache as page `index`, with a second reference for the leaf
    /// about to be installed. On an error it is the caller's still.
    ///
    /// # Errors
    /// `Fault` beyond the end, `Exists` where there is a page, `NoMemory`.
    pub(crate) fn put_page(&self, index: u64, pfn: Pfn) -> Result<(), MmError> {
        let mut pages = self.pages.lock();
        if index >= self.size_in_pages() {
            return Err(MmError::Fault);
        }
        if pages.get(index).is_some() {
            return Err(MmError::Exists);
        }
        self.add_to_cache(&mut pages, index, pfn)?;
        Ok(())
    }

    /// Like [`Object::map_page`], but only if the page is in the cache already (fault-around).
    #[inline]
    pub fn map_resident(&self, index: u64) -> Option<Pfn> {
        let pages = self.pages.lock();
        if index >= self.size_in_pages() {
            return None;
        }
        let pfn = pages.get(index)?;
        frame::get_data(&self.env, pfn);
        Some(pfn)
    }

    #[inline]
    fn size_in_pages(&self) -> u64 {
        self.size_bytes.load(Relaxed).div_ceil(PAGE_BYTES)
    }

    /// The page at `index` with a reference taken, made if need be. `bounded`: only if the object reaches it.
    fn page(&self, index: u64, bounded: bool) -> Result<Pfn, ObjectError> {
        {
            let pages = self.pages.lock();
            if bounded && index >= self.size_in_pages() {
                return Err(ObjectError::BeyondEnd);
            }
            if let Some(pfn) = pages.get(index) {
                frame::get_data(&self.env, pfn);
                return Ok(pfn);
            }
        }
        let pfn = self.fresh_page(index)?;
        let mut pages = self.pages.lock();
        let found = if bounded && index >= self.size_in_pages() {
            Err(ObjectError::BeyondEnd)
        } else if let Some(other) = pages.get(index) {
            frame::get_data(&self.env, other);
            Ok(other)
        } else {
            self.add_to_cache(&mut pages, index, pfn).map_err(ObjectError::from)
        };
        drop(pages);
        if found != Ok(pfn) {
            frame::put_data(&self.env, pfn);
        }
        found
    }

    /// Puts a fresh frame (its one reference becomes the caller's) into the cache. On an error it is the caller's still.
    fn add_to_cache(&self, pages: &mut PageMap, index: u64, pfn: Pfn) -> Result<Pfn, NoMemory> {
        pages.room(index)?;
        pages.insert(index, pfn);
        let meta = self.env.meta(pfn);
        meta.a.store(self.id, Relaxed);
        meta.b.store(index, Relaxed);
        meta.state.store(state(FrameKind::Cache, 0, FLAG_IN_CACHE), Relaxed);
        frame::get_data(&self.env, pfn);
        CACHED_PAGES.fetch_add(1, Relaxed);
        recommit(0, u64::from(self.promises_pages()));
        Ok(pfn)
    }

    /// A frame with the content that page `index` has while it is not in the cache.
    fn fresh_page(&self, index: u64) -> Result<Pfn, NoMemory> {
        let off = index.saturating_mul(PAGE_BYTES);
        let initial = match self.kind {
            ObjectKind::Initramfs { pa, .. } => {
                let bytes = self.initial_bytes.load(Relaxed).saturating_sub(off).min(PAGE_BYTES);
                (bytes > 0).then(|| (pa + off, bytes))
            }
            _ => None,
        };
        let Some((pa, bytes)) = initial else {
            return frame::alloc_data(&self.env, FrameKind::Cache, true, Priority::User);
        };
        // A short last page needs zeros after the content; a whole one is overwritten.
        let pfn = frame::alloc_data(&self.env, FrameKind::Cache, bytes < PAGE_BYTES, Priority::User)?;
        self.env.copy_phys(pfn.pa().0, pa, bytes);
        Ok(pfn)
    }

    /// Takes a page, found in the cache under its lock, out of the books of the cache. The caller drops the reference.
    fn leave_cache(&self, pfn: Pfn) {
        self.env.meta(pfn).state.store(state(FrameKind::Cache, 0, 0), Relaxed);
        CACHED_PAGES.fetch_sub(1, Relaxed);
        recommit(u64::from(self.promises_pages()), 0);
    }
}

impl<E: Env> Drop for Object<E> {
    fn drop(&mut self) {
        self.env.critical_enter();
        if self.is_huge() {
            self.drop_all_huge();
        }
        let pages = core::mem::replace(self.pages.get_mut(), PageMap::new());
        pages.each(&mut |_, pfn| {
            self.leave_cache(pfn);
            frame::put_data(&self.env, pfn);
        });
        recommit(self.promised.load(Relaxed), 0);
        self.env.critical_exit();
    }
}

/// Index of the page that holds byte `off`.
#[inline]
fn index_of(off: u64) -> u64 {
    page_floor(off) >> PAGE_SHIFT
}

impl<E: Env> Object<E> {
    /// Notes a VMA of the mm in this slot. Called for each VMA: an mm with several stands in the list several times.
    pub(crate) fn add_mapping(&self, slot: u32, mm: &Weak<Mm<E>>) {
        self.mappings.lock().add(slot, mm.clone());
    }

    /// Takes back one [`Object::add_mapping`].
    pub(crate) fn remove_mapping(&self, slot: u32) {
        let gone = self.mappings.lock().remove(slot);
        drop(gone);
    }

    /// Does a shared mapping exist through which the object is written, or may be after mprotect (`i_mmap_writable`)?
    pub fn has_writable_mapping(&self) -> bool {
        let mms = self.mappings.lock().snapshot();
        mms.iter().filter_map(Weak::upgrade).any(|mm| {
            let set = mm.vmas.read();
            set.iter().any(|vma| vma.rec.object == self.id && vma.has(VM_SHARED | VM_MAYWRITE))
        })
    }

    /// VMAs that map it, in all mms.
    pub fn mapping_count(&self) -> usize {
        self.mappings.lock().len()
    }
}
