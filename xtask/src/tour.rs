//! `cargo xtask run` without a program: a list of scenarios, what each did to page tables, and the host's verdict.
//!
//! The scenarios are the test programs (`tests/programs`). Each sharing mode is one boot.

use crate::batch::{self, JobResult};
use crate::guest::Artefacts;
use crate::image::{Image, Job, Mode};
use crate::report;
use crate::run::{RunArgs, Sharing, refused, say_dumped};
use anyhow::Result;
use ptshare_vmm::{Config, Console, Ending, Initramfs, Outcome, exit_code, json};
use std::time::Duration;

/// Program and what it shows, in the order of the sections of "Sharing Page Tables in the Linux Kernel" (2003), by their
/// numbers and titles; what belongs to no section comes last.
pub const SCENARIOS: &[(&str, &str)] = &[
    ("segv_repair", "2.2 The vm_area_struct: a signal handler repairs the mapping"),
    ("stack_growth", "2.2 The vm_area_struct: stacks grow on demand"),
    ("page_cache", "2.4 The address_space: one page cache for read, write, mappings"),
    ("truncate_holes", "2.4 The address_space: truncation reaches every mapping"),
    ("shm_attach", "3.1 Creating A Memory Mapping: System V segments"),
    ("shared_anon", "3.1 Creating A Memory Mapping: shared memory and fork"),
    ("fault_for_all", "4 Sharing the PTE Page: one fault serves all"),
    ("shared_file_tables", "4.1 Finding PTE Pages to Share: 20 processes, one file"),
    ("fork_cow", "4.2 Copy On Write: parent and child see only their own writes"),
    ("fork_chain", "4.2 Copy On Write: 20 generations, each forks the next"),
    ("brk_fork", "4.2 Copy On Write: heaps grow apart after fork"),
    ("threads_tables", "4.3 Locking Changes: threads fault, map and unmap at once"),
    ("object_unshare", "5 Complications: what ends the sharing of a file's tables"),
    ("cow_leave", "5 Complications: what ends the sharing of a forked table"),
    ("mprotect_cow", "5 Complications: mprotect of part of a shared table"),
    ("munmap_partial", "5 Complications: munmap of part of a shared table"),
    ("mremap_cow", "5 Complications: mremap of shared ranges"),
    ("remap_file_pages", "5 Complications: another part of the file under a range"),
    ("rmap_truncate", "5 Complications: from a page to every mapping, to truncate it"),
    ("proc_views", "6 Performance: what /proc shows of shared pages and tables"),
    ("small_fork", "6 Performance: fork of a small process"),
    ("big_fork", "6 Performance: fork of 1 GiB, a byte in each 2 MiB"),
    ("exec_chain", "6 Performance: programs replace each other"),
    ("uffd_missing", "userfaultfd: missing pages come from a handler"),
    ("uffd_wp", "userfaultfd: first writes are reported"),
    ("uffd_minor", "userfaultfd: a file's pages are mapped by a handler"),
    ("uffd_unshares", "userfaultfd: registering ends the sharing of one process"),
    ("vfork_exec", "vfork and exec"),
    ("hello", "a program starts and ends"),
    ("signals_model", "alarm, kill, groups, wait"),
    ("pipe_poll", "pipes and poll"),
    ("futex_threads", "threads meet at futexes"),
    ("fpu_switch", "SSE state survives preemption"),
];

/// Scenarios of huge pages, which need a pool of them: a boot of their own. What they show begins with a heading of "Yes,
/// Virginia, there is Page Table Sharing in Linux" (2023), where it has one.
pub const HUGE_SCENARIOS: &[(&str, &str)] = &[
    ("hugetlb_ways", "four ways to huge pages: mmap, memfd, segment, hugetlbfs"),
    ("hugetlb_pool", "the pool: sysctl, reservations, surplus"),
    ("hugetlb_cow", "a private huge page is copied on write"),
    ("hugetlb_share", "What exactly is Huge PMD Sharing? 20 processes, one PMD page"),
    ("hugetlb_eligible", "What mappings are eligible for Huge PMD Sharing?"),
    ("hugetlb_when", "When is Huge PMD Sharing established?"),
    ("hugetlb_unshare", "What can cause Huge PMD Unsharing?"),
    ("hugetlb_fork", "fork hands PMD pages on"),
    ("hugetlb_sizes", "sizes of huge pages that there are, and those that are refused"),
    (GIB, "huge pages of 1 GiB: are there any?"),
    ("uffd_huge", "userfaultfd: huge pages, and what ends sharing the PMD page"),
];
/// Memory of that boot, bytes; the guest touches little of it.
const HUGE_MEM_BYTES: u64 = 2 << 30;
/// Its pool: 1 GiB and what the other scenarios need.
const HUGE_CMDLINE: &str = "hugepages=560";

