//! Reverse mapping: from a frame to every (mm, address) that maps it.
//!
//! ```text
//!  page of an object   (object, index) in its metadata --> the object's mms --> VMAs over that index --+
//!                                                                                                     +--> the leaf there
//!  private page        (family, index) in its metadata --> mms of the family -> VMAs over that index --+
//! ```
//!
//! The 2003 paper chains the mms of a shared PTE page to it (`mm_chain`), because rmap went by PTE. Chains at every level
//! would make a fork of whole trees pay for each of them, and every unsharing move links about. Here nothing is chained to
//! tables: a page knows its index, every VMA knows which indices it covers, and the way down from each candidate's root leads
//! through whatever tables it shares with others. So a page below a shared PUD page is found once for each sharer, at each
//! sharer's own address, and sharing or unsharing a table changes nothing here. It is the idea of Linux's object-based rmap
//! (`page_vma_mapped_walk`, `linear_page_index`), and costs two stores for each private page that is made.
//!
//! **Index.** A private page gets the number that its address has in its VMA ([`Vma::pgoff_of`](crate::Vma::pgoff_of)), and
//! keeps it for life: splits, merges and mremap carry `pgoff` along.
//!
//! **Family.** Private pages pass from one mm to another by fork alone, so the mms that can map one descend from the mm for
//! which it was made. exec makes a new mm, and with it a new family. All mms of a family are candidates (Linux's `anon_vma`
//! trees would narrow them down); the leaf decides.
//!
//! Rule `reverse-map-equals-walk`: complete, because every leaf of a private page has its mm's family and its VMA's index;
//! sound, because only what a leaf confirms is reported.

#[cfg(test)]
mod tests;

use crate::frame::is_private;
use crate::hugetlb::head_of;
use crate::{Env, Mm, NoMemory, Object};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::{Level, PAGE_BYTES, Pfn};
use ptshare_wire::frame::{FLAG_IN_CACHE, FLAG_POOL_FREE};

static NEXT_FAMILY: AtomicU64 = AtomicU64::new(1);

/// A family that has no mm yet.
pub(crate) fn new_family() -> u64 {
    NEXT_FAMILY.fetch_add(1, Relaxed)
}

/// All mms, by slot. Lives under [`Env::mms`].
pub struct Mms<E: Env> {
    places: Vec<Option<Weak<Mm<E>>>>,
}

impl<E: Env> Default for Mms<E> {
    fn default() -> Self {
        Mms::new()
    }
}

impl<E: Env> Mms<E> {
    /// None.
    pub const fn new() -> Self {
        Mms { places: Vec::new() }
    }

    /// Lists an mm under its slot.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(crate) fn add(&mut self, slot: u32, mm: &Arc<Mm<E>>) -> Result<(), NoMemory> {
        let at = slot as usize;
        if at >= self.places.len() {
            let more = at + 1 - self.places.len();
            self.places.try_reserve(more).map_err(|_| NoMemory)?;
            self.places.resize_with(at + 1, || None);
        }
        if let Some(place) = self.places.get_mut(at) {
            *place = Some(Arc::downgrade(mm));
        }
        Ok(())
    }

    /// Strikes the mm of a slot out; what it gives is dropped after the lock.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Weak<Mm<E>>> {
        self.places.get_mut(slot as usize)?.take()
    }

    /// The first live mm at or after `slot` that `fits`, by its slot.
    fn next(&self, slot: usize, fits: impl Fn(u32) -> bool) -> Option<(usize, Arc<Mm<E>>)> {
        let places = self.places.iter().enumerate().skip(slot);
        let mut places = places.filter(|(at, place)| place.is_some() && fits(*at as u32));
        if mutant!(RMAP_STOPS_AT_DEAD) {
            return places.next().and_then(|(at, place)| Some((at, place.as_ref()?.upgrade()?)));
        }
        places.find_map(|(at, place)| Some((at, place.as_ref()?.upgrade()?)))
    }
}

