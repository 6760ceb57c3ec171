//! Figures side by side, as text and as Markdown.

use super::Report;
use super::measure::Run;
use ptshare_vmm::show_size;

/// What is measured: its name in the program's output, and in words.
pub const MEASURES: &[(&str, &str)] = &[
    ("fork", "fork, in the parent"),
    ("exit_wait", "child's exit + wait"),
    ("parent_cold", "parent's first write after fork"),
    ("parent_warm", "parent's second write, next page"),
    ("parent_near", "parent's first write in the next 2 MiB"),
    ("child_cold", "child's first write after fork"),
    ("child_warm", "child's second write, next page"),
    ("child_near", "child's first write in the next 2 MiB"),
    ("touch", "first touch of a page"),
    ("munmap", "munmap of all of it"),
    ("vmpte_kb", "page tables, kB"),
    ("sparse_fork", "sparse: fork, in the parent"),
    ("sparse_exit_wait", "sparse: child's exit + wait"),
    ("sparse_parent_cold", "sparse: parent's first write"),
    ("sparse_parent_near", "sparse: parent's first write in the next 2 MiB"),
    ("sparse_child_cold", "sparse: child's first write"),
    ("sparse_child_near", "sparse: child's first write in the next 2 MiB"),
    ("sparse_touch", "sparse: first touch of a page"),
    ("sparse_munmap", "sparse: munmap of all of it"),
    ("sparse_vmpte_kb", "sparse: page tables, kB"),
    ("scattered_fork", "scattered: fork, in the parent"),
    ("scattered_exit_wait", "scattered: child's exit + wait"),
    ("scattered_parent_cold", "scattered: parent's first write"),
    ("scattered_parent_near", "scattered: parent's first write in the next 2 MiB"),
    ("scattered_child_cold", "scattered: child's first write"),
    ("scattered_child_near", "scattered: child's first write in the next 2 MiB"),
    ("scattered_touch", "scattered: first touch of a page"),
    ("scattered_munmap", "scattered: munmap of all of it"),
    ("crowd10_tables_kb", "10 readers of a file: page tables in all, kB"),
    ("crowd10_faults", "10 readers of a file: faults in all"),
    ("crowd10_read_each", "10 readers of a file: mapping and reading, each"),
    ("crowd10_all", "10 readers of a file: forks and reading, all"),
    ("crowd100_tables_kb", "100 readers of a file: page tables in all, kB"),
    ("crowd100_faults", "100 readers of a file: faults in all"),
    ("crowd100_read_each", "100 readers of a file: mapping and reading, each"),
    ("crowd100_all", "100 readers of a file: forks and reading, all"),
    ("crowd1000_tables_kb", "1000 readers of a file: page tables in all, kB"),
    ("crowd1000_faults", "1000 readers of a file: faults in all"),
    ("crowd1000_read_each", "1000 readers of a file: mapping and reading, each"),
    ("crowd1000_all", "1000 readers of a file: forks and reading, all"),
    ("huge10_tables_kb", "10 readers of huge pages: page tables in all, kB"),
    ("huge10_faults", "10 readers of huge pages: faults in all"),
    ("huge10_read_each", "10 readers of huge pages: mapping and reading, each"),
    ("huge100_tables_kb", "100 readers of huge pages: page tables in all, kB"),
    ("huge100_faults", "100 readers of huge pages: faults in all"),
    ("huge100_read_each", "100 readers of huge pages: mapping and reading, each"),
    ("huge1000_tables_kb", "1000 readers of huge pages: page tables in all, kB"),
    ("huge1000_faults", "1000 readers of huge pages: faults in all"),
    ("huge1000_read_each", "1000 readers of huge pages: mapping and reading, each"),
    ("small_fork_exit", "small process: fork + exit + wait"),
    ("small_fork_exec", "small process: fork + exec + exit + wait"),
    ("syscall", "an empty system call"),
    ("clock", "reading the clock"),
    ("spin_100k", "100,000 instructions of a loop"),
    ("boot", "boot to the first user instruction"),
    ("judge_entries_per_s", "the judge: entries walked in a second"),
    ("judge_us", "the judge: a verification, us"),
];