/// The scenario with pages of 1 GiB. In the boot above the pool has none, and it says whether there could be.
const GIB: &str = "hugetlb_gib";
/// The boot where it has them.
const GIB_SCENARIOS: &[(&str, &str)] =
    &[(GIB, "huge pages of 1 GiB, leaves in PUD pages: four ways, COW, mprotect, mremap")];
/// Memory of that boot, bytes: two GiB that nothing else lies in, wherever the machine has its holes.
const GIB_MEM_BYTES: u64 = 5 << 30;
/// Its pool.
const GIB_CMDLINE: &str = "hugepagesz=1G hugepages=2";

/// The scenario whose fork times are compared.
const BIG_FORK: &str = "big_fork";

struct Boot {
    /// What its row in the verdicts begins with.
    name: String,
    scenarios: &'static [(&'static str, &'static str)],
    config: Config,
    outcome: Outcome,
    results: Vec<JobResult>,
}

impl Boot {
    fn ok(&self) -> bool {
        self.outcome.ending == Ending::Exited(0) && self.results.iter().all(JobResult::passed)
    }

    fn big_fork(&self) -> Option<&JobResult> {
        self.results.iter().find(|r| r.name == BIG_FORK)
    }
}

/// The verb. Returns the exit status: 0 when all scenarios passed in all modes, 1 when one failed, or the code of what
/// ended the run.
///
/// # Errors
/// The image cannot be put together, or the JSON file cannot be written.
pub fn run(args: &RunArgs, built: &Artefacts) -> Result<u8> {
    let modes = match args.sharing {
        Some(mode) => vec![mode],
        None => vec![Sharing::Pte, Sharing::None],
    };
    let mut boots = Vec::new();
    for mode in modes {
        eprintln!("booting with sharing={}, {} scenarios ...", mode.name(), SCENARIOS.len());
        let name = format!("sharing={}", mode.name());
        match boot(args, built, mode, name, SCENARIOS)? {
            Ok(boot) => {
                print!("{}", table(&boot));
                boots.push(boot);
            }
            Err(status) => return Ok(status),
        }
    }
    eprintln!("booting with {HUGE_CMDLINE}, {} scenarios ...", HUGE_SCENARIOS.len());
    let mut huge = args.clone();
    huge.mem = huge.mem.max(HUGE_MEM_BYTES);
    huge.cmdline = format!("{} {HUGE_CMDLINE}", args.cmdline);
    let mode = args.sharing.unwrap_or(Sharing::Pte);
    let has_gib = match boot(&huge, built, mode, "hugetlb".into(), HUGE_SCENARIOS)? {
        Ok(boot) => {
            let title = format!("{HUGE_CMDLINE}: a PMD page maps 1 GiB of huge pages");
            print!("{}", huge_table(&boot, &title));
            let has_gib = has_gib(&boot);
            boots.push(boot);
            has_gib
        }
        Err(status) => return Ok(status),
    };
    if has_gib {
        eprintln!("booting with {GIB_CMDLINE}, {} scenario ...", GIB_SCENARIOS.len());
        huge.mem = args.mem.max(GIB_MEM_BYTES);
        huge.cmdline = format!("{} {GIB_CMDLINE}", args.cmdline);
        match boot(&huge, built, mode, "hugetlb 1 GiB".into(), GIB_SCENARIOS)? {
            Ok(boot) => {
                print!("{}", huge_table(&boot, &format!("{GIB_CMDLINE}: a PUD page maps them")));
                boots.push(boot);
            }
            Err(status) => return Ok(status),
        }
    } else {
        println!(
            "\npages of 1 GiB: this guest's processor has none (CPUID.80000001H:EDX[26]), and every way to them is refused; \
             QEMU's has (--engine qemu)"
        );
    }
    print!("{}{}", comparison(&boots), verdicts(&boots));
    say_dumped(args, boots.iter().map(|b| b.outcome.verifier.dumps).sum());
    if let Some(path) = &args.json {
        let mut reports: Vec<_> = boots.iter().map(|b| json::report(&b.config, &b.outcome, false)).collect();
        if !reports.is_empty() {
            let mut first = reports.remove(0);
            if !reports.is_empty() {
                first["compared_with"] = reports.into();
            }
            report::write(path, &first)?;
        }
    }
    let ended =
        boots.iter().find(|b| !matches!(b.outcome.ending, Ending::Exited(_))).map(|b| b.outcome.status);
    Ok(ended.unwrap_or_else(|| u8::from(!boots.iter().all(Boot::ok))))
}

