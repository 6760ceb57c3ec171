//! A worker's first thread, and those that it starts: children that inherit its memory, and threads that do its work.

use crate::Random;
use crate::huge::Huge;
use crate::private::Owner;
use crate::round::{HOLES, Shares};
use crate::shared::File;
use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::{check, errno, process};
use std::ffi::CString;

/// What belongs to the worker's first thread, and is inherited.
pub struct Family {
    /// Its blocks of the private memory.
    pub owner: Owner,
    /// Private huge pages, where there are any.
    pub huge: Option<Huge>,
    /// A file that nobody else changes.
    pub file: File,
    /// Its share of what all workers have; children look at it.
    pub shares: Shares,
}

/// Children at a time.
const CHILDREN_MAX: usize = 3;
/// The argument, with a seed, of this program when it is the new image of a child.
pub const EXEC: &str = "exec";
const PROGRAM: &std::ffi::CStr = c"/proc/self/exe";

impl Family {
    /// One operation on private memory.
    pub fn step(&mut self, random: &mut Random) {
        match &mut self.huge {
            Some(huge) if random.below(8) == 0 => huge.step(random),
            _ => self.owner.step(random),
        }
    }

    /// Checks everything.
    pub fn check_all(&mut self) {
        self.owner.check_all();
        self.file.check_all();
        self.shares.check_all();
        if let Some(huge) = &self.huge {
            huge.check_all();
        }
    }

    fn check_some(&mut self, random: &mut Random) {
        self.owner.check_some(random);
        self.file.check_some(random);
        self.shares.check_some(random);
        if let Some(huge) = &self.huge {
            huge.check_all();
        }
    }

    /// Some children at a time, that check what they have inherited, write, and fork on, while the other threads go on.
    pub fn children(&mut self, random: &mut Random) {
        let children: Vec<i32> = (0..1 + random.below(CHILDREN_MAX))
            .map(|_| {
                let (depth, seed) = (1 + random.below(3), random.number());
                process::spawn(|| {
                    self.generation(depth, true, seed);
                    0
                })
            })
            .collect();
        // One's own writes meet theirs.
        (0..random.below(4)).for_each(|_| self.step(random));
        for child in children {
            let status = process::wait(child);
            check!(status.code() == Some(0), "a child ended with {status}");
        }
        self.check_some(random);
    }

    fn generation(&mut self, depth: usize, may_write_huge: bool, seed: u64) {
        let mut random = Random::new(seed);
        self.check_some(&mut random);
        for _ in 0..3 {
            self.owner.step(&mut random);
        }
        if let Some(huge) = self.huge.as_mut().filter(|_| may_write_huge) {
            huge.write(0, &mut random);
        }
        if depth > 1 {
            let status = process::in_child(|| {
                self.generation(depth - 1, false, seed.wrapping_add(1));
                0
            });
            check!(status.code() == Some(0), "a grandchild ended with {status}");
        }
        self.check_some(&mut random);
    }

    /// A child that is killed wherever it is.
    pub fn killed_child(&mut self, random: &mut Random) {
        let seed = random.number();
        let child = process::spawn(|| {
            let mut random = Random::new(seed);
            loop {
                self.owner.step(&mut random);
            }
        });
        (0..random.below(6)).for_each(|_| self.step(random));
        check!(
            process::kill(child, libc::SIGKILL).is_ok(),
            "the child {child} cannot be killed: {}",
            errno()
        );
        let status = process::wait(child);
        check!(status.signal() == Some(libc::SIGKILL), "a child that was to be killed ended with {status}");
    }

    /// A child that becomes another program: after fork, or by posix_spawn, which lends it this address space.
    pub fn exec(&mut self, random: &mut Random) {
        let argument = format!("{EXEC}={}", random.number());
        if random.below(2) == 0 {
            let _no_holes = HOLES.write();
            let status = std::process::Command::new("/proc/self/exe").arg(argument).status();
            check!(status.as_ref().is_ok_and(|status| status.success()), "the new program: {status:?}");
            return;
        }
        let argument = CString::new(argument).unwrap_or_default();
        let arguments = [PROGRAM.as_ptr(), argument.as_ptr(), std::ptr::null()];
        let child = process::spawn(|| {
            self.owner.step(random);
            // SAFETY: both arrays end with a null pointer, and their strings live.
            unsafe { libc::execve(PROGRAM.as_ptr(), arguments.as_ptr(), [std::ptr::null()].as_ptr()) };
            errno()
        });
        self.step(random);
        let status = process::wait(child);
        check!(status.code() == Some(0), "a child that became another program ended with {status}");
    }

    /// A thread does part of this thread's work for a moment, and ends.
    pub fn errand(&mut self, random: &mut Random) {
        let seed = random.number();
        let Family { owner, shares, .. } = self;
        let _no_holes = HOLES.write();
        std::thread::scope(|scope| {
            let errand = scope.spawn(move || {
                let mut random = Random::new(seed);
                (0..6).for_each(|_| owner.step_without_holes(&mut random));
            });
            (0..4).for_each(|_| shares.step(random));
            check!(errand.join().is_ok(), "a thread failed");
        });
    }
}

/// The new program: fresh memory, and what it holds.
pub fn after_exec(seed: u64) {
    let memory = Region::private(TABLE);
    let mut random = Random::new(seed);
    for _ in 0..8 {
        let (page, word) = (random.below(TABLE / PAGE), random.number() as u32);
        let at = memory.part(page * PAGE, PAGE);
        check!(at.word(8) == 0, "a fresh page holds {:#x}", at.word(8));
        at.set_word(8, word);
        at.protect(libc::PROT_READ);
        check!(at.word(8) == word, "{:#x}, not {word:#x}", at.word(8));
        at.protect(RW);
        at.set_word(8, 0);
    }
}
