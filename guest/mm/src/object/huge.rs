//! Hugetlb objects: files of hugetlbfs, memfds with MFD_HUGETLB, segments with SHM_HUGETLB, and what MAP_HUGETLB maps.
//!
//! The cache counts in huge pages: its index is a number of units of the object's page size. Which pages have been reserved is
//! kept beside it, under the same lock (Linux: the inode's `resv_map`): every page in the cache stands there too, so the number
//! of promises still open is the difference. A promise lasts until truncate, or until the object goes.

use super::{Object, ObjectError, ObjectInfo, ObjectKind, PageMap};
use crate::error::MmError;
use crate::hugetlb::{HugeSize, Quota, Regions, head_state};
use crate::{Env, NoMemory, frame};
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_paging::{PAGE_BYTES, Pfn};
use ptshare_wire::frame::FLAG_IN_CACHE;

/// What a hugetlb object has beside its cache.
pub(super) struct HugeState {
    regions: Regions,
    quota: Option<Arc<Quota>>,
}

impl HugeState {
    pub(super) const fn new() -> Self {
        HugeState { regions: Regions::new(), quota: None }
    }

    fn charge(&self, pages: u64) -> Result<(), NoMemory> {
        self.quota.as_ref().map_or(Ok(()), |quota| quota.charge(pages))
    }

    fn uncharge(&self, pages: u64) {
        if let Some(quota) = &self.quota {
            quota.uncharge(pages);
        }
    }
}

impl<E: Env> Object<E> {
    /// A hugetlb object of `bytes` in pages of this size, which count against `quota` if there is one.
    pub fn hugetlb(
        env: E,
        size: HugeSize,
        info: ObjectInfo,
        bytes: u64,
        quota: Option<Arc<Quota>>,
    ) -> Arc<Self> {
        let object = Object::new(env, ObjectKind::Hugetlb(size), info);
        object.size_bytes.store(bytes, Relaxed);
        object.pages.lock().huge.quota = quota;
        object
    }

    /// The object behind MAP_HUGETLB | MAP_ANONYMOUS, under Linux's name for it.
    pub(crate) fn huge_anonymous(env: E, size: HugeSize, bytes: u64) -> Arc<Self> {
        let info = ObjectInfo::new(1, 0, String::from("/anon_hugepage (deleted)"));
        Object::hugetlb(env, size, info, bytes, None)
    }

    /// The size of its pages; `None` if they are not huge.
    #[inline]
    pub fn huge_size(&self) -> Option<HugeSize> {
        match self.kind {
            ObjectKind::Hugetlb(size) => Some(size),
            _ => None,
        }
    }

    /// The size of its pages, which are huge.
    #[inline]
    fn unit(&self) -> HugeSize {
        self.huge_size().unwrap_or(HugeSize::Mib2)
    }

    /// What is promised to objects of this page size.
    fn promises(&self) -> &AtomicU64 {
        &self.env.census().hugetlb[self.unit().index()].promised
    }

    /// Is it made of huge pages?
    #[inline]
    pub fn is_huge(&self) -> bool {
        self.huge_size().is_some()
    }

    /// Makes sure of the huge pages `[from, to)`: what of them nobody has reserved yet is reserved now.
    ///
    /// # Errors
    /// [`NoMemory`] when the pool, or the mount, has not so many.
    pub fn reserve_huge(&self, from: u64, to: u64) -> Result<(), NoMemory> {
        let mut pages = self.pages.lock();
        let huge = &mut pages.huge;
        let missing = (to - from) - huge.regions.count(from, to);
        huge.regions.room()?;
        huge.charge(missing)?;
        let mut allocator = self.env.allocator().lock();
        let promised = allocator.huge_reserve(&self.env, self.unit(), missing, self.promises());
        drop(allocator);
        if promised.is_err() {
            huge.uncharge(missing);
            return promised;
        }
        huge.regions.add(from, to);
        Ok(())
    }

    /// The huge page at `index`, made if need be, with a reference for the leaf about to be installed.
    ///
    /// # Errors
    /// `BeyondEnd` where there is no page; `NoMemory` when the pool has no page that is not promised to others.
    pub(crate) fn map_huge(&self, index: u64) -> Result<Pfn, ObjectError> {
        let mut pages = self.pages.lock();
        // A page that is there may lie behind the end: fallocate with FALLOC_FL_KEEP_SIZE (`hugetlb_no_page`, mm/hugetlb.c).
        if let Some(pfn) = pages.get(index) {
            frame::get_data(&self.env, pfn);
            return Ok(pfn);
        }
        if index >= self.size_in_huge() {
            return Err(ObjectError::BeyondEnd);
        }
        Ok(self.add_huge(&mut pages, index)?)
    }

