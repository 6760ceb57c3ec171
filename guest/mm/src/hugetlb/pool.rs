//! The pools, one a size (Linux: `struct hstate`): pages that are free or in use, reservations on free ones, surplus pages
//! beyond the persistent size.
//!
//! The counts stand in the census, where the judge compares them with the frames:
//! `reserved <= free <= total`, `surplus <= total`. Reserved pages are free pages that somebody is sure to get.
//! Everything here runs under the allocator's lock.

use super::{HugeSize, head_state, size_of};
use crate::Env;
use crate::frame::{Buddy, NoMemory};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::Pfn;
use ptshare_wire::HugetlbCounts;
use ptshare_wire::frame::{FLAG_POOL_FREE, FLAG_ZEROED, FrameKind, state};
use ptshare_wire::huge::HUGE_SIZES;

/// What the pools know beside the counts in the census.
#[derive(Debug)]
pub struct HugePools {
    /// First free page, by size; chained through `FrameMeta::a`.
    heads: [u64; HUGE_SIZES],
    /// Most surplus pages (`nr_overcommit_hugepages`), by size.
    overcommit: [u64; HUGE_SIZES],
    /// First PMD page of an object; chained through `FrameMeta::b`.
    pub(super) tables: u64,
    /// The size where none is named (`default_hugepagesz=`).
    default: HugeSize,
    /// `share_hugetlb=0`.
    pub(super) sharing_off: bool,
}

