//! How much more gets done with more CPUs: `tests/programs/src/bin/scale.rs` with 1, 2 and more workers on as many CPUs.

use super::Report;
use super::engines::{program_image, told};
use super::measure::{Run, Unit};
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
/// Engines in these runs, and in words; other tables do not know them.
const ENGINES: &[(&str, &str)] =
    &[("scale-kvm", "KVM"), ("scale-tcg", "QEMU"), ("scale-host", "this host's Linux")];
/// How guests share page tables: as `cargo xtask run` has it.
const SHARING: &str = "pte";

/// Cores of this machine.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Runs the program everywhere, with each number of CPUs by itself.
pub fn measure(quick: bool, built: &Artefacts) -> Vec<Run> {
    let program = built.program("scale");
    let cores = cores().min(CORES_MAX);
    let rounds = if quick { "rounds=1" } else { "rounds=3" };
    // A KVM that interprets the guest's kernel takes a thousand times as long.
    let slow = ["pages=1024", "forks=32", rounds];
    let fast = ["pages=16384", "forks=400", rounds];
    let guest = |engine, cpus, work: &[&str]| in_guest(built, &program, engine, cpus, work);
    vec![
        run("scale-kvm", SHARING, cores, |cpus| guest(Engine::Kvm, cpus, &slow)),
        run("scale-tcg", SHARING, EMULATED_MAX, |cpus| guest(Engine::Qemu, cpus, &fast)),
        run("scale-host", "linux", cores, |cpus| on_host(&program, cpus, &fast)),
    ]
}

fn run(engine: &'static str, system: &'static str, most: u32, one: impl Fn(u32) -> Result<String>) -> Run {
    let boots = (1..=most).map(|cpus| {
        let what = format!("{cpus} CPUs");
        let output = told(&format!("{engine}, {what}"), || one(cpus));
        (what, output)
    });
    Run::of(engine, system, Unit::Nanoseconds, boots.collect())
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
    (format!("{TITLE} ({} cores here)", cores()), Table { head, rows })
}

/// What stands above the table in BENCHMARKS.md.
pub const NOTES: &str = "\
`tests/programs/src/bin/scale.rs`: as many workers as CPUs, each pinned to one of its own, do the same work until the first is\n\
done; the best of three attempts counts. Guests run with `sharing=pte` and without the judge. QEMU runs each CPU in a thread of\n\
its own (`-accel tcg,thread=multi`); more CPUs than this machine has cores share these, so that they cannot do more\n\
together. Compare columns, not engines: a KVM that interprets the guest's kernel takes a thousand times as long.\n\n";

#[cfg(test)]
mod tests {
    use super::super::measure::parse;
    use super::*;

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
