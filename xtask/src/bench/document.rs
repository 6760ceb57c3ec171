//! BENCHMARKS.md: what was measured, on what, how to repeat it, and where ptshare is slower than Linux.

use super::measure::Run;
use super::parts;
use super::table::{self, MEASURES, ratio, short};
use super::{Report, scale};
use ptshare_vmm::show_size;
use std::fmt::Write as _;

/// Why a figure of ptshare can be above Linux's, by the end of the measure's name.
const REASONS: &[(&str, &str)] = &[
    (
        "_cold",
        "the first write below a shared table copies the tables on its path (up to 512 entries each, with a count for each \
         page or table below) before it copies the page: it pays a few tables' part of what fork has saved",
    ),
    (
        "_near",
        "the first write in each 2 MiB copies a PTE page of up to 512 entries, with a count for each page below, before it \
         copies the page",
    ),
    ("_warm", "the fault walks from the root without the shortcuts of Linux's handler"),
    ("touch", "a sparse page needs a page table of its own, which is cleared and linked under its lock"),
    ("munmap", "page tables come out of the sharing before anything is zapped"),
    ("exit_wait", "the small process is copied, and its pages are given back one by one"),
    (
        "fork",
        "the fixed part of fork: a task, an address space, and a copy of each VMA in an allocation of its own",
    ),
    (
        "fork_exec",
        "exec reads the program's pages from the initramfs one fault at a time; there is no fault-around",
    ),
    ("fork_exit", "the fixed parts of fork and exit, which no sharing makes smaller"),
    (
        "read_each",
        "each reader maps the file, which looks for the object's tables, and takes a fault a span where they are not shared",
    ),
    ("_faults", "the first to read a table's span fills it, a few neighbours with each fault"),
    ("_all", "the fixed parts of fork, and a table for each process's own mappings"),
    ("_tables_kb", "a process has a table for each of its own mappings that lie apart"),
    ("boot", "everything up to the first program, the unpacking of the root among it"),
    ("vmpte_kb", "a process counts the shared tables that it uses as Linux counts its own"),
    ("syscall", "the dispatcher is a table in Rust behind an entry that saves all registers"),
    ("clock", "there is no vDSO: reading the clock is a system call"),
];

