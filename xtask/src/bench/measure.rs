//! What the benchmark program prints, as values, and where they came from.

use std::collections::BTreeMap;

/// The figures of one program run: by name and size in bytes (0: a figure without one).
pub type Figures = BTreeMap<(String, u64), u64>;

/// Reads the lines `measure NAME SIZE VALUE`; everything else a console shows is passed over.
pub fn parse(text: &str) -> Figures {
    text.lines()
        .filter_map(|line| {
            let mut words = line.trim().strip_prefix("measure ")?.split_whitespace();
            let (name, size, value) =
                (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            words.next().is_none().then(|| ((name.to_owned(), size), value))
        })
        .collect()
}

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Instructions: nanoseconds of a guest's clock under `-icount`.
    Instructions,
    /// Nanoseconds of a clock on the wall.
    Nanoseconds,
}

impl Unit {
    /// As in the files.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Instructions => "instructions",
            Unit::Nanoseconds => "ns",
        }
    }
}

/// One kernel on one engine.
#[derive(Clone, Debug)]
pub struct Run {
    /// `qemu`, `kvm` or `host`.
    pub engine: &'static str,
    /// `none`, `pte`, `tree`, or `linux`.
    pub system: &'static str,
    /// What the figures count.
    pub unit: Unit,
    /// The figures, or why there are none.
    pub figures: Result<Figures, String>,
}

impl Run {
    /// A figure, when this run has it.
    pub fn figure(&self, name: &str, size: u64) -> Option<u64> {
        self.figures.as_ref().ok()?.get(&(name.to_owned(), size)).copied()
    }

    /// The sizes for which a run has this figure, ascending.
    pub fn sizes(&self, name: &str) -> Vec<u64> {
        let figures = self.figures.iter().flatten();
        figures.filter(|((n, _), _)| n == name).map(|((_, size), _)| *size).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_read_among_other_lines() {
        let text = "[ 0.1] booting\nmeasure fork 1048576 183000\r\nmeasure clock 0 73\nmeasure bad x 1\n\
                    measure fork 5\nmeasure fork 1 2 3\nforkbench: done\n";
        let figures = parse(text);
        assert_eq!(figures.len(), 2);
        assert_eq!(figures.get(&("fork".into(), 1 << 20)), Some(&183_000));
        let run = Run { engine: "qemu", system: "tree", unit: Unit::Instructions, figures: Ok(figures) };
        assert_eq!(run.figure("clock", 0), Some(73));
        assert_eq!(run.sizes("fork"), [1 << 20]);
        assert_eq!(Run { figures: Err("no".into()), ..run }.figure("clock", 0), None);
    }
}
