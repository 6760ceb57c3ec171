//! How much more gets done with more CPUs: `tests/programs/src/bin/scale.rs` with 1, 2 and more workers on as many CPUs.

use super::Report;
use super::engines::{linux_image, program_image, told};
use super::linux::Kernel;
use super::measure::{Run, Unit};
use super::qemu::{self, Pace};
use super::table::{Table, ratio, short};
use crate::guest::Artefacts;
use anyhow::{Context, Result, bail};
use ptshare_vmm::{Config, Ending, Engine, EngineChoice, Initramfs, VerifyMode};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the program measures: its name there, and in words.
pub const CASES: &[(&str, &str)] = &[
    ("threads", "page faults, threads of one process in tables of their own"),
    ("file", "page faults, processes that fill the same tables of a file"),
    ("cow", "copies on write, processes that share all tables after fork"),
    ("fork", "fork + exit + wait, processes that share nothing"),
];
/// How the table begins its title.
pub const TITLE: &str = "Operations a second by the number of CPUs";
/// Most CPUs of an emulated machine.
const EMULATED_MAX: u32 = 4;
/// Most CPUs on KVM and on the host, which have no more than there are cores.
const CORES_MAX: u32 = 4;
/// Boots of each; the best counts.
const ATTEMPTS: u32 = 3;
/// Engines in these runs, and in words; other tables do not know them.
const ENGINES: &[(&str, &str)] = &[
    ("scale-kvm", "KVM"),
    ("scale-tcg", "QEMU"),
    ("scale-tcg-linux", "Linux on QEMU"),
    ("scale-host", "this host's Linux"),
];
/// How guests share page tables: as `cargo xtask run` has it.
const SHARING: &str = "pte";

/// Cores of this machine.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Runs the program everywhere, with each number of CPUs by itself.
pub fn measure(quick: bool, built: &Artefacts, linux: &Result<Kernel>) -> Vec<Run> {
    let program = built.program("scale");
    let cores = cores().min(CORES_MAX);
    let attempts = if quick { 1 } else { ATTEMPTS };
    // A KVM that interprets the guest's kernel takes a thousand times as long.
    let slow = ["pages=1024", "forks=32"];
    let fast = ["pages=32768", "forks=4000"];
    // Linux takes several times as many instructions.
    let less = ["pages=32768", "forks=1000"];
    let guest = |engine, cpus, work: &[&str]| in_guest(built, &program, engine, cpus, work);
    vec![
        run("scale-kvm", SHARING, attempts, cores, |cpus| guest(Engine::Kvm, cpus, &slow)),
        run("scale-tcg", SHARING, attempts, EMULATED_MAX, |cpus| guest(Engine::Qemu, cpus, &fast)),
        run("scale-tcg-linux", "linux", attempts, EMULATED_MAX, |cpus| {
            on_linux(&program, linux, cpus, &less)
        }),
        run("scale-host", "linux", attempts, cores, |cpus| on_host(&program, cpus, &fast)),
    ]
}

fn run(
    engine: &'static str,
    system: &'static str,
    attempts: u32,
    most: u32,
    one: impl Fn(u32) -> Result<String>,
) -> Run {
    // By turns, so that what else the machine does meets all alike.
    let boots = (0..attempts).flat_map(|_| 1..=most).map(|cpus| {
        let what = format!("{cpus} CPUs");
        let output = told(&format!("{engine}, {what}"), || one(cpus));
        Run::of(engine, system, Unit::Nanoseconds, vec![(what, output)])
    });
    best(boots.collect())
}

/// Of several runs of one kernel on one engine, the most of each figure.
fn best(runs: Vec<Run>) -> Run {
    let mut best = Run::of("", "", Unit::Nanoseconds, Vec::new());
    for run in runs {
        (best.engine, best.system) = (run.engine, run.system);
        best.holes.extend(run.holes);
        match (&mut best.figures, run.figures) {
            (Ok(all), Ok(figures)) => {
                for (key, value) in figures {
                    let most = all.entry(key).or_insert(0);
                    *most = (*most).max(value);
                }
            }
            (Ok(all), Err(why)) if all.is_empty() => best.figures = Err(why),
            (all, Ok(figures)) => *all = Ok(figures),
            _ => {}
        }
    }
    best
}

