//! A file that all workers map, and that any of them truncates, extends and punches at any time.
//!
//! Each thread has a byte of its own in every unit (a page, or a huge page). What it reads there is what it wrote last, or
//! nothing (0, or SIGBUS beyond the end) once somebody has cut the file since. Whoever cuts says so in counters that all
//! share, before and after, so that a byte that vanishes without a cut is found; and a byte that has been seen to be gone
//! must not come back.

use crate::Random;
use ptshare_programs::memory::{RW, Region};
use ptshare_programs::{check, errno, probe};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// How many cuts have begun, and how many have ended: a page of memory that all processes share.
#[derive(Clone, Copy)]
pub struct Cuts(Region);

impl Cuts {
    /// None so far.
    pub fn new() -> Cuts {
        Cuts(Region::shared(ptshare_programs::memory::PAGE))
    }

    fn counter(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the page is mapped for the life of the process, and nobody accesses it in any other way.
        unsafe { &*((self.0.base + offset) as *const AtomicU32) }
    }

    fn begun(&self) -> u32 {
        self.counter(0).load(SeqCst)
    }

    /// The number of cuts, if none is under way.
    fn quiet(&self) -> Option<u32> {
        // A cut that ends before we look and another that begins behind our back make `begun` the larger number.
        let ended = self.counter(64).load(SeqCst);
        (self.begun() == ended).then_some(ended)
    }

    fn cut(&self, body: impl FnOnce()) {
        self.counter(0).fetch_add(1, SeqCst);
        body();
        self.counter(64).fetch_add(1, SeqCst);
    }
}

/// What a thread knows of its byte in one unit.
#[derive(Clone, Copy, Default)]
struct Known {
    /// 0: it has written nothing, or what it wrote is gone.
    byte: u8,
    /// [`Cuts::quiet`] when it was written.
    stamp: Option<u32>,
}

/// The file's shape, the same for all.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The open file.
    pub fd: i32,
    /// What a leaf maps: 4 KiB or 2 MiB.
    pub unit: usize,
    /// Units that are used.
    pub units: usize,
    /// Bytes that are mapped: a GiB of a hugetlb file, whose PMD page can then be everybody's.
    pub mapped: usize,
    /// Further flags for mmap.
    pub flags: i32,
    /// The counters.
    pub cuts: Cuts,
}

/// One thread's bytes, through mappings of its own.
pub struct Tide {
    shape: Shape,
    map: Region,
    /// Private and read-only: other tables than those of `map`.
    look: Option<Region>,
    slot: usize,
    known: Vec<Known>,
}

impl Tide {
    /// The bytes number `slot`. The file is mapped at a multiple of `align`.
    pub fn new(shape: Shape, align: usize, slot: usize) -> Tide {
        let map = place(shape.mapped, align);
        let mut tide =
            Tide { shape, map, look: None, slot: slot * 64, known: vec![Known::default(); shape.units] };
        tide.map_anew();
        if shape.unit == ptshare_programs::memory::PAGE {
            let look = place(shape.mapped, align);
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
            // SAFETY: the place is this mapping's own.
            let at =
                unsafe { libc::mmap(look.base as *mut _, look.len, libc::PROT_READ, flags, shape.fd, 0) };
            check!(at as usize == look.base, "the common file cannot be mapped: {}", errno());
            tide.look = Some(look);
        }
        tide
    }

    fn map_anew(&mut self) {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | self.shape.flags;
        // SAFETY: the place is this mapping's own.
        let at = unsafe { libc::mmap(self.map.base as *mut _, self.map.len, RW, flags, self.shape.fd, 0) };
        check!(at as usize == self.map.base, "the common file cannot be mapped anew: {}", errno());
    }

    fn check_unit(&mut self, unit: usize, private: bool) {
        let map = if private { self.look.unwrap_or(self.map) } else { self.map };
        let result = probe::read(map.base + unit * self.shape.unit + self.slot);
        self.seen(unit, result);
    }

