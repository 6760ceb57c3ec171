//! UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_CONTINUE: a page for a place that has none (Linux: `mfill_atomic` and what it
//! calls, mm/userfaultfd.c). The content of a copy is gathered first, with no lock held, because the handler's memory may
//! fault on its own; the place is looked at again when the page is installed.

use super::{Userfault, is_marker};
use crate::error::MmError;
use crate::frame::{Priority, alloc_data, alloc_kernel, free_kernel, get_data, put_data, set_owner};
use crate::hugetlb::{HUGE_BYTES, HugeSize};
use crate::table::{add_aux, leaf_flags, lock_table};
use crate::vma::{VM_HUGETLB, VM_SHARED, VM_UFFD_WP, VM_WRITE};
use crate::{Env, Mm, NoMemory, Object, ObjectError, Vma};
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte};
use ptshare_wire::FrameKind;

/// Order of the block in which a huge page's content is gathered.
const STAGING_ORDER: usize = 9;

/// A frame that nothing maps yet.
pub struct HeldPage<E: Env> {
    env: E,
    pfn: Pfn,
}

impl<E: Env> HeldPage<E> {
    /// A frame with any content.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new(env: &E) -> Result<Self, NoMemory> {
        env.critical_enter();
        let taken = alloc_data(env, FrameKind::Anon, false, Priority::User);
        if let Ok(pfn) = taken {
            env.meta(pfn).aux.fetch_add(1, Relaxed);
        }
        env.critical_exit();
        Ok(HeldPage { env: env.clone(), pfn: taken? })
    }

    /// Guest-physical address of its first byte.
    pub fn pa(&self) -> u64 {
        self.pfn.pa().0
    }

    /// Gives the frame, whose hold becomes an ordinary reference, to the caller, who is in a critical section.
    fn into_frame(self) -> Pfn {
        let pfn = self.pfn;
        self.env.meta(pfn).aux.fetch_sub(1, AcqRel);
        core::mem::forget(self);
        pfn
    }
}

impl<E: Env> Drop for HeldPage<E> {
    fn drop(&mut self) {
        self.env.critical_enter();
        self.env.meta(self.pfn).aux.fetch_sub(1, AcqRel);
        put_data(&self.env, self.pfn);
        self.env.critical_exit();
    }
}

/// Kernel memory in which the content of a huge page is gathered.
pub struct Staging<E: Env> {
    env: E,
    first: Pfn,
}

impl<E: Env> Staging<E> {
    /// 2 MiB with any content.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new(env: &E) -> Result<Self, NoMemory> {
        Ok(Staging { env: env.clone(), first: alloc_kernel(env, STAGING_ORDER, false)? })
    }

    /// Guest-physical address of its first byte.
    pub fn pa(&self) -> u64 {
        self.first.pa().0
    }
}

impl<E: Env> Drop for Staging<E> {
    fn drop(&mut self) {
        free_kernel(&self.env, self.first, STAGING_ORDER);
    }
}

/// What the page is to be.
pub enum Source<'a, E: Env> {
    /// This frame (UFFDIO_COPY).
    Page(HeldPage<E>),
    /// A huge page with this content (UFFDIO_COPY).
    Huge(&'a Staging<E>),
    /// Zeros (UFFDIO_ZEROPAGE).
    Zero,
    /// What the object has there (UFFDIO_CONTINUE).
    Object,
}

/// Which call wants to fill pages in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// UFFDIO_COPY.
    Copy,
    /// UFFDIO_ZEROPAGE.
    Zero,
    /// UFFDIO_CONTINUE.
    Continue,
}

impl<E: Env> Userfault<E> {
    /// Bytes of the pages of `[start, start + len_bytes)`, if this call may fill them in, write-protected if `protect`.
    ///
    /// # Errors
    /// `NotRegistered` unless the range lies in one registered mapping; `Invalid` when that is not of a kind for this
    /// call, is not registered for write protection though `protect` wants it, or the range cuts huge pages.
    pub fn page_bytes(&self, start: u64, len_bytes: u64, call: Call, protect: bool) -> Result<u64, MmError> {
        let mm = self.mm()?;
        let set = mm.vmas.read();
        let found = set.find(start).filter(|vma| start + len_bytes <= vma.rec.end);
        let bytes = suits(found.ok_or(MmError::NotRegistered)?, call, protect)?;
        if start.is_multiple_of(bytes) && len_bytes.is_multiple_of(bytes) {
            Ok(bytes)
        } else {
            Err(MmError::Invalid)
        }
    }

