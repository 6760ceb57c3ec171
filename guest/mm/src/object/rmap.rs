//! From pages of an object to every place that maps them: what truncate, hole punching and [`crate::rmap`] go through.
//!
//! `i_mmap` names the mms; each mm's VMAs say at which addresses. Tables that several mms share need nothing more: the way
//! down from each root leads through them.

use super::Object;
use crate::flush::FlushBatch;
use crate::table::dawdle;
use crate::{Env, Mm, VmaSet};
use ptshare_mutants::mutant;
use ptshare_paging::PAGE_BYTES;

impl<E: Env> Object<E> {
    /// Calls `visit` for each mm that maps the object, with no lock held. Gives the generation of the list that it went by:
    /// if it is no longer the list's, an mm was added meanwhile.
    pub(crate) fn each_mm(&self, mut visit: impl FnMut(&Mm<E>)) -> u64 {
        let (generation, mms) = {
            let mappings = self.mappings.lock();
            (mappings.generation(), mappings.snapshot())
        };
        // An mm on its way out drops its own leaves.
        for mm in mms.iter().filter_map(|mm| mm.upgrade()) {
            visit(&mm);
        }
        generation
    }

    /// Where the VMAs of one mm map pages `[first, last)`: ranges of addresses.
    pub(crate) fn ranges<'a>(
        &self,
        vmas: &'a VmaSet<E>,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (u64, u64)> + use<'a, E> {
        let id = self.id;
        vmas.iter().filter(move |vma| vma.rec.object == id).filter_map(move |vma| {
            let pgoff = vma.rec.pgoff;
            let from = first.max(pgoff);
            let to = last.min(pgoff.saturating_add(vma.pages()));
            let at = |page: u64| vma.rec.start + (page - pgoff) * PAGE_BYTES;
            (from < to).then(|| (at(from), at(to)))
        })
    }

    /// Removes the leaves of pages `[first, last)` from every mm: of private copies too, if `even_cows`.
    pub(super) fn zap_mappings(&self, first: u64, last: u64, even_cows: bool) {
        // A fork may have copied leaves to an mm that the first look at the list does not name: it registered first.
        loop {
            let generation = self.each_mm(|mm| {
                if mutant!(TRUNCATE_TRUSTS_FIRST_LIST) && even_cows {
                    (0..3).for_each(|_| dawdle(&self.env, self.env.zero_page()));
                }
                let vmas = mm.vmas.write();
                self.env.critical_enter();
                let mut batch = FlushBatch::everyone(&self.env);
                for (start, end) in self.ranges(&vmas, first, last) {
                    mm.zap_in_place(start, end, even_cows, &mut batch);
                }
                batch.finish();
                self.env.critical_exit();
            });
            if self.mappings.lock().generation() == generation || mutant!(TRUNCATE_TRUSTS_FIRST_LIST) {
                return;
            }
        }
    }
}