/// Whether a measure is a number of its own, not a time.
pub fn is_count(name: &str) -> bool {
    ["_kb", "_faults", "_per_s", "_us"].iter().any(|end| name.ends_with(end))
}

/// Rows of cells under a head.
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// The cells, as many a row as the head has.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Aligned columns: words to the left, numbers to the right.
    pub fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        for row in lines() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            out += &format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        out
    }

    /// As a Markdown table.
    pub fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let rule: Vec<&str> = (0..self.head.len()).map(|i| if i == 0 { "---" } else { "---:" }).collect();
        let rows: String = self.rows.iter().map(line).collect();
        format!("{}|{}|\n{rows}", line(&self.head), rule.join("|"))
    }
}

/// Three digits and a unit: `7`, `183 k`, `34.8 M`.
pub fn short(value: u64) -> String {
    let (scaled, unit) = match value {
        0..10_000 => return value.to_string(),
        10_000..1_000_000 => (value as f64 / 1e3, "k"),
        1_000_000..1_000_000_000 => (value as f64 / 1e6, "M"),
        _ => (value as f64 / 1e9, "G"),
    };
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$} {unit}")
}

/// How many times `a` is `b`.
pub fn ratio(a: Option<u64>, b: Option<u64>) -> String {
    match (a, b) {
        (Some(a), Some(b)) if b != 0 => {
            let times = a as f64 / b as f64;
            let digits = if times < 10.0 { 2 } else { 0 };
            format!("{times:.digits$}")
        }
        _ => String::new(),
    }
}

/// The tables of a report with their titles: instructions, and times.
pub fn all(report: &Report) -> Vec<(String, Table)> {
    let on = |engine: &str| report.runs.iter().filter(|run| run.engine == engine).collect::<Vec<_>>();
    let mut clock = on("kvm");
    clock.extend(on("host"));
    vec![
        (
            "Instructions under emulation (QEMU, -icount); the last column is Linux over tree".into(),
            side_by_side(&on("qemu"), ("linux", "qemu"), "linux/tree"),
        ),
        (
            "Nanoseconds on the wall clock (KVM); the last column is none over tree".into(),
            side_by_side(&clock, ("none", "kvm"), "none/tree"),
        ),
        super::scale::table(report),
    ]
}

fn side_by_side(runs: &[&Run], compared: (&str, &str), title: &str) -> Table {
    let mut head = vec!["measure".to_owned(), "memory".to_owned()];
    head.extend(runs.iter().map(|run| match run.engine {
        "host" => "this host's Linux".to_owned(),
        _ => run.system.to_owned(),
    }));
    head.push(title.to_owned());
    let of = |system: &str| runs.iter().find(|run| run.system == system && run.engine == compared.1);
    let mut rows = Vec::new();
    for (name, words) in MEASURES {
        let mut sizes: Vec<u64> = runs.iter().flat_map(|run| run.sizes(name)).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            let memory = if size == 0 { String::new() } else { show_size(size) };
            let mut row = vec![(*words).to_owned(), memory];
            row.extend(runs.iter().map(|run| run.figure(name, size).map_or("-".into(), short)));
            let figure = |system: &str| of(system).and_then(|run| run.figure(name, size));
            row.push(ratio(figure(compared.0), figure("tree")));
            rows.push(row);
        }
    }
    Table { head, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0, "0"), (9999, "9999"), (183_456, "183 k"), (34_812_345, "34.8 M"), (2_090_000_000, "2.09 G")]
        {
            assert_eq!(short(value), text);
        }
        assert_eq!(ratio(Some(10), Some(4)), "2.50");
        assert_eq!(ratio(Some(1), Some(0)), "");
    }

    #[test]
    fn tables_have_as_many_cells_as_columns() {
        let report = super::super::files::tests::sample();
        for (_, table) in all(&report) {
            assert!(!table.rows.is_empty());
            assert!(table.rows.iter().all(|row| row.len() == table.head.len()));
            let lines: Vec<String> = table.markdown().lines().map(str::to_owned).collect();
            assert_eq!(lines.len(), table.rows.len() + 2);
            assert!(lines.iter().all(|line| line.matches('|').count() == table.head.len() + 1), "{lines:?}");
            assert_eq!(table.text().lines().count(), table.rows.len() + 1);
        }
    }
}
