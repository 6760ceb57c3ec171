//! Builds synthetic guests with books that add up, step by step as a kernel would.
//!
//! ```text
//!  frame 0x100 census header    0x101 CPU table    0x102 kernel root    0x103 a kernel PUD
//!  0x104.. mm table             0x310.. frame array (32 bytes a frame)             0x380.. answers
//!  0x400 .. 0x2000 managed: what the builder hands out, then free blocks, then virgin frames
//! ```
//!
//! A guest with more memory has its frame array behind the answers, and the managed frames behind that.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte, Slot};
use ptshare_wire::answers::{FrameAnswer, PlaceAnswer, UsageAnswer};
use ptshare_wire::census::{CENSUS_MAGIC, CENSUS_VERSION};
use ptshare_wire::frame::{
    FLAG_HEAD, FLAG_HUGE_LEAVES, FLAG_OBJECT_PMD, FLAG_OBJECT_TABLE, FLAG_ZEROED, FRAME_META_BYTES,
    FrameKind, OBJECT_PMD_RIGHTS_SHIFT, state,
};
use ptshare_wire::layout::{KERNEL_HALF_SLOT, LINEAR_BASE};
use ptshare_wire::vma::{VM_SHARED, VM_WRITE};
use ptshare_wire::{Answers, CensusHeader, CpuRec, FrameMeta, MmRec, RamRange, ReservedRange, Stats, VmaRec};

use crate::{Image, PhysView, Vcpu};

const HEADER: u64 = 0x10_0000;
const CPU_TABLE: u64 = 0x10_1000;
const KERNEL_ROOT: u64 = 0x102;
const KERNEL_PUD: u64 = 0x103;
const MM_TABLE: u64 = 0x10_4000;
const FRAME_ARRAY: u64 = 0x31_0000;
const ANSWERS: u64 = 0x38_0000;
const RAM_START: u64 = 0x400;
/// Frames of a guest that need not be large.
const FRAMES: u64 = 0x2000;
/// Bytes from one VMA to the next: a guest's own fields follow the record.
const VMA_STRIDE: u64 = 64;
/// Slot of the linear map in a root.
const LINEAR_SLOT: usize = Level::Pgd.slot(LINEAR_BASE).index();

/// A finished synthetic guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its memory.
    pub image: Image,
    /// Guest-physical address of the census header.
    pub census_pa: u64,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
}

/// Metadata in the making.
#[derive(Clone, Copy, Default)]
struct Meta {
    refs: u32,
    state: u32,
    aux: u32,
    a: u64,
    b: u64,
}

struct Space {
    pid: u64,
    family: u64,
    hugetlb_reserved: u64,
    root: u64,
    cpumask: u64,
    table_pages: u64,
    vmas: Vec<VmaRec>,
}

/// An address space of a [`Builder`], in the order of creation; also its slot in the mm table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmIndex(usize);

/// A guest in the making.
pub struct Builder {
    image: Image,
    next: u64,
    frames: u64,
    ram_start: u64,
    /// Guest-physical address.
    frame_array: u64,
    metas: BTreeMap<u64, Meta>,
    spaces: Vec<Space>,
    zero: u64,
    kernel_frames: u64,
    /// Hugetlb pages: all, and free ones.
    hugetlb: (u64, u64),
    /// Pages promised to mms; the other free ones are promised to objects.
    promised: u64,
    /// Answers given: frames, their places, processes.
    answered: (u64, u64, u64),
    vcpus: Vec<(Vcpu, Option<MmIndex>)>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    /// A guest with a kernel, a zero page and no process.
    pub fn new() -> Builder {
        Builder::with_frames(FRAMES)
    }

