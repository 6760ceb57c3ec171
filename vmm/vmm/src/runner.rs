//! One run from configuration to outcome: builds the machine, starts the threads, waits for the first ending, stops and
//! joins everything.

use crate::config::{Config, Initramfs};
use crate::console::{Console, ReaderEnd};
use crate::device::ports::Ports;
use crate::engine::{self, Engine, Ready};
use crate::error::VmmError;
use crate::machine::{Machine, Raise};
use crate::outcome::{Ending, Outcome};
use crate::ram::GuestRam;
use crate::symbols::Symbols;
use crate::sys::{self, RawTerminal, StopSignals, Want};
use crate::{boot, census, cmdline, exit_code, kvm, profile, qemu, random, vcpu, watchdog};
use kvm_bindings::kvm_msi;
use kvm_ioctls::{Cap, Kvm, VmFd};
use log::{debug, info};
use ptshare_wire::hypercall::Block;
use ptshare_wire::layout::{LAPIC_PHYS, VECTOR_CONSOLE};
use std::borrow::Cow;
use std::io;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vmm_sys_util::signal::Killable;

/// Between two kicks of a vCPU thread that has not left yet.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// Runs one guest to its end. Nothing is left behind: threads are joined, the terminal is as it was, guest memory had
/// no name in any file system.
///
/// # Errors
/// [`VmmError`] when the guest could not be started. How a started guest ended, however badly, is in the outcome.
pub fn run(config: &Config) -> Result<Outcome, VmmError> {
    let called = Instant::now();
    config.check()?;
    let image = read_file("kernel", &config.kernel)?;
    let initramfs = match &config.initramfs {
        Initramfs::Bytes(bytes) => Cow::Borrowed(bytes.as_slice()),
        Initramfs::File(path) => Cow::Owned(read_file("initramfs", path)?),
    };
    let ram = GuestRam::new(config.mem_bytes)?;
    let (ready, notice) = engine::open(config.engine)?;
    if let Some(notice) = notice {
        info!("{notice}");
    }
    let console = Console::new(&config.console).map_err(VmmError::host("use stdout and stderr"))?;
    let made = Made { config, called, image: &image, initramfs: &initramfs, ram, console };
    match ready {
        Ready::Kvm(kvm) => on_kvm(made, &kvm),
        Ready::Qemu => under_qemu(made),
    }
}

/// The date at which a guest begins whose runs are to be the same: 2024-01-01.
const ICOUNT_REALTIME_NS: u64 = 1_704_067_200_000_000_000;

fn realtime_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// What every engine needs.
struct Made<'a> {
    config: &'a Config,
    called: Instant,
    image: &'a [u8],
    initramfs: &'a [u8],
    ram: GuestRam,
    console: Console,
}

impl Made<'_> {
    /// The kernel's command line.
    fn cmdline(&self, tsc_khz: u64, doorbell: Option<u64>) -> String {
        let facts = cmdline::HostFacts {
            tsc_khz,
            realtime_ns: if self.config.icount { ICOUNT_REALTIME_NS } else { realtime_ns() },
            doorbell,
            terminals: self.console.terminals(),
            window: self.console.window(),
        };
        let line = cmdline::build(self.config, &facts);
        info!("command line: {line}");
        line
    }

    /// The machine, and the call that `run` got.
    fn machine(self, engine: Engine, raise: Raise) -> Result<Arc<Machine>, VmmError> {
        let config = self.config;
        let symbols = Symbols::parse(self.image);
        let mut machine =
            Machine::new(self.ram, symbols, self.console, config.verify, config.dump_path.clone(), raise)
                .map_err(VmmError::host("make an eventfd"))?;
        machine.engine = engine;
        machine.cpus = config.cpus;
        machine.dump_at = config.dump_at.clone();
        machine.record().profile = config.profile.then(Default::default);
        Ok(Arc::new(machine))
    }
}

