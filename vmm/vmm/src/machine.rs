//! What the threads of one run share: memory, console, the record of what happened, and how it ended.
//!
//! Locks: [`Machine::record`], the pause's, the ending and the serial port are leaves; none is held while another (or one of the
//! console's) is taken. The first ending wins. [`Machine::stop`] is never undone.

use crate::census;
use crate::config::VerifyMode;
use crate::console::{Console, WriteEnd};
use crate::cpu::CpuState;
use crate::engine::Engine;
use crate::outcome::{Ending, Event, Snapshot, VerifierTotals};
use crate::pause::Pause;
use crate::ram::GuestRam;
use crate::symbols::Symbols;
use ptshare_verifier::History;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Longest sleep without a look at whether the run ends.
const NAP: Duration = Duration::from_millis(10);

/// What has happened so far.
#[derive(Default)]
pub struct Record {
    /// Microseconds from the first guest instruction to the kernel's first, and the time-stamp counter then, where the
    /// guest says so.
    pub kernel_began: Option<(u64, u64)>,
    /// Microseconds from the kernel's first instruction to the first in user mode.
    pub first_user_us: Option<u64>,
    /// Guest kernel instructions up to there.
    pub insn_at_first_user: Option<u64>,
    /// Lines from `/dev/ptshare`.
    pub events: Vec<Event>,
    /// The verifier's work.
    pub verifier: VerifierTotals,
    /// Kernel log and serial output.
    pub kernel_log: String,
    /// Samples of where the guest is; `None` unless asked for.
    pub profile: Option<crate::profile::Samples>,
    /// Where the guest was when it was stopped, for a timeout.
    pub stopped_at: Option<String>,
}

/// What one verdict leaves for the next.
#[derive(Default)]
pub struct Notes {
    /// Shared tables as they were.
    pub history: History,
    /// Chooses the addresses that the engine is asked about.
    pub seed: u64,
}

/// Tells the guest that console input waits.
pub type Raise = Box<dyn Fn(&GuestRam) + Send + Sync>;

/// CPUs that wait to be started by the guest.
#[derive(Default)]
struct Starts {
    /// Registers of those that are to start; `None` once they have.
    states: Mutex<BTreeMap<u32, Option<CpuState>>>,
    changed: Condvar,
}

