//! From a seed to a trace. A trace plays on few sites (addresses near boundaries of tables), so that its operations meet;
//! a profile says what sort of operations it prefers.
//!
//! ```text
//!  mod.rs      profiles, and what the generator knows of the trace so far
//!  sizes.rs    addresses and lengths
//!  memory.rs   mmap and what changes mappings, accesses
//!  files.rs    descriptors, files, segments
//! ```
//!
//! A change here changes the traces of all seeds: `seeds_are_for_ever` says so.

mod files;
mod memory;
mod sizes;

use crate::random::Random;
use crate::{Call, OPS_MAX, Op, PROCS, Place, SLOTS, Trace};
use alloc::vec::Vec;

/// What sort of operations a trace prefers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Profile {
    /// A bit of everything.
    Mixed,
    /// Forks and writes to private memory.
    Cow,
    /// Files and shared mappings of them.
    Files,
    /// System V segments and shared memory.
    Shared,
    /// mremap.
    Moves,
    /// Many small VMAs.
    Pieces,
    /// Spans of a GiB.
    Wide,
    /// mlock and advice.
    Advice,
    /// Huge pages.
    Huge,
}

/// A mapping that the trace asked for.
#[derive(Clone, Copy, Debug)]
struct Known {
    start: Place,
    bytes: u64,
    huge: bool,
}

/// What the generator believes of a process. It need not be right.
#[derive(Clone, Debug, Default)]
struct Process {
    alive: bool,
    used: bool,
    parent: Option<u8>,
    maps: Vec<Known>,
    fds: [Option<Descriptor>; SLOTS],
    segments: [Option<u64>; SLOTS],
    handles: [Option<u64>; SLOTS],
}

/// A descriptor.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    bytes: u64,
    huge: bool,
}

struct Generator {
    random: Random,
    profile: Profile,
    /// Offsets in the arena.
    sites: Vec<u64>,
    procs: [Process; PROCS],
    ops: Vec<Op>,
    value: u64,
}

/// The trace of a seed.
pub fn generate(seed: u64) -> Trace {
    // Neighbouring seeds must have nothing in common.
    let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x7074_7368_6172_6501);
    let profile = random.pick(&[
        Profile::Mixed,
        Profile::Mixed,
        Profile::Mixed,
        Profile::Cow,
        Profile::Cow,
        Profile::Cow,
        Profile::Files,
        Profile::Files,
        Profile::Shared,
        Profile::Moves,
        Profile::Moves,
        Profile::Pieces,
        Profile::Wide,
        Profile::Advice,
        Profile::Advice,
        Profile::Huge,
    ]);
    let len = match random.below(8) {
        0 => 6 + random.below(10),
        7 => 40 + random.below(60),
        _ => 12 + random.below(28),
    };
    let sites = sizes::sites(&mut random, profile);
    let mut generator =
        Generator { random, profile, sites, procs: Default::default(), ops: Vec::new(), value: 1 };
    generator.run(len as usize);
    Trace { seed, huge: profile == Profile::Huge, ops: generator.ops }
}

impl Generator {
    fn run(&mut self, len: usize) {
        self.procs[0].alive = true;
        self.procs[0].used = true;
        // Something to work on.
        self.mmap(0);
        self.touch(0);
        let mut who = 0;
        while self.ops.len() < len.min(OPS_MAX - 4) {
            // Runs of one process: changing over costs the most.
            if self.random.chance(1, 3) {
                who = self.someone();
            }
            if !self.procs[usize::from(who)].alive {
                who = self.someone();
            }
            self.step(who);
        }
        if self.random.chance(1, 3) {
            let living: Vec<u8> = self.living();
            living.into_iter().for_each(|proc| self.push(proc, Call::Maps, &[]));
        }
    }

    fn living(&self) -> Vec<u8> {
        (0..PROCS as u8).filter(|&proc| self.procs[usize::from(proc)].alive).collect()
    }

    fn someone(&mut self) -> u8 {
        let living = self.living();
        self.random.pick(&living)
    }