/// Did [`GIB`] find that there are pages of 1 GiB? Without a pool it says no more.
fn has_gib(boot: &Boot) -> bool {
    let result = boot.results.iter().find(|result| result.name == GIB);
    result.is_some_and(|result| !String::from_utf8_lossy(&result.stdout).contains("no pages of 1 GiB"))
}

fn boot(
    args: &RunArgs,
    built: &Artefacts,
    mode: Sharing,
    name: String,
    scenarios: &'static [(&'static str, &'static str)],
) -> Result<Result<Boot, u8>> {
    let mut image = Image::new(&built.init)?;
    for folder in &args.root {
        image.host_folder(folder)?;
    }
    let mut jobs = Vec::new();
    for (name, _) in scenarios {
        let path = format!("/usr/bin/{name}");
        image.executable(&path, &built.program(name))?;
        jobs.push(Job::new(*name, &[&path]));
    }
    let mut config = Config {
        initramfs: Initramfs::Bytes(image.finish(Mode::Batch, &jobs)),
        console: Console::Captured { stdin: Vec::new() },
        ..args.config(built, mode)
    };
    config.timeout = config.timeout.or(Some(Duration::from_secs(300)));
    let outcome = match ptshare_vmm::run(&config) {
        Ok(outcome) => outcome,
        Err(error) => return Ok(Err(refused(&error))),
    };
    if !matches!(outcome.ending, Ending::Exited(_)) {
        eprintln!("ptshare: {}", outcome.ending);
    }
    let results = batch::results(&outcome, &jobs);
    for result in results.iter().filter(|r| !r.passed()) {
        eprintln!("{}: {}", result.name, result.ending());
        eprint!("{}{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    }
    if args.verbose > 0 {
        eprint!("{}", outcome.kernel_log);
    }
    Ok(Ok(Boot { name, scenarios, config, outcome, results }))
}

/// Microseconds or milliseconds, whichever reads better.
fn show_ns(ns: u64) -> String {
    match ns {
        0 => "-".into(),
        1..10_000_000 => format!("{} us", ns / 1000),
        _ => format!("{} ms", ns / 1_000_000),
    }
}

/// The table of one boot.
fn table(boot: &Boot) -> String {
    let header = [
        "scenario",
        "what it shows",
        "verdict",
        "time",
        "faults",
        "forks",
        "a fork takes",
        "shared",
        "copied",
        "unshared",
        "pages copied",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for (result, (_, what)) in boot.results.iter().zip(boot.scenarios) {
        let forks = result.metric("forks");
        let count = |name: &str| match result.metric(name) {
            0 => "-".into(),
            n => n.to_string(),
        };
        rows.push([
            result.name.clone(),
            (*what).into(),
            result.ending(),
            show_ns(result.micros() * 1000),
            count("page_faults"),
            count("forks"),
            show_ns(result.metric("big_fork_ns").checked_div(forks).unwrap_or(0)),
            count("fork_tables_shared"),
            count("fork_tables_copied"),
            count("unshares"),
            count("cow_copies"),
        ]);
    }
    let first_user = boot.outcome.first_user_instruction_us.map_or("never".into(), |us| show_ns(us * 1000));
    format!(
        "\nsharing={}: memory {}, first user instruction after {first_user}; columns \"shared\" to \"unshared\" count PTE \
         pages\n{}",
        boot.config.sharing,
        ptshare_vmm::config::show_size(boot.config.mem_bytes),
        aligned(&rows)
    )
}

/// The table of a boot with huge pages.
fn huge_table(boot: &Boot, title: &str) -> String {
    let header = [
        "scenario",
        "what it shows",
        "verdict",
        "time",
        "huge faults",
        "PMD pages taken over",
        "taken out",
        "pages copied",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for (result, (_, what)) in boot.results.iter().zip(boot.scenarios) {
        let count = |name: &str| match result.metric(name) {
            0 => "-".into(),
            n => n.to_string(),
        };
        rows.push([
            result.name.clone(),
            (*what).into(),
            result.ending(),
            show_ns(result.micros() * 1000),
            count("hugetlb_faults"),
            count("pmd_tables_shared"),
            count("pmd_detaches"),
            count("cow_copies"),
        ]);
    }
    format!("\n{title}; memory {}\n{}", ptshare_vmm::config::show_size(boot.config.mem_bytes), aligned(&rows))
}

/// Rows as text with aligned columns: the first three to the left, numbers to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            if column < 3 {
                line += &format!("  {cell:<width$}");
            } else {
                line += &format!("  {cell:>width$}");
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The big fork in all modes beside each other.
fn comparison(boots: &[Boot]) -> String {
    let mut rows = vec![
        [
            "big_fork",
            "",
            "",
            "tables before",
            "fork adds",
            "child's write adds",
            "parent's write adds",
            "fork takes",
        ]
        .map(str::to_owned),
    ];
    let mut times = Vec::new();
    for boot in boots {
        let Some(result) = boot.big_fork().filter(|r| r.passed()) else { continue };
        let metric = |name: &str| result.metric(name);
        let step = |from: &str, to: &str| (metric(to) as i64 - metric(from) as i64).to_string();
        times.push((boot.config.sharing.as_str(), metric("big_fork_ns")));
        rows.push([
            format!("sharing={}", boot.config.sharing),
            String::new(),
            String::new(),
            metric("tables_before_fork").to_string(),
            step("tables_before_fork", "tables_after_fork"),
            step("tables_before_child_write", "tables_after_child_write"),
            step("tables_before_parent_write", "tables_after_parent_write"),
            show_ns(metric("big_fork_ns")),
        ]);
    }
    if times.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{}", aligned(&rows));
    let time = |mode: &str| times.iter().find(|t| t.0 == mode).map(|t| t.1);
    if let (Some(pte), Some(none)) = (time("pte"), time("none"))
        && pte > 0
    {
        text +=
            &format!("  with shared PTE pages the fork is {:.1} times as fast\n", none as f64 / pte as f64);
    }
    text
}

/// The judge's last lines.
fn verdicts(boots: &[Boot]) -> String {
    let mut text = String::from("\n");
    for boot in boots {
        let passed = boot.results.iter().filter(|r| r.passed()).count();
        text += &format!(
            "{:<13} {passed} of {} scenarios passed; the host's verdict: {}\n",
            boot.name,
            boot.results.len(),
            report::verdict(&boot.outcome)
        );
    }
    for boot in boots {
        if let Some(samples) = &boot.outcome.profile {
            text += &samples.table();
        }
    }
    if let Some(boot) = boots.first() {
        text += &wrapped("rules:", &boot.outcome.verifier.rules);
    }
    let broken = boots.iter().any(|b| b.outcome.status == exit_code::VIOLATION);
    let all = boots.iter().all(Boot::ok);
    text += match (broken, all) {
        (true, _) => "VIOLATION: see above\n",
        (_, true) => "all is well\n",
        _ => "FAILED: see above\n",
    };
    text
}

/// Words behind a title, in lines that fit a page.
fn wrapped(title: &str, words: &[String]) -> String {
    let mut text = title.to_owned();
    let mut width = text.len();
    for word in words {
        if width + word.len() + 1 > 110 {
            text += &format!("\n{:1$}", "", title.len());
            width = title.len();
        }
        text += &format!(" {word}");
        width += word.len() + 1;
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "b", "c", "1"], ["long", "", "d", "200"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "  a     b  c    1\n  long     d  200\n");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(show_ns(0), "-");
        assert_eq!(show_ns(9_999_999), "9999 us");
        assert_eq!(show_ns(10_000_000), "10 ms");
    }

    #[test]
    fn every_scenario_is_a_test_program() {
        for (name, _) in SCENARIOS.iter().chain(HUGE_SCENARIOS).chain(GIB_SCENARIOS) {
            let source = crate::paths::root().join(format!("tests/programs/src/bin/{name}.rs"));
            assert!(source.is_file(), "{}", source.display());
        }
    }
}
