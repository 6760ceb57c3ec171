//! Reading and writing an object's bytes, for read(2) and write(2) and for the kernel itself.
//!
//! The work is cut at page boundaries and handed to a closure as guest-physical ranges, so that the kernel copies
//! between user memory and the cache with no buffer between. A page is held while its closure runs, with no lock: the
//! closure may fault.

use super::{MAX_OBJECT_BYTES, Object, ObjectError, ObjectKind, index_of};
use crate::Env;
use crate::frame;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::{PAGE_BYTES, Pfn, page_floor};

impl<E: Env> Object<E> {
    /// Calls `f(pa, len)` for each run of the bytes from `off` on, at most `len_bytes` and not past the end. `f` gives
    /// the bytes that it took; fewer than offered end the walk. Gives the bytes taken in all. Makes no page: holes are
    /// read from the zero page, initramfs content where it lies.
    pub fn read_chunks(&self, off: u64, len_bytes: u64, f: &mut dyn FnMut(u64, u64) -> u64) -> u64 {
        let end = off.saturating_add(len_bytes).min(self.size_bytes());
        let mut at = off;
        while at < end {
            let want = (page_floor(at) + PAGE_BYTES).min(end) - at;
            let took = self.read_run(at, want, f).min(want);
            at += took;
            if took < want {
                break;
            }
        }
        at.saturating_sub(off)
    }

    fn read_run(&self, at: u64, len: u64, f: &mut dyn FnMut(u64, u64) -> u64) -> u64 {
        let held = {
            let pages = self.pages.lock();
            let found = if self.is_huge() {
                self.huge_at(&pages, at)
            } else {
                pages.get(index_of(at)).map(|pfn| (pfn, pfn.pa().0 + at % PAGE_BYTES))
            };
            found.inspect(|&(pfn, _)| self.hold(pfn))
        };
        if let Some((pfn, pa)) = held {
            let took = f(pa, len);
            self.release(pfn);
            return took;
        }
        let initial = self.initial_bytes.load(Relaxed);
        match self.kind {
            ObjectKind::Initramfs { pa, .. } if at < initial => {
                let part = len.min(initial - at);
                let took = f(pa + at, part);
                if took < part || part == len {
                    return took;
                }
                part + self.read_run(at + part, len - part, f)
            }
            _ => f(self.env.zero_page().pa().0 + at % PAGE_BYTES, len),
        }
    }

    /// Calls `f(pa, len)` for each page's part of the `len_bytes` from `off` on, making pages as needed. `f` writes
    /// there and gives the bytes that it wrote; none at two calls in a row end the walk. The object grows to what was
    /// written, and to `off` in any case.
    /// Gives the bytes written in all.
    ///
    /// # Errors
    /// Only if nothing was written: `NoMemory`, or `BeyondEnd` past [`MAX_OBJECT_BYTES`].
    pub fn write_chunks(
        &self,
        off: u64,
        len_bytes: u64,
        f: &mut dyn FnMut(u64, u64) -> u64,
    ) -> Result<u64, ObjectError> {
        let end = off.saturating_add(len_bytes).min(MAX_OBJECT_BYTES);
        if off >= end {
            return if len_bytes == 0 { Ok(0) } else { Err(ObjectError::BeyondEnd) };
        }
        let (mut at, mut failed) = (off, false);
        while at < end {
            let want = (page_floor(at) + PAGE_BYTES).min(end) - at;
            let pfn = match self.held_page(index_of(at)) {
                Ok(pfn) => pfn,
                Err(_) if at > off => break,
                Err(error) => return Err(error),
            };
            let took = f(pfn.pa().0 + at % PAGE_BYTES, want).min(want);
            self.release(pfn);
            at += took;
            // Also if nothing came of it: a write from memory that is not there makes the page, and a file that ended
            // before it longer (`shmem_write_end` with 0 bytes copied). That may be what the memory was waiting for,
            // so the end comes when two tries in a row give nothing.
            self.size_bytes.fetch_max(at, Relaxed);
            if took == 0 && failed {
                break;
            }
            failed = took == 0;
        }
        Ok(at - off)
    }

    /// The first byte at or after `off` that lies in no hole (SEEK_DATA); the end of the object does not count.
    pub fn next_data(&self, off: u64) -> Option<u64> {
        if self.is_huge() {
            // hugetlbfs tells no holes apart.
            return (off < self.size_bytes()).then_some(off);
        }
        if off < self.initial_bytes.load(Relaxed) {
            return Some(off);
        }
        let index = self.pages.lock().next_from(index_of(off))?;
        Some((index * PAGE_BYTES).max(off))
    }

    /// Copies bytes from `off` on into `out`, as many as there are. Gives their number.
    pub fn read_at(&self, off: u64, out: &mut [u8]) -> usize {
        let mut done = 0;
        self.read_chunks(off, out.len() as u64, &mut |pa, len| {
            let next = done + len as usize;
            if let Some(part) = out.get_mut(done..next) {
                self.env.read_phys(pa, part);
            }
            done = next;
            len
        });
        done
    }

    /// Copies `data` to `off`, growing the object. Gives the bytes written.
    ///
    /// # Errors
    /// As [`Object::write_chunks`].
    pub fn write_at(&self, off: u64, data: &[u8]) -> Result<usize, ObjectError> {
        let mut done = 0;
        self.write_chunks(off, data.len() as u64, &mut |pa, len| {
            let next = done + len as usize;
            if let Some(part) = data.get(done..next) {
                self.env.write_phys(pa, part);
            }
            done = next;
            len
        })?;
        Ok(done)
    }

    /// The page at `index`, made if need be, held.
    fn held_page(&self, index: u64) -> Result<Pfn, ObjectError> {
        self.env.critical_enter();
        let page = self.page(index, false);
        if let Ok(pfn) = page {
            self.env.meta(pfn).aux.fetch_add(1, Relaxed);
        }
        self.env.critical_exit();
        page
    }

    /// Takes a transient hold on a page of the cache, whose lock the caller has.
    fn hold(&self, pfn: Pfn) {
        self.env.critical_enter();
        frame::get_data(&self.env, pfn);
        self.env.meta(pfn).aux.fetch_add(1, Relaxed);
        self.env.critical_exit();
    }

    /// Gives a hold back.
    fn release(&self, pfn: Pfn) {
        self.env.critical_enter();
        self.env.meta(pfn).aux.fetch_sub(1, Relaxed);
        frame::put_data(&self.env, pfn);
        self.env.critical_exit();
    }
}
