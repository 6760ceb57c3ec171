//! A machine for each execution, and its end.

use ptshare_mm::testing::{Arena, CPUS_MAX, Several, set_several};
use ptshare_mm::{FaultOutcome, MapRequest, Mm, Object, Sharing};
pub use ptshare_model_tests::args::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_RW,
};
use ptshare_model_tests::judge;
use ptshare_paging::{Level, PAGE_BYTES};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner};
use std::sync::Arc;

pub const SPAN: u64 = Level::Pte.span_bytes();
/// Where tests map private memory.
pub const BASE: u64 = 0x10_0000_0000;

/// Executions of each case and scheduler.
const SCHEDULES: usize = 150;
/// Changes of priority in an execution of the PCT scheduler: bugs that need as many orderings are found.
const DEPTH: usize = 4;

pub type Space = Arc<Mm<Arena>>;

/// The schedules are the same in every run, unless `PTSHARE_SEED` says otherwise.
const SEED: u64 = 2003;

/// Runs a case under many schedules: half of them random, half by PCT (Burckhardt and others, ASPLOS 2010).
pub fn explore(case: impl Fn() + Send + Sync + Clone + 'static) {
    let schedules = setting("PTSHARE_SCHEDULES").unwrap_or(SCHEDULES);
    let random = RandomScheduler::new_from_seed(seed(), schedules);
    Runner::new(random, config()).run(case.clone());
    explore_by_priority(schedules, case);
}

/// Runs a case under so many schedules of PCT.
pub fn explore_by_priority(schedules: usize, case: impl Fn() + Send + Sync + Clone + 'static) {
    let pct = PctScheduler::new_from_seed(seed(), DEPTH, schedules);
    Runner::new(pct, config()).run(case);
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn seed() -> u64 {
    setting("PTSHARE_SEED").unwrap_or(SEED)
}

/// Switches on the deliberate bug that the environment names, for `cargo xtask mutants`.
fn plant() {
    let name = std::env::var("PTSHARE_MUTANT").unwrap_or_default();
    if name.is_empty() {
        return;
    }
    #[cfg(feature = "mutants")]
    assert!(ptshare_mutants::select(&name), "there is no mutant {name}");
    #[cfg(not(feature = "mutants"))]
    panic!("PTSHARE_MUTANT={name}: these tests were built without the feature `mutants`");
}

fn config() -> Config {
    plant();
    set_several(Several { step, wait: shuttle::thread::yield_now, cpu: current_cpu });
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::Print;
    config.stack_size = 1 << 18;
    config.max_steps = shuttle::MaxSteps::FailAfter(5_000_000);
    config
}

/// A switch that says nothing about who should run next: an access to an atomic variable.
fn step() {
    shuttle::sync::atomic::AtomicBool::new(false).load(std::sync::atomic::Ordering::SeqCst);
}

/// Task 0 sets up and is processor 0; each thread that it starts has its own.
fn current_cpu() -> usize {
    usize::from(shuttle::current::me()) % CPUS_MAX
}

/// A machine whose frames are counted.
pub struct Case {
    pub arena: Arena,
    free: u64,
}

impl Case {
    pub fn new(frames: usize) -> Case {
        let arena = Arena::new(frames);
        let free = arena.free_frames();
        Case { arena, free }
    }

    /// A process with `tables` PTE pages of private memory at [`BASE`]: pages 0 and 1 of each hold known words.
    pub fn parent(&self, tables: u64) -> Space {
        let mm = self.space();
        map(&mm, BASE, tables * SPAN, MAP_PRIVATE);
        for table in 0..tables {
            for page in 0..2 {
                let at = place(table, page);
                self.arena.user_store(&mm, at, word(at)).unwrap();
            }
        }
        mm
    }

    pub fn space(&self) -> Space {
        Mm::new(self.arena.clone()).unwrap()
    }

    /// The arena's audit and the judge's verdict.
    pub fn judge(&self, alive: &[&Space]) {
        let refs: Vec<&Mm<Arena>> = alive.iter().map(|mm| &***mm).collect();
        self.arena.audit(&refs);
        let report = judge(&self.arena, &refs);
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(report.is_clean(), "{}", findings.join("\n"));
    }

    /// The end of an execution: everybody is done, `alive` are the address spaces that are left.
    pub fn finish(self, alive: Vec<Space>) {
        self.judge(&alive.iter().collect::<Vec<_>>());
        drop(alive);
        assert_eq!(self.arena.free_frames(), self.free, "frames were lost");
    }
}

/// Maps anonymous memory.
pub fn map(mm: &Mm<Arena>, addr: u64, len: u64, flags: u64) {
    let request =
        MapRequest { addr, flags: flags | MAP_FIXED | MAP_ANONYMOUS, ..MapRequest::anonymous(len, PROT_RW) };
    assert_eq!(mm.mmap(request), Ok(addr));
}

/// Maps an object from its start.
pub fn map_object(mm: &Mm<Arena>, addr: u64, len: u64, object: &Arc<Object<Arena>>) {
    let request = MapRequest {
        addr,
        flags: MAP_SHARED | MAP_FIXED,
        object: Some((object.clone(), 0)),
        ..MapRequest::anonymous(len, PROT_RW)
    };
    assert_eq!(mm.mmap(request), Ok(addr));
}

/// Page `page` of PTE page `table`.
pub fn place(table: u64, page: u64) -> u64 {
    BASE + table * SPAN + page * PAGE_BYTES
}

/// What [`Case::parent`] puts there.
pub fn word(at: u64) -> u64 {
    at ^ 0x5555
}

/// Starts a processor that runs `mm`; `body` gets the machine and the address space.
pub fn cpu<T: Send + 'static>(
    arena: &Arena,
    mm: &Space,
    body: impl FnOnce(&Arena, &Space) -> T + Send + 'static,
) -> shuttle::thread::JoinHandle<T> {
    let (arena, mm) = (arena.clone(), mm.clone());
    shuttle::thread::spawn(move || {
        let running = arena.run(&mm);
        running.user();
        let result = body(&arena, &mm);
        running.user();
        drop(running);
        result
    })
}

