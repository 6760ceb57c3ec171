//! Guest-physical memory as the judge sees it: [`PhysView`], and [`Image`], a sparse copy of it.
//!
//! A view answers `None` or `false` for addresses where the guest has no memory, and never panics. Words are
//! little-endian, as the processor stores them.

use std::collections::HashMap;
use std::ops::Range;

use ptshare_paging::{ENTRIES, PAGE_BYTES, PAGE_SHIFT};

/// Read access to guest-physical memory. Addresses and lengths are bytes, unless called `pfn`.
pub trait PhysView {
    /// Fills `out` from `pa` on. False, with `out` in any state, if any byte of it is not memory.
    fn read_bytes(&self, pa: u64, out: &mut [u8]) -> bool;

    /// The word at `pa`; `None` if it is not memory.
    fn read_u64(&self, pa: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read_bytes(pa, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// The 512 words of frame `pfn`. False if it is not memory. The hot path of a walk: worth an implementation of its
    /// own.
    fn read_page(&self, pfn: u64, out: &mut [u64; ENTRIES]) -> bool {
        let mut bytes = [0; PAGE_BYTES as usize];
        let Some(pa) = pfn.checked_mul(PAGE_BYTES) else { return false };
        if !self.read_bytes(pa, &mut bytes) {
            return false;
        }
        for (word, chunk) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        true
    }

    /// Where there is memory, as frame numbers. Only dumps use it, to tell memory never touched (which reads as zero)
    /// from no memory; empty if the view cannot tell.
    fn extents(&self) -> Vec<Range<u64>> {
        Vec::new()
    }
}

/// A sparse copy of guest memory: some pages with content, and ranges in which every other page reads as zero.
#[derive(Clone, Default, Debug)]
pub struct Image {
    pages: HashMap<u64, Box<[u64; ENTRIES]>>,
    extents: Vec<Range<u64>>,
    /// Pages as they were before they were changed, if somebody wants to know.
    log: Option<Before>,
}

/// Frames changed, with what they held; `None` for no content.
type Before = Vec<(u64, Option<Box<[u64; ENTRIES]>>)>;

impl Image {
    /// An image with no memory at all.
    pub fn new() -> Image {
        Image::default()
    }

    /// Makes the frames of this range memory: pages in it that have no content read as zero.
    pub fn add_extent(&mut self, frames: Range<u64>) {
        if frames.start < frames.end {
            self.extents.push(frames);
        }
    }

    /// Is frame `pfn` memory?
    pub fn has(&self, pfn: u64) -> bool {
        self.pages.contains_key(&pfn) || self.extents.iter().any(|e| e.contains(&pfn))
    }

    /// Sets the content of frame `pfn`, which becomes memory if it was not.
    pub fn set_page(&mut self, pfn: u64, words: &[u64; ENTRIES]) {
        self.note(pfn);
        self.pages.insert(pfn, Box::new(*words));
    }

    /// From now on what is overwritten can be had back by [`Image::undo`].
    pub fn remember(&mut self) {
        self.log = Some(Vec::new());
    }

    /// Everything is as it was at [`Image::remember`], and nothing is remembered any more.
    pub fn undo(&mut self) {
        for (pfn, page) in self.log.take().unwrap_or_default().into_iter().rev() {
            match page {
                Some(page) => drop(self.pages.insert(pfn, page)),
                None => drop(self.pages.remove(&pfn)),
            }
        }
    }

    fn note(&mut self, pfn: u64) {
        if let Some(log) = &mut self.log {
            log.push((pfn, self.pages.get(&pfn).cloned()));
        }
    }

    /// The words of frame `pfn` to change, filled with zero if it had no content.
    pub fn page_mut(&mut self, pfn: u64) -> &mut [u64; ENTRIES] {
        self.note(pfn);
        self.pages.entry(pfn).or_insert_with(|| Box::new([0; ENTRIES]))
    }

    /// Frames that have content, in no order.
    pub fn populated(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }

    /// Stores a word. False if `pa` is not memory or not a multiple of 8.
    pub fn write_u64(&mut self, pa: u64, word: u64) -> bool {
        let pfn = pa >> PAGE_SHIFT;
        if !pa.is_multiple_of(8) || !self.has(pfn) {
            return false;
        }
        self.page_mut(pfn)[word_in_page(pa)] = word;
        true
    }

    /// Stores 4 bytes. False if `pa` is not memory or not a multiple of 4.
    pub fn write_u32(&mut self, pa: u64, word: u32) -> bool {
        let Some(old) = self.read_u64(pa & !7).filter(|_| pa.is_multiple_of(4)) else { return false };
        let shift = (pa & 4) * 8;
        self.write_u64(pa & !7, old & !(0xffff_ffff << shift) | u64::from(word) << shift)
    }
}

/// Index of the word at `pa` in its page.
fn word_in_page(pa: u64) -> usize {
    ((pa & (PAGE_BYTES - 1)) / 8) as usize
}

impl PhysView for Image {
    fn read_bytes(&self, pa: u64, out: &mut [u8]) -> bool {
        let mut at = pa;
        let mut left = out;
        while !left.is_empty() {
            let in_page = (at & (PAGE_BYTES - 1)) as usize;
            let take = left.len().min(PAGE_BYTES as usize - in_page);
            let (now, later) = left.split_at_mut(take);
            match self.pages.get(&(at >> PAGE_SHIFT)) {
                Some(page) => copy_bytes(page, in_page, now),
                None if self.has(at >> PAGE_SHIFT) => now.fill(0),
                None => return false,
            }
            left = later;
            match at.checked_add(take as u64) {
                Some(next) => at = next,
                None => return left.is_empty(),
            }
        }
        true
    }

    fn read_u64(&self, pa: u64) -> Option<u64> {
        let pfn = pa >> PAGE_SHIFT;
        if pa.is_multiple_of(8) {
            match self.pages.get(&pfn) {
                Some(page) => Some(page[word_in_page(pa)]),
                None => self.has(pfn).then_some(0),
            }
        } else {
            let mut bytes = [0; 8];
            self.read_bytes(pa, &mut bytes).then(|| u64::from_le_bytes(bytes))
        }
    }

    fn read_page(&self, pfn: u64, out: &mut [u64; ENTRIES]) -> bool {
        match self.pages.get(&pfn) {
            Some(page) => out.copy_from_slice(page.as_slice()),
            None if self.has(pfn) => out.fill(0),
            None => return false,
        }
        true
    }

    fn extents(&self) -> Vec<Range<u64>> {
        self.extents.clone()
    }
}

/// Copies `out.len()` bytes from byte `from` of a page; the caller keeps them inside the page.
fn copy_bytes(page: &[u64; ENTRIES], from: usize, out: &mut [u8]) {
    let mut done = 0;
    while done < out.len() {
        let at = from + done;
        let word = page[at / 8].to_le_bytes();
        let take = (8 - at % 8).min(out.len() - done);
        out[done..done + take].copy_from_slice(&word[at % 8..at % 8 + take]);
        done += take;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cross_pages_and_stop_at_the_end_of_memory() {
        let mut image = Image::new();
        image.add_extent(0..2);
        image.page_mut(0)[511] = 0x0807_0605_0403_0201;
        let mut out = [9; 12];
        assert!(image.read_bytes(4091, &mut out));
        assert_eq!(out, [4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert!(!image.read_bytes(8190, &mut out));
        assert_eq!(image.read_u64(4089), Some(0x0008_0706_0504_0302));
        assert_eq!(image.read_u64(8192), None);
        assert!(!image.read_bytes(u64::MAX - 3, &mut out));
    }

    #[test]
    fn half_words_are_written_alone() {
        let mut image = Image::new();
        image.add_extent(0..1);
        assert!(image.write_u64(16, u64::MAX));
        assert!(image.write_u32(20, 7));
        assert_eq!(image.read_u64(16), Some(0x0000_0007_ffff_ffff));
        assert!(!image.write_u64(17, 0));
        assert!(!image.write_u64(4096, 0));
    }
}