    /// The same in a machine with this many frames.
    pub fn with_frames(frames: u64) -> Builder {
        let (frame_array, ram_start) = if frames <= FRAMES {
            (FRAME_ARRAY, RAM_START)
        } else {
            let array = RAM_START * PAGE_BYTES;
            (array, RAM_START + (frames * FRAME_META_BYTES).div_ceil(PAGE_BYTES))
        };
        let mut image = Image::new();
        image.add_extent(0..frames);
        let kernel = Pte::PRESENT | Pte::WRITE | Pte::ACCESSED;
        image.page_mut(KERNEL_ROOT)[LINEAR_SLOT] = Pte::new(Pfn(KERNEL_PUD), kernel).0;
        image.page_mut(KERNEL_ROOT)[511] = Pte::new(Pfn(KERNEL_PUD), kernel).0;
        let leaf = kernel | Pte::DIRTY | Pte::HUGE | Pte::GLOBAL | Pte::NO_EXEC;
        image.page_mut(KERNEL_PUD)[0] = Pte::new(Pfn(0), leaf).0;
        let mut builder = Builder {
            image,
            next: ram_start,
            frames,
            ram_start,
            frame_array,
            metas: BTreeMap::new(),
            spaces: Vec::new(),
            zero: 0,
            kernel_frames: 0,
            hugetlb: (0, 0),
            promised: 0,
            answered: (0, 0, 0),
            vcpus: Vec::new(),
        };
        builder.zero = builder.frame(FrameKind::Zero);
        // The permanent hold.
        builder.meta(builder.zero, |m| (m.refs, m.aux) = (1, 1));
        builder
    }

    /// A fresh frame of this kind with refs 0.
    pub fn frame(&mut self, kind: FrameKind) -> u64 {
        let pfn = self.next;
        self.next += 1;
        self.metas.insert(pfn, Meta { state: state(kind, 0, 0), ..Meta::default() });
        self.kernel_frames += u64::from(kind == FrameKind::Kernel);
        pfn
    }

    /// A page of an object's page cache.
    pub fn cache_frame(&mut self, object: u64, index: u64) -> u64 {
        let pfn = self.frame(FrameKind::Cache);
        self.meta(pfn, |m| {
            m.state |= ptshare_wire::frame::FLAG_IN_CACHE;
            (m.refs, m.a, m.b) = (1, object, index);
        });
        pfn
    }

    /// A 2 MiB page of a hugetlb object, aligned; the frames skipped become kernel memory.
    pub fn hugetlb_frame(&mut self, object: u64, index: u64) -> u64 {
        while !self.next.is_multiple_of(512) {
            self.frame(FrameKind::Kernel);
        }
        let head = self.frame(FrameKind::Hugetlb);
        for _ in 1..512 {
            self.frame(FrameKind::Free);
        }
        self.hugetlb.0 += 1;
        self.meta(head, |m| {
            m.state |= ptshare_wire::frame::FLAG_IN_CACHE;
            (m.refs, m.a, m.b) = (1, object, index);
        });
        head
    }

    /// A free page of the hugetlb pool.
    pub fn pool_frame(&mut self) {
        let head = self.hugetlb_frame(0, 0);
        self.hugetlb.1 += 1;
        self.meta(head, |m| {
            *m = Meta {
                state: state(FrameKind::Hugetlb, 0, ptshare_wire::frame::FLAG_POOL_FREE),
                ..Meta::default()
            }
        });
    }

    /// Reserves free pages of the pool for a private mapping of `mm`.
    pub fn reserve_huge(&mut self, mm: MmIndex, pages: u64) {
        self.spaces[mm.0].hugetlb_reserved += pages;
        self.promised += pages;
    }

    /// Makes the PMD page that `owner` has over `at` the object's, and lets `user` point at it over its own address `va`.
    pub fn share_object_pmd(&mut self, owner: MmIndex, at: u64, user: MmIndex, va: u64) {
        let shared = self.table(owner, at, Level::Pmd);
        let vma = self.spaces[owner.0].vmas.iter().find(|v| v.start <= at && at < v.end).copied();
        let vma = vma.unwrap_or_default();
        self.meta(shared, |m| {
            m.state |=
                FLAG_HUGE_LEAVES | FLAG_OBJECT_PMD | ((vma.flags & 7) as u32) << OBJECT_PMD_RIGHTS_SHIFT;
            m.a = vma.object << 32 | (vma.pgoff + ((at - vma.start) >> 12)) >> 9;
            m.refs += 1;
        });
        let pud = self.table(user, va, Level::Pud);
        self.store(pud, Level::Pud.slot(va), Pte::user_table(Pfn(shared)));
        self.spaces[user.0].table_pages += 1;
    }

