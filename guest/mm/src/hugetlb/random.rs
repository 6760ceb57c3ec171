//! Random calls on several mms that map two hugetlb objects and private huge memory, against a flat model of what every
//! page must hold.

use super::*;
use crate::error::MmError;
use crate::testing::Arena;
use crate::{Env, FaultOutcome, MapRequest, Mm, Object, ObjectInfo, Sharing};
use ptshare_abi::sys::general as abi;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the mms map: a multiple of what one table with leaves of either size spans.
const BASE: u64 = 0x80_0000_0000;
/// Huge pages of each object, and of each place.
const PAGES: u64 = 512;
/// Spans of a table with huge leaves in which the mms map.
const PLACES: u64 = 3;
/// Private mappings of at most so many pages reserve them.
const RESERVED_PAGES: u64 = 3;
/// Pages of a place that are looked at.
const WATCHED: [u64; 6] = [0, 1, 2, 255, 510, 511];

/// What a page of an mm shows.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    Object { which: usize, page: u64, writable: bool },
    Private { value: u64, writable: bool },
}

struct Process {
    mm: Arc<Mm<Arena>>,
    /// By address.
    pages: BTreeMap<u64, Shown>,
}

struct World {
    arena: Arena,
    size: HugeSize,
    objects: [Arc<Object<Arena>>; 2],
    content: [BTreeMap<u64, u64>; 2],
    processes: Vec<Process>,
    seed: u64,
}

impl World {
    fn new(size: HugeSize, pool: u64, seed: u64) -> World {
        // Besides the pool: tables, and what alignment takes.
        let arena = Arena::new((pool * size.frames() + size.frames() + 10 * 512) as usize);
        arena.set_gib_pages(true);
        resize(&arena, size, pool);
        assert_eq!(counts(&arena, size), [pool, pool, 0, 0]);
        let object = |ino| {
            let info = ObjectInfo::new(7, ino, "/memfd:huge".into());
            Object::hugetlb(arena.clone(), size, info, PAGES * size.bytes(), None)
        };
        let objects = [object(1), object(2)];
        let mm = Mm::new(arena.clone()).unwrap();
        let processes = vec![Process { mm, pages: BTreeMap::new() }];
        World { arena, size, objects, content: Default::default(), processes, seed }
    }