/// The page; `folder` is that of the plots as seen from it, empty or ending in a slash.
pub fn page(report: &Report, folder: &str) -> String {
    let mut out = String::from(
        "# Benchmarks\n\nWhat fork and its consequences cost in ptshare and in Linux. `cargo xtask bench` writes this page; \
         every figure\ncomes from one run of it.\n\n",
    );
    if report.quick {
        out += "This was a quick run (`--quick`): large memories are left out.\n\n";
    }
    let _ = writeln!(out, "![What fork costs by the size of the parent's memory]({folder}fork.svg)\n");
    glance(&mut out, report);
    let _ = writeln!(out, "![What page tables take by the number of processes]({folder}tables.svg)\n");
    out += "## What was measured, and how\n\n\
        One static program, `tests/programs/src/bin/forkbench/main.rs`, runs unchanged on all of these and reads `CLOCK_MONOTONIC`\n\
        around each step; a figure is the least of three attempts.\n\n\
        - **Instructions** come from QEMU's emulation with `-icount shift=0,sleep=off`, in which a nanosecond of the guest's\n  \
          clock is one instruction: the same on every run and every machine. ptshare and Linux get the same machine. Both clocks say\n  \
          100 k for a loop of 100,000 instructions.\n  \
          An iteration of a `rep` string instruction counts as one. On this CPU model Linux clears a page with `rep stosb` and\n  \
          copies it with `rep movsb`, 4096 iterations each; ptshare uses `rep stosq` and `rep movsq`, 512 each. To compare the\n  \
          paths, take these off a first touch and off a write that copies a page. A page table that is copied has 512 entries,\n  \
          each looked at by itself, with a count for each page below.\n\
        - **Nanoseconds** come from KVM on the machine below; compare them within the table only. A KVM that interprets the\n  \
          guest's kernel makes all of them large. The host's own kernel is there for orientation.\n\n\
        The memory is private, anonymous, in 4 KiB pages, each page written once. *Sparse* is the first page of each 2 MiB alone,\n\
        *scattered* one page somewhere in each 2 MiB: a search for the entries in a page table ends early when they\n\
        stand in front. A *first* write after fork meets shared page tables, a *second* one the next page of the same\n\
        table. `VmPTE` counts a shared table in every process that uses it. Under emulation all free memory is used once before:\n\
        ptshare knows memory that was never used to be zero and does not clear it, which would flatter it here.\n\n\
        The *readers* are alive together. Their parent has filled a file in memory through a mapping that it keeps; each maps it\n\
        for itself at the same address and reads a byte of each page (of each 2 MiB, of huge pages). The page tables are all that the\n\
        kernel has then more than before the first fork, those for the readers' own stacks and code included: what\n\
        /proc/meminfo and ptshare's counters say.\n\n\
        Boot is counted from the kernel's first instruction to the first in user mode; Linux's is what its clock, which starts a\n\
        little later, says when `/init` begins. The judge is off but for its own two figures, which come from a guest in which\n\
        every exit is judged.\n\n";
    out += "| | |\n|---|---|\n";
    for (name, value) in &report.machine {
        let _ = writeln!(out, "| {name} | {} |", value.replace('|', "/"));
    }
    for run in &report.runs {
        for hole in &run.holes {
            let why = hole.why.replace(['|', '\n'], " ");
            let _ = writeln!(out, "| missing: {} on {}, {} | {why} |", run.system, run.engine, hole.what);
        }
    }
    let quick = if report.quick { " --quick" } else { "" };
    let _ = write!(
        out,
        "\n## How to repeat it\n\n    apt-get install qemu-system-x86      # the emulator; without it only KVM is measured\n    \
         cargo xtask bench{quick}                    # some minutes; less with --quick\n\n\
         `--linux deb` (the default) fetches Debian's cloud kernel with apt; `--linux FILE` takes a vmlinux or bzImage, and\n\
         `--linux none` leaves it out. `--out DIR` names where the table (CSV, JSON) and the plot go.\n\n"
    );
    parts::write(&mut out, report);
    slower(&mut out, report);
    for (title, table) in table::all(report) {
        let notes = if title.starts_with(scale::TITLE) { scale::NOTES } else { "" };
        let _ = writeln!(out, "## {title}\n\n{notes}{}", table.markdown());
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

/// A page whose section about the number of CPUs, the last, is this report's.
pub fn with_scaling(page: &str, report: &Report) -> String {
    let head = format!("## {}", scale::TITLE);
    let rest = page.split_once(&head).map_or(page, |(before, _)| before);
    let (title, table) = scale::table(report);
    let section = format!("## {title}\n\n{}{}", scale::NOTES, table.markdown());
    format!("{}\n\n{}\n", rest.trim_end(), section.trim_end())
}

fn find<'a>(report: &'a Report, engine: &str, system: &str) -> Option<&'a Run> {
    report.runs.iter().find(|run| run.engine == engine && run.system == system)
}

/// The figures that the project is about.
fn glance(out: &mut String, report: &Report) {
    let (linux, tree) = (find(report, "qemu", "linux"), find(report, "qemu", "tree"));
    let of = |run: Option<&Run>, name: &str, size: u64| run.and_then(|run| run.figure(name, size));
    let largest = |name: &str| tree.and_then(|run| run.sizes(name).last().copied()).unwrap_or(0);
    out.push_str("## At a glance\n\n");
    for (name, words) in [
        ("fork", "fork of a process with {} of memory"),
        ("exit_wait", "exit of its child, which touched nothing, and wait"),
        ("scattered_fork", "fork with {} of which one page in each 2 MiB is in use"),
        ("munmap", "munmap of {}"),
        ("crowd10_tables_kb", "kB of page tables of ten readers of a file of {}"),
        ("crowd10_faults", "faults of ten readers of a file of {}"),
        ("crowd1000_tables_kb", "kB of page tables of a thousand readers of a file of {}"),
        ("huge1000_tables_kb", "kB of page tables of a thousand readers of {} of huge pages"),
    ] {
        let size = largest(name);
        if let (Some(theirs), Some(ours)) = (of(linux, name, size), of(tree, name, size)) {
            let times = match ratio(Some(theirs), Some(ours)) {
                text if text.is_empty() => text,
                text => format!(" ({text} times)"),
            };
            let words = words.replace("{}", &show_size(size));
            let _ =
                writeln!(out, "- {words}: Linux {}, `sharing=tree` {}{times}.", short(theirs), short(ours));
        }
    }
    for (engine, name, small) in
        [("qemu", "fork", 1 << 20), ("qemu", "fork", 16 << 20), ("kvm", "scattered_fork", 4 << 20)]
    {
        let run = find(report, engine, "tree");
        let size = run.and_then(|run| run.sizes(name).last().copied()).unwrap_or(0);
        if let (Some(a), Some(b)) = (of(run, name, size), of(run, name, small)) {
            let what = if name == "fork" { "" } else { " (scattered)" };
            let _ = writeln!(
                out,
                "- `sharing=tree`, {engine}: fork at {}{what} takes {} times the fork at {}.",
                show_size(size),
                ratio(Some(a), Some(b)),
                show_size(small)
            );
        }
    }
    out.push('\n');
}

