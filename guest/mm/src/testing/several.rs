//! Several processors that run at the same time: for tests under a scheduler of threads (shuttle).
//!
//! The scheduler gives two functions ([`Several`]): one is called between any two steps of the core at which another
//! processor may get its turn, the other tells which processor the caller is. A processor that is online
//! ([`Arena::run`]) answers the flushes that others ask of it where a real one would: in user mode, and in the spin loops
//! of the kernel, never in the middle of kernel code. Whoever asks waits for the answers.
//!
//! **walker-against-free**: while processors are online, an entry may only be read from a frame that is a table. A walk
//! without a lock that is overtaken by the end of a table fails the test (CVE-2025-38085 was such a walk).

use super::Arena;
use super::cpu::Tlb;
use crate::{FlushRange, Mm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use ptshare_paging::Pfn;
use ptshare_sync::{set_spin_hook, spin_wait};
use ptshare_wire::MmRec;
use ptshare_wire::frame::FrameKind;
use std::sync::{Mutex, OnceLock};

/// Processors at most.
pub const CPUS_MAX: usize = 8;

/// What a scheduler of threads provides.
pub struct Several {
    /// Lets another processor run.
    pub step: fn(),
    /// Lets another processor run, because the caller cannot go on before it does.
    pub wait: fn(),
    /// The calling processor's number, below [`CPUS_MAX`].
    pub cpu: fn() -> usize,
}

static SEVERAL: OnceLock<Several> = OnceLock::new();
thread_local! {
    /// The machine of this execution, for the spin loops, which know none. One execution at a time in a thread.
    static SPINS_FOR: std::cell::RefCell<Option<Arena>> = const { std::cell::RefCell::new(None) };
}

/// Lets a scheduler run the processors, for the rest of this program. The first call counts.
pub fn set_several(several: Several) {
    let _ = SEVERAL.set(several);
    set_spin_hook(|| {
        SPINS_FOR.with(|arena| {
            if let Some(arena) = &*arena.borrow()
                && !arena.shootdown().stubborn.load(SeqCst)
            {
                arena.answer_flushes();
            }
        });
        if let Some(several) = SEVERAL.get() {
            (several.wait)();
        }
    });
}

/// Another processor may get its turn here.
pub(super) fn step() {
    if let Some(several) = SEVERAL.get() {
        (several.step)();
    }
}

/// The calling processor's number; 0 where there is no scheduler.
pub(super) fn cpu() -> usize {
    SEVERAL.get().map_or(0, |several| (several.cpu)())
}

/// Flushes that one processor has been asked for.
#[derive(Default)]
struct Mailbox {
    wanted: Vec<(Option<u64>, FlushRange)>,
    asked: u64,
    answered: u64,
}

/// What the processors tell each other.
#[derive(Default)]
pub(super) struct Shootdown {
    online: AtomicU64,
    boxes: [Mutex<Mailbox>; CPUS_MAX],
    epochs: [AtomicU64; CPUS_MAX],
    /// A deliberate mistake: flushes do not reach other processors.
    deaf: AtomicBool,
    /// A deliberate mistake: nobody waits for the answers.
    hasty: AtomicBool,
    /// A deliberate mistake: who waits in the kernel does not answer.
    stubborn: AtomicBool,
    /// A deliberate mistake: walks without a lock do not look at [`crate::Env::flush_answers`].
    forgetful: AtomicBool,
}

/// A processor that is online and runs one mm; goes offline when dropped.
pub struct Running<'a> {
    arena: &'a Arena,
    rec: &'a MmRec,
    cpu: usize,
}

impl Arena {
    /// Puts the calling processor online, running `mm`.
    ///
    /// # Panics
    /// If it runs one already.
    pub fn run<'a>(&'a self, mm: &'a Mm<Arena>) -> Running<'a> {
        let cpu = cpu();
        SPINS_FOR.with(|arena| *arena.borrow_mut() = Some(self.clone()));
        // The bit first, the root after it: a flush between the two is one too many, not one too few.
        mm.rec().cpumask.fetch_or(1 << cpu, SeqCst);
        if !self.is_several() {
            // What the set-up left behind.
            *self.lock_tlb() = Tlb::default();
        }
        let before = self.shootdown().online.fetch_or(1 << cpu, SeqCst);
        assert_eq!(before >> cpu & 1, 0, "processor {cpu} runs two mms");
        Running { arena: self, rec: mm.rec(), cpu }
    }

    /// A deliberate mistake, to see that a test notices: flushes are not sent to other processors.
    pub fn lose_remote_flushes(&self) {
        self.shootdown().deaf.store(true, SeqCst);
    }