fn on_kvm(made: Made<'_>, kvm: &Kvm) -> Result<Outcome, VmmError> {
    let (config, called) = (made.config, made.called);
    let (entry, kernel_end) = boot::load_kernel(&made.ram, &config.kernel, made.image)?;
    let vm = Arc::new(kvm::create_vm(kvm)?);
    made.ram.attach(&vm)?;
    let vcpus = (0..config.cpus)
        .map(|i| kvm::create_vcpu(kvm, &vm, i, config.cpus, (i == 0).then_some(entry)))
        .collect::<Result<Vec<_>, _>>()?;
    let cmdline = made.cmdline(vcpus.first().map_or(0, kvm::tsc_khz), None);
    boot::write_tables(&made.ram, kernel_end, &cmdline, made.initramfs)?;
    let machine = made.machine(Engine::Kvm, console_interrupt(&vm))?;
    drive(&machine, config, called, |threads| {
        let ports = Arc::new(Ports::default());
        for (index, fd) in (0..).zip(vcpus) {
            let ports = Arc::clone(&ports);
            let body = move |m: &Machine| vcpu::run(m, &ports, index, fd, index != 0);
            threads.push(spawn(&machine, format!("vcpu{index}"), body)?);
        }
        Ok(())
    })
}

fn under_qemu(made: Made<'_>) -> Result<Outcome, VmmError> {
    /// With a clock that counts instructions the time-stamp counter runs at 1 GHz.
    const ICOUNT_TSC_KHZ: u64 = 1_000_000;
    let (config, called) = (made.config, made.called);
    let block = qemu::block_pa(&config.kernel, made.image, &made.ram)?;
    // All captured input is there from the beginning.
    let poll_ms = if made.console.is_host() { qemu::INPUT_POLL_MS } else { 0 };
    let cmdline = made.cmdline(if config.icount { ICOUNT_TSC_KHZ } else { 0 }, Some(poll_ms));
    let (emulator, serial) = qemu::start(config, &made.ram, block, &cmdline, made.initramfs)?;
    let notice = block + offset_of!(Block, input) as u64;
    let machine = made.machine(
        Engine::Qemu,
        Box::new(move |ram| {
            ram.write_u64(notice, 1);
        }),
    )?;
    drive(&machine, config, called, |threads| {
        threads.push(spawn(&machine, "qemu".into(), move |m| qemu::thread::run(m, emulator))?);
        threads.push(spawn(&machine, "serial".into(), move |m| qemu::thread::read_serial(m, serial))?);
        Ok(())
    })
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, VmmError> {
    std::fs::read(path).map_err(|e| VmmError::BadFile {
        what,
        path: path.to_owned(),
        why: format!("cannot be read: {e}"),
    })
}

/// Raises the console's vector on the first CPU's local APIC, as a message-signalled interrupt.
fn console_interrupt(vm: &Arc<VmFd>) -> Raise {
    if !vm.check_extension(Cap::SignalMsi) {
        debug!("KVM cannot signal MSIs: console input waits for the guest to ask");
        return Box::new(|_| ());
    }
    let vm = Arc::clone(vm);
    Box::new(move |_| {
        let msi =
            kvm_msi { address_lo: LAPIC_PHYS as u32, data: VECTOR_CONSOLE.into(), ..Default::default() };
        if let Err(e) = vm.signal_msi(msi) {
            debug!("KVM_SIGNAL_MSI: {e}");
        }
    })
}

/// Starts a thread; a panic in it ends the run instead of hanging it.
fn spawn(
    machine: &Arc<Machine>,
    name: String,
    body: impl FnOnce(&Machine) + Send + 'static,
) -> Result<JoinHandle<()>, VmmError> {
    let machine = Arc::clone(machine);
    let what = name.clone();
    thread::Builder::new()
        .name(name)
        .spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| body(&machine))).is_err() {
                machine.end(Ending::InternalError {
                    text: format!("thread {what} of the VMM panicked (see above)"),
                });
            }
        })
        .map_err(VmmError::host("start a thread"))
}