    /// The zero page.
    pub fn zero_page(&self) -> u64 {
        self.zero
    }

    fn meta(&mut self, pfn: u64, change: impl FnOnce(&mut Meta)) {
        change(self.metas.entry(pfn).or_default());
    }

    fn new_table(&mut self, level: Level) -> u64 {
        let pfn = self.frame(FrameKind::Table);
        self.meta(pfn, |m| (m.refs, m.state) = (1, state(FrameKind::Table, level as u8, 0)));
        pfn
    }

    /// A new process with an empty address space.
    pub fn mm(&mut self, pid: u64) -> MmIndex {
        let root = self.new_table(Level::Pgd);
        for slot in KERNEL_HALF_SLOT..512 {
            let word = self.image.page_mut(KERNEL_ROOT)[slot];
            self.image.page_mut(root)[slot] = word;
        }
        let family = self.spaces.len() as u64 + 100;
        self.spaces.push(Space {
            pid,
            family,
            hugetlb_reserved: 0,
            root,
            cpumask: 0,
            table_pages: 1,
            vmas: Vec::new(),
        });
        MmIndex(self.spaces.len() - 1)
    }

    /// Adds a VMA; they come in address order.
    pub fn vma(&mut self, mm: MmIndex, start: u64, end: u64, flags: u64, object: u64, pgoff: u64) {
        self.spaces[mm.0].vmas.push(VmaRec { start, end, flags, pgoff, object });
    }

    /// Runs `mm` on a new vCPU; `None` for the kernel's own root.
    pub fn vcpu(&mut self, mm: Option<MmIndex>) {
        let index = self.vcpus.len() as u32;
        let root = mm.map_or(KERNEL_ROOT, |mm| self.spaces[mm.0].root);
        if let Some(mm) = mm {
            self.spaces[mm.0].cpumask |= 1 << index;
        }
        self.vcpus.push((Vcpu { index, cr3: root * PAGE_BYTES, user: mm.is_some() }, mm));
    }

    fn load(&mut self, table: u64, slot: Slot) -> Pte {
        Pte(self.image.page_mut(table)[slot.index()])
    }

    fn store(&mut self, table: u64, slot: Slot, pte: Pte) {
        let old = self.load(table, slot);
        self.image.page_mut(table)[slot.index()] = pte.0;
        self.meta(table, |m| m.aux = m.aux + u32::from(pte.0 != 0) - u32::from(old.0 != 0));
    }

    /// Sets bits of an entry.
    pub fn set_bits(&mut self, table: u64, slot: Slot, bits: u64) {
        let pte = self.load(table, slot);
        self.store(table, slot, pte.with(bits));
    }

    /// The table of `level` over `va`, with all tables above it, made if missing.
    pub fn table(&mut self, mm: MmIndex, va: u64, level: Level) -> u64 {
        let mut table = self.spaces[mm.0].root;
        for above in Level::TOP_DOWN.into_iter().filter(|l| *l > level) {
            let slot = above.slot(va);
            let pte = self.load(table, slot);
            table = match above.below() {
                Some(below) if !pte.present() => {
                    let child = self.new_table(below);
                    self.store(table, slot, Pte::user_table(Pfn(child)));
                    self.spaces[mm.0].table_pages += 1;
                    child
                }
                _ => pte.pfn().0,
            };
        }
        table
    }

    /// Puts a leaf of `level` that maps `pfn` at `va`. `flags` are the bits beside P, U and A.
    pub fn map(&mut self, mm: MmIndex, va: u64, level: Level, pfn: u64, flags: u64) {
        let table = self.table(mm, va, level);
        self.store(
            table,
            level.slot(va),
            Pte::new(Pfn(pfn), Pte::PRESENT | Pte::USER | Pte::ACCESSED | flags),
        );
        self.meta(pfn, |m| m.refs += 1);
    }

