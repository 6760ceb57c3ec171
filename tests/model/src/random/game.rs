//! Kernel and model side by side.

use super::Step;
use crate::judge;
use crate::model::{Context, Model, START_BRK, Verdict};
use core::mem::ManuallyDrop;
use ptshare_mm::testing::{Answer, FlatConfig, FlatKernel, Op};
use ptshare_mm::{Env, Layout, Object, ObjectInfo, ObjectKind};
use ptshare_paging::{Level, PAGE_BYTES};

/// Bytes that a PTE page translates.
pub const SPAN: u64 = Level::Pte.span_bytes();
/// Where mmap places what has no address.
const MMAP_BASE: u64 = 0x10_5000_0000;
/// Physical address of the initramfs content, in frames that the arena does not manage.
const INITRAMFS_PA: u64 = 8 * PAGE_BYTES;
const INITRAMFS_BYTES: u64 = 3 * PAGE_BYTES - 1000;
/// Lengths of the files of small pages, the initramfs' last.
pub const FILES: [u64; 4] = [3 * PAGE_BYTES, 1100 * PAGE_BYTES, 1024 * PAGE_BYTES, INITRAMFS_BYTES];
/// Files of huge pages behind them, if there is a pool, each of 1 GiB.
pub const HUGE_FILES: usize = 2;

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The machine.
    pub machine: FlatConfig,
    /// Decides everything that is random.
    pub seed: u64,
    /// Calls.
    pub steps: usize,
    /// The arena's audit after every so many steps; 0 for only at the end.
    pub audit_every: usize,
    /// The verifier after every so many; 0 for only at the end.
    pub judge_every: usize,
    /// Do allocations fail now and then?
    pub failures: bool,
}

/// A run under way.
pub struct Game {
    /// The kernel.
    pub kernel: FlatKernel,
    /// What it should show.
    pub model: Model,
    plan: Plan,
    free_frames: u64,
    done: usize,
}

impl Game {
    /// The beginning of a run.
    pub fn new(plan: Plan) -> Game {
        let mut kernel = FlatKernel::new(plan.machine);
        let layout =
            Layout { start_brk: START_BRK, brk: START_BRK, mmap_base: MMAP_BASE, ..Layout::default() };
        kernel.set_layout(1, layout);
        // Its root is free in the end, too.
        let free_frames = kernel.arena().free_frames() + 1;
        let mut model = Model::new();
        open_files(&mut kernel, &mut model);
        Game { kernel, model, plan, free_frames, done: 0 }
    }

    /// Takes a step and checks it; steps of processes that do not exist are skipped.
    ///
    /// # Errors
    /// What is wrong.
    ///
    /// # Panics
    /// Where the core, the audit or the judge finds something first.
    pub fn step(&mut self, step: &Step) -> Verdict {
        if !self.model.processes.contains_key(&step.pid) {
            return Ok(());
        }
        let alone = self.model.processes.len() == 1;
        if step.op == Op::Exit && alone {
            return Ok(());
        }
        let arena = self.kernel.arena().clone();
        if step.fail_all {
            arena.fail_from(step.fail_at)
        } else {
            arena.fail_at(step.fail_at)
        }
        let answer = match (&step.op, step.sharing) {
            (Op::Fork, Some(sharing)) => {
                let small = self.plan.machine.small_tables;
                Answer::from(self.kernel.fork_as(step.pid, sharing, small).map(u64::from))
            }
            (op, _) => self.kernel.apply(step.pid, op),
        };
        let refused = arena.allocations_refused() > 0;
        arena.fail_at(0);
        let context = Context { kernel: &self.kernel, pid: step.pid, refused };
        self.model.follow(context, &step.op, answer)?;
        for pid in [Some(step.pid), child(&step.op, answer)].into_iter().flatten() {
            if self.model.processes.contains_key(&pid) {
                self.model.check_mappings(&self.kernel, pid)?;
            }
        }
        self.done += 1;
        if is_due(self.done, self.plan.audit_every) {
            self.kernel.audit();
        }
        if is_due(self.done, self.plan.judge_every) {
            self.judge()?;
        }
        if self.done.is_multiple_of(200) {
            self.check_everything(2)?;
        }
        Ok(())
    }

