//! Everything that processes can see of their memory, taken without a fault, so that it can be taken before and after
//! something that must change nothing.

use super::FlatKernel;
use crate::frame::put_data;
use crate::hugetlb::HugeSize;
use crate::testing::Arena;
use crate::{Mm, Object};
use core::hash::{Hash, Hasher};
use ptshare_paging::{ENTRIES, PAGE_BYTES, PAGE_SHIFT, Pfn};
use ptshare_wire::vma::{VM_HUGETLB, VmaRec};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::DefaultHasher;
use std::sync::atomic::Ordering::Relaxed;

/// VMAs and content of every process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// By pid. Offsets of anonymous memory, which nobody can see, are 0, and objects are numbered as they come up.
    pub vmas: BTreeMap<u32, Vec<VmaRec>>,
    /// By pid and address: a hash of each page whose content is not all zero. Pages of an object stand here whether they are
    /// mapped or not.
    pub pages: BTreeMap<(u32, u64), u64>,
}

impl Snapshot {
    /// Where two differ, in words; `None` if they are the same.
    pub fn difference(&self, other: &Snapshot) -> Option<String> {
        let pids: BTreeSet<u32> = self.vmas.keys().chain(other.vmas.keys()).copied().collect();
        for pid in pids {
            let (a, b) = (self.vmas.get(&pid), other.vmas.get(&pid));
            if a != b {
                return Some(format!("VMAs of process {pid}:\n  {a:x?}\n  {b:x?}"));
            }
        }
        let keys: BTreeSet<(u32, u64)> = self.pages.keys().chain(other.pages.keys()).copied().collect();
        let differs = |key: &(u32, u64)| self.pages.get(key) != other.pages.get(key);
        let (pid, va) = keys.into_iter().find(differs)?;
        let [a, b] = [self, other].map(|snapshot| snapshot.pages.get(&(pid, va)));
        Some(format!("content of {va:#x} in process {pid}: {a:x?}, {b:x?}"))
    }
}

impl FlatKernel {
    /// All processes as they see their memory now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut objects = vec![0];
        for pid in self.pids() {
            let mm = self.mm(pid);
            let mut pages = BTreeMap::new();
            let mut recs = Vec::new();
            {
                let set = mm.vmas.read();
                for vma in set.iter() {
                    let pgoff = if vma.object.is_some() { vma.rec.pgoff } else { 0 };
                    let object = objects.iter().position(|&id| id == vma.rec.object).unwrap_or_else(|| {
                        objects.push(vma.rec.object);
                        objects.len() - 1
                    });
                    recs.push(VmaRec { pgoff, object: object as u64, ..vma.rec });
                    if let Some(object) = &vma.object {
                        self.unmapped_content(object, &vma.rec, &mut pages);
                    }
                    self.mapped_content(mm, &vma.rec, &mut pages);
                }
            }
            snapshot.vmas.insert(pid, recs);
            let there = pages.into_iter().filter_map(|(va, hash)| Some(((pid, va), hash?)));
            snapshot.pages.extend(there);
        }
        snapshot
    }

    /// What the leaves show.
    fn mapped_content(&self, mm: &Mm<Arena>, rec: &VmaRec, pages: &mut BTreeMap<u64, Option<u64>>) {
        mm.present_in(rec.start, rec.end, &mut |va, pte| {
            let huge = rec.flags & VM_HUGETLB != 0;
            let frames = if huge { HugeSize::of_vma(rec.flags).frames() } else { 1 };
            for i in 0..frames {
                pages.insert(va + i * PAGE_BYTES, self.hash(pte.pfn().add(i)));
            }
        });
    }

    /// What faults would find in the object.
    fn unmapped_content(&self, object: &Object<Arena>, rec: &VmaRec, pages: &mut BTreeMap<u64, Option<u64>>) {
        let step = object.huge_size().map_or(PAGE_BYTES, HugeSize::bytes);
        let mut va = rec.start;
        while va < rec.end {
            let index = rec.pgoff + ((va - rec.start) >> PAGE_SHIFT);
            let offset = index << PAGE_SHIFT;
            // Pages in the way of next_data are holes.
            let data = object.next_data(offset).unwrap_or(u64::MAX);
            if data >= offset.saturating_add(step) && !object.is_huge() {
                let skip = (data - offset) & !(step - 1);
                va = va.saturating_add(skip.max(step));
                continue;
            }
            if object.resident(index) && offset < object.size_bytes() {
                for i in 0..step >> PAGE_SHIFT {
                    pages.insert(va + (i << PAGE_SHIFT), self.hash_of_file(object, index + i));
                }
            }
            va += step;
        }
    }

    fn hash(&self, pfn: Pfn) -> Option<u64> {
        let page = self.arena().page(pfn)?;
        hash(page.iter().map(|word| word.load(Relaxed)))
    }

    /// The content of a page of the object; `None` for all zeros.
    fn hash_of_file(&self, object: &Object<Arena>, index: u64) -> Option<u64> {
        let cached = if let Some(size) = object.huge_size() {
            let head = object.huge_resident(index / size.frames()).ok()?;
            head.map(|head| (head, head.add(index % size.frames())))
        } else {
            object.map_resident(index).map(|pfn| (pfn, pfn))
        };
        if let Some((counted, pfn)) = cached {
            put_data(self.arena(), counted);
            return self.hash(pfn);
        }
        let mut bytes = vec![0; PAGE_BYTES as usize];
        object.read_at(index << PAGE_SHIFT, &mut bytes);
        hash(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))))
    }
}

/// `None` for all zeros.
fn hash(words: impl Iterator<Item = u64>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let mut zero = true;
    for word in words.take(ENTRIES) {
        zero &= word == 0;
        word.hash(&mut hasher);
    }
    (!zero).then(|| hasher.finish())
}