    /// A frame for a private page at `va`, where `mm` has a VMA.
    fn private_frame(&mut self, mm: MmIndex, va: u64) -> u64 {
        let pfn = self.frame(FrameKind::Anon);
        let space = &self.spaces[mm.0];
        let vma = space.vmas.iter().find(|v| v.start <= va && va < v.end).copied().unwrap_or_default();
        let owner = (space.family, vma.pgoff.wrapping_add(va.wrapping_sub(vma.start) >> 12));
        self.meta(pfn, |m| (m.a, m.b) = owner);
        pfn
    }

    /// Puts a fresh private page at `va`.
    pub fn map_anon(&mut self, mm: MmIndex, va: u64, flags: u64) {
        let pfn = self.private_frame(mm, va);
        self.map(mm, va, Level::Pte, pfn, flags);
    }

    /// Puts a marker of userfaultfd's write protection at `va`, where no page is.
    pub fn map_marker(&mut self, mm: MmIndex, va: u64) {
        let table = self.table(mm, va, Level::Pte);
        self.store(table, Level::Pte.slot(va), Pte(Pte::UFFD_WP));
    }

    /// Puts a page under PROT_NONE at `va`: held, without access.
    pub fn map_no_access(&mut self, mm: MmIndex, va: u64) {
        let pfn = self.private_frame(mm, va);
        let table = self.table(mm, va, Level::Pte);
        self.store(table, Level::Pte.slot(va), Pte::new(Pfn(pfn), Pte::PROT_NONE | Pte::NO_EXEC));
        self.meta(pfn, |m| m.refs += 1);
    }

    /// Lets `user` point at the PTE page that `owner` has over `at`, over its own address `va`; R/W = 1 in both.
    pub fn share_object_table(&mut self, owner: MmIndex, at: u64, user: MmIndex, va: u64) {
        let shared = self.table(owner, at, Level::Pte);
        let above = self.table(owner, at, Level::Pmd);
        let entry = self.load(above, Level::Pmd.slot(at));
        let pmd = self.table(user, va, Level::Pmd);
        self.store(pmd, Level::Pmd.slot(va), entry);
        self.meta(shared, |m| m.refs += 1);
        self.spaces[user.0].table_pages += 1;
    }

    /// Makes the PTE page of `mm` over `va` its object's: that of the VMA there, whose rights decide on R/W above.
    pub fn own_by_object(&mut self, mm: MmIndex, va: u64) {
        let table = self.table(mm, va, Level::Pte);
        let pmd = self.table(mm, va, Level::Pmd);
        let vma = self.spaces[mm.0].vmas.iter().find(|v| v.start <= va && va < v.end);
        let vma = *vma.expect("a VMA over the table");
        self.meta(table, |m| {
            m.state |= FLAG_OBJECT_TABLE;
            (m.a, m.b) = (vma.object, vma.pgoff + ((va - vma.start) >> 12));
        });
        if vma.flags & VM_WRITE == 0 {
            self.store(pmd, Level::Pmd.slot(va), Pte::user_table(Pfn(table)).without(Pte::WRITE));
        }
    }

    /// Forks `parent`: upper tables are copied, PTE pages shared with R/W = 0 in both PMD entries.
    pub fn fork(&mut self, parent: MmIndex, pid: u64) -> MmIndex {
        let child = self.mm(pid);
        self.spaces[child.0].family = self.spaces[parent.0].family;
        self.spaces[child.0].vmas = self.spaces[parent.0].vmas.clone();
        let root = self.spaces[parent.0].root;
        self.fork_table(root, Level::Pgd, 0, child);
        child
    }

    fn fork_table(&mut self, table: u64, level: Level, base: u64, child: MmIndex) {
        let slots = if level == Level::Pgd { KERNEL_HALF_SLOT } else { 512 };
        for slot in (0..slots).map(Slot::new) {
            let pte = self.load(table, slot);
            let va = base + ((slot.index() as u64) << level.shift());
            if !pte.present() {
                continue;
            }
            let own = self.table(child, va, level);
            if pte.is_leaf(level) {
                self.store(own, slot, pte);
                self.meta(pte.pfn().0, |m| m.refs += 1);
            } else if level == Level::Pmd {
                let read_only = pte.without(Pte::WRITE);
                self.store(table, slot, read_only);
                self.store(own, slot, read_only);
                self.meta(pte.pfn().0, |m| m.refs += 1);
                self.spaces[child.0].table_pages += 1;
            } else if let Some(below) = level.below() {
                self.fork_table(pte.pfn().0, below, va, child);
            }
        }
    }