    fn pick(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) % below
    }

    /// Bytes of a place.
    fn span(&self) -> u64 {
        self.size.level().span_bytes()
    }

    fn watched(&mut self) -> u64 {
        WATCHED[self.pick(WATCHED.len() as u64) as usize]
    }

    /// A range of huge pages of one place that begins and ends at, or next to, watched pages.
    fn range(&mut self) -> (u64, u64) {
        let (unit, span) = (self.size.bytes(), self.span());
        let base = BASE + self.pick(PLACES) * span;
        if self.pick(3) == 0 {
            return (base, base + span);
        }
        let (a, b) = (self.watched(), self.watched());
        (base + a.min(b) * unit, base + (a.max(b) + 1) * unit)
    }

    fn map(&mut self, p: usize) {
        let (start, end) = self.range();
        let (kind, writable) = (self.pick(5), self.pick(4) != 0);
        let prot = u64::from(if writable { abi::PROT_READ | abi::PROT_WRITE } else { abi::PROT_READ });
        let mut request = MapRequest::anonymous(end - start, prot);
        request.addr = start;
        let more = abi::MAP_FIXED | abi::MAP_NORESERVE;
        let which = (kind % 2) as usize;
        let (size, span) = (self.size, self.span());
        let first = (start - BASE) % span / size.bytes();
        if kind == 0 {
            request.flags = u64::from(more | abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_HUGETLB);
            request.flags |= u64::from(size.shift()) << abi::MAP_HUGE_SHIFT;
            if end - start <= RESERVED_PAGES * size.bytes() {
                request.flags &= !u64::from(abi::MAP_NORESERVE);
            }
        } else {
            request.flags = u64::from(more | abi::MAP_SHARED);
            request.object = Some((self.objects[which].clone(), first * size.frames()));
        }
        let process = &mut self.processes[p];
        let mapped = process.mm.mmap(request);
        if mapped == Err(MmError::NoMemory) && kind == 0 {
            // The pool has not so many to promise. What was there may be gone.
            return self.unmap_at(p, start, end);
        }
        assert_eq!(mapped, Ok(start));
        for at in (start..end).step_by(size.bytes() as usize) {
            let page = (at - BASE) % span / size.bytes();
            let shown = match kind {
                0 => Shown::Private { value: 0, writable },
                _ => Shown::Object { which, page, writable },
            };
            process.pages.insert(at, shown);
        }
    }

    fn protect(&mut self, p: usize) {
        let (start, end) = self.range();
        let now = self.pick(2) == 0;
        let prot = u64::from(if now { abi::PROT_READ | abi::PROT_WRITE } else { abi::PROT_READ });
        let unit = self.size.bytes();
        let process = &mut self.processes[p];
        let hole = (start..end).step_by(unit as usize).any(|at| !process.pages.contains_key(&at));
        assert_eq!(process.mm.mprotect(start, end - start, prot).is_err(), hole);
        // What lies before the first hole has its rights.
        for at in (start..end).step_by(unit as usize) {
            match process.pages.get_mut(&at) {
                Some(Shown::Object { writable, .. } | Shown::Private { writable, .. }) => *writable = now,
                None => break,
            }
        }
    }

    fn unmap(&mut self, p: usize) {
        let (start, end) = self.range();
        self.unmap_at(p, start, end);
    }

    fn unmap_at(&mut self, p: usize, start: u64, end: u64) {
        let process = &mut self.processes[p];
        process.mm.munmap(start, end - start).unwrap();
        process.pages.retain(|at, _| *at < start || end <= *at);
    }

    /// MADV_DONTNEED, which reads zeros where the memory is private. Holes are reported in the end.
    fn discard(&mut self, p: usize) {
        let (start, end) = self.range();
        let process = &mut self.processes[p];
        let hole =
            (start..end).step_by(self.size.bytes() as usize).any(|at| !process.pages.contains_key(&at));
        let done = process.mm.madvise(start, end - start, u64::from(abi::MADV_DONTNEED));
        assert_eq!(done, if hole { Err(MmError::NotMapped) } else { Ok(()) });
        for (_, shown) in process.pages.range_mut(start..end) {
            if let Shown::Private { value, .. } = shown {
                *value = 0;
            }
        }
    }

    /// Reads, and writes where that is allowed.
    fn touch(&mut self, p: usize) {
        let at = BASE + self.pick(PLACES) * self.span() + self.watched() * self.size.bytes();
        let (new, write) = (self.pick(1000) + 1, self.pick(2) == 0);
        let process = &mut self.processes[p];
        let Some(shown) = process.pages.get_mut(&at) else {
            assert_eq!(self.arena.user_load(&process.mm, at), Err(FaultOutcome::SegvMapErr));
            return;
        };
        let value = match *shown {
            Shown::Object { which, page, .. } => self.content[which].get(&page).copied().unwrap_or(0),
            Shown::Private { value, .. } => value,
        };
        match self.arena.user_load(&process.mm, at) {
            Ok(found) => assert_eq!(found, value, "at {at:#x}"),
            // The pool may be empty; then nothing is changed.
            Err(outcome) => assert_eq!(outcome, FaultOutcome::BusAdrErr),
        }
        let (Shown::Object { writable, .. } | Shown::Private { writable, .. }) = *shown;
        if !write {
            return;
        }
        match (self.arena.user_store(&process.mm, at, new), writable) {
            (Ok(()), true) => match shown {
                Shown::Object { which, page, .. } => drop(self.content[*which].insert(*page, new)),
                Shown::Private { value, .. } => *value = new,
            },
            (Err(FaultOutcome::BusAdrErr), true) | (Err(FaultOutcome::SegvAccErr), false) => {}
            other => panic!("a store gave {other:?}"),
        }
    }

    fn fork(&mut self, p: usize) {
        let mode = [Sharing::None, Sharing::Pte, Sharing::Tree][self.pick(3) as usize];
        let small_tables = self.pick(2) as u32 * 3;
        let mm = self.processes[p].mm.fork(mode, small_tables).unwrap();
        let pages = self.processes[p].pages.clone();
        self.processes.push(Process { mm, pages });
    }

    fn punch(&mut self) {
        let which = self.pick(2) as usize;
        let (first, pages) = (self.watched(), self.pick(3) + 1);
        let unit = self.size.bytes();
        self.objects[which].punch_hole(first * unit, pages * unit).unwrap();
        self.content[which].retain(|page, _| !(first..first + pages).contains(page));
    }

    fn step(&mut self) {
        let p = self.pick(self.processes.len() as u64) as usize;
        match self.pick(20) {
            0..=3 => self.map(p),
            4 | 5 => self.protect(p),
            6 => self.unmap(p),
            7 if self.processes.len() < 5 => self.fork(p),
            7 | 8 if self.processes.len() > 1 => drop(self.processes.swap_remove(p)),
            9 => self.punch(),
            10 => self.discard(p),
            _ => self.touch(p),
        }
    }

    fn audit(&self) {
        let mms: Vec<&Mm<Arena>> = self.processes.iter().map(|process| &*process.mm).collect();
        self.arena.audit(&mms);
    }
}

/// Plays `steps` steps with a pool of so many pages, audited every so often; gives how often a table was taken over.
fn play(size: HugeSize, pool: u64, seed: u64, steps: u64, audits: u64) -> u64 {
    let mut world = World::new(size, pool, 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    for step in 0..steps {
        world.step();
        if step % audits == 0 {
            world.audit();
        }
    }
    let shared = world.arena.stats().pmd_tables_shared.load(Relaxed);
    let World { arena, objects, processes, .. } = world;
    drop((objects, processes));
    arena.audit(&[]);
    assert_eq!(counts(&arena, size), [pool, pool, 0, 0]);
    shared
}

#[test]
fn random_calls_show_what_a_flat_model_shows() {
    let shared: u64 = (1..=12).map(|seed| play(HugeSize::Mib2, 30, seed, 600, 4)).sum();
    assert!(shared > 50, "{shared} times a table was taken over");
}

#[test]
fn random_calls_on_pages_of_1_gib_show_what_a_flat_model_shows() {
    for seed in 1..=4 {
        assert_eq!(play(HugeSize::Gib1, 7, seed, 600, 16), 0, "there is no table to take over");
    }
}