/// Starts the engine's threads and the console's, waits for the end, and joins all.
fn drive(
    machine: &Arc<Machine>,
    config: &Config,
    called: Instant,
    start: impl FnOnce(&mut Vec<JoinHandle<()>>) -> Result<(), VmmError>,
) -> Result<Outcome, VmmError> {
    sys::install_kick().map_err(VmmError::host("install a signal handler"))?;
    let signals = match machine.console.is_host() {
        true => StopSignals::take().map_err(VmmError::host("take over signals"))?,
        false => None,
    };
    let terminal = match machine.console.terminals()[0] {
        true => {
            Some(RawTerminal::enter(io::stdin()).map_err(VmmError::host("put the terminal into raw mode"))?)
        }
        false => None,
    };
    let setup = called.elapsed();

    let mut threads = Vec::new();
    let mut failed = start(&mut threads).err();
    if machine.console.is_host() {
        match spawn(machine, "console".into(), read_console) {
            Ok(thread) => threads.push(thread),
            Err(e) => failed = Some(e),
        }
    }
    if let Some(how) = config.random {
        match spawn(machine, "judge".into(), move |m| random::run(m, how)) {
            Ok(thread) => threads.push(thread),
            Err(e) => failed = Some(e),
        }
    }
    if let Some(how) = config.watchdog {
        match spawn(machine, "watchdog".into(), move |m| watchdog::run(m, how)) {
            Ok(thread) => threads.push(thread),
            Err(e) => failed = Some(e),
        }
    }
    let awaited = match failed {
        None => {
            let profiled = threads.first().filter(|_| config.profile);
            wait(machine, signals.as_ref(), config.timeout.map(|limit| called + limit), profiled)
        }
        Some(_) => Awaited::Ending,
    };
    machine.begin_stop();
    join(threads);
    drop(terminal);
    drop(signals);
    if let Some(error) = failed {
        return Err(error);
    }
    match awaited {
        Awaited::Ending => {}
        Awaited::Signal => machine.end(Ending::Interrupted),
        Awaited::Deadline => {
            let place = machine.record().stopped_at.take().unwrap_or_default();
            let limit = config.timeout.unwrap_or_default();
            machine.end(Ending::Timeout { text: format!("the time limit of {limit:?} ran out; {place}") });
        }
    }
    Ok(outcome(machine, setup))
}

fn read_console(machine: &Machine) {
    if machine.console.read_host(&machine.stop, || machine.raise_console()) == ReaderEnd::Quit {
        machine.end(Ending::Interrupted);
    }
}

/// What the main thread woke up for.
enum Awaited {
    Ending,
    Signal,
    Deadline,
}

/// Waits for an ending, a signal or the deadline. Meanwhile `profiled`, a vCPU's thread, is kicked for samples.
fn wait(
    machine: &Machine,
    signals: Option<&StopSignals>,
    deadline: Option<Instant>,
    profiled: Option<&JoinHandle<()>>,
) -> Awaited {
    loop {
        let mut left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Awaited::Deadline;
        }
        if let Some(thread) = profiled {
            left = Some(left.map_or(profile::PERIOD, |left| left.min(profile::PERIOD)));
            let _ = thread.kill(sys::kick_signal());
        }
        let mut fds = vec![(sys::event_fd(&machine.ended), Want::Read)];
        fds.extend(signals.map(|s| (sys::event_fd(&s.event), Want::Read)));
        match sys::poll(&fds, left) {
            Ok(ready) if ready[0] => return Awaited::Ending,
            Ok(ready) if ready.get(1) == Some(&true) => return Awaited::Signal,
            Ok(_) => {}
            Err(e) => {
                machine
                    .end(Ending::InternalError { text: format!("the VMM cannot wait for the guest: {e}") });
                return Awaited::Ending;
            }
        }
    }
}

/// Kicks threads until each has left. One kick is enough for a thread in KVM_RUN; the console's may sit in any call.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        while !thread.is_finished() {
            // The thread is not joined yet, so its handle is good; one that has just ended does not mind.
            let _ = thread.kill(sys::kick_signal());
            thread::sleep(KICK_AGAIN);
        }
        // A panic was caught and reported inside the thread.
        let _ = thread.join();
    }
}

fn outcome(machine: &Machine, setup: Duration) -> Outcome {
    let ending = machine
        .ending()
        .unwrap_or_else(|| Ending::InternalError { text: "the run ended without saying how".into() });
    let [stdout, stderr] = machine.console.captured();
    let last = machine.snapshot();
    let syscalls_unknown =
        machine.census().map(|pa| census::unknown_syscalls(&machine.ram, pa)).unwrap_or_default();
    let wall = machine.started().elapsed();
    let record = std::mem::take(&mut *machine.record());
    Outcome {
        engine: machine.engine,
        status: exit_code::of_ending(&ending),
        ending,
        stdout,
        stderr,
        first_user_instruction_us: record.first_user_us,
        insn_emulation_at_first_user: record.insn_at_first_user,
        setup,
        wall,
        events: record.events,
        last,
        syscalls_unknown,
        verifier: record.verifier,
        profile: record.profile,
        kernel_log: record.kernel_log,
    }
}
