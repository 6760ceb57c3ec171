//! Random families of processes against a flat model: what each may read, and when it must fault.

use crate::testing::Arena;
use crate::{Access, Env, FaultOutcome, MapRequest, Mm, Object, ObjectInfo, ObjectKind, Sharing};
use ptshare_paging::{Level, PAGE_BYTES};
use std::collections::BTreeMap;
use std::sync::Arc;

const SPAN: u64 = Level::Pte.span_bytes();
/// The processes live in four PTE pages' spans, across the end of a PMD page's.
const BASE: u64 = 0x10_4000_0000 - 2 * SPAN;
const PAGES: u64 = 4 * 512;
/// Files, and their length: what a mapping anywhere in the processes' space can reach.
const FILES: u64 = 2;
const FILE_PAGES: u64 = 512 + 2048 + 512;
const MADV_DONTNEED: u64 = 4;
const MAP_FIXED: u64 = 0x10;

/// A page of a process: its rights (`PROT_*`), and the frame of the model that holds its content.
#[derive(Clone, Copy)]
struct Page {
    prot: u64,
    /// The value of its first word; for a shared page, where to look.
    value: u64,
    shared: Option<u64>,
    /// A private mapping of a file's page, not written to: where to look.
    origin: Option<u64>,
}

impl Page {
    /// Where its content is, if not in `value`.
    fn place(&self) -> Option<u64> {
        self.shared.or(if self.value == 0 { self.origin } else { None })
    }
}

struct Process {
    mm: Arc<Mm<Arena>>,
    pages: BTreeMap<u64, Page>,
}

struct World {
    arena: Arena,
    mode: Sharing,
    processes: Vec<Process>,
    /// Contents of shared pages.
    shared: Vec<u64>,
    /// Files, whose pages are the first of `shared`.
    files: Vec<Arc<Object<Arena>>>,
    next: u64,
}

fn va(page: u64) -> u64 {
    BASE + page * PAGE_BYTES
}

impl World {
    fn new(mode: Sharing, seed: u64) -> World {
        let arena = Arena::new(6000);
        let mm = Mm::new(arena.clone()).unwrap();
        let file = |_| {
            let info = ObjectInfo::new(1, 1, "file".into());
            let file = Object::new(arena.clone(), ObjectKind::Tmpfs, info);
            file.truncate(FILE_PAGES * PAGE_BYTES).unwrap();
            file
        };
        let files = (0..FILES).map(file).collect();
        (0..seed % 97).for_each(|_| {
            arena.random();
        });
        World {
            arena,
            mode,
            processes: vec![Process { mm, pages: BTreeMap::new() }],
            shared: vec![0; (FILES * FILE_PAGES) as usize],
            files,
            next: 1,
        }
    }

    fn below(&self, n: u64) -> u64 {
        self.arena.random() % n
    }

    /// A range that likes the edges of tables.
    fn range(&self) -> (u64, u64) {
        let around = self.below(4) * 512;
        let start = match self.below(3) {
            0 => around,
            1 => around + 500 + self.below(12),
            _ => self.below(PAGES),
        };
        let len = match self.below(4) {
            0 => 512,
            1 => 1 + self.below(8),
            2 => 1 + self.below(600),
            _ => 1024,
        };
        (start, (start + len).min(PAGES))
    }

    fn step(&mut self) {
        let who = self.below(self.processes.len() as u64) as usize;
        match self.below(16) {
            0 if self.processes.len() < 6 => self.fork(who),
            1 if self.processes.len() > 1 => {
                self.processes.remove(who);
            }
            0..=2 => self.map(who),
            3 => self.map_file(who),
            4 => self.unmap(who),
            5 => self.protect(who),
            6 => self.discard(who),
            7 => self.remap(who),
            8..=12 => self.store(who),
            _ => self.load(who),
        }
    }

    fn fork(&mut self, who: usize) {
        let small = self.below(3) as u32;
        let parent = &self.processes[who];
        let child = Process { mm: parent.mm.fork(self.mode, small).unwrap(), pages: parent.pages.clone() };
        self.processes.push(child);
    }

    fn map(&mut self, who: usize) {
        let (start, end) = self.range();
        let shared = self.below(4) == 0;
        let prot = [1, 3, 3, 3, 0][self.below(5) as usize];
        let mut request = MapRequest::anonymous((end - start) * PAGE_BYTES, prot);
        request.addr = va(start);
        request.flags = MAP_FIXED | 0x20 | if shared { 1 } else { 2 };
        let process = &mut self.processes[who];
        process.mm.mmap(request).unwrap();
        for page in start..end {
            let index = shared.then(|| {
                self.shared.push(0);
                self.shared.len() as u64 - 1
            });
            process.pages.insert(page, Page { prot, value: 0, shared: index, origin: None });
        }
    }