fn in_guest(built: &Artefacts, program: &Path, engine: Engine, cpus: u32, work: &[&str]) -> Result<String> {
    let workers = format!("workers={cpus}");
    let wanted: Vec<&str> = [workers.as_str()].into_iter().chain(work.iter().copied()).collect();
    let config = Config {
        kernel: built.kernel.clone(),
        initramfs: Initramfs::Bytes(program_image(built, "scale", program, &wanted)?),
        engine: EngineChoice::Only(engine),
        cpus,
        mem_bytes: 1 << 30,
        sharing: SHARING.into(),
        verify: VerifyMode::Off,
        timeout: Some(Duration::from_secs(600)),
        ..Config::default()
    };
    let outcome = ptshare_vmm::run(&config)?;
    if outcome.ending != Ending::Exited(0) {
        bail!("{}; {}", outcome.ending, String::from_utf8_lossy(&outcome.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
}

/// Linux on QEMU, with the program as PID 1.
fn on_linux(program: &Path, kernel: &Result<Kernel>, cpus: u32, work: &[&str]) -> Result<String> {
    let kernel = kernel.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let cmdline = format!("console=ttyS0 quiet panic=-1 -- workers={cpus} {}", work.join(" "));
    qemu::boot(&kernel.vmlinux, &linux_image(program)?, &cmdline, "1G", Pace::Free(cpus), "scale")
}

fn on_host(program: &Path, cpus: u32, work: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .arg(format!("workers={cpus}"))
        .args(work)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{}; {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The table and its title.
pub fn table(report: &Report) -> (String, Table) {
    let mut head: Vec<String> = ["measure", "on"].map(str::to_owned).to_vec();
    head.extend(
        (1..=EMULATED_MAX).map(|cpus| if cpus == 1 { "1 CPU".into() } else { format!("{cpus} CPUs") }),
    );
    head.push("2 over 1".into());
    let mut rows = Vec::new();
    for (name, words) in CASES {
        for (engine, on) in ENGINES {
            let run = report.runs.iter().find(|run| run.engine == *engine);
            let rate = |cpus: u32| run?.figure(&format!("scale{cpus}_{name}_per_s"), 0);
            let mut row = vec![(*words).to_owned(), (*on).to_owned()];
            row.extend((1..=EMULATED_MAX).map(|cpus| rate(cpus).map_or("-".into(), short)));
            row.push(ratio(rate(2), rate(1)));
            rows.push(row);
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown");
    (format!("{TITLE} ({} cores, load average {load} at the end)", cores()), Table { head, rows })
}

/// What stands above the table in BENCHMARKS.md.
pub const NOTES: &str = "\
`tests/programs/src/bin/scale.rs`: as many workers as CPUs, each pinned to one of its own, do the same work until the first is\n\
done; the best of three boots counts. Guests run with `sharing=pte` and without the judge. QEMU runs each CPU in a thread of\n\
its own (`-accel tcg,thread=multi`), but takes its one global lock for each exception that it delivers (`cpu_handle_exception`,\n\
accel/tcg/cpu-exec.c of 7.2): the fewer instructions a kernel needs for a fault, the sooner its CPUs wait for that. Linux on QEMU\n\
is the kernel of the tables above, on the same emulated machine. More CPUs than this machine has cores cannot do more\n\
together, nor can any beside other work, for which see the load. Compare columns, not engines: a KVM that interprets the\n\
guest's kernel takes a thousand times as long.\n\n";

#[cfg(test)]
mod tests {
    use super::super::measure::parse;
    use super::*;

    #[test]
    fn the_best_of_several_boots_counts() {
        let boot = |text: Result<&str, &str>| {
            let output = text.map(str::to_owned).map_err(str::to_owned);
            Run::of("scale-tcg", SHARING, Unit::Nanoseconds, vec![("1 CPUs".into(), output)])
        };
        let (slow, quick) = ("measure a 0 5\nmeasure b 0 9\n", "measure a 0 7\nmeasure b 0 8\n");
        let run = best(vec![boot(Err("no luck")), boot(Ok(slow)), boot(Ok(quick)), boot(Err("no luck"))]);
        assert_eq!((run.engine, run.figure("a", 0), run.figure("b", 0)), ("scale-tcg", Some(7), Some(9)));
        assert_eq!(run.holes.len(), 2);
        assert_eq!(best(vec![boot(Err("no KVM"))]).figures, Err("no KVM".into()));
    }

    #[test]
    fn the_table_has_what_was_measured_and_how_it_grew() {
        let text = "measure scale1_cow_per_s 0 1000\nmeasure scale2_cow_per_s 0 1900\n";
        let figures = Ok(parse(text));
        let run =
            Run { engine: "scale-kvm", system: SHARING, unit: Unit::Nanoseconds, figures, holes: Vec::new() };
        let report = Report { runs: vec![run], machine: Vec::new(), quick: false };
        let (_, table) = table(&report);
        assert_eq!(table.rows.len(), CASES.len() * ENGINES.len());
        let row = table.rows.iter().find(|row| row[0].starts_with("copies")).unwrap();
        assert_eq!(row[1..], ["KVM", "1000", "1900", "-", "-", "1.90"]);
        assert!(table.rows.iter().all(|row| row.len() == table.head.len()));
    }
}
