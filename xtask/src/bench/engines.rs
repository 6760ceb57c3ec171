//! Which kernels run the benchmark program, on what, and how.

use super::linux::{self, Kernel};
use super::measure::{Hole, Run, Unit};
use super::plan::{ON_THE_CLOCK, POOL, PRIVATE, Plan, emulated, on_the_clock};
use super::qemu::{self, Pace};
use super::{BenchArgs, Report, judge, scale};
use crate::cpio::Archive;
use crate::guest::Artefacts;
use crate::image::{Image, Job, Mode};
use crate::process;
use anyhow::{Context, Result, bail};
use ptshare_vmm::{Config, Ending, Engine, EngineChoice, Initramfs, VerifyMode, parse_size};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const MODES: [&str; 3] = ["none", "pte", "tree"];

/// Runs everything that can be run.
///
/// # Errors
/// The benchmark program cannot be read.
pub fn measure(args: &BenchArgs, built: &Artefacts) -> Result<Report> {
    let program = built.program("forkbench");
    let emulator = qemu::version();
    let kernel = linux_of(args);
    let mut release = None;
    let mut runs =
        under_emulation(args.quick, built, &program, emulator.as_ref().ok(), &kernel, &mut release)?;
    for mode in MODES {
        let boots = on_the_clock(args.quick).into_iter().map(|plan| {
            let output = told(&format!("sharing={mode} on KVM, {}", plan.what), || {
                on_kvm(built, &program, mode, &plan)
            });
            (plan.what.to_owned(), output)
        });
        let mut run = Run::of("kvm", mode, Unit::Nanoseconds, boots.collect());
        if run.figures.is_ok() {
            let what = "dense memory above 4M, scattered above 1G, file readers above 100".to_owned();
            run.holes.push(Hole { what, why: ON_THE_CLOCK.to_owned() });
        }
        runs.push(run);
    }
    let boots = on_the_clock(args.quick).into_iter().map(|plan| {
        let output = told(&format!("this machine's own kernel, {}", plan.what), || on_host(&program, &plan));
        (plan.what.to_owned(), output)
    });
    runs.push(Run::of("host", "linux", Unit::Nanoseconds, boots.collect()));
    judge::measure(args.quick, built, &program, &mut runs);
    runs.extend(scale::measure(args.quick, built, &kernel));

    let say =
        |program: &str, args: &[&str]| process::answer(program, args).unwrap_or_else(|| "unknown".into());
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let origin = kernel.map_or_else(|error| format!("none: {error:#}"), |kernel| kernel.origin);
    let machine = vec![
        ("date", say("date", &["-u", "+%Y-%m-%d"])),
        (
            "commit",
            say("git", &["-C", &crate::paths::root().to_string_lossy(), "rev-parse", "--short", "HEAD"]),
        ),
        ("compiler", say("rustc", &["--version"])),
        ("emulator", emulator.unwrap_or_else(|error| format!("none: {error:#}"))),
        (
            "emulated machine",
            format!(
                "pc, one CPU, 2G of memory (3G with {POOL} for many readers), -cpu max, -icount {}",
                qemu::CLOCK
            ),
        ),
        ("Linux under emulation", release.map_or(origin.clone(), |release| format!("{release} ({origin})"))),
        ("host CPU", cpu.map_or("unknown", |(_, name)| name.trim()).to_owned()),
        ("host kernel", say("uname", &["-sr"])),
    ];
    Ok(Report { runs, machine, quick: args.quick })
}

/// Says what is being measured, and how long it took; an error becomes words.
pub(super) fn told<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T, String> {
    eprintln!("measuring {what} ...");
    let start = Instant::now();
    let result = body().map_err(|error| format!("{error:#}"));
    let end = if result.is_ok() { "done" } else { "nothing came of it" };
    eprintln!("measuring {what}: {end} after {:.0} s", start.elapsed().as_secs_f64());
    result
}

/// The Linux kernel to compare with, as `--linux` says.
pub(super) fn linux_of(args: &BenchArgs) -> Result<Kernel> {
    match args.linux.as_str() {
        "none" => Err(anyhow::anyhow!("left out with --linux none")),
        "deb" => linux::from_debian(),
        file => linux::from_file(Path::new(file)),
    }
}

/// A root for Linux, with the program as PID 1.
pub(super) fn linux_image(program: &Path) -> Result<Vec<u8>> {
    let mut image = Archive::new();
    image.directory("/dev", 0o755);
    image.directory("/proc", 0o755);
    image.file("/init", 0o755, &std::fs::read(program)?);
    Ok(image.finish())
}