    /// Maps part of a file, congruent to its offset so that PTE pages can be shared, mostly whole spans.
    fn map_file(&mut self, who: usize) {
        let (start, end) = if self.below(4) == 0 {
            self.range()
        } else {
            let first = self.below(4);
            (first * 512, (first + 1 + self.below(2)).min(4) * 512)
        };
        let (file, pgoff) = (self.below(FILES), self.below(2) * 512 + start % 512);
        let shared = self.below(3) != 0;
        let prot = [1, 3, 3][self.below(3) as usize];
        let mut request = MapRequest::anonymous((end - start) * PAGE_BYTES, prot);
        request.addr = va(start);
        request.flags = MAP_FIXED | if shared { 1 } else { 2 };
        request.object = Some((self.files[file as usize].clone(), pgoff));
        let process = &mut self.processes[who];
        process.mm.mmap(request).unwrap();
        for page in start..end {
            let index = Some(file * FILE_PAGES + pgoff + page - start);
            let (shared, origin) = if shared { (index, None) } else { (None, index) };
            process.pages.insert(page, Page { prot, value: 0, shared, origin });
        }
    }

    fn unmap(&mut self, who: usize) {
        let (start, end) = self.range();
        let process = &mut self.processes[who];
        process.mm.munmap(va(start), (end - start) * PAGE_BYTES).unwrap();
        process.pages.retain(|page, _| *page < start || *page >= end);
    }

    fn protect(&mut self, who: usize) {
        let (start, end) = self.range();
        let prot = self.below(4);
        let process = &mut self.processes[who];
        let _ = process.mm.mprotect(va(start), (end - start) * PAGE_BYTES, prot);
        // The part before the first hole has its new rights.
        for page in start..end {
            let Some(page) = process.pages.get_mut(&page) else { break };
            page.prot = prot;
        }
    }

    fn discard(&mut self, who: usize) {
        let (start, end) = self.range();
        let process = &mut self.processes[who];
        let _ = process.mm.madvise(va(start), (end - start) * PAGE_BYTES, MADV_DONTNEED);
        process.pages.range_mut(start..end).for_each(|(_, page)| page.value = 0);
    }

    fn remap(&mut self, who: usize) {
        let (start, end) = self.range();
        let len = end - start;
        let to = match self.below(2) {
            0 => (start + 1024) % PAGES,
            _ => self.below(PAGES),
        };
        if to + len > PAGES || (to < end && start < to + len) {
            return;
        }
        let process = &mut self.processes[who];
        let bytes = len * PAGE_BYTES;
        let moved = process.mm.mremap(va(start), bytes, bytes, 3, va(to));
        assert_eq!(moved.is_ok(), process.pages.contains_key(&start));
        if moved.is_ok() {
            // Holes stay holes, and what lies where they go stays, too.
            for i in 0..len {
                if let Some(page) = process.pages.remove(&(start + i)) {
                    process.pages.insert(to + i, page);
                }
            }
        }
    }

    fn pick(&self, who: usize) -> u64 {
        let mapped = &self.processes[who].pages;
        let any = self.below(PAGES);
        // Few pages, so that they meet often.
        let near = any & !127 | self.below(2);
        if self.below(8) == 0 { any } else { mapped.range(near..).next().map_or(any, |(page, _)| *page) }
    }

    fn store(&mut self, who: usize) {
        let page = self.pick(who);
        self.next += 1;
        let value = self.next;
        let process = &mut self.processes[who];
        let got = self.arena.user_store(&process.mm, va(page), value);
        match process.pages.get_mut(&page) {
            None => assert_eq!(got, Err(FaultOutcome::SegvMapErr)),
            Some(page) if page.prot & 2 == 0 => assert_eq!(got, Err(FaultOutcome::SegvAccErr)),
            Some(page) => {
                assert_eq!(got, Ok(()));
                match page.shared {
                    Some(index) => self.shared[index as usize] = value,
                    None => page.value = value,
                }
            }
        }
    }

    fn load(&mut self, who: usize) {
        self.check(who, self.pick(who));
    }

    fn check(&self, who: usize, page: u64) {
        let process = &self.processes[who];
        let got = self.arena.user_load(&process.mm, va(page));
        let expected = match process.pages.get(&page) {
            None => Err(FaultOutcome::SegvMapErr),
            Some(page) if page.prot == 0 => Err(FaultOutcome::SegvAccErr),
            Some(page) => Ok(page.place().map_or(page.value, |index| self.shared[index as usize])),
        };
        assert_eq!(got, expected, "process {who} page {page}");
        let exec = self.arena.access(&process.mm, va(page), Access::EXEC);
        assert!(exec.is_err(), "page {page} is executable");
    }

    fn audit(&self) {
        let mms: Vec<&Mm<Arena>> = self.processes.iter().map(|process| &*process.mm).collect();
        self.arena.audit(&mms);
    }
}

fn run(mode: Sharing, seed: u64, steps: usize) {
    let mut world = World::new(mode, seed);
    let free = world.arena.free_frames() + 1;
    for _ in 0..steps {
        world.step();
        world.audit();
    }
    for who in 0..world.processes.len() {
        for page in (0..PAGES).step_by(7) {
            world.check(who, page);
        }
    }
    world.processes.clear();
    world.audit();
    world.files.clear();
    assert_eq!(world.arena.free_frames(), free, "frames are lost");
}

#[test]
fn random_families_agree_with_the_model_and_lose_no_frame() {
    let seeds = std::env::var("PTSHARE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
            println!("seed {seed} {mode:?}");
            run(mode, seed, 300);
        }
    }
}