    /// Gives `mm` a PTE page of its own over `va` in place of a shared one.
    pub fn unshare(&mut self, mm: MmIndex, va: u64) {
        let pmd = self.table(mm, va, Level::Pmd);
        let old = self.table(mm, va, Level::Pte);
        let new = self.new_table(Level::Pte);
        let base = Level::Pte.span_start(va);
        for slot in (0..512).map(Slot::new) {
            let at = base + slot.index() as u64 * PAGE_BYTES;
            let mut pte = self.load(old, slot);
            if pte.0 == 0 {
                continue;
            }
            if !self.spaces[mm.0].vmas.iter().any(|v| v.start <= at && at < v.end && v.flags & VM_SHARED != 0)
            {
                pte = pte.without(Pte::WRITE);
                self.store(old, slot, pte);
            }
            self.store(new, slot, pte);
            self.meta(pte.pfn().0, |m| m.refs += 1);
        }
        self.meta(old, |m| m.refs -= 1);
        self.store(pmd, Level::Pmd.slot(va), Pte::user_table(Pfn(new)));
    }

    /// Answers a write to the page at `va`: a copy with R/W = 1 in an unshared table.
    pub fn cow(&mut self, mm: MmIndex, va: u64) {
        let table = self.table(mm, va, Level::Pte);
        let old = self.load(table, Level::Pte.slot(va));
        let copy = self.private_frame(mm, va);
        self.meta(old.pfn().0, |m| m.refs -= 1);
        let flags = old.0 & !Pte::ADDR | Pte::WRITE | Pte::DIRTY;
        self.store(table, Level::Pte.slot(va), Pte::new(Pfn(copy), flags));
        self.meta(copy, |m| m.refs += 1);
    }

    /// The frame that `mm` maps at `va` with a small leaf.
    pub fn frame_at(&mut self, mm: MmIndex, va: u64) -> u64 {
        let table = self.table(mm, va, Level::Pte);
        self.load(table, Level::Pte.slot(va)).pfn().0
    }

    /// The kernel's answer where `pfn` is mapped.
    pub fn answer_frame(&mut self, pfn: u64, places: &[(MmIndex, u64)]) {
        let (frames, first, _) = self.answered;
        let at = ANSWERS + (offset_of!(Answers, frame) + frames as usize * size_of::<FrameAnswer>()) as u64;
        self.put(at, offset_of!(FrameAnswer, pfn), pfn);
        self.put(at, offset_of!(FrameAnswer, first), first);
        self.put(at, offset_of!(FrameAnswer, places), places.len() as u64);
        for (i, (mm, va)) in places.iter().enumerate() {
            let place = (first as usize + i) * size_of::<PlaceAnswer>();
            let at = ANSWERS + (offset_of!(Answers, place) + place) as u64;
            self.put(at, offset_of!(PlaceAnswer, slot), mm.0 as u64);
            self.put(at, offset_of!(PlaceAnswer, va), *va);
        }
        self.answered.0 += 1;
        self.answered.1 += places.len() as u64;
    }

    /// The kernel's answer what /proc shows of `mm`: private pages, pages of objects, and hugetlb pages in units of 4 KiB; of
    /// its tables, `shared` are shared by two.
    pub fn answer_usage(&mut self, mm: MmIndex, [anon, object, hugetlb]: [u64; 3], shared: u64) {
        let record = self.answered.2 as usize * size_of::<UsageAnswer>();
        let at = ANSWERS + (offset_of!(Answers, usage) + record) as u64;
        let tables = self.spaces[mm.0].table_pages;
        for (field, word) in [
            (offset_of!(UsageAnswer, slot), mm.0 as u64),
            (offset_of!(UsageAnswer, rss_anon), anon),
            (offset_of!(UsageAnswer, rss_object), object),
            (offset_of!(UsageAnswer, hugetlb), hugetlb),
            (offset_of!(UsageAnswer, tables), tables),
            (offset_of!(UsageAnswer, tables_shared), shared),
            (offset_of!(UsageAnswer, tables_prop), (tables - shared) * PAGE_BYTES + shared * PAGE_BYTES / 2),
        ] {
            self.put(at, field, word);
        }
        self.answered.2 += 1;
    }

