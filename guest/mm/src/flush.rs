//! What an operation displaced, and the flush that must come before it is reused.
//!
//! Rule `flush-before-free`: an entry that loses a right, or a table that is taken out, may still be cached by any CPU
//! on which the mm runs. So the reference that the entry held is not dropped: it moves into the batch, and only
//! [`FlushBatch::finish`], after the flush, drops it. Granting rights needs no batch.
//!
//! A batch never allocates. References that nobody else shares are chained through their own frames' metadata; the
//! others go to a small array, which is flushed early when it is full.

use crate::frame::{is_private, kind_bits, put_data, put_data_locked};
use crate::share::{disown, is_object_meta};
use crate::table::put_table;
use crate::{Env, FlushRange};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::Pfn;
use ptshare_wire::MmRec;
use ptshare_wire::frame::{FLAG_OBJECT_PMD, FrameKind};

/// Shared references that a batch holds before it flushes early.
const HELD_MAX: usize = 16;

/// References displaced from one mm's tables (or, for changes to an object, from any mm's), and the range to flush.
#[must_use = "displaced frames are neither flushed nor freed until `finish`"]
pub struct FlushBatch<'a, E: Env> {
    env: &'a E,
    /// Whose translations to flush; `None` for everyone's.
    mm: Option<&'a MmRec>,
    start: u64,
    end: u64,
    held_len: usize,
    held: [Pfn; HELD_MAX],
    /// First page, and first table, of chains through `FrameMeta::a`; 0 for none. Each is referenced by this batch
    /// alone.
    pages: u64,
    tables: u64,
}

impl<'a, E: Env> FlushBatch<'a, E> {
    /// A batch for changes to one mm.
    #[inline]
    pub fn new(env: &'a E, mm: &'a MmRec) -> Self {
        Self::build(env, Some(mm))
    }

    /// A batch for changes to an object that any number of mms map (truncate, hole punching).
    pub fn everyone(env: &'a E) -> Self {
        Self::build(env, None)
    }

    #[inline]
    fn build(env: &'a E, mm: Option<&'a MmRec>) -> Self {
        let held = [Pfn(0); HELD_MAX];
        FlushBatch { env, mm, start: u64::MAX, end: 0, held_len: 0, held, pages: 0, tables: 0 }
    }

    /// Notes that entries of `[start, end)` lost rights.
    #[inline]
    pub(crate) fn touch(&mut self, start: u64, end: u64) {
        self.start = self.start.min(start);
        self.end = self.end.max(end);
    }

    /// Takes over the reference that an entry (noted with [`FlushBatch::touch`] before) held on a data frame or a
    /// table.
    #[inline]
    pub(crate) fn add(&mut self, pfn: Pfn) {
        let meta = self.env.meta(pfn);
        let state = meta.state.load(Relaxed);
        let kind = kind_bits(state);
        // A hugetlb object's PMD page may be found by another fault until it is dropped, and needs its metadata for that.
        if meta.refs.load(Relaxed) == 1 && state & FLAG_OBJECT_PMD == 0 {
            if is_private(state) {
                meta.a.store(self.pages, Relaxed);
                self.pages = pfn.0;
                return;
            }
            // What is chained must not be found by anybody any more.
            if kind == FrameKind::Table as u32 && (!is_object_meta(meta) || disown(self.env, pfn)) {
                meta.a.store(self.tables, Relaxed);
                self.tables = pfn.0;
                return;
            }
        }
        if self.held_len == HELD_MAX {
            self.flush();
        }
        if let Some(slot) = self.held.get_mut(self.held_len) {
            *slot = pfn;
            self.held_len += 1;
        }
    }

    /// Flushes what was touched, then drops the references that were displaced.
    #[inline]
    pub fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        if mutant!(FREED_BEFORE_FLUSH) {
            self.drop_references();
        }
        if self.start < self.end {
            match self.mm {
                Some(mm) => self.env.flush(mm, FlushRange::Pages { start: self.start, end: self.end }),
                None if mutant!(TRUNCATE_FLUSH_SKIPPED) => {}
                None => self.env.flush_everyone(),
            }
            self.env.stats().tlb_flushes.fetch_add(1, Relaxed);
            (self.start, self.end) = (u64::MAX, 0);
        }
        self.drop_references();
    }

    #[inline]
    fn drop_references(&mut self) {
        for pfn in self.held.iter().take(self.held_len) {
            drop_displaced(self.env, *pfn);
        }
        self.held_len = 0;
        while self.tables != 0 {
            let table = Pfn(self.tables);
            self.tables = self.env.meta(table).a.load(Relaxed);
            drop_displaced(self.env, table);
        }
        if self.pages != 0 {
            let mut allocator = self.env.allocator().lock();
            while self.pages != 0 {
                let page = Pfn(self.pages);
                self.pages = self.env.meta(page).a.load(Relaxed);
                put_data_locked(self.env, &mut allocator, page);
            }
        }
    }
}

#[inline]
fn drop_displaced<E: Env>(env: &E, pfn: Pfn) {
    if kind_bits(env.meta(pfn).state.load(Relaxed)) == FrameKind::Table as u32 {
        if put_table(env, pfn) {
            env.stats().detaches.fetch_add(1, Relaxed);
        }
    } else {
        put_data(env, pfn);
    }
}

#[cfg(debug_assertions)]
impl<E: Env> Drop for FlushBatch<'_, E> {
    fn drop(&mut self) {
        // In a test that has failed already a second panic would hide the first.
        #[cfg(any(test, feature = "testing"))]
        if std::thread::panicking() {
            return;
        }
        assert!(
            self.held_len == 0 && self.pages == 0 && self.tables == 0 && self.start >= self.end,
            "flush-before-free: a batch was dropped without `finish`"
        );
    }
}