/// Where Linux needs fewer.
fn slower(out: &mut String, report: &Report) {
    let (Some(linux), Some(tree)) = (find(report, "qemu", "linux"), find(report, "qemu", "tree")) else {
        return;
    };
    if linux.figures.is_err() || tree.figures.is_err() {
        return;
    }
    out.push_str("## Where ptshare is slower than Linux, and why\n\nOf the figures under emulation with `sharing=tree`:\n\n");
    // What has the same reason stands together.
    let mut found: Vec<(&str, Vec<String>)> = Vec::new();
    for (name, words) in MEASURES.iter().filter(|(name, _)| !name.starts_with("spin")) {
        let worse: Vec<String> = tree
            .sizes(name)
            .into_iter()
            .filter_map(|size| {
                let (ours, theirs) = (tree.figure(name, size)?, linux.figure(name, size)?);
                let place = if size == 0 { String::new() } else { format!(" at {}", show_size(size)) };
                let text = format!("{} against {}{place}", short(ours), short(theirs));
                (ours > theirs).then_some(text)
            })
            .collect();
        if worse.is_empty() {
            continue;
        }
        let reason = REASONS.iter().filter(|(end, _)| name.ends_with(end)).max_by_key(|(end, _)| end.len());
        let reason = reason.map_or("the reason is not known", |(_, why)| *why);
        let line = format!("  - *{words}*: {}\n", worse.join(", "));
        match found.iter_mut().find(|(why, _)| *why == reason) {
            Some((_, lines)) => lines.push(line),
            None => found.push((reason, vec![line])),
        }
    }
    for (reason, lines) in &found {
        let _ = write!(out, "- {reason}:\n{}", lines.concat());
    }
    if found.is_empty() {
        out.push_str("- nowhere in this run.\n");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::measure::Hole;
    use super::*;

    #[test]
    fn one_section_is_renewed_alone() {
        let report = Report { runs: Vec::new(), machine: Vec::new(), quick: false };
        let page = format!("# B\n\nwords\n\n## {} (9 cores here)\n\nold\n", scale::TITLE);
        let text = with_scaling(&page, &report);
        assert!(text.starts_with("# B\n\nwords\n\n## Operations") && !text.contains("old\n"), "{text}");
        assert_eq!(text, with_scaling(&text, &report));
        assert!(with_scaling("# B\n", &report).starts_with("# B\n\n## Operations"));
    }

    #[test]
    fn the_page_says_what_is_missing_and_what_is_slower() {
        let mut report = super::super::files::tests::sample();
        if let Some(run) = report.runs.get_mut(1) {
            run.holes.push(Hole { what: "all".into(), why: "no luck".into() });
        }
        if let Some(Ok(figures)) = report.runs.get_mut(2).map(|run| run.figures.as_mut()) {
            figures.insert(("clock".into(), 0), 99);
        }
        let text = page(&report, "docs/");
        assert!(text.contains("missing: none on qemu, all") && text.contains("no luck"));
        assert!(text.contains("there is no vDSO: reading the clock is a system call:\n  - *reading the clock*: 99 against 73\n"), "{text}");
        assert!(
            text.contains("(docs/fork.svg)")
                && text.contains("(docs/tables.svg)")
                && text.contains("fork at 1G takes 1024 times the fork at 1M"),
            "{text}"
        );
        assert!(text.ends_with("|\n"));
    }
}