    /// Writes the books: VMA lists, free blocks of the orders 0 to 3, metadata, tables, header.
    pub fn finish(mut self) -> Guest {
        for index in 0..self.spaces.len() {
            self.publish_mm(index);
        }
        let free = self.free_blocks();
        let is_table = |m: &&Meta| m.state & 0xff == FrameKind::Table as u32;
        let tables = self.metas.values().filter(is_table).count() as u64;
        let shared = self.metas.values().filter(is_table).filter(|m| m.refs > 1).count() as u64;
        let stats = offset_of!(CensusHeader, stats);
        self.put(HEADER, stats + offset_of!(Stats, tables_now), tables);
        self.put(HEADER, stats + offset_of!(Stats, tables_shared_now), shared);
        let (frames, _, usages) = self.answered;
        self.put(ANSWERS, offset_of!(Answers, frames), frames);
        self.put(ANSWERS, offset_of!(Answers, usages), usages);
        for (pfn, meta) in std::mem::take(&mut self.metas) {
            let pa = self.frame_array + pfn * FRAME_META_BYTES;
            self.put32(pa, offset_of!(FrameMeta, refs), meta.refs);
            self.put32(pa, offset_of!(FrameMeta, state), meta.state);
            self.put32(pa, offset_of!(FrameMeta, aux), meta.aux);
            self.put(pa, offset_of!(FrameMeta, a), meta.a);
            self.put(pa, offset_of!(FrameMeta, b), meta.b);
        }
        let vcpus = std::mem::take(&mut self.vcpus);
        for (vcpu, mm) in &vcpus {
            let pa = CPU_TABLE + u64::from(vcpu.index) * size_of::<CpuRec>() as u64;
            self.put32(pa, offset_of!(CpuRec, online), 1);
            self.put(pa, offset_of!(CpuRec, mm_slot), mm.map_or(0, |mm| mm.0 as u64 + 1));
            self.put(pa, offset_of!(CpuRec, pid), mm.map_or(0, |mm| self.spaces[mm.0].pid));
        }
        self.header(free, vcpus.len() as u64);
        Guest { image: self.image, census_pa: HEADER, vcpus: vcpus.into_iter().map(|(v, _)| v).collect() }
    }

    fn header(&mut self, free: u64, cpus: u64) {
        let head = |field: usize| (HEADER, field);
        let ram = offset_of!(CensusHeader, ram);
        let reserved = offset_of!(CensusHeader, reserved);
        for ((pa, field), word) in [
            (head(offset_of!(CensusHeader, magic)), CENSUS_MAGIC),
            (head(ram + offset_of!(RamRange, start)), self.ram_start),
            (head(ram + offset_of!(RamRange, virgin)), self.next),
            (head(ram + offset_of!(RamRange, end)), self.frames),
            (head(reserved + offset_of!(ReservedRange, start)), HEADER),
            (head(reserved + offset_of!(ReservedRange, end)), self.ram_start * PAGE_BYTES),
            (head(offset_of!(CensusHeader, frame_array)), self.frame_array),
            (head(offset_of!(CensusHeader, frames)), self.frames),
            (head(offset_of!(CensusHeader, free_frames)), free),
            (head(offset_of!(CensusHeader, kernel_frames)), self.kernel_frames),
            (head(offset_of!(CensusHeader, mm_table)), MM_TABLE),
            (head(offset_of!(CensusHeader, mm_high)), self.spaces.len() as u64 + 2),
            (head(offset_of!(CensusHeader, cpu_table)), CPU_TABLE),
            (head(offset_of!(CensusHeader, cpus)), cpus),
            (head(offset_of!(CensusHeader, kernel_root)), KERNEL_ROOT),
            (head(offset_of!(CensusHeader, zero_page)), self.zero),
            (head(offset_of!(CensusHeader, answers)), ANSWERS),
            (head(offset_of!(CensusHeader, hugetlb_total)), self.hugetlb.0),
            (head(offset_of!(CensusHeader, hugetlb_free)), self.hugetlb.1),
            (head(offset_of!(CensusHeader, hugetlb_reserved)), self.hugetlb.1),
            (head(offset_of!(CensusHeader, hugetlb_promised)), self.hugetlb.1 - self.promised),
        ] {
            self.put(pa, field, word);
        }
        self.put32(HEADER, offset_of!(CensusHeader, version), CENSUS_VERSION);
        self.put32(HEADER, offset_of!(CensusHeader, header_bytes), size_of::<CensusHeader>() as u32);
    }