    /// The huge page at `index` with a reference, if it is in the cache.
    ///
    /// # Errors
    /// `BeyondEnd`, if it is not.
    pub(crate) fn huge_resident(&self, index: u64) -> Result<Option<Pfn>, ObjectError> {
        let pages = self.pages.lock();
        match pages.get(index) {
            None if index >= self.size_in_huge() => Err(ObjectError::BeyondEnd),
            found => Ok(found.inspect(|&pfn| frame::get_data(&self.env, pfn))),
        }
    }

    /// Makes the object at least so long.
    pub(crate) fn grow_huge(&self, bytes: u64) {
        self.size_bytes.fetch_max(bytes, Relaxed);
    }

    pub(super) fn size_in_huge(&self) -> u64 {
        self.size_bytes.load(Relaxed).div_ceil(self.unit().bytes())
    }

    /// Puts a fresh page into the cache, where none is; gives it with a reference for the caller.
    fn add_huge(&self, pages: &mut PageMap, index: u64) -> Result<Pfn, NoMemory> {
        let (env, unit) = (&self.env, self.unit());
        let promised = pages.huge.regions.contains(index);
        pages.room(index)?;
        if !promised {
            pages.huge.regions.room()?;
            pages.huge.charge(1)?;
        }
        let book = self.promises();
        let taken = env.allocator().lock().huge_take(env, unit, promised.then_some(book));
        let Some((pfn, zero)) = taken else {
            pages.huge.uncharge(u64::from(!promised));
            return Err(NoMemory);
        };
        pages.insert(index, pfn);
        if !promised {
            pages.huge.regions.add(index, index + 1);
        }
        if !zero {
            env.zero_pages(pfn, unit.frames());
        }
        let meta = env.meta(pfn);
        meta.a.store(self.id, Relaxed);
        meta.b.store(index << unit.order(), Relaxed);
        meta.state.store(head_state(unit, FLAG_IN_CACHE), Relaxed);
        frame::get_data(env, pfn);
        Ok(pfn)
    }

    /// Puts a page with what lies at `content_pa` into the cache at `index`; gives it with a reference for the leaf about to
    /// be installed.
    ///
    /// # Errors
    /// `Fault` beyond the end, `Exists` where there is a page, `NoMemory`.
    pub(crate) fn fill_huge(&self, index: u64, content_pa: u64) -> Result<Pfn, MmError> {
        let mut pages = self.pages.lock();
        if index >= self.size_in_huge() {
            return Err(MmError::Fault);
        }
        if pages.get(index).is_some() {
            return Err(MmError::Exists);
        }
        let pfn = self.add_huge(&mut pages, index)?;
        self.env.copy_phys(pfn.pa().0, content_pa, self.unit().bytes());
        Ok(pfn)
    }

    /// Takes a page, just taken off the cache, out of its books.
    fn drop_huge(&self, pfn: Pfn) {
        let meta = self.env.meta(pfn);
        meta.state.store(head_state(self.unit(), 0), Relaxed);
        meta.a.store(0, Relaxed);
        meta.b.store(0, Relaxed);
        frame::put_data(&self.env, pfn);
    }

    /// Makes the object `size_bytes` long, a multiple of its page size: what lies beyond leaves the cache, every mapping, and
    /// the reservations.
    pub(super) fn truncate_huge(&self, size_bytes: u64) {
        let (old, unit) = (self.size_bytes.swap(size_bytes, Relaxed), self.unit());
        let first = size_bytes.div_ceil(unit.bytes());
        if size_bytes < old {
            self.zap_mappings(first << unit.order(), u64::MAX, true);
        }
        self.env.critical_enter();
        let mut next = self.take_from(&mut self.pages.lock(), first);
        while let Some(pfn) = next {
            next = self.next_taken(pfn);
            // The nearer end keeps nobody from a page that is still there.
            let index = self.env.meta(pfn).b.load(Relaxed);
            self.zap_latecomers(index, unit.frames(), pfn);
            self.drop_huge(pfn);
        }
        self.env.critical_exit();
    }

