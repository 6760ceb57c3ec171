//! Changing what an object holds under the feet of those who map it: truncate, hole punching, allocation.
//!
//! The order is Linux's (`truncate_pagecache`, mm/truncate.c): the new size first; then every mapping loses its leaves;
//! then the pages leave the cache; then the rest of the last page is cleared.

use super::{MAX_OBJECT_BYTES, Object, ObjectError, ObjectKind, index_of};
use crate::Env;
use crate::frame;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use ptshare_paging::{PAGE_BYTES, Pfn};

impl<E: Env> Object<E> {
    /// Makes the object `size_bytes` long. Mappings beyond the new end lose their pages, private copies included. The
    /// caller holds no mm's `mmap_lock`.
    ///
    /// # Errors
    /// `BeyondEnd` for a size above [`MAX_OBJECT_BYTES`]; `NoMemory` never.
    pub fn truncate(&self, size_bytes: u64) -> Result<(), ObjectError> {
        if size_bytes > MAX_OBJECT_BYTES {
            return Err(ObjectError::BeyondEnd);
        }
        if self.is_huge() {
            self.truncate_huge(size_bytes);
            return Ok(());
        }
        let old = self.size_bytes.swap(size_bytes, Relaxed);
        if size_bytes >= old {
            // What was written through a mapping behind the old end, in its last page, stays, as on tmpfs.
            return Ok(());
        }
        let first = size_bytes.div_ceil(PAGE_BYTES);
        self.zap_mappings(first, u64::MAX, true);
        self.initial_bytes.fetch_min(size_bytes, Relaxed);
        self.drop_pages(first, u64::MAX);
        self.zero_tail(size_bytes);
        Ok(())
    }

    /// Makes `[off, off + len_bytes)` read as zero and gives its whole pages back. The size stays. Private copies of
    /// the pages stay, unless they are huge. The caller holds no mm's `mmap_lock`.
    ///
    /// # Errors
    /// `NoMemory`, with nothing changed. (What lies in the initramfs can only be cleared in a page that hides it.)
    pub fn punch_hole(&self, off: u64, len_bytes: u64) -> Result<(), ObjectError> {
        let end = off.saturating_add(len_bytes).min(MAX_OBJECT_BYTES);
        if self.is_huge() {
            return self.punch_huge(off, end);
        }
        let (first, last) = (off.div_ceil(PAGE_BYTES), end / PAGE_BYTES);
        if first >= last {
            self.hide_initial(off, end)?;
            return self.zero_bytes(off, end);
        }
        self.hide_initial(off, first * PAGE_BYTES)?;
        self.hide_initial(last * PAGE_BYTES, end)?;
        if end < self.initial_bytes.load(Relaxed) {
            self.hide_initial(off, end)?;
        }
        self.zero_bytes(off, first * PAGE_BYTES)?;
        self.zero_bytes(last * PAGE_BYTES, end)?;
        self.zap_mappings(first, last, false);
        let initial = self.initial_bytes.load(Relaxed);
        if first * PAGE_BYTES < initial {
            if end >= initial {
                self.initial_bytes.fetch_min(first * PAGE_BYTES, Relaxed);
            } else {
                // A hole in the middle of initramfs content: only a page that is there hides what lies behind it.
                return self.zero_bytes(first * PAGE_BYTES, last * PAGE_BYTES);
            }
        }
        self.drop_pages(first, last);
        Ok(())
    }

    /// Brings in every page of `[off, off + len_bytes)` (fallocate). With `grow` the object becomes that long.
    ///
    /// # Errors
    /// `NoMemory`, with the pages made so far kept inside the old size; `BeyondEnd` past [`MAX_OBJECT_BYTES`].
    pub fn allocate(&self, off: u64, len_bytes: u64, grow: bool) -> Result<(), ObjectError> {
        let end = off.checked_add(len_bytes).filter(|&end| end <= MAX_OBJECT_BYTES);
        let end = end.ok_or(ObjectError::BeyondEnd)?;
        if self.is_huge() {
            return self.allocate_huge(off, end, grow);
        }
        for index in index_of(off)..end.div_ceil(PAGE_BYTES) {
            self.env.critical_enter();
            let page = self.page(index, false);
            if let Ok(pfn) = page {
                frame::put_data(&self.env, pfn);
            }
            self.env.critical_exit();
            if let Err(error) = page {
                self.drop_pages(self.size_in_pages(), u64::MAX);
                return Err(error);
            }
        }
        if grow {
            self.size_bytes.fetch_max(end, Relaxed);
        }
        Ok(())
    }