    fn judge(&self) -> Verdict {
        let report = judge(self.kernel.arena(), &self.kernel.mms());
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        if report.is_clean() { Ok(()) } else { Err(findings.join("\n")) }
    }

    fn check_everything(&mut self, others: u64) -> Verdict {
        for pid in self.kernel.pids() {
            self.model.check_mappings(&self.kernel, pid)?;
            self.model.check_content(&self.kernel, pid, others)?;
        }
        self.model.check_files(&self.kernel)
    }

    /// Checks everything, ends all processes and closes all files; then everything must be free again.
    ///
    /// # Errors
    /// What is wrong.
    ///
    /// # Panics
    /// As [`Game::step`].
    pub fn finish(self) -> Verdict {
        // Dropped in order, or not at all.
        let mut game = ManuallyDrop::new(self);
        game.wind_up()?;
        drop(ManuallyDrop::into_inner(game));
        Ok(())
    }

    fn wind_up(&mut self) -> Verdict {
        self.check_everything(16)?;
        self.kernel.audit();
        self.judge()?;
        let files = self.model.files.iter().filter(|file| file.open).count();
        for pid in self.kernel.pids() {
            self.kernel.exit(pid);
            self.kernel.audit();
        }
        (0..files).for_each(|file| self.kernel.close(file));
        self.kernel.audit();
        self.judge()?;
        let free = self.kernel.arena().free_frames();
        if free != self.free_frames {
            return Err(format!("{free} frames are free at the end, {} at the beginning", self.free_frames));
        }
        let pool = ptshare_mm::hugetlb::counts(self.kernel.arena(), ptshare_mm::hugetlb::HugeSize::Mib2);
        let pages = self.plan.machine.huge_pages;
        if pool != [pages, pages, 0, 0] {
            return Err(format!("total, free, reserved, surplus huge pages at the end: {pool:?}"));
        }
        Ok(())
    }
}

fn child(op: &Op, answer: Answer) -> Option<u32> {
    match (op, answer) {
        (Op::Fork, Answer::Value(pid)) => Some(pid as u32),
        _ => None,
    }
}

fn is_due(done: usize, every: usize) -> bool {
    every != 0 && done.is_multiple_of(every)
}

/// Opens the files, with something in them.
fn open_files(kernel: &mut FlatKernel, model: &mut Model) {
    let arena = kernel.arena().clone();
    for (n, &bytes) in FILES.iter().enumerate() {
        let file = model.open(bytes, false);
        if n < FILES.len() - 1 {
            assert_eq!(kernel.memfd(bytes), file);
            let pages = bytes / PAGE_BYTES;
            for page in (0..pages).filter(|page| page % 512 < 3 || page % 41 == 0) {
                let offset = page * PAGE_BYTES + PAGE_BYTES - 8;
                kernel.pwrite(file, offset, 1_000_000 + offset).expect("there is memory");
                model.set_word(file, offset, 1_000_000 + offset);
            }
            continue;
        }
        for page in 0..3 {
            for offset in [page * PAGE_BYTES, (page + 1) * PAGE_BYTES - 8] {
                if offset < INITRAMFS_BYTES {
                    arena.write_phys(INITRAMFS_PA + offset, &(7000 + offset).to_le_bytes());
                    model.set_word(file, offset, 7000 + offset);
                }
            }
        }
        let kind = ObjectKind::Initramfs { pa: INITRAMFS_PA, bytes };
        let info = ObjectInfo::new(1, 99, "/initramfs".into());
        assert_eq!(kernel.add_file(Object::new(arena.clone(), kind, info)), file);
    }
    if kernel.config().huge_pages > 0 {
        for _ in 0..HUGE_FILES {
            let bytes = Level::Pmd.span_bytes();
            assert_eq!(kernel.memfd_huge(bytes), model.open(bytes, true));
        }
    }
}
