//! What `/proc/PID/pagemap` shows, page by page.

use super::Mm;
use crate::Env;
use crate::frame::is_private;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::{PAGE_SHIFT, Pfn, Pte, USER_END};
use ptshare_wire::FrameKind;
use ptshare_wire::frame::FLAG_IN_CACHE;

/// A page that is present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageView {
    /// Its frame.
    pub pfn: Pfn,
    /// It belongs to an object: a file, shared anonymous memory, a segment.
    pub of_object: bool,
    /// Nobody else maps it, through a table of its own or through this one.
    pub exclusive: bool,
    /// userfaultfd has write-protected it.
    pub protected: bool,
}

impl<E: Env> Mm<E> {
    /// The page at `va`, also one that may not be accessed (PROT_NONE). The zero page is no page of anybody's: neither an
    /// object's nor exclusive (`pte_to_pagemap_entry`, fs/proc/task_mmu.c). Takes `mmap_lock` for read.
    pub fn page_view(&self, va: u64) -> Option<PageView> {
        if va >= USER_END {
            return None;
        }
        let _set = self.vmas.read();
        let _upper = self.page_table.lock();
        let (level, pte, sharers) = self.leaf_with_sharers(va)?;
        let meta = self.env.meta(pte.pfn());
        let state = meta.state.load(Relaxed);
        let pfn = pte.pfn().add((va & (level.entry_bytes() - 1)) >> PAGE_SHIFT);
        let protected = pte.has(Pte::UFFD_WP);
        if state & 0xff == FrameKind::Zero as u32 {
            return Some(PageView { pfn, of_object: false, exclusive: false, protected });
        }
        let others = meta.aux.load(Relaxed) + u32::from(state & FLAG_IN_CACHE != 0);
        let leaves = meta.refs.load(Relaxed).saturating_sub(others);
        let exclusive = leaves == 1 && sharers == 1;
        Some(PageView { pfn, of_object: !is_private(state), exclusive, protected })
    }
}
