//! What a first write after fork pays for, one part after the other.
//!
//! Three writes tell the parts apart: the first one meets a shared path down from the root; the one in the next 2 MiB meets
//! a shared PTE page below tables that are the process's own by now; the one to the next page only a shared page.

use super::Report;
use super::measure::Run;
use super::table::short;
use ptshare_vmm::show_size;
use std::fmt::Write as _;

/// Iterations of `rep movsq` that copy a page here.
const COPY_OURS: u64 = 512;
/// Iterations of `rep movsb` that copy a page in Linux on this CPU model.
const COPY_LINUX: u64 = 4096;

/// A first write, divided. The parts add up to `all`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Parts {
    /// Copying the page: iterations of a `rep` instruction.
    copy: u64,
    /// The fault, without the copy.
    fault: u64,
    /// The PTE page.
    pte: u64,
    /// The tables above it.
    upper: u64,
    /// Everything.
    all: u64,
}

/// The first write of `who` (`parent` or `child`) with `size` bytes in use, where all three writes were measured.
fn of(run: &Run, who: &str, size: u64) -> Option<Parts> {
    let figure = |end: &str| run.figure(&format!("{who}_{end}"), size);
    let (all, near, warm) = (figure("cold")?, figure("near")?, figure("warm")?);
    let copy = if run.system == "linux" { COPY_LINUX } else { COPY_OURS };
    Some(Parts {
        copy,
        fault: warm.saturating_sub(copy),
        pte: near.saturating_sub(warm),
        upper: all.saturating_sub(near),
        all,
    })
}

/// The section of BENCHMARKS.md: nothing, if the run has no such figures.
pub fn write(out: &mut String, report: &Report) {
    let mut rows = String::new();
    for run in report.runs.iter().filter(|run| run.engine == "qemu") {
        for who in ["parent", "child"] {
            let name = format!("{who}_near");
            let Some(size) = run.sizes(&name).last().copied() else { continue };
            let Some(parts) = of(run, who, size) else { continue };
            let _ = writeln!(
                rows,
                "| {}, {who} | {} | {} | {} | {} | {} | {} | {} |",
                run.system,
                show_size(size),
                short(parts.fault),
                short(parts.pte),
                short(parts.upper),
                short(parts.all - parts.copy.min(parts.all)),
                short(parts.copy),
                short(parts.all)
            );
        }
    }
    if rows.is_empty() {
        return;
    }
    out.push_str(
        "## The first write after fork, part by part\n\nInstructions under emulation. The tables' parts are differences \
         between the first write, the first one in the next 2 MiB,\nand the one to the next page.\n\n\
         | who writes | memory | the fault | its PTE page | tables above | net | copy of the page (`rep`) | in all |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    out.push_str(&rows);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Figures, Unit};
    use super::*;

    fn run(system: &'static str, figures: &[(&str, u64)]) -> Run {
        let figures: Figures =
            figures.iter().map(|(name, value)| (((*name).into(), 1 << 30), *value)).collect();
        Run { engine: "qemu", system, unit: Unit::Instructions, figures: Ok(figures), holes: Vec::new() }
    }

    #[test]
    fn parts_add_up() {
        let run = run("tree", &[("child_cold", 20_000), ("child_near", 9_000), ("child_warm", 1_200)]);
        let parts = of(&run, "child", 1 << 30).unwrap();
        assert_eq!(parts, Parts { copy: 512, fault: 688, pte: 7_800, upper: 11_000, all: 20_000 });
        assert_eq!(parts.copy + parts.fault + parts.pte + parts.upper, parts.all);
        assert_eq!(of(&run, "parent", 1 << 30), None);
    }

    #[test]
    fn the_section_needs_figures() {
        let linux =
            run("linux", &[("parent_cold", 11_200), ("parent_near", 11_200), ("parent_warm", 11_200)]);
        let mut report = Report { runs: vec![linux], machine: Vec::new(), quick: false };
        let mut out = String::new();
        write(&mut out, &report);
        assert!(out.contains("| linux, parent | 1G | 7104 | 0 | 0 | 7104 | 4096 | 11.2 k |"), "{out}");
        report.runs.clear();
        out.clear();
        write(&mut out, &report);
        assert_eq!(out, "");
    }
}