    /// Takes pages `[first, last)` out of the cache; those that nothing maps are freed.
    pub(super) fn drop_pages(&self, first: u64, last: u64) {
        self.env.critical_enter();
        let mut from = first;
        // One page at a time: a frame must not be freed under the cache lock by the thousand with nobody else let in.
        while let Some((index, pfn)) = self.take_page(from, last) {
            self.zap_latecomers(index, 1, pfn);
            frame::put_data(&self.env, pfn);
            from = index + 1;
        }
        self.env.critical_exit();
    }

    /// Removes the leaves of `pages` pages from `index` on, just taken off the cache, that a fault on another CPU has made
    /// since the mappings were zapped: it found the page in the cache. Nobody finds it any more.
    pub(super) fn zap_latecomers(&self, index: u64, pages: u64, pfn: Pfn) {
        if self.env.meta(pfn).refs.load(Acquire) > 1 {
            self.zap_mappings(index, index + pages, false);
        }
    }

    fn take_page(&self, from: u64, to: u64) -> Option<(u64, Pfn)> {
        let mut pages = self.pages.lock();
        let (index, pfn) = pages.take_next(from, to)?;
        self.leave_cache(pfn);
        Some((index, pfn))
    }

    /// Clears what the last page holds beyond `size_bytes`, if it is in the cache.
    pub(super) fn zero_tail(&self, size_bytes: u64) {
        let used = size_bytes % PAGE_BYTES;
        if used == 0 {
            return;
        }
        let pages = self.pages.lock();
        if let Some(pfn) = pages.get(index_of(size_bytes)) {
            self.zero_phys(pfn.pa().0 + used, PAGE_BYTES - used);
        }
    }

    /// Brings in the pages of `[from, to)` whose content lies in the initramfs.
    fn hide_initial(&self, from: u64, to: u64) -> Result<(), ObjectError> {
        let to = to.min(self.initial_bytes.load(Relaxed));
        let mut at = from;
        while at < to {
            self.env.critical_enter();
            let page = self.page(index_of(at), false);
            if let Ok(pfn) = page {
                frame::put_data(&self.env, pfn);
            }
            self.env.critical_exit();
            page?;
            at = (at / PAGE_BYTES + 1) * PAGE_BYTES;
        }
        Ok(())
    }

    /// Clears bytes `[from, to)` of the object; pages that would read as zero anyway are not made.
    fn zero_bytes(&self, from: u64, to: u64) -> Result<(), ObjectError> {
        let to = to.min(self.size_in_pages() * PAGE_BYTES);
        let mut at = from;
        while at < to {
            let len = (PAGE_BYTES - at % PAGE_BYTES).min(to - at);
            let index = index_of(at);
            let covered = matches!(self.kind, ObjectKind::Initramfs { .. })
                && index * PAGE_BYTES < self.initial_bytes.load(Relaxed);
            if covered || self.resident(index) {
                self.env.critical_enter();
                let page = self.page(index, false);
                if let Ok(pfn) = page {
                    self.zero_phys(pfn.pa().0 + at % PAGE_BYTES, len);
                    frame::put_data(&self.env, pfn);
                }
                self.env.critical_exit();
                page?;
            }
            at += len;
        }
        Ok(())
    }

    /// Clears physical memory inside one frame, which may be mapped ([`Env::zero_pages`] is for frames that are not).
    pub(super) fn zero_phys(&self, pa: u64, len: u64) {
        self.env.copy_phys(pa, self.env.zero_page().pa().0, len);
    }
}
