//! Calls on files, as their mappings see them.

use super::*;
use ptshare_mm::vma::{VM_MAYSHARE, VM_SHARED};
use ptshare_paging::page_floor;

impl Model {
    /// A file that the kernel has under the same index.
    pub fn open(&mut self, size: u64, huge: bool) -> usize {
        self.files.push(File { size, huge, open: true, ..File::default() });
        self.files.len() - 1
    }

    /// Sets a word of a file.
    pub fn set_word(&mut self, file: usize, offset: u64, value: u64) {
        let last = usize::from(!offset.is_multiple_of(PAGE_BYTES));
        self.files[file].pages.entry(offset / PAGE_BYTES).or_default()[last] = value;
    }

    pub(super) fn ftruncate(&mut self, file: usize, bytes: u64, answer: Answer) -> Verdict {
        if self.files[file].huge && !bytes.is_multiple_of(HUGE) {
            return expect(answer, error(Errno::EINVAL), "ftruncate to a part of a huge page");
        }
        expect(answer, value(0), "ftruncate")?;
        let model = &mut self.files[file];
        let old = core::mem::replace(&mut model.size, bytes);
        if bytes >= old {
            // What was written behind the old end through a mapping stays, as on tmpfs.
            return Ok(());
        }
        let first = bytes.div_ceil(PAGE_BYTES);
        model.pages.retain(|index, _| *index < first);
        model.present.retain(|number| *number < bytes / HUGE);
        cut(model, bytes);
        // Private copies go too.
        for process in self.processes.values_mut() {
            for extent in process.extents.clone().iter() {
                let keep = first.saturating_sub(extent.first).saturating_mul(PAGE_BYTES);
                let from = extent.start.saturating_add(keep);
                let private = extent.flags & (VM_SHARED | VM_MAYSHARE) == 0;
                if extent.file == Some(file) && private && from < extent.end {
                    process.private.retain(|page, _| *page < from || *page >= extent.end);
                    process.own_huge.retain(|unit| *unit < from || *unit >= extent.end);
                }
            }
        }
        Ok(())
    }

    pub(super) fn punch(
        &mut self,
        context: Context<'_>,
        (file, offset, len): (usize, u64, u64),
        answer: Answer,
    ) -> Verdict {
        if context.refused && answer == error(Errno::ENOSPC) {
            // Part of the range may have been cleared: what the file says now holds.
            let first = page_floor(offset) / PAGE_BYTES;
            for index in first..(offset + len).div_ceil(PAGE_BYTES) {
                let words = [0, PAGE_BYTES - 8].map(|at| context.kernel.pread(file, index * PAGE_BYTES + at));
                self.files[file].pages.insert(index, words);
            }
            return Ok(());
        }
        expect(answer, value(0), "punching a hole")?;
        self.punch_bytes(file, offset, len);
        Ok(())
    }

    /// Clears `[offset, offset + len)` of a file; of huge pages, whole ones go.
    pub(super) fn punch_bytes(&mut self, file: usize, offset: u64, len: u64) {
        let end = offset + len;
        let file = &mut self.files[file];
        for (index, words) in file.pages.range_mut(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)) {
            for (word, at) in words.iter_mut().zip([0, PAGE_BYTES - 8]) {
                let at = index * PAGE_BYTES + at;
                if offset <= at && at + 8 <= end {
                    *word = 0;
                }
            }
        }
        if file.huge {
            let (first, last) = (offset.div_ceil(HUGE), end / HUGE);
            file.present.retain(|number| *number < first || *number >= last);
        }
    }

    pub(super) fn fallocate(
        &mut self,
        context: Context<'_>,
        (file, offset, len): (usize, u64, u64),
        answer: Answer,
    ) -> Verdict {
        let end = offset + len;
        let short = self.files[file].huge && context.spare_huge() == 0;
        let failed = (context.refused || short) && answer == error(Errno::ENOSPC);
        if self.files[file].huge {
            for number in offset / HUGE..end.div_ceil(HUGE) {
                let there = context.kernel.file(file).resident(number * (HUGE / PAGE_BYTES));
                if there {
                    self.files[file].present.insert(number);
                } else if !failed {
                    return Err(format!("fallocate left huge page {number} out"));
                }
            }
        }
        if failed {
            return Ok(());
        }
        expect(answer, value(0), "fallocate")?;
        let file = &mut self.files[file];
        file.size = file.size.max(end);
        Ok(())
    }

    pub(super) fn pwrite(
        &mut self,
        context: Context<'_>,
        (file, offset, word): (usize, u64, u64),
        answer: Answer,
    ) -> Verdict {
        if self.files[file].huge {
            return expect(answer, error(Errno::EINVAL), "pwrite to huge pages");
        }
        let old = self.files[file].size;
        if context.refused && answer == error(Errno::ENOSPC) {
            return Ok(());
        }
        expect(answer, value(0), "pwrite")?;
        self.files[file].size = old.max(offset + 8);
        self.set_word(file, offset, word);
        Ok(())
    }

    pub(super) fn pread(&self, file: usize, offset: u64, answer: Answer) -> Verdict {
        let model = &self.files[file];
        let last = usize::from(!offset.is_multiple_of(PAGE_BYTES));
        let there = offset + 8 <= model.size;
        let word = if there { model.page(offset / PAGE_BYTES)[last] } else { 0 };
        if offset < model.size && !there {
            // A part of a word.
            return Ok(());
        }
        expect(answer, value(word), "pread")
    }
}

/// Clears the bytes of the last page from the end on.
fn cut(file: &mut File, size: u64) {
    let used = size % PAGE_BYTES;
    if used > 0
        && let Some(words) = file.pages.get_mut(&(size / PAGE_BYTES))
    {
        words[1] = 0;
    }
}
