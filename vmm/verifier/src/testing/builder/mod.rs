//! Builds synthetic guests with books that add up, step by step as a kernel would.
//!
//! ```text
//!  frame 0x100 census header    0x101 CPU table    0x102 kernel root    0x103 a kernel PUD
//!  0x104.. mm table             0x310.. frame array (32 bytes a frame)             0x380.. answers
//!  0x400 .. 0x2000 managed: what the builder hands out, then free blocks, then virgin frames
//! ```
//!
//! A guest with more memory has its frame array behind the answers, and the managed frames behind that.

mod publish;
mod sharing;

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte, Slot};
use ptshare_wire::answers::{FrameAnswer, PlaceAnswer, UsageAnswer};
use ptshare_wire::census::{CENSUS_MAGIC, CENSUS_VERSION};
use ptshare_wire::frame::{
    FLAG_HEAD, FLAG_HUGE_LEAVES, FLAG_OBJECT_PMD, FLAG_OBJECT_TABLE, FLAG_ZEROED, FRAME_META_BYTES,
    FrameKind, OBJECT_PMD_RIGHTS_SHIFT, state,
};
use ptshare_wire::huge::{HUGE_SIZES, HugetlbCounts};
use ptshare_wire::layout::{KERNEL_HALF_SLOT, LINEAR_BASE};
use ptshare_wire::vma::{VM_SHARED, VM_WRITE};
use ptshare_wire::{
    Answers, CensusHeader, CpuRec, FrameMeta, HugeSize, MmRec, RamRange, ReservedRange, Stats, VmaRec,
};

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
    hugetlb_reserved: [u64; HUGE_SIZES],
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
    /// Hugetlb pages by size: all, and free ones.
    hugetlb: [(u64, u64); HUGE_SIZES],
    /// Pages promised to mms; the other free ones are promised to objects.
    promised: [u64; HUGE_SIZES],
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
        Builder::with_ram(frames, frame_array, ram_start)
    }

    /// A machine with room for two pages of 1 GiB, which are to be made first, and little else.
    pub fn with_gib_pages() -> Builder {
        let frames = 3 * HugeSize::Gib1.frames() + FRAMES;
        // The zero page and what alignment takes.
        Builder::with_ram(frames, RAM_START * PAGE_BYTES, HugeSize::Gib1.frames() - 16)
    }

    fn with_ram(frames: u64, frame_array: u64, ram_start: u64) -> Builder {
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
            hugetlb: [(0, 0); HUGE_SIZES],
            promised: [0; HUGE_SIZES],
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
        self.huge_frame(HugeSize::Mib2, object, index)
    }

    /// The same, of any size.
    pub fn huge_frame(&mut self, size: HugeSize, object: u64, index: u64) -> u64 {
        while !self.next.is_multiple_of(size.frames()) {
            self.frame(FrameKind::Kernel);
        }
        let head = self.frame(FrameKind::Hugetlb);
        // The others are in state 0, as if nobody had ever written their metadata.
        self.next += size.frames() - 1;
        self.hugetlb[size.index()].0 += 1;
        self.meta(head, |m| {
            m.state = state(FrameKind::Hugetlb, size.order() as u8, ptshare_wire::frame::FLAG_IN_CACHE);
            (m.refs, m.a, m.b) = (1, object, index);
        });
        head
    }

    /// A private huge page of this size for `va`, where `mm` has a VMA.
    pub fn private_huge_frame(&mut self, mm: MmIndex, size: HugeSize, va: u64) -> u64 {
        let head = self.huge_frame(size, 0, 0);
        let owner = self.owner(mm, va);
        self.meta(head, |m| {
            m.state = state(FrameKind::Hugetlb, size.order() as u8, 0);
            (m.refs, m.a, m.b) = (0, owner.0, owner.1);
        });
        head
    }

    /// A free page of the hugetlb pool.
    pub fn pool_frame(&mut self) {
        let size = HugeSize::Mib2;
        let head = self.hugetlb_frame(0, 0);
        self.hugetlb[size.index()].1 += 1;
        self.meta(head, |m| {
            *m = Meta {
                state: state(FrameKind::Hugetlb, size.order() as u8, ptshare_wire::frame::FLAG_POOL_FREE),
                ..Meta::default()
            }
        });
    }

    /// Reserves free pages of the pool for a private mapping of `mm`.
    pub fn reserve_huge(&mut self, mm: MmIndex, pages: u64) {
        let size = HugeSize::Mib2.index();
        self.spaces[mm.0].hugetlb_reserved[size] += pages;
        self.promised[size] += pages;
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
            hugetlb_reserved: [0; HUGE_SIZES],
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
        let owner = self.owner(mm, va);
        self.meta(pfn, |m| (m.a, m.b) = owner);
        pfn
    }

    /// Family and index of a private page at `va`, where `mm` has a VMA.
    fn owner(&self, mm: MmIndex, va: u64) -> (u64, u64) {
        let space = &self.spaces[mm.0];
        let vma = space.vmas.iter().find(|v| v.start <= va && va < v.end).copied().unwrap_or_default();
        (space.family, vma.pgoff.wrapping_add(va.wrapping_sub(vma.start) >> 12))
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
