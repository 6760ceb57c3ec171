//! The kernel's state beside the model's.

use super::*;
use ptshare_mm::hugetlb::HUGE_FRAMES;
use ptshare_mm::testing::Arena;
use ptshare_mm::vma::VM_HUGETLB;
use ptshare_mm::{Env, Mm};
use ptshare_paging::{PAGE_SHIFT, Pfn};
use ptshare_wire::VmaRec;
use std::sync::atomic::Ordering::Relaxed;

/// `FrameKind`, and the flag of a page in a cache, as `shared/wire` has them.
const ANON: u32 = ptshare_wire::frame::FrameKind::Anon as u32;
const HUGETLB: u32 = ptshare_wire::frame::FrameKind::Hugetlb as u32;

/// Is the page that `page` maps one of the process's own?
pub(super) fn is_private_page(kernel: &FlatKernel, mm: &Mm<Arena>, page: u64) -> bool {
    let Some(pfn) = mm.translate(page, false) else { return false };
    let state = |pfn| kernel.arena().meta(pfn).state.load(Relaxed);
    let head = Pfn(pfn.0 & !(HUGE_FRAMES - 1));
    if state(head) & 0xff == HUGETLB {
        return state(head) & ptshare_wire::frame::FLAG_IN_CACHE == 0;
    }
    state(pfn) & 0xff == ANON
}

/// Is the page of the file that is mapped at `page` in its cache?
pub(super) fn is_resident(mm: &Mm<Arena>, page: u64) -> bool {
    let mut resident = false;
    mm.for_each_vma(&mut |vma| {
        if let Some(object) = vma.object.filter(|_| vma.start <= page && page < vma.end) {
            resident = object.resident((vma.offset + page - vma.start) >> PAGE_SHIFT);
        }
    });
    resident
}

impl Model {
    /// Do the kernel's mappings of a process equal the model's, to the last flag?
    pub fn check_mappings(&mut self, kernel: &FlatKernel, pid: u32) -> Verdict {
        let found = kernel.vmas(pid);
        let mut wanted = Vec::new();
        for (n, extent) in self.processes[&pid].extents.iter().enumerate() {
            let seen = found.get(n).map_or(0, |vma| vma.object);
            let object = extent.file.map_or(0, |file| *self.files[file].object.get_or_insert(seen));
            let Extent { start, end, flags, first, .. } = *extent;
            wanted.push(VmaRec { start, end, flags, pgoff: first, object });
        }
        if found == wanted {
            return Ok(());
        }
        let lines = |vmas: &[VmaRec]| vmas.iter().map(|vma| format!("    {vma:x?}\n")).collect::<String>();
        Err(format!("mappings of process {pid}:\n  model\n{}  kernel\n{}", lines(&wanted), lines(&found)))
    }

    /// Reads every page of a process of which the model knows a word that is not zero, and `others` pages of each mapping
    /// besides, through the simulated processor.
    pub fn check_content(&mut self, kernel: &FlatKernel, pid: u32, others: u64) -> Verdict {
        let mut pages: BTreeSet<u64> = self.process(pid).private.keys().copied().collect();
        for extent in self.process(pid).extents.iter() {
            let step = if extent.has(VM_HUGETLB) { HUGE } else { PAGE_BYTES };
            let units = (extent.end - extent.start) / step;
            pages.extend((0..units.min(others)).map(|i| extent.start + i * units / units.min(others) * step));
            let (Some(file), first) = (extent.file, extent.first) else { continue };
            let last = first + ((extent.end - extent.start) >> PAGE_SHIFT);
            let known = self.files[file].pages.range(first..last);
            pages.extend(known.map(|(index, _)| extent.start + ((index - first) << PAGE_SHIFT)));
        }
        for page in pages {
            for last in [0, 1] {
                let addr = page + last * (PAGE_BYTES - 8);
                let answer = kernel.load(pid, addr).into();
                let context = Context { kernel, pid, refused: false };
                self.load(context, addr, answer)?;
            }
        }
        Ok(())
    }

    /// Reads every page of every open file.
    pub fn check_files(&self, kernel: &FlatKernel) -> Verdict {
        for (file, model) in self.files.iter().enumerate().filter(|(_, model)| model.open) {
            if kernel.file(file).size_bytes() != model.size {
                let size = kernel.file(file).size_bytes();
                return Err(format!("file {file} has {size:#x} bytes instead of {:#x}", model.size));
            }
            for index in model.pages.keys() {
                for at in [0, PAGE_BYTES - 8] {
                    let offset = index * PAGE_BYTES + at;
                    let answer = Answer::Value(kernel.pread(file, offset));
                    self.pread(file, offset, answer)
                        .map_err(|what| format!("file {file}, {offset:#x}: {what}"))?;
                }
            }
        }
        Ok(())
    }
}