/// Calls `visit` for each mm of a family, or of all, with no lock held.
fn each_mm<E: Env>(env: &E, family: Option<u64>, visit: &mut dyn FnMut(&Mm<E>)) {
    let fits = |slot: u32| family.is_none_or(|family| env.mm_rec(slot).family.load(Relaxed) == family);
    let mut from = 0;
    loop {
        let next = env.mms().lock().next(from, fits);
        let Some((slot, mm)) = next else { return };
        visit(&mm);
        from = slot + 1;
    }
}

/// Calls `visit` for every live mm, in the order of slots, with no lock held.
pub fn for_each_mm<E: Env>(env: &E, visit: &mut dyn FnMut(&Mm<E>)) {
    each_mm(env, None, visit);
}

/// Why a frame has no reverse map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoReverseMap {
    /// It is not managed, or was never given out.
    NoFrame,
    /// It is no page of a process or an object (a table, kernel memory, free), or the zero page, whose mappings nobody
    /// needs to find.
    NoPage,
}

/// Is this frame managed, and has it been given out? Only then its metadata mean something.
fn is_known<E: Env>(env: &E, pfn: Pfn) -> bool {
    let known = |range: &ptshare_wire::RamRange| {
        (range.start.load(Relaxed)..range.virgin.load(Relaxed)).contains(&pfn.0)
    };
    env.census().ram.iter().any(known)
}

/// Calls `f` with each mm and address that maps the frame, a part of a huge page included, in no particular order; gives
/// their number. An mm's `mmap_lock` is held for reading while `f` runs with it; the caller holds none, and nothing that
/// ranks above it.
///
/// # Errors
/// [`NoReverseMap`].
pub fn for_each_mapping<E: Env>(
    env: &E,
    pfn: Pfn,
    f: &mut dyn FnMut(&Mm<E>, u64),
) -> Result<usize, NoReverseMap> {
    if !is_known(env, pfn) {
        return Err(NoReverseMap::NoFrame);
    }
    let head = head_of(env, pfn).map_or(pfn, |(head, _)| head);
    let into = (pfn.0 - head.0) * PAGE_BYTES;

    let meta = env.meta(head);
    let state = meta.state.load(Relaxed);
    let index = meta.b.load(Relaxed);
    let mut found = 0;
    let mut visit = |mm: &Mm<E>, va: u64| {
        if mm.maps(head, va) || mutant!(RMAP_BELIEVES_INDEX) {
            found += 1;
            f(mm, va + into);
        }
    };
    if is_private(state) && state & FLAG_POOL_FREE == 0 {
        each_mm(env, Some(meta.a.load(Relaxed)), &mut |mm| {
            let vmas = mm.vmas.read();
            vmas.iter().filter_map(|vma| vma.address_of(index)).for_each(|va| visit(mm, va));
        });
        Ok(found)
    } else if state & FLAG_IN_CACHE != 0 {
        if let Some(object) = find_object(env, meta.a.load(Relaxed)) {
            object.each_mm(|mm| {
                let vmas = mm.vmas.read();
                object.ranges(&vmas, index, index + 1).for_each(|(va, _)| visit(mm, va));
            });
        }
        Ok(found)
    } else {
        Err(NoReverseMap::NoPage)
    }
}

/// An object that some mm maps, by its id. The first VMA that maps it leads to it; its own list names the others.
fn find_object<E: Env>(env: &E, id: u64) -> Option<Arc<Object<E>>> {
    let mut found = None;
    each_mm(env, None, &mut |mm| {
        if found.is_none() {
            let vmas = mm.vmas.read();
            found = vmas.iter().find(|vma| vma.rec.object == id).and_then(|vma| vma.object.clone());
        }
    });
    found
}

impl<E: Env> Mm<E> {
    /// Does the leaf at `va` map this frame, the head of a huge page if it is one? `mmap_lock` is held; takes
    /// `page_table_lock`.
    fn maps(&self, pfn: Pfn, va: u64) -> bool {
        let start = |level: Level| va & !(level.entry_bytes() - 1);
        let _upper = self.page_table.lock();
        self.leaf_at(va).is_some_and(|(level, pte)| pte.pfn() == pfn && start(level) == va)
    }
}
