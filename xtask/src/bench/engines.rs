//! Which kernels run the benchmark program, on what, and how.

use super::linux::{self, Kernel};
use super::measure::{self, Figures, Run, Unit};
use super::{BenchArgs, Report, qemu};
use crate::cpio::Archive;
use crate::guest::Artefacts;
use crate::image::{Image, Job, Mode};
use crate::process;
use anyhow::{Context, Result, bail};
use ptshare_vmm::{Config, Ending, Initramfs, VerifyMode};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// The benchmark program's place in a ptshare guest.
const PROGRAM: &str = "/usr/bin/forkbench";
const MODES: [&str; 3] = ["none", "pte", "tree"];

/// What the program is asked to measure under emulation.
fn emulated(quick: bool) -> &'static [&'static str] {
    if quick {
        &["aged", "small", "sparse=1G", "dense=400K,1M,16M,64M", "readers=16M"]
    } else {
        &["aged", "small", "sparse=1G,4G,16G", "dense=400K,1M,16M,64M,256M,1G", "readers=256M"]
    }
}

/// The same on KVM, which may interpret the kernel's instructions: dense memory would take hours.
fn on_the_clock(quick: bool) -> &'static [&'static str] {
    if quick {
        &["small", "dense=400K,1M", "sparse=4M,1G", "readers=1M"]
    } else {
        &["small", "dense=400K,1M,4M", "sparse=4M,64M,1G,4G,16G", "readers=4M"]
    }
}

/// Runs everything that can be run.
///
/// # Errors
/// The benchmark program cannot be read.
pub fn measure(args: &BenchArgs, built: &Artefacts) -> Result<Report> {
    let program = built.program("forkbench");
    let emulator = qemu::version();
    let kernel = match args.linux.as_str() {
        "none" => Err(anyhow::anyhow!("left out with --linux none")),
        "deb" => linux::from_debian(),
        file => linux::from_file(Path::new(file)),
    };
    let mut release = None;
    let mut runs =
        under_emulation(args.quick, built, &program, emulator.as_ref().ok(), &kernel, &mut release)?;
    for mode in MODES {
        eprintln!("measuring sharing={mode} on KVM ...");
        let figures = on_kvm(built, &program, mode, args.quick).map_err(|error| format!("{error:#}"));
        runs.push(Run { engine: "kvm", system: mode, unit: Unit::Nanoseconds, figures });
    }
    eprintln!("measuring this machine's own kernel ...");
    let figures = on_host(&program, args.quick).map_err(|error| format!("{error:#}"));
    runs.push(Run { engine: "host", system: "linux", unit: Unit::Nanoseconds, figures });

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
            format!("pc, one CPU, {} of memory, -cpu max, -icount {}", qemu::MEMORY, qemu::CLOCK),
        ),
        ("Linux under emulation", release.map_or(origin.clone(), |release| format!("{release} ({origin})"))),
        ("host CPU", cpu.map_or("unknown", |(_, name)| name.trim()).to_owned()),
        ("host kernel", say("uname", &["-sr"])),
    ];
    Ok(Report { runs, machine, quick: args.quick })
}

/// ptshare in each mode and Linux, two at a time where there are two CPUs: `-icount` makes that harmless.
fn under_emulation(
    quick: bool,
    built: &Artefacts,
    program: &Path,
    emulator: Option<&String>,
    kernel: &Result<Kernel>,
    release: &mut Option<String>,
) -> Result<Vec<Run>> {
    let wanted = emulated(quick);
    let image = ptshare_image(built, program, wanted)?;
    let mut linux_image = Archive::new();
    linux_image.directory("/dev", 0o755);
    linux_image.directory("/proc", 0o755);
    linux_image.file("/init", 0o755, &std::fs::read(program)?);
    let linux_image = linux_image.finish();

    let boot = |system: &'static str| -> Result<String> {
        if emulator.is_none() {
            bail!("{} is not installed (Debian's package `qemu-system-x86`)", qemu::PROGRAM);
        }
        if system != "linux" {
            eprintln!("measuring sharing={system} under emulation ...");
            return qemu::boot(&built.kernel, &image, &format!("sharing={system} verify=off"));
        }
        let kernel = kernel.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        eprintln!("measuring Linux under emulation ...");
        let cmdline = format!("console=ttyS0 quiet panic=-1 -- {}", wanted.join(" "));
        qemu::boot(&kernel.vmlinux, &linux_image, &cmdline)
    };
    let systems = ["linux", "none", "pte", "tree"];
    let waiting = Mutex::new(systems.iter().enumerate());
    let done = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().map_or(None, |mut list| list.next());
                    let Some((at, system)) = next else { return };
                    let text = boot(system).map_err(|error| format!("{error:#}"));
                    if let Ok(mut done) = done.lock() {
                        done.push((at, *system, text));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(at, ..)| *at);
    let mut runs = Vec::new();
    for (_, system, text) in done {
        if let ("linux", Ok(text)) = (system, &text) {
            *release =
                text.lines().find_map(|line| line.strip_prefix("forkbench: Linux ")).map(str::to_owned);
        }
        let figures = text.map(|text| measure::parse(&text));
        runs.push(Run { engine: "qemu", system, unit: Unit::Instructions, figures });
    }
    Ok(runs)
}

fn ptshare_image(built: &Artefacts, program: &Path, wanted: &[&str]) -> Result<Vec<u8>> {
    let mut image = Image::new(&built.init)?;
    image.executable(PROGRAM, program)?;
    let argv: Vec<&str> = std::iter::once(PROGRAM).chain(wanted.iter().copied()).collect();
    Ok(image.finish(Mode::Single, &[Job::new("forkbench", &argv)]))
}

fn on_kvm(built: &Artefacts, program: &Path, mode: &str, quick: bool) -> Result<Figures> {
    if !Path::new("/dev/kvm").exists() {
        bail!("this machine has no /dev/kvm");
    }
    let config = Config {
        kernel: built.kernel.clone(),
        initramfs: Initramfs::Bytes(ptshare_image(built, program, on_the_clock(quick))?),
        mem_bytes: 2 << 30,
        sharing: mode.into(),
        verify: VerifyMode::Off,
        timeout: Some(Duration::from_secs(1800)),
        ..Config::default()
    };
    let outcome = ptshare_vmm::run(&config)?;
    if outcome.ending != Ending::Exited(0) {
        bail!("{}; {}", outcome.ending, String::from_utf8_lossy(&outcome.stderr).trim_end());
    }
    let mut figures = measure::parse(&String::from_utf8_lossy(&outcome.stdout));
    if let Some(us) = outcome.first_user_instruction_us {
        figures.insert(("boot".into(), 0), us * 1000);
    }
    Ok(figures)
}

fn on_host(program: &Path, quick: bool) -> Result<Figures> {
    let output = Command::new(program)
        .args(on_the_clock(quick))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{}; {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(measure::parse(&String::from_utf8_lossy(&output.stdout)))
}