    /// Compares what an access found with what is known.
    fn seen(&mut self, unit: usize, result: Result<u8, i32>) {
        let known = self.known[unit];
        match result {
            Ok(byte) if byte == known.byte => {}
            Ok(0) | Err(libc::SIGBUS) => {
                let cuts = self.shape.cuts.begun();
                check!(
                    known.byte == 0 || known.stamp != Some(cuts),
                    "unit {unit}, byte {}: {result:?}, not {:#x}, and nobody has cut the file",
                    self.slot,
                    known.byte
                );
                self.known[unit] = Known::default();
            }
            other => {
                check!(false, "unit {unit}, byte {}: {other:?}, not {:#x} or gone", self.slot, known.byte)
            }
        }
    }

    /// Checks every third unit.
    pub fn check_many(&mut self) {
        (self.slot / 64 % 3..self.known.len())
            .step_by(3)
            .for_each(|unit| self.check_unit(unit, unit % 2 == 1));
    }

    /// Checks a few units.
    pub fn check_some(&mut self, random: &mut Random) {
        for _ in 0..4 {
            self.check_unit(random.below(self.known.len()), random.below(3) == 0);
        }
    }

    /// Writes, looks, takes part of the mapping out of the sharing and back; now and then it cuts.
    pub fn step(&mut self, random: &mut Random) {
        let unit = random.below(self.known.len());
        let part = self.map.part(unit * self.shape.unit, self.shape.unit);
        match random.below(32) {
            0..=14 => {
                let (byte, stamp) = (1 + random.below(255) as u8, self.shape.cuts.quiet());
                match probe::write(part.base + self.slot, byte) {
                    Ok(()) => self.known[unit] = Known { byte, stamp },
                    // Beyond the end, so what was there is gone.
                    Err(signal) => self.seen(unit, Err(signal)),
                }
            }
            15..=22 => self.check_unit(unit, random.below(3) == 0),
            23 | 24 => {
                part.protect(libc::PROT_READ);
                self.check_unit(unit, false);
                part.protect(RW);
            }
            25 | 26 => {
                part.advise(libc::MADV_DONTNEED);
                self.check_unit(unit, false);
            }
            27 | 28 => {
                self.map_anew();
                self.check_unit(unit, false);
            }
            29 => self.truncate(1 + random.below(self.known.len())),
            _ => self.punch(unit, 1 + random.below(self.known.len() - unit)),
        }
    }

    fn truncate(&mut self, units: usize) {
        let Shape { fd, unit, units: all, mapped, cuts, .. } = self.shape;
        cuts.cut(|| {
            for len in [units * unit, if all * unit < mapped { mapped } else { all * unit }] {
                // SAFETY: no pointer.
                let result = unsafe { libc::ftruncate(fd, len as i64) };
                check!(result == 0, "ftruncate to {len}: {}", errno());
            }
        });
        self.gone(units, all);
    }

    fn punch(&mut self, first: usize, units: usize) {
        let Shape { fd, unit, cuts, .. } = self.shape;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        cuts.cut(|| {
            // SAFETY: no pointer.
            let result = unsafe { libc::fallocate(fd, mode, (first * unit) as i64, (units * unit) as i64) };
            check!(result == 0, "a hole cannot be punched: {}", errno());
        });
        self.gone(first, first + units);
    }

    /// One's own cut is over: nothing is left, and one looks.
    fn gone(&mut self, first: usize, end: usize) {
        self.known[first..end].iter_mut().for_each(|known| *known = Known::default());
        for unit in [first, end - 1].into_iter().filter(|unit| (first..end).contains(unit)) {
            self.check_unit(unit, false);
            self.check_unit(unit, true);
        }
    }
}

/// Room for `len` bytes at a multiple of `align`.
fn place(len: usize, align: usize) -> Region {
    let wide = Region::try_map(len + align, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    check!(wide.is_ok(), "no room for {len:#x} bytes: {wide:?}");
    let base = wide.map_or(0, |wide| wide.base).next_multiple_of(align);
    Region { base, len }
}