    /// Installs one page at `addr`, a multiple of its size, write-protected if `protect`. Wakes nobody.
    ///
    /// # Errors
    /// As [`Userfault::page_bytes`]; `Exists` where there is a page already; `Fault` beyond the end of the object and,
    /// for UFFDIO_CONTINUE, where it has no page; `NoMemory`.
    pub fn fill(&self, addr: u64, source: Source<'_, E>, protect: bool) -> Result<(), MmError> {
        let call = match source {
            Source::Page(_) | Source::Huge(_) => Call::Copy,
            Source::Zero => Call::Zero,
            Source::Object => Call::Continue,
        };
        let mm = self.mm()?;
        let set = mm.vmas.read();
        let vma = set.find(addr).ok_or(MmError::NotRegistered)?;
        let bytes = suits(vma, call, protect)?;
        // Since the caller asked, the mapping may have been replaced by one with pages of another size.
        let huge = bytes == HUGE_BYTES;
        let other_size = match source {
            Source::Page(_) => huge,
            Source::Huge(_) => !huge,
            Source::Zero | Source::Object => false,
        };
        if other_size || !addr.is_multiple_of(bytes) {
            return Err(MmError::NotRegistered);
        }
        mm.env.critical_enter();
        let result = if huge {
            mm.install_huge(vma, addr, &source, protect)
        } else {
            mm.install(vma, addr, source, protect)
        };
        mm.env.critical_exit();
        result
    }
}

/// Bytes of a page of this mapping, if the call is for such memory.
fn suits<E: Env>(vma: &Vma<E>, call: Call, protect: bool) -> Result<u64, MmError> {
    if vma.uffd.is_none() {
        return Err(MmError::NotRegistered);
    }
    let huge = vma.has(VM_HUGETLB);
    let refused = (protect && !vma.has(VM_UFFD_WP))
        || (huge && call == Call::Zero)
        || (call == Call::Continue && vma.object.is_none());
    if refused {
        return Err(MmError::Invalid);
    }
    Ok(if huge { HUGE_BYTES } else { PAGE_BYTES })
}

impl<E: Env> Mm<E> {
    fn install(&self, vma: &Vma<E>, page: u64, source: Source<'_, E>, protect: bool) -> Result<(), MmError> {
        let env = &self.env;
        let shared = vma.has(VM_SHARED);
        loop {
            // An object's pages go into its tables as they are, like those of a fault; private ones need a path of one's own.
            let path = match self.walk(page, !shared) {
                Some(path) => path,
                None => self.build_path(page, !shared, Some(vma))?,
            };
            let Some(_guard) = path.lock(env, !shared) else { continue };
            let slot = Level::Pte.slot(page);
            let old = env.load(path.table, slot);
            if old.0 != 0 && !is_marker(old) {
                return Err(MmError::Exists);
            }
            let leaf = match &vma.object {
                Some(object) if shared => self.shared_leaf(vma, object, page, source)?,
                object => self.private_leaf(vma, object.as_deref(), page, source)?,
            };
            let leaf = if protect { leaf.without(Pte::WRITE).with(Pte::UFFD_WP) } else { leaf };
            env.store(path.table, slot, leaf);
            add_aux(env, path.table, u32::from(old.0 == 0));
            return Ok(());
        }
    }

    /// A page of the object, new to it or not, in a shared mapping.
    fn shared_leaf(
        &self,
        vma: &Vma<E>,
        object: &Object<E>,
        page: u64,
        source: Source<'_, E>,
    ) -> Result<Pte, MmError> {
        let index = vma.pgoff_of(page);
        let held = match source {
            Source::Page(held) => held,
            Source::Zero => {
                let held = HeldPage::new(&self.env)?;
                self.env.zero_pages(held.pfn, 1);
                held
            }
            Source::Object | Source::Huge(_) => {
                let cached = object.map_resident(index).ok_or(MmError::Fault)?;
                return Ok(Pte::new(cached, leaf_flags(vma.rec.flags) | write_bit(vma)));
            }
        };
        let pfn = held.into_frame();
        if let Err(error) = object.put_page(index, pfn) {
            put_data(&self.env, pfn);
            return Err(error);
        }
        Ok(Pte::new(pfn, leaf_flags(vma.rec.flags) | write_bit(vma) | Pte::DIRTY))
    }