    /// Lays free blocks of each order from 0 to 3 after the frames in use; gives the number of frames in them.
    fn free_blocks(&mut self) -> u64 {
        let begin = self.next;
        for order in [0u8, 1, 0, 2, 3] {
            let flags = FLAG_HEAD | if order == 3 { FLAG_ZEROED } else { 0 };
            self.metas
                .insert(self.next, Meta { state: state(FrameKind::Free, order, flags), ..Meta::default() });
            self.next += 1 << order;
        }
        self.next - begin
    }

    /// Writes the mm record and its VMAs, three to a chunk, into kernel frames.
    fn publish_mm(&mut self, index: usize) {
        let list = self.frame(FrameKind::Kernel) * PAGE_BYTES;
        let chunks: Vec<Vec<VmaRec>> = self.spaces[index].vmas.chunks(3).map(<[VmaRec]>::to_vec).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            let at = self.frame(FrameKind::Kernel) * PAGE_BYTES;
            self.put(list, 8 * i, LINEAR_BASE + at);
            self.put(at, 0, chunk.len() as u64);
            for (v, vma) in chunk.iter().enumerate() {
                let pa = at + 8 + v as u64 * VMA_STRIDE;
                self.put(pa, offset_of!(VmaRec, start), vma.start);
                self.put(pa, offset_of!(VmaRec, end), vma.end);
                self.put(pa, offset_of!(VmaRec, flags), vma.flags);
                self.put(pa, offset_of!(VmaRec, pgoff), vma.pgoff);
                self.put(pa, offset_of!(VmaRec, object), vma.object);
            }
        }
        let pa = MM_TABLE + (index * size_of::<MmRec>()) as u64;
        let space = &self.spaces[index];
        for (field, word) in [
            (offset_of!(MmRec, root), space.root),
            (offset_of!(MmRec, pid), space.pid),
            (offset_of!(MmRec, family), space.family),
            (offset_of!(MmRec, hugetlb_reserved), space.hugetlb_reserved),
            (offset_of!(MmRec, cpumask), space.cpumask),
            (offset_of!(MmRec, vma_index), LINEAR_BASE + list),
            (offset_of!(MmRec, vma_chunks), chunks.len() as u64),
            (offset_of!(MmRec, vma_count), space.vmas.len() as u64),
            (offset_of!(MmRec, vma_stride), VMA_STRIDE),
            (offset_of!(MmRec, table_pages), space.table_pages),
        ] {
            self.image.write_u64(pa + field as u64, word);
        }
    }

    fn put(&mut self, pa: u64, field: usize, word: u64) {
        self.image.write_u64(pa + field as u64, word);
    }

    fn put32(&mut self, pa: u64, field: usize, word: u32) {
        self.image.write_u32(pa + field as u64, word);
    }
}

impl Guest {
    /// Judges the guest as it is.
    pub fn verify(&self) -> crate::Report {
        crate::verify(&self.image, self.census_pa, &self.vcpus, &crate::Options::default())
    }

    /// The word at `pa`, 0 if there is no memory.
    pub fn word(&self, pa: u64) -> u64 {
        self.image.read_u64(pa).unwrap_or(0)
    }
}