    fn step(&mut self, who: u8) {
        // Weights of: map, unmap, protect, remap, advise, lock, heap, access, look, fork, exit, files, segments.
        let weights: [u32; 13] = match self.profile {
            Profile::Mixed => [10, 4, 7, 7, 8, 3, 2, 28, 4, 7, 2, 9, 4],
            Profile::Cow => [7, 4, 6, 4, 5, 0, 3, 40, 2, 14, 4, 0, 0],
            Profile::Files => [12, 3, 4, 3, 4, 1, 0, 26, 3, 5, 2, 30, 0],
            Profile::Shared => [8, 3, 5, 5, 5, 1, 0, 28, 2, 9, 3, 2, 18],
            Profile::Moves => [8, 3, 4, 28, 3, 2, 1, 28, 2, 7, 2, 3, 1],
            Profile::Pieces => [18, 9, 22, 5, 8, 2, 0, 20, 3, 6, 1, 1, 0],
            Profile::Wide => [9, 6, 8, 8, 6, 0, 0, 34, 2, 9, 2, 0, 0],
            Profile::Advice => [8, 3, 4, 3, 26, 9, 0, 28, 5, 7, 2, 5, 0],
            Profile::Huge => [10, 5, 6, 4, 6, 1, 0, 36, 2, 9, 2, 6, 4],
        };
        match self.random.weighted(&weights) {
            0 => self.mmap(who),
            1 => self.munmap(who),
            2 => self.mprotect(who),
            3 => self.mremap(who),
            4 => self.madvise(who),
            5 => self.lock(who),
            6 => self.brk(who),
            7 => self.touch(who),
            8 => self.look(who),
            9 => self.fork(who),
            10 => self.end(who),
            11 => self.file(who),
            _ => self.segment(who),
        }
    }

    fn push(&mut self, proc: u8, call: Call, args: &[u64]) {
        self.ops.push(Op::new(proc, call, args));
    }

    fn process(&mut self, who: u8) -> &mut Process {
        &mut self.procs[usize::from(who)]
    }

    /// A value that no other store of the trace has.
    fn fresh(&mut self) -> u64 {
        self.value += 1;
        self.value
    }

    fn fork(&mut self, who: u8) {
        let Some(child) = (0..PROCS).find(|&child| !self.procs[child].used) else { return self.touch(who) };
        self.push(who, Call::Fork, &[child as u64]);
        let parent = self.process(who).clone();
        self.procs[child] = Process { alive: true, used: true, parent: Some(who), ..parent };
    }

    fn end(&mut self, who: u8) {
        // Let something be left.
        if self.living().len() < 2 {
            return self.touch(who);
        }
        let child = (0..PROCS).find(|&c| self.procs[c].alive && self.procs[c].parent == Some(who));
        match child {
            Some(child) if self.random.chance(1, 3) => {
                self.push(who, Call::Kill, &[child as u64]);
                self.procs[child].alive = false;
            }
            _ => {
                let status = self.random.below(4);
                self.push(who, Call::Exit, &[status]);
                self.process(who).alive = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{ARENA_BYTES, Base};
    use alloc::string::ToString;
    use std::collections::BTreeMap;

    #[test]
    fn every_operation_is_generated() {
        let mut seen: BTreeMap<Call, usize> = BTreeMap::new();
        for seed in 0..3000 {
            generate(seed).ops.iter().for_each(|op| *seen.entry(op.call).or_default() += 1);
        }
        let missing: Vec<_> = Call::ALL.iter().filter(|call| !seen.contains_key(call)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn traces_are_within_their_bounds() {
        for seed in 0..3000 {
            let trace = generate(seed);
            assert!((1..=OPS_MAX).contains(&trace.ops.len()), "{seed}");
            assert!(trace.huge || !trace.to_string().contains("hugetlb"), "{seed}");
            for op in &trace.ops {
                assert!(usize::from(op.proc) < PROCS);
                let place = Place(op.args[0]);
                if op.call == Call::Mmap && place.base() == Base::Arena && op.args[1] < ARENA_BYTES {
                    assert!(place.offset() + op.args[1] <= ARENA_BYTES, "{seed}: {op}");
                }
            }
        }
    }

    #[test]
    fn seeds_are_for_ever() {
        let sum = (0..200).fold(0_u64, |sum, seed| {
            let text = generate(seed).to_string();
            text.bytes().fold(sum, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
        });
        assert_eq!(sum, SUM, "the generator makes other traces than it did: say so in docs/FUZZ.md");
    }

    /// FNV-1a of the first 200 traces.
    const SUM: u64 = 4048645246800248126;
}