/// One running machine, without its vCPUs.
pub struct Machine {
    /// What runs it.
    pub engine: Engine,
    /// CPUs that it has.
    pub cpus: u32,
    /// Guest memory.
    pub ram: GuestRam,
    /// Names of guest kernel addresses.
    pub symbols: Symbols,
    /// The console.
    pub console: Console,
    /// When to verify.
    pub verify: VerifyMode,
    /// Where a dump goes.
    pub dump_path: Option<PathBuf>,
    /// When one is written without a violation: see [`crate::Config::dump_at`].
    pub dump_at: Option<String>,
    /// See [`Record`].
    pub record: Mutex<Record>,
    /// Where CPUs stand still.
    pub pause: Pause,
    notes: Mutex<Notes>,
    no_second_opinions: AtomicBool,
    /// Readable from the moment that the run is to stop.
    pub stop: EventFd,
    /// Readable from the moment that there is an ending.
    pub ended: EventFd,
    raise: Raise,
    starts: Starts,
    stopping: AtomicBool,
    ending: Mutex<Option<Ending>>,
    start: OnceLock<Instant>,
    /// Guest-physical address of the census; 0 while the guest has not said.
    census: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// A machine at rest.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new(
        ram: GuestRam,
        symbols: Symbols,
        console: Console,
        verify: VerifyMode,
        dump_path: Option<PathBuf>,
        raise: Raise,
    ) -> io::Result<Machine> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Machine {
            engine: Engine::Kvm,
            cpus: 1,
            ram,
            symbols,
            console,
            verify,
            dump_path,
            dump_at: None,
            raise,
            starts: Starts::default(),
            record: Mutex::default(),
            pause: Pause::default(),
            notes: Mutex::default(),
            no_second_opinions: AtomicBool::new(false),
            stop: event()?,
            ended: event()?,
            stopping: AtomicBool::new(false),
            ending: Mutex::new(None),
            start: OnceLock::new(),
            census: AtomicU64::new(0),
        })
    }

    /// Has CPU `index` start with these registers; false if there is no such CPU, or it has been started.
    pub fn start_cpu(&self, index: u32, state: CpuState) -> bool {
        let mut states = lock(&self.starts.states);
        if index == 0 || index >= self.cpus || states.contains_key(&index) {
            return false;
        }
        states.insert(index, Some(state));
        self.starts.changed.notify_all();
        true
    }

    /// Waits until the guest starts CPU `index`; `None` when the run stops first.
    pub fn wait_for_start(&self, index: u32) -> Option<CpuState> {
        let mut states = lock(&self.starts.states);
        while !self.stopping() {
            if let Some(state) = states.get_mut(&index).and_then(Option::take) {
                return Some(state);
            }
            states = self.starts.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// The record, locked.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    /// The judge's notes, locked; only while the guest stands still.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    /// Can the engine be asked to translate addresses?
    pub fn second_opinions(&self) -> bool {
        !self.no_second_opinions.load(Ordering::Relaxed)
    }

    /// It cannot.
    pub fn no_second_opinions(&self) {
        self.no_second_opinions.store(true, Ordering::Relaxed);
    }

    /// The moment of the first guest instruction; the first call sets it.
    pub fn started(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    /// Microseconds since the first guest instruction.
    pub fn micros(&self) -> u64 {
        self.started().elapsed().as_micros() as u64
    }

    /// Ends the run; the first ending stays.
    pub fn end(&self, ending: Ending) {
        lock(&self.ending).get_or_insert(ending);
        // An eventfd whose counter is full is readable all the same.
        let _ = self.ended.write(1);
    }

    /// How the run ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        lock(&self.ending).clone()
    }

    /// Makes every thread leave: flag first, so that a thread which is kicked sees it.
    pub fn begin_stop(&self) {
        {
            let _states = lock(&self.starts.states);
            self.stopping.store(true, Ordering::SeqCst);
        }
        self.starts.changed.notify_all();
        let _ = self.stop.write(1);
        self.pause.end();
        self.console.close();
    }

    /// Whether threads are to leave.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Sleeps; false once the run is to stop.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(NAP));
        }
        false
    }

    /// Tells the guest that console input waits.
    pub fn raise_console(&self) {
        (self.raise)(&self.ram);
    }

    /// Notes where the census lies.
    pub fn set_census(&self, pa: u64) {
        self.census.store(pa, Ordering::Release);
    }

    /// Where the census lies, once the guest has said.
    pub fn census(&self) -> Option<u64> {
        Some(self.census.load(Ordering::Acquire)).filter(|&pa| pa != 0)
    }

    /// The guest's counters now.
    pub fn snapshot(&self) -> Option<Snapshot> {
        census::snapshot(&self.ram, self.census()?)
    }

    /// Appends to the kernel log what came over the serial port; on the host's console it also goes to stderr.
    pub fn serial_text(&self, bytes: &[u8]) {
        self.record().kernel_log.push_str(&String::from_utf8_lossy(bytes));
        if self.console.is_host() {
            self.output(2, bytes);
        }
    }

    /// Writes guest output; a reader that went away ends the run.
    pub fn output(&self, stream: u64, bytes: &[u8]) {
        match self.console.write(stream, bytes, &self.stop) {
            Err(WriteEnd::Closed) => self.end(Ending::OutputClosed),
            Ok(()) | Err(WriteEnd::Stopped) => {}
        }
    }
}

#[cfg(test)]
pub mod testing {
    //! A machine without KVM.
    use super::*;
    use crate::config;

    /// 16 MiB, captured console with this input, verification off.
    pub fn machine(stdin: &[u8]) -> Machine {
        let console = Console::new(&config::Console::Captured { stdin: stdin.to_vec() }).unwrap();
        let ram = GuestRam::new(16 << 20).unwrap();
        Machine::new(ram, Symbols::default(), console, VerifyMode::Off, None, Box::new(|_| ())).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ending_stays() {
        let machine = testing::machine(b"");
        assert_eq!(machine.ending(), None);
        machine.end(Ending::Exited(3));
        machine.end(Ending::Interrupted);
        assert_eq!(machine.ending(), Some(Ending::Exited(3)));
    }
}