impl HugePools {
    /// Empty pools.
    pub(crate) const fn new() -> Self {
        HugePools {
            heads: [0; HUGE_SIZES],
            overcommit: [0; HUGE_SIZES],
            tables: 0,
            default: HugeSize::Mib2,
            sharing_off: false,
        }
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
fn spare(pool: &HugetlbCounts) -> u64 {
    get(&pool.free) - get(&pool.reserved)
}

fn persistent(pool: &HugetlbCounts) -> u64 {
    get(&pool.total) - get(&pool.surplus)
}

/// The counts of a size.
#[inline]
fn of<E: Env>(env: &E, size: HugeSize) -> &HugetlbCounts {
    &env.census().hugetlb[size.index()]
}

impl Buddy {
    /// Adds a page to the pool's free ones.
    fn grow<E: Env>(&mut self, env: &E, size: HugeSize) -> bool {
        if !has_size(env, size) {
            return false;
        }
        let Some((pfn, zeroed)) = self.take_whole(env, size, head_state(size, FLAG_POOL_FREE)) else {
            return false;
        };
        add(&of(env, size).total, 1);
        self.list_free(env, size, pfn, zeroed);
        true
    }

    fn list_free<E: Env>(&mut self, env: &E, size: HugeSize, pfn: Pfn, zeroed: bool) {
        let meta = env.meta(pfn);
        let flags = FLAG_POOL_FREE | if zeroed { FLAG_ZEROED } else { 0 };
        meta.state.store(head_state(size, flags), Relaxed);
        meta.a.store(self.huge.heads[size.index()], Relaxed);
        meta.b.store(0, Relaxed);
        self.huge.heads[size.index()] = pfn.0;
        add(&of(env, size).free, 1);
    }

    fn unlist_free<E: Env>(&mut self, env: &E, size: HugeSize) -> Option<(Pfn, bool)> {
        let pfn = Pfn(self.huge.heads[size.index()]);
        if pfn.0 == 0 {
            return None;
        }
        let meta = env.meta(pfn);
        self.huge.heads[size.index()] = meta.a.load(Relaxed);
        meta.a.store(0, Relaxed);
        sub(&of(env, size).free, 1);
        Some((pfn, meta.state.load(Relaxed) & FLAG_ZEROED != 0))
    }

    /// Gives a free page back to the allocator.
    fn shrink<E: Env>(&mut self, env: &E, size: HugeSize) -> bool {
        let Some((pfn, zeroed)) = self.unlist_free(env, size) else { return false };
        self.give_whole(env, size, pfn, zeroed);
        sub(&of(env, size).total, 1);
        true
    }

    /// Takes a page with a count of 1; says whether its content is zero. One that was promised in `book`, which is sure to
    /// be there, or a spare or surplus one.
    pub(crate) fn huge_take<E: Env>(
        &mut self,
        env: &E,
        size: HugeSize,
        book: Option<&AtomicU64>,
    ) -> Option<(Pfn, bool)> {
        let pool = of(env, size);
        if let Some(book) = book {
            debug_assert!(get(&pool.reserved) > 0, "hugetlb-pool-adds-up: nothing is reserved");
            if !mutant!(POOL_KEEPS_RESERVATION) {
                sub(&pool.reserved, 1);
            }
            sub(book, 1);
        } else if !env.may_allocate() {
            return None;
        } else if spare(pool) == 0 {
            if get(&pool.surplus) >= self.huge.overcommit[size.index()] || !self.grow(env, size) {
                return None;
            }
            add(&pool.surplus, 1);
        }
        let (pfn, zeroed) = self.unlist_free(env, size)?;
        let meta = env.meta(pfn);
        let tagged_anon = mutant!(HUGE_PAGE_TAGGED_ANON);
        meta.state
            .store(if tagged_anon { state(FrameKind::Anon, 0, 0) } else { head_state(size, 0) }, Relaxed);
        meta.aux.store(0, Relaxed);
        meta.refs.store(1, Relaxed);
        Some((pfn, zeroed))
    }

    /// Takes back a page whose last reference is gone: a surplus page leaves the pool.
    pub(crate) fn huge_put<E: Env>(&mut self, env: &E, pfn: Pfn) {
        let size = size_of(env.meta(pfn).state.load(Relaxed));
        let pool = of(env, size);
        if get(&pool.surplus) > 0 {
            sub(&pool.surplus, 1);
            sub(&pool.total, 1);
            self.give_whole(env, size, pfn, false);
        } else if !mutant!(POOL_LOSES_PAGE) {
            self.list_free(env, size, pfn, false);
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
        size: HugeSize,
        pages: u64,
        book: &AtomicU64,
    ) -> Result<(), NoMemory> {
        let pool = of(env, size);
        let missing = pages.saturating_sub(spare(pool));
        if missing > self.huge.overcommit[size.index()].saturating_sub(get(&pool.surplus))
            || (pages > 0 && !env.may_allocate())
        {
            return Err(NoMemory);
        }
        for done in 0..missing {
            if !self.grow(env, size) {
                for _ in 0..done {
                    sub(&pool.surplus, 1);
                    self.shrink(env, size);
                }
                return Err(NoMemory);
            }
            add(&pool.surplus, 1);
        }
        add(&pool.reserved, pages);
        add(book, pages);
        Ok(())
    }

    /// Takes a promise back that stands in `book`; surplus pages that nobody needs any more go.
    pub(crate) fn huge_unreserve<E: Env>(&mut self, env: &E, size: HugeSize, pages: u64, book: &AtomicU64) {
        let pool = of(env, size);
        sub(&pool.reserved, pages);
        sub(book, pages);
        let unused = pages.min(get(&pool.surplus)).min(spare(pool));
        for _ in 0..unused {
            sub(&pool.surplus, 1);
            self.shrink(env, size);
        }
    }

    /// Makes the pool `pages` large, as far as there is memory, and as far as pages are free (`set_max_huge_pages`): what
    /// is in use beyond that becomes surplus.
    fn huge_resize<E: Env>(&mut self, env: &E, size: HugeSize, pages: u64) {
        let pool = of(env, size);
        while get(&pool.surplus) > 0 && pages > persistent(pool) {
            sub(&pool.surplus, 1);
        }
        while pages > persistent(pool) && self.grow(env, size) {}
        while pages < persistent(pool) && spare(pool) > 0 && self.shrink(env, size) {}
        let above = persistent(pool).saturating_sub(pages);
        add(&pool.surplus, above);
    }
}

/// Are there pages of this size? Those of 1 GiB need a processor that has them.
#[inline]
pub fn has_size<E: Env>(env: &E, size: HugeSize) -> bool {
    size == HugeSize::Mib2 || env.has_gib_pages()
}

/// The size that is meant where none is named: by MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB, hugetlbfs, /proc.
pub fn default_size<E: Env>(env: &E) -> HugeSize {
    env.allocator().lock().huge.default
}

/// Sets [`default_size`] (`default_hugepagesz=`).
pub fn set_default_size<E: Env>(env: &E, size: HugeSize) {
    env.allocator().lock().huge.default = size;
}

/// Makes the pool of a size `pages` large: `hugepages=`, `nr_hugepages`. It comes as near as it can.
pub fn resize<E: Env>(env: &E, size: HugeSize, pages: u64) {
    env.critical_enter();
    env.allocator().lock().huge_resize(env, size, pages);
    env.critical_exit();
}

/// Sets how many surplus pages there may be (`nr_overcommit_hugepages`).
///
/// # Errors
/// [`NoSurplus`] for pages of 1 GiB, which Linux does not make when they are needed (`hstate_is_gigantic`, mm/hugetlb.c).
pub fn set_overcommit<E: Env>(env: &E, size: HugeSize, pages: u64) -> Result<(), NoSurplus> {
    if size != HugeSize::Mib2 {
        return Err(NoSurplus);
    }
    env.allocator().lock().huge.overcommit[size.index()] = pages;
    Ok(())
}

/// Pages of this size are not made when they are needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSurplus;

/// How many surplus pages there may be.
pub fn overcommit<E: Env>(env: &E, size: HugeSize) -> u64 {
    env.allocator().lock().huge.overcommit[size.index()]
}

/// Switches the sharing of PMD pages on or off for faults to come (`share_hugetlb=`).
pub fn set_sharing<E: Env>(env: &E, on: bool) {
    env.allocator().lock().huge.sharing_off = !on;
}

/// Total, free, reserved and surplus pages.
pub fn counts<E: Env>(env: &E, size: HugeSize) -> [u64; 4] {
    let pool = of(env, size);
    [&pool.total, &pool.free, &pool.reserved, &pool.surplus].map(get)
}

/// Frames of 4 KiB that the pages of all pools hold, in use or not.
pub fn pool_frames<E: Env>(env: &E) -> u64 {
    HugeSize::ALL.map(|size| get(&of(env, size).total) * size.frames()).iter().sum()
}