/// ptshare in each mode and Linux, two boots at a time where there are two CPUs: `-icount` makes that harmless.
fn under_emulation(
    quick: bool,
    built: &Artefacts,
    program: &Path,
    emulator: Option<&String>,
    kernel: &Result<Kernel>,
    release: &mut Option<String>,
) -> Result<Vec<Run>> {
    let linux_image = linux_image(program)?;
    let counted = |kernel: &Path, image: &[u8], cmdline: &str, memory: &str| {
        qemu::boot(kernel, image, cmdline, memory, Pace::Counted, "forkbench")
    };

    let boot = |system: &'static str, plan: &Plan| -> Result<String> {
        if emulator.is_none() {
            bail!("{} is not installed (Debian's package `qemu-system-x86`)", qemu::PROGRAM);
        }
        if system != "linux" {
            let image = ptshare_image(built, program, plan.wanted)?;
            let cmdline = format!("sharing={system} verify=off {}", plan.cmdline);
            let text = counted(&built.kernel, &image, &cmdline, plan.memory)?;
            // The other boot is for crowds; once is enough.
            return Ok(if plan.what == PRIVATE {
                text + &boot_instructions(built, program, system)?
            } else {
                text
            });
        }
        let kernel = kernel.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let cmdline = format!("console=ttyS0 quiet panic=-1 {} -- {}", plan.cmdline, plan.wanted.join(" "));
        counted(&kernel.vmlinux, &linux_image, &cmdline, plan.memory)
    };
    let systems = ["linux", "none", "pte", "tree"];
    let plans = emulated(quick);
    let boots: Vec<_> = plans.iter().flat_map(|plan| systems.map(|system| (system, plan))).collect();
    let waiting = Mutex::new(boots.iter());
    let done = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().map_or(None, |mut list| list.next());
                    let Some((system, plan)) = next else { return };
                    let name =
                        if *system == "linux" { "Linux".to_owned() } else { format!("sharing={system}") };
                    let output =
                        told(&format!("{name} under emulation, {}", plan.what), || boot(system, plan));
                    if let Ok(mut done) = done.lock() {
                        done.push((*system, plan.what, output));
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    let mut runs = Vec::new();
    for system in systems {
        let outputs = done.iter().filter(|(of, ..)| *of == system);
        let boots: Vec<_> = outputs.map(|(_, what, output)| ((*what).to_owned(), output.clone())).collect();
        if system == "linux" {
            *release = boots.iter().find_map(|(_, output)| {
                let lines = output.as_ref().ok()?.lines();
                lines.filter_map(|line| line.strip_prefix("forkbench: Linux ")).next().map(str::to_owned)
            });
        }
        runs.push(Run::of("qemu", system, Unit::Instructions, boots));
    }
    Ok(runs)
}

/// Instructions from the kernel's first to the first in user mode, as a line of the program's.
fn boot_instructions(built: &Artefacts, program: &Path, mode: &str) -> Result<String> {
    let config = Config {
        engine: EngineChoice::Only(Engine::Qemu),
        icount: true,
        ..clock_config(built, mode, ptshare_image(built, program, &[])?, "")?
    };
    let outcome = ptshare_vmm::run(&config)?;
    match outcome.insn_emulation_at_first_user {
        Some(instructions) => Ok(format!("measure boot 0 {instructions}\n")),
        None => bail!("the guest came to no user instruction: {}", outcome.ending),
    }
}

pub(super) fn ptshare_image(built: &Artefacts, program: &Path, wanted: &[&str]) -> Result<Vec<u8>> {
    program_image(built, "forkbench", program, wanted)
}

/// A root with this program, which runs with these arguments.
pub(super) fn program_image(
    built: &Artefacts,
    name: &str,
    program: &Path,
    wanted: &[&str],
) -> Result<Vec<u8>> {
    let path = format!("/usr/bin/{name}");
    let mut image = Image::new(&built.init)?;
    image.executable(&path, program)?;
    let argv: Vec<&str> = std::iter::once(path.as_str()).chain(wanted.iter().copied()).collect();
    Ok(image.finish(Mode::Single, &[Job::new(name, &argv)]))
}

pub(super) fn clock_config(built: &Artefacts, mode: &str, image: Vec<u8>, cmdline: &str) -> Result<Config> {
    Ok(Config {
        kernel: built.kernel.clone(),
        initramfs: Initramfs::Bytes(image),
        mem_bytes: 3 << 30,
        sharing: mode.into(),
        verify: VerifyMode::Off,
        timeout: Some(Duration::from_secs(1800)),
        cmdline_extra: cmdline.to_owned(),
        ..Config::default()
    })
}

fn on_kvm(built: &Artefacts, program: &Path, mode: &str, plan: &Plan) -> Result<String> {
    let image = ptshare_image(built, program, plan.wanted)?;
    let mem_bytes = parse_size(plan.memory).map_err(anyhow::Error::msg)?;
    let engine = EngineChoice::Only(Engine::Kvm);
    let config = Config { engine, mem_bytes, ..clock_config(built, mode, image, plan.cmdline)? };
    let outcome = ptshare_vmm::run(&config)?;
    if outcome.ending != Ending::Exited(0) {
        bail!("{}; {}", outcome.ending, String::from_utf8_lossy(&outcome.stderr).trim_end());
    }
    let mut text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    if let Some(us) = outcome.first_user_instruction_us.filter(|_| plan.what == PRIVATE) {
        text += &format!("measure boot 0 {}\n", us * 1000);
    }
    Ok(text)
}

fn on_host(program: &Path, plan: &Plan) -> Result<String> {
    let output = Command::new(program)
        .args(plan.wanted)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{}; {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
