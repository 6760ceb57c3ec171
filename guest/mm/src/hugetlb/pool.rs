//! The pool (Linux: `struct hstate`): pages that are free or in use, reservations on free ones, surplus pages beyond the
//! persistent size.
//!
//! The counts stand in the census, where the judge compares them with the frames:
//! `reserved <= free <= total`, `surplus <= total`. Reserved pages are free pages that somebody is sure to get.
//! Everything here runs under the allocator's lock.

use super::HUGE_FRAMES;
use crate::Env;
use crate::frame::{Buddy, NoMemory};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::Pfn;
use ptshare_wire::CensusHeader;
use ptshare_wire::frame::{FLAG_POOL_FREE, FLAG_ZEROED, FrameKind, state};

/// What the pool knows beside the counts in the census.
#[derive(Debug)]
pub struct HugePool {
    /// First free page; chained through `FrameMeta::a`.
    head: u64,
    /// Most surplus pages (`nr_overcommit_hugepages`).
    overcommit: u64,
    /// First PMD page of an object; chained through `FrameMeta::b`.
    pub(super) tables: u64,
    /// `share_hugetlb=0`.
    pub(super) sharing_off: bool,
}

impl HugePool {
    /// An empty pool.
    pub(crate) const fn new() -> Self {
        HugePool { head: 0, overcommit: 0, tables: 0, sharing_off: false }
    }
}

/// The most that one hugetlbfs mount may use (`size=`), in pages (Linux: `struct hugepage_subpool`).
#[derive(Debug)]
pub struct Quota {
    /// Most pages; `u64::MAX` for no limit.
    pub max: AtomicU64,
    /// Pages reserved or in use.
    pub used: AtomicU64,
}

impl Quota {
    /// No limit yet, nothing used.
    pub const fn new() -> Self {
        Quota { max: AtomicU64::new(u64::MAX), used: AtomicU64::new(0) }
    }

    /// Takes `pages` if they fit.
    pub(crate) fn charge(&self, pages: u64) -> Result<(), NoMemory> {
        let max = self.max.load(Relaxed);
        let more = |used: u64| used.checked_add(pages).filter(|&sum| sum <= max);
        self.used.fetch_update(Relaxed, Relaxed, more).map(|_| ()).map_err(|_| NoMemory)
    }

    /// Gives pages back.
    pub(crate) fn uncharge(&self, pages: u64) {
        self.used.fetch_sub(pages, Relaxed);
    }
}

impl Default for Quota {
    fn default() -> Self {
        Quota::new()
    }
}