    /// A deliberate mistake, to see that a test notices: flushes are sent, but nobody waits for the answers.
    pub fn ignore_answers(&self) {
        self.shootdown().hasty.store(true, SeqCst);
    }

    /// A deliberate mistake, to see that a test notices: a processor that spins in the kernel does not answer flushes.
    pub fn answer_in_user_mode_only(&self) {
        self.shootdown().stubborn.store(true, SeqCst);
    }

    /// A deliberate mistake, to see that a test notices: the core is told that no flush was ever answered.
    pub fn hide_answers(&self) {
        self.shootdown().forgetful.store(true, SeqCst);
    }

    /// Is any processor online, that is, does a scheduler run several?
    pub(super) fn is_several(&self) -> bool {
        self.shootdown().online.load(SeqCst) != 0
    }

    /// Empties the TLB of a processor that is not online, after an access: nobody asks it to.
    pub(super) fn forget_offline(&self, cpu: usize) {
        if self.shootdown().online.load(SeqCst) >> cpu & 1 == 0 {
            self.lock_tlb().flush_cpu(cpu as u8, None, FlushRange::All);
        }
    }

    /// Does what others have asked of the calling processor.
    pub(super) fn answer_flushes(&self) {
        let cpu = cpu();
        let mut mailbox = self.mailbox(cpu);
        if mailbox.wanted.is_empty() {
            return;
        }
        let mut tlb = self.lock_tlb();
        for (root, range) in mailbox.wanted.drain(..) {
            tlb.flush_cpu(cpu as u8, root, range);
        }
        mailbox.answered = mailbox.asked;
        self.shootdown().epochs[cpu].fetch_add(1, SeqCst);
    }

    /// How often the calling processor has answered.
    pub(super) fn answers(&self) -> u64 {
        let shootdown = self.shootdown();
        if shootdown.forgetful.load(SeqCst) { 0 } else { shootdown.epochs[cpu()].load(SeqCst) }
    }

    /// Removes translations of `root` (of all, if `None`) from this processor and those of `mask`, and waits for them.
    pub(super) fn shoot_down(&self, root: Option<u64>, mask: u64, range: FlushRange) {
        let me = cpu();
        self.lock_tlb().flush_cpu(me as u8, root, range);
        let shootdown = self.shootdown();
        if shootdown.deaf.load(SeqCst) {
            return;
        }
        let mut waiting: Vec<(usize, u64)> = Vec::new();
        for cpu in (0..CPUS_MAX).filter(|&cpu| cpu != me) {
            step();
            if (mask & shootdown.online.load(SeqCst)) >> cpu & 1 != 0 {
                let mut mailbox = self.mailbox(cpu);
                mailbox.wanted.push((root, range));
                mailbox.asked += 1;
                waiting.push((cpu, mailbox.asked));
            }
        }
        if shootdown.hasty.load(SeqCst) {
            return;
        }
        for (cpu, number) in waiting {
            while self.mailbox(cpu).answered < number && shootdown.online.load(SeqCst) >> cpu & 1 != 0 {
                spin_wait();
            }
        }
    }

    /// Rule `walker-against-free`.
    pub(super) fn assert_is_table(&self, pfn: Pfn) {
        let state = self.meta_of(pfn).state.load(SeqCst);
        assert!(
            state as u8 == FrameKind::Table as u8,
            "walker-against-free: an entry of frame {:#x} is read, which is no table (state {state:#x})",
            pfn.0
        );
    }

    fn mailbox(&self, cpu: usize) -> std::sync::MutexGuard<'_, Mailbox> {
        self.shootdown().boxes[cpu].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Running<'_> {
    /// User mode: pending flushes are answered, and others may run.
    pub fn user(&self) {
        step();
        self.arena.answer_flushes();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Loading another root empties the TLB (there are no PCIDs here).
        self.rec.cpumask.fetch_and(!(1 << self.cpu), SeqCst);
        self.arena.answer_flushes();
        self.arena.lock_tlb().flush_cpu(self.cpu as u8, None, FlushRange::All);
        self.arena.shootdown().online.fetch_and(!(1 << self.cpu), SeqCst);
        if !self.arena.is_several() {
            SPINS_FOR.with(|arena| *arena.borrow_mut() = None);
        }
    }
}

impl Tlb {
    /// Empties what one processor has cached of `root` (of every root, if `None`).
    fn flush_cpu(&mut self, cpu: u8, root: Option<u64>, range: FlushRange) {
        self.flush_if(range, |of, owner| of == cpu && root.is_none_or(|root| root == owner));
    }
}