    /// A page of the process's own, even where an object lies behind it; or the object's, not to be written.
    fn private_leaf(
        &self,
        vma: &Vma<E>,
        object: Option<&Object<E>>,
        page: u64,
        source: Source<'_, E>,
    ) -> Result<Pte, MmError> {
        let flags = leaf_flags(vma.rec.flags);
        let index = vma.pgoff_of(page);
        if let Some(object) = object {
            // Beyond the end there is nothing to fill (`mfill_atomic_install_pte`).
            object.has_page(index).map_err(beyond)?;
        }
        Ok(match source {
            Source::Page(held) => {
                self.env.stats().anon_fills.fetch_add(1, Relaxed);
                Pte::new(self.own(held, index), flags | write_bit(vma) | Pte::DIRTY)
            }
            Source::Zero if object.is_none() => {
                let zero = self.env.zero_page();
                get_data(&self.env, zero);
                self.env.stats().zero_page_fills.fetch_add(1, Relaxed);
                Pte::new(zero, flags)
            }
            Source::Zero => {
                let held = HeldPage::new(&self.env)?;
                self.env.zero_pages(held.pfn, 1);
                Pte::new(self.own(held, index), flags | write_bit(vma) | Pte::DIRTY)
            }
            Source::Object | Source::Huge(_) => {
                let cached = object.and_then(|object| object.map_resident(index)).ok_or(MmError::Fault)?;
                Pte::new(cached, flags)
            }
        })
    }

    /// Makes a frame the private page `pgoff` of this mm.
    fn own(&self, held: HeldPage<E>, pgoff: u64) -> Pfn {
        let pfn = held.into_frame();
        set_owner(&self.env, pfn, self.family, pgoff);
        pfn
    }

    fn install_huge(
        &self,
        vma: &Vma<E>,
        page: u64,
        source: &Source<'_, E>,
        protect: bool,
    ) -> Result<(), MmError> {
        let env = &self.env;
        let object = vma.object.as_deref().ok_or(MmError::Invalid)?;
        let _upper = self.page_table.lock();
        let pmd = self.huge_table(HugeSize::Mib2, Some(vma), page)?;
        let _guard = lock_table(env, pmd, Level::Pmd);
        let slot = Level::Pmd.slot(page);
        let old = env.load(pmd, slot);
        if old.0 != 0 && !is_marker(old) {
            return Err(MmError::Exists);
        }
        let index = vma.pgoff_of(page) / (HUGE_BYTES / PAGE_BYTES);
        let shared = vma.has(VM_SHARED);
        let (pfn, write) = match source {
            Source::Huge(staging) if shared => (object.fill_huge(index, staging.pa())?, write_bit(vma)),
            Source::Huge(staging) => {
                object.has_page(vma.pgoff_of(page)).map_err(beyond)?;
                let own = self.private_huge(vma, page, false).map_err(|_| MmError::NoMemory)?;
                env.copy_phys(own.pa().0, staging.pa(), HUGE_BYTES);
                (own, write_bit(vma))
            }
            _ => {
                let cached = object.huge_resident(index).map_err(beyond)?.ok_or(MmError::Fault)?;
                (cached, if shared { write_bit(vma) } else { 0 })
            }
        };
        let leaf = Pte::new(pfn, leaf_flags(vma.rec.flags) | write | Pte::HUGE | Pte::DIRTY);
        let leaf = if protect { leaf.without(Pte::WRITE).with(Pte::UFFD_WP) } else { leaf };
        env.store(pmd, slot, leaf);
        add_aux(env, pmd, u32::from(old.0 == 0));
        Ok(())
    }
}

fn write_bit<E: Env>(vma: &Vma<E>) -> u64 {
    if vma.has(VM_WRITE) { Pte::WRITE } else { 0 }
}

fn beyond(error: ObjectError) -> MmError {
    match error {
        ObjectError::BeyondEnd => MmError::Fault,
        ObjectError::NoMemory => MmError::NoMemory,
    }
}