#[inline]
fn get(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

#[inline]
fn add(count: &AtomicU64, by: u64) {
    count.store(get(count).wrapping_add(by), Relaxed);
}

#[inline]
fn sub(count: &AtomicU64, by: u64) {
    add(count, by.wrapping_neg());
}

/// Pages that are neither in use nor promised to anybody.
fn spare(census: &CensusHeader) -> u64 {
    get(&census.hugetlb_free) - get(&census.hugetlb_reserved)
}

fn persistent(census: &CensusHeader) -> u64 {
    get(&census.hugetlb_total) - get(&census.hugetlb_surplus)
}

impl Buddy {
    /// Adds a page to the pool's free ones.
    fn grow<E: Env>(&mut self, env: &E) -> bool {
        let Some((pfn, zeroed)) = self.take_whole(env, state(FrameKind::Hugetlb, 0, FLAG_POOL_FREE)) else {
            return false;
        };
        add(&env.census().hugetlb_total, 1);
        self.list_free(env, pfn, zeroed);
        true
    }

    fn list_free<E: Env>(&mut self, env: &E, pfn: Pfn, zeroed: bool) {
        let meta = env.meta(pfn);
        let flags = FLAG_POOL_FREE | if zeroed { FLAG_ZEROED } else { 0 };
        meta.state.store(state(FrameKind::Hugetlb, 0, flags), Relaxed);
        meta.a.store(self.huge.head, Relaxed);
        meta.b.store(0, Relaxed);
        self.huge.head = pfn.0;
        add(&env.census().hugetlb_free, 1);
    }

    fn unlist_free<E: Env>(&mut self, env: &E) -> Option<(Pfn, bool)> {
        let pfn = Pfn(self.huge.head);
        if pfn.0 == 0 {
            return None;
        }
        let meta = env.meta(pfn);
        self.huge.head = meta.a.load(Relaxed);
        meta.a.store(0, Relaxed);
        sub(&env.census().hugetlb_free, 1);
        Some((pfn, meta.state.load(Relaxed) & FLAG_ZEROED != 0))
    }

    /// Gives a free page back to the allocator.
    fn shrink<E: Env>(&mut self, env: &E) -> bool {
        let Some((pfn, zeroed)) = self.unlist_free(env) else { return false };
        self.give_whole(env, pfn, zeroed);
        sub(&env.census().hugetlb_total, 1);
        true
    }

    /// Takes a page with a count of 1; says whether its content is zero. One that was promised in `book`, which is sure to
    /// be there, or a spare or surplus one.
    pub(crate) fn huge_take<E: Env>(&mut self, env: &E, book: Option<&AtomicU64>) -> Option<(Pfn, bool)> {
        let census = env.census();
        if let Some(book) = book {
            debug_assert!(get(&census.hugetlb_reserved) > 0, "hugetlb-pool-adds-up: nothing is reserved");
            if !mutant!(POOL_KEEPS_RESERVATION) {
                sub(&census.hugetlb_reserved, 1);
            }
            sub(book, 1);
        } else if !env.may_allocate() {
            return None;
        } else if spare(census) == 0 {
            if get(&census.hugetlb_surplus) >= self.huge.overcommit || !self.grow(env) {
                return None;
            }
            add(&census.hugetlb_surplus, 1);
        }
        let (pfn, zeroed) = self.unlist_free(env)?;
        let meta = env.meta(pfn);
        let kind = if mutant!(HUGE_PAGE_TAGGED_ANON) { FrameKind::Anon } else { FrameKind::Hugetlb };
        meta.state.store(state(kind, 0, 0), Relaxed);
        meta.aux.store(0, Relaxed);
        meta.refs.store(1, Relaxed);
        Some((pfn, zeroed))
    }

    /// Takes back a page whose last reference is gone: a surplus page leaves the pool.
    pub(crate) fn huge_put<E: Env>(&mut self, env: &E, pfn: Pfn) {
        let census = env.census();
        if get(&census.hugetlb_surplus) > 0 {
            sub(&census.hugetlb_surplus, 1);
            sub(&census.hugetlb_total, 1);
            self.give_whole(env, pfn, false);
        } else if !mutant!(POOL_LOSES_PAGE) {
            self.list_free(env, pfn, false);
        }
    }

    /// Promises `pages` (Linux: `hugetlb_acct_memory`, `gather_surplus_pages`), and notes it in `book`, the count of the
    /// mm or of the objects to which they are promised.
    ///
    /// # Errors
    /// [`NoMemory`], with nothing changed.
    pub(crate) fn huge_reserve<E: Env>(
        &mut self,
        env: &E,
        pages: u64,
        book: &AtomicU64,
    ) -> Result<(), NoMemory> {
        let census = env.census();
        let missing = pages.saturating_sub(spare(census));
        if missing > self.huge.overcommit.saturating_sub(get(&census.hugetlb_surplus))
            || (pages > 0 && !env.may_allocate())
        {
            return Err(NoMemory);
        }
        for done in 0..missing {
            if !self.grow(env) {
                for _ in 0..done {
                    sub(&census.hugetlb_surplus, 1);
                    self.shrink(env);
                }
                return Err(NoMemory);
            }
            add(&census.hugetlb_surplus, 1);
        }
        add(&census.hugetlb_reserved, pages);
        add(book, pages);
        Ok(())
    }

    /// Takes a promise back that stands in `book`; surplus pages that nobody needs any more go.
    pub(crate) fn huge_unreserve<E: Env>(&mut self, env: &E, pages: u64, book: &AtomicU64) {
        let census = env.census();
        sub(&census.hugetlb_reserved, pages);
        sub(book, pages);
        let unused = pages.min(get(&census.hugetlb_surplus)).min(spare(census));
        for _ in 0..unused {
            sub(&census.hugetlb_surplus, 1);
            self.shrink(env);
        }
    }

    /// Makes the pool `pages` large, as far as there is memory, and as far as pages are free (`set_max_huge_pages`): what
    /// is in use beyond that becomes surplus.
    fn huge_resize<E: Env>(&mut self, env: &E, pages: u64) {
        let census = env.census();
        while get(&census.hugetlb_surplus) > 0 && pages > persistent(census) {
            sub(&census.hugetlb_surplus, 1);
        }
        while pages > persistent(census) && self.grow(env) {}
        while pages < persistent(census) && spare(census) > 0 && self.shrink(env) {}
        let above = persistent(census).saturating_sub(pages);
        add(&census.hugetlb_surplus, above);
    }
}

/// Makes the pool `pages` large: `hugepages=`, `/proc/sys/vm/nr_hugepages`. It comes as near as it can.
pub fn resize<E: Env>(env: &E, pages: u64) {
    env.critical_enter();
    env.allocator().lock().huge_resize(env, pages);
    env.critical_exit();
}

/// Sets how many surplus pages there may be (`/proc/sys/vm/nr_overcommit_hugepages`).
pub fn set_overcommit<E: Env>(env: &E, pages: u64) {
    env.allocator().lock().huge.overcommit = pages;
}

/// How many surplus pages there may be.
pub fn overcommit<E: Env>(env: &E) -> u64 {
    env.allocator().lock().huge.overcommit
}

/// Switches the sharing of PMD pages on or off for faults to come (`share_hugetlb=`).
pub fn set_sharing<E: Env>(env: &E, on: bool) {
    env.allocator().lock().huge.sharing_off = !on;
}

/// Total, free, reserved and surplus pages.
pub fn counts<E: Env>(env: &E) -> [u64; 4] {
    let census = env.census();
    [&census.hugetlb_total, &census.hugetlb_free, &census.hugetlb_reserved, &census.hugetlb_surplus].map(get)
}

/// Frames of 4 KiB that the pool's pages hold, in use or not.
pub fn pool_frames<E: Env>(env: &E) -> u64 {
    get(&env.census().hugetlb_total) * HUGE_FRAMES
}
