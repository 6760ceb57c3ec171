//! Tables allocated before they are needed, so that what uses them cannot fail half-way.

use crate::Env;
use crate::frame::NoMemory;
use crate::table::{alloc_table, free_table};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::{Level, Pfn};
use ptshare_wire::frame::{FrameKind, state};

/// Tables allocated ahead, chained through `FrameMeta::a`.
pub(super) struct Reserve<'a, E: Env> {
    env: &'a E,
    head: u64,
}

impl<'a, E: Env> Reserve<'a, E> {
    /// Allocates this many tables; all or none.
    pub(super) fn fill(env: &'a E, tables: u64) -> Result<Self, NoMemory> {
        let mut reserve = Reserve { env, head: 0 };
        for _ in 0..tables {
            reserve.give(alloc_table(env, Level::Pte)?);
        }
        Ok(reserve)
    }

    /// Puts a table back.
    #[inline]
    pub(super) fn give(&mut self, table: Pfn) {
        self.env.meta(table).a.store(self.head, Relaxed);
        self.head = table.0;
    }

    /// Takes one, for this level; `None` when there are no more.
    #[inline]
    pub(super) fn take(&mut self, level: Level) -> Option<Pfn> {
        if self.head == 0 {
            return None;
        }
        let table = Pfn(self.head);
        let meta = self.env.meta(table);
        self.head = meta.a.load(Relaxed);
        meta.state.store(state(FrameKind::Table, level as u8, 0), Relaxed);
        Some(table)
    }
}

impl<E: Env> Drop for Reserve<'_, E> {
    fn drop(&mut self) {
        while let Some(table) = self.take(Level::Pte) {
            free_table(self.env, table, true);
        }
    }
}