    /// Takes the pages from `first` on out of the cache, and their promises, in one step: a page that is gone but still stands
    /// among the promises would count as one that is open, to another truncate and to a fault behind a new end. Gives the
    /// first of the pages ([`Object::next_taken`]); each still has the cache's reference.
    fn take_from(&self, pages: &mut PageMap, first: u64) -> Option<Pfn> {
        let (mut taken, mut head) = (0, Pfn(0));
        while let Some((_, pfn)) = pages.take_next(first, u64::MAX) {
            // Whoever looks the page up before it is freed finds an object there that does not map it.
            self.env.meta(pfn).a.store(head.0, Relaxed);
            (taken, head) = (taken + 1, pfn);
        }
        let removed = pages.huge.regions.remove(first, u64::MAX);
        pages.huge.uncharge(removed);
        if removed > taken {
            let mut allocator = self.env.allocator().lock();
            allocator.huge_unreserve(&self.env, self.unit(), removed - taken, self.promises());
        }
        (head != Pfn(0)).then_some(head)
    }

    /// The page behind this one on the list that [`Object::take_from`] made.
    fn next_taken(&self, pfn: Pfn) -> Option<Pfn> {
        let next = Pfn(self.env.meta(pfn).a.load(Relaxed));
        (next != Pfn(0)).then_some(next)
    }

    /// When the object goes.
    pub(super) fn drop_all_huge(&mut self) {
        let mut pages = core::mem::replace(self.pages.get_mut(), PageMap::new());
        let mut next = self.take_from(&mut pages, 0);
        while let Some(pfn) = next {
            next = self.next_taken(pfn);
            self.drop_huge(pfn);
        }
    }

    /// Gives back the whole pages of `[off, end)` and clears the rest of it.
    ///
    /// # Errors
    /// `NoMemory`, with nothing changed.
    pub(super) fn punch_huge(&self, off: u64, end: u64) -> Result<(), ObjectError> {
        let unit = self.unit();
        let (first, last) = (off.div_ceil(unit.bytes()), end >> unit.shift());
        if first > last {
            self.zero_huge(off, end);
            return Ok(());
        }
        self.zero_huge(off, first << unit.shift());
        self.zero_huge(last << unit.shift(), end);
        if first == last {
            return Ok(());
        }
        // Private copies too, other than for small pages (`hugetlb_vmdelete_list`).
        self.zap_mappings(first << unit.order(), last << unit.order(), true);
        self.env.critical_enter();
        let result = self.take_huge(first, last);
        self.env.critical_exit();
        Ok(result?)
    }

    fn take_huge(&self, first: u64, last: u64) -> Result<(), NoMemory> {
        loop {
            let mut pages = self.pages.lock();
            pages.huge.regions.room()?;
            let Some((index, pfn)) = pages.take_next(first, last) else { return Ok(()) };
            pages.huge.regions.remove(index, index + 1);
            pages.huge.uncharge(1);
            drop(pages);
            let unit = self.unit();
            self.zap_latecomers(index << unit.order(), unit.frames(), pfn);
            self.drop_huge(pfn);
        }
    }

    /// Clears `[from, to)`, which lies in one huge page, if the page is there.
    fn zero_huge(&self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let unit = self.unit();
        let pages = self.pages.lock();
        let Some(pfn) = pages.get(from >> unit.shift()) else { return };
        let (mut at, end) = (from, to.min(unit.floor(from) + unit.bytes()));
        while at < end {
            let len = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
            self.zero_phys(pfn.pa().0 + (at - unit.floor(from)), len);
            at += len;
        }
    }

    /// Brings in every page that `[off, end)` touches.
    ///
    /// # Errors
    /// `NoMemory`, with the pages made so far kept.
    pub(super) fn allocate_huge(&self, off: u64, end: u64, grow: bool) -> Result<(), ObjectError> {
        for index in off >> self.unit().shift()..end.div_ceil(self.unit().bytes()) {
            self.env.critical_enter();
            let mut pages = self.pages.lock();
            let made = if pages.get(index).is_some() {
                Ok(None)
            } else {
                self.add_huge(&mut pages, index).map(Some)
            };
            drop(pages);
            if let Ok(Some(pfn)) = made {
                frame::put_data(&self.env, pfn);
            }
            self.env.critical_exit();
            made?;
        }
        if grow {
            self.grow_huge(end);
        }
        Ok(())
    }

    /// Head and address of byte `at`, whose page is in the cache.
    pub(super) fn huge_at(&self, pages: &PageMap, at: u64) -> Option<(Pfn, u64)> {
        let unit = self.unit();
        let head = pages.get(at >> unit.shift())?;
        Some((head, head.pa().0 + (at - unit.floor(at))))
    }
}