/// As [`cpu`], but the thread ends with its address space: it holds the last reference of the process.
pub fn exiting(arena: &Arena, mm: Space) -> shuttle::thread::JoinHandle<()> {
    exiting_after(arena, mm, |_, _| {})
}

/// As [`exiting`], after `body`.
pub fn exiting_after(
    arena: &Arena,
    mm: Space,
    body: impl FnOnce(&Arena, &Space) + Send + 'static,
) -> shuttle::thread::JoinHandle<()> {
    let arena = arena.clone();
    shuttle::thread::spawn(move || {
        {
            let running = arena.run(&mm);
            running.user();
            body(&arena, &mm);
        }
        drop(mm);
    })
}

/// Loads and compares, or dies with both.
pub fn expect(arena: &Arena, mm: &Mm<Arena>, at: u64, allowed: &[u64]) {
    let found = arena.user_load(mm, at);
    assert!(found.is_ok_and(|word| allowed.contains(&word)), "{at:#x} reads {found:x?}, not of {allowed:x?}");
}

/// A store that must go through.
pub fn store(arena: &Arena, mm: &Mm<Arena>, at: u64, value: u64) {
    assert_eq!(arena.user_store(mm, at, value), Ok(()), "store to {at:#x}");
}

/// An access that may meet a mapping which another thread takes away.
pub fn may_segv(result: Result<u64, FaultOutcome>, allowed: &[u64]) {
    match result {
        Ok(word) => assert!(allowed.contains(&word), "{word:#x}, not of {allowed:x?}"),
        Err(FaultOutcome::SegvMapErr | FaultOutcome::SegvAccErr | FaultOutcome::BusAdrErr) => {}
        Err(other) => panic!("{other:?}"),
    }
}

/// The modes that share.
pub const MODES: [Sharing; 2] = [Sharing::Pte, Sharing::Tree];
