//! Processes with memory of every page size below one PUD page: random calls in every sharing mode, and the judge looks at the
//! whole machine after each few of them.

use ptshare_mm::hugetlb::{HugeSize, counts, resize};
use ptshare_mm::testing::Arena;
use ptshare_mm::{Env, MapRequest, Mm, Object, ObjectInfo, Sharing};
use ptshare_model_tests::args::{
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_FIXED, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED,
    MREMAP_MAYMOVE_FIXED, PROT_READ, PROT_WRITE,
};
use ptshare_model_tests::judge;
use std::sync::Arc;

const GIB: u64 = 1 << 30;
/// The processes live in eight GiB here, across the end of what a PUD page spans.
const BASE: u64 = 0x100_0000_0000 - 4 * GIB;
const PLACES: u64 = 8;
/// The pools.
const GIB_PAGES: u64 = 4;
const MIB2_PAGES: u64 = 12;
const PROCESSES_MAX: usize = 5;
const STEPS: u64 = 100;
/// Steps between two looks.
const LOOK: u64 = 5;

struct World {
    arena: Arena,
    mode: Sharing,
    objects: Vec<(HugeSize, Arc<Object<Arena>>)>,
    mms: Vec<Arc<Mm<Arena>>>,
}

impl World {
    fn new(mode: Sharing, seed: u64) -> World {
        let arena = Arena::new(((GIB_PAGES + 1) * HugeSize::Gib1.frames() + (MIB2_PAGES + 4) * 512) as usize);
        arena.set_gib_pages(true);
        resize(&arena, HugeSize::Gib1, GIB_PAGES);
        resize(&arena, HugeSize::Mib2, MIB2_PAGES);
        (0..seed).for_each(|_| {
            arena.random();
        });
        let object = |size: HugeSize, ino| {
            let info = ObjectInfo::new(7, ino, "/memfd:huge".into());
            (size, Object::hugetlb(arena.clone(), size, info, 2 * GIB, None))
        };
        let objects = vec![object(HugeSize::Gib1, 1), object(HugeSize::Mib2, 2)];
        let mms = vec![Mm::new(arena.clone()).expect("frames for the first")];
        World { arena, mode, objects, mms }
    }

    fn below(&self, n: u64) -> u64 {
        self.arena.random() % n
    }

    /// A place, and one or two GiB from there.
    fn range(&self) -> (u64, u64) {
        let first = self.below(PLACES);
        (BASE + first * GIB, GIB * (1 + self.below(2.min(PLACES - first))))
    }

    /// Maps one or two GiB of some kind of memory.
    fn map(&self, mm: &Mm<Arena>) {
        let (addr, len) = self.range();
        let prot = PROT_READ | (self.below(4).min(1) * PROT_WRITE);
        let reserve = self.below(2) * MAP_NORESERVE;
        let mut request = MapRequest { addr, ..MapRequest::anonymous(len, prot) };
        let size = HugeSize::ALL[self.below(2) as usize];
        request.flags = MAP_FIXED
            | match self.below(5) {
                0 => MAP_ANONYMOUS | MAP_PRIVATE,
                1 | 2 => {
                    let which = self.below(2) as usize;
                    request.object = Some((self.objects[which].1.clone(), 0));
                    [MAP_SHARED, MAP_PRIVATE][self.below(2) as usize] | MAP_NORESERVE
                }
                _ => MAP_ANONYMOUS | MAP_PRIVATE | MAP_HUGETLB | (u64::from(size.shift()) << 26) | reserve,
            };
        // A pool that has no more is an answer like any other: what it leaves must be sound.
        let _ = mm.mmap(request);
    }

    fn step(&mut self) {
        let who = self.below(self.mms.len() as u64) as usize;
        let mm = self.mms[who].clone();
        let (addr, len) = self.range();
        match self.below(16) {
            0..=2 => self.map(&mm),
            3 => {
                let _ = mm.munmap(addr, len);
            }
            4 => {
                let _ = mm.mprotect(addr, len, self.below(4));
            }
            5 => {
                let _ = mm.madvise(addr, len, MADV_DONTNEED);
            }
            6 => {
                let target = BASE + self.below(PLACES - 1) * GIB;
                let _ = mm.mremap(addr, len, len, MREMAP_MAYMOVE_FIXED, target);
            }
            7 | 8 if self.mms.len() < PROCESSES_MAX => {
                if let Ok(child) = mm.fork(self.mode, self.below(2) as u32) {
                    self.mms.push(child);
                }
            }
            9 if self.mms.len() > 1 => drop(self.mms.swap_remove(who)),
            10 => {
                let (size, object) = &self.objects[self.below(2) as usize];
                let _ = object.punch_hole(self.below(2) * size.bytes(), size.bytes());
            }
            11 => {
                let _ = self.arena.user_load(&mm, addr + 8);
            }
            _ => {
                let _ = self.arena.user_store(&mm, addr + 8 * self.below(3), addr);
            }
        }
    }

    fn assert_clean(&self, when: &str) {
        let mms: Vec<&Mm<Arena>> = self.mms.iter().map(|mm| &**mm).collect();
        let report = judge(&self.arena, &mms);
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(report.is_clean(), "{when}:\n{}", findings.join("\n"));
    }
}

fn life(mode: Sharing) {
    let mut copied = 0;
    for seed in 0..2 {
        let mut world = World::new(mode, seed);
        for step in 0..STEPS {
            world.step();
            if step % LOOK == 0 {
                world.assert_clean(&format!("{mode:?}, seed {seed}, step {step}"));
            }
        }
        copied += world.arena.stats().cow_copies.load(std::sync::atomic::Ordering::Relaxed);
        world.mms.clear();
        world.objects.clear();
        world.assert_clean("after the last exit");
        let pools = HugeSize::ALL.map(|size| counts(&world.arena, size));
        assert_eq!(pools, [[MIB2_PAGES, MIB2_PAGES, 0, 0], [GIB_PAGES, GIB_PAGES, 0, 0]], "pages are lost");
    }
    assert!(copied > 0, "nobody copied a page");
}

#[test]
fn when_every_level_is_copied() {
    life(Sharing::None);
}

#[test]
fn when_pte_pages_are_shared() {
    life(Sharing::Pte);
}

#[test]
fn when_whole_trees_are_shared() {
    life(Sharing::Tree);
}
