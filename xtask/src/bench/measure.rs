//! What the benchmark program prints, as values, and where they came from.

use std::collections::BTreeMap;

/// The figures of one program run: by name and size in bytes (0: a figure without one).
pub type Figures = BTreeMap<(String, u64), u64>;

/// What could not be measured, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hole {
    /// The measure and its size, or the whole of some measures.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// Reads the lines `hole NAME SIZE WHY`.
pub fn parse_holes(text: &str) -> Vec<Hole> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().strip_prefix("hole ")?.split_once(' ')?;
            let (size, why) = rest.split_once(' ')?;
            let what = format!("{name} at {}", ptshare_vmm::show_size(size.parse().ok()?));
            Some(Hole { what, why: why.to_owned() })
        })
        .collect()
}

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
    /// What is missing among them.
    pub holes: Vec<Hole>,
}

impl Run {
    /// The outputs of some boots, each with what it was to measure, as one.
    pub fn of(
        engine: &'static str,
        system: &'static str,
        unit: Unit,
        boots: Vec<(String, Result<String, String>)>,
    ) -> Run {
        let mut figures = Figures::new();
        let mut holes = Vec::new();
        for (what, output) in boots {
            match output {
                Ok(text) => {
                    figures.extend(parse(&text));
                    holes.extend(parse_holes(&text));
                }
                Err(why) => holes.push(Hole { what, why }),
            }
        }
        let figures = match holes.first() {
            Some(hole) if figures.is_empty() => Err(hole.why.clone()),
            _ => Ok(figures),
        };
        Run { engine, system, unit, figures, holes }
    }

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
    fn boots_become_one_run_with_holes() {
        let text = "measure fork 4096 5\nhole huge10 1073741824 no huge pages for it (ENOMEM)\n";
        let boots = vec![("small".into(), Ok(text.into())), ("crowds".into(), Err("it hung".to_owned()))];
        let run = Run::of("qemu", "tree", Unit::Instructions, boots);
        assert_eq!(run.figure("fork", 4096), Some(5));
        let holes: Vec<_> = run.holes.iter().map(|hole| (hole.what.as_str(), hole.why.as_str())).collect();
        assert_eq!(holes, [("huge10 at 1G", "no huge pages for it (ENOMEM)"), ("crowds", "it hung")]);
        let run = Run::of("kvm", "tree", Unit::Nanoseconds, vec![("all".into(), Err("no KVM".into()))]);
        assert_eq!(run.figures, Err("no KVM".into()));
    }

    #[test]
    fn measures_are_read_among_other_lines() {
        let text = "[ 0.1] booting\nmeasure fork 1048576 183000\r\nmeasure clock 0 73\nmeasure bad x 1\n\
                    measure fork 5\nmeasure fork 1 2 3\nforkbench: done\n";
        let figures = parse(text);
        assert_eq!(figures.len(), 2);
        assert_eq!(figures.get(&("fork".into(), 1 << 20)), Some(&183_000));
        let run = Run {
            engine: "qemu",
            system: "tree",
            unit: Unit::Instructions,
            figures: Ok(figures),
            holes: Vec::new(),
        };
        assert_eq!(run.figure("clock", 0), Some(73));
        assert_eq!(run.sizes("fork"), [1 << 20]);
        assert_eq!(Run { figures: Err("no".into()), ..run }.figure("clock", 0), None);
    }
}
