//! The plots, both axes logarithmic, as SVG: what fork takes against the size of the memory, and what page tables take
//! against the number of processes.

use super::Report;
use super::measure::Run;
use ptshare_vmm::show_size;
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 480.0;
/// The frame that the curves lie in: left, top, right, bottom.
const FRAME: [f64; 4] = [76.0, 56.0, 606.0, 420.0];

/// The curves: system, words for the legend, colour, width. The colours differ for colour-blind readers too; curves that lie
/// on each other can be told apart, since each is thinner than those drawn before it.
const CURVES: [(&str, &str, &str, f64); 4] = [
    ("linux", "Linux", "#555555", 5.0),
    ("none", "sharing=none", "#e69f00", 4.0),
    ("pte", "sharing=pte", "#0072b2", 3.0),
    ("tree", "sharing=tree", "#009e73", 2.0),
];

/// One axis: from which to which value, and where on the page.
struct Axis {
    values: (f64, f64),
    page: (f64, f64),
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let share = (value.ln() - self.values.0.ln()) / (self.values.1.ln() - self.values.0.ln());
        self.page.0 + share * (self.page.1 - self.page.0)
    }
}

/// What a plot is about.
struct About {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// The words for full and dashed curves.
    keys: [&'static str; 2],
}

/// The points of a curve.
type Points = Vec<(u64, u64)>;

fn emulated(report: &Report) -> Vec<&Run> {
    report.runs.iter().filter(|run| run.engine == "qemu" && run.figures.is_ok()).collect()
}

/// What fork takes, or a page that says that there are no figures.
pub fn fork_time(report: &Report) -> String {
    let runs = emulated(report);
    let points = |system: &str, name: &str| -> Points {
        let found = runs.iter().filter(|run| run.system == system);
        let all = found.flat_map(|run| {
            run.sizes(name).into_iter().filter_map(|size| Some((size, run.figure(name, size)?)))
        });
        all.filter(|&(size, value)| size > 0 && value > 0).collect()
    };
    let about = About {
        title: "What fork costs, by the size of the parent's memory",
        x: "private memory of the parent, bytes",
        y: "instructions in the parent",
        keys: ["every page", "a page in 2 MiB"],
    };
    // A tick at each power of four, from 1 MiB on in both directions.
    let ticks: Vec<(u64, String)> = (10..60).step_by(2).map(|n| (1 << n, show_size(1 << n))).collect();
    draw(&about, &ticks, |system| [points(system, "fork"), points(system, "scattered_fork")])
}

/// What the page tables of many processes take.
pub fn tables(report: &Report) -> String {
    let runs = emulated(report);
    // The size that was measured with the most numbers of processes.
    let size_of = |what: &str| {
        let sizes = |n: u64| {
            let name = format!("{what}{n}_tables_kb");
            runs.iter().flat_map(|run| run.sizes(&name)).collect::<Vec<_>>()
        };
        sizes(1000).first().or(sizes(100).first()).or(sizes(10).last()).copied().unwrap_or(0)
    };
    let (file, huge) = (size_of("crowd"), size_of("huge"));
    let points = |system: &str, what: &str, size: u64| -> Points {
        let found: Vec<_> = runs.iter().filter(|run| run.system == system).collect();
        let figure = |n: u64| {
            found.iter().find_map(|run| run.figure(&format!("{what}{n}_tables_kb"), size)).map(|kb| (n, kb))
        };
        [10, 100, 1000].into_iter().filter_map(figure).filter(|point| point.1 > 0).collect()
    };
    let about = About {
        title: "What page tables take, by the number of processes that read one file",
        x: "processes alive together",
        y: "page tables in all, kB",
        keys: ["a file in pages", "of huge pages"],
    };
    let ticks: Vec<(u64, String)> = (0..5).map(|n| 10u64.pow(n)).map(|n| (n, n.to_string())).collect();
    draw(&about, &ticks, |system| [points(system, "crowd", file), points(system, "huge", huge)])
}

/// Draws the full and the dashed curve of each system.
fn draw(about: &About, ticks: &[(u64, String)], curves: impl Fn(&str) -> [Points; 2]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"30\" font-size=\"17\">{}</text>\n",
        FRAME[0], about.title
    );
    let every: Points = CURVES.iter().flat_map(|curve| curves(curve.0).concat()).collect();
    let bounds = |values: &[u64]| Some((*values.iter().min()?, *values.iter().max()?));
    let sizes: Vec<u64> = every.iter().map(|p| p.0).collect();
    let values: Vec<u64> = every.iter().map(|p| p.1).collect();
    let (Some((small, large)), Some((low, high))) = (bounds(&sizes), bounds(&values)) else {
        return out
            + &format!("<text x=\"{}\" y=\"90\">no figures: see the report</text>\n</svg>\n", FRAME[0]);
    };
    let decade = |n: u32| 10u64.saturating_pow(n);
    let (first, last) = (low.ilog10(), (high.max(2) - 1).ilog10() + 1);
    let x = Axis { values: (small as f64 / 1.5, large as f64 * 1.5), page: (FRAME[0], FRAME[2]) };
    let y = Axis { values: (decade(first) as f64, decade(last) as f64), page: (FRAME[3], FRAME[1]) };
    let ticks = ticks.iter().filter(|tick| (small..=large).contains(&tick.0));
    draw_axes(&mut out, about, (&x, &y), (first, last), ticks);
    let mut at = FRAME[1] + 14.0;
    let mut dashed = false;
    for (system, words, colour, width) in CURVES {
        let [full, broken] = curves(system);
        draw_curve(&mut out, &x, &y, &full, colour, width, "");
        draw_curve(&mut out, &x, &y, &broken, colour, width, DASHES);
        dashed |= !broken.is_empty();
        if !full.is_empty() || !broken.is_empty() {
            legend(&mut out, at, colour, width, "", words);
            at += 22.0;
        }
    }
    if dashed {
        at += 10.0;
        legend(&mut out, at, "black", 2.0, "", about.keys[0]);
        legend(&mut out, at + 22.0, "black", 2.0, DASHES, about.keys[1]);
    }
    out + "</svg>\n"
}

const DASHES: &str = " stroke-dasharray=\"6 4\"";

fn draw_axes<'a>(
    out: &mut String,
    about: &About,
    (x, y): (&Axis, &Axis),
    decades: (u32, u32),
    ticks: impl Iterator<Item = &'a (u64, String)>,
) {
    let [left, top, right, bottom] = FRAME;
    for n in decades.0..=decades.1 {
        let value = 10u64.saturating_pow(n);
        let at = y.at(value as f64);
        let label = match n {
            0..3 => value.to_string(),
            3..6 => format!("{} k", value / 1000),
            6..9 => format!("{} M", value / 1_000_000),
            _ => format!("{} G", value / 1_000_000_000),
        };
        let _ = writeln!(out, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#dddddd\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            left - 8.0,
            at + 4.5
        );
    }
    for (value, label) in ticks {
        let at = x.at(*value as f64);
        let _ = writeln!(out, "<path d=\"M{at:.1} {top}V{bottom}\" stroke=\"#eeeeee\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 20.0
        );
    }
    let _ = writeln!(
        out,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"black\"/>",
        right - left,
        bottom - top
    );
    let (middle, centre) = ((left + right) / 2.0, (top + bottom) / 2.0);
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        bottom + 44.0,
        about.x
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(20 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        about.y
    );
}

fn draw_curve(
    out: &mut String,
    x: &Axis,
    y: &Axis,
    points: &[(u64, u64)],
    colour: &str,
    width: f64,
    dash: &str,
) {
    let places: Vec<String> = points
        .iter()
        .map(|&(size, value)| format!("{:.1},{:.1}", x.at(size as f64), y.at(value as f64)))
        .collect();
    if places.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dash}/>",
        places.join(" ")
    );
    for place in places {
        if let Some((cx, cy)) = place.split_once(',') {
            let radius = 2.0 + width / 2.0;
            let _ = writeln!(out, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"{radius}\" fill=\"{colour}\"/>");
        }
    }
}

fn legend(out: &mut String, at: f64, colour: &str, width: f64, dash: &str, words: &str) {
    let left = FRAME[2] + 14.0;
    let _ = writeln!(
        out,
        "<path d=\"M{left} {at}h24\" stroke=\"{colour}\" stroke-width=\"{width}\"{dash}/>\
         <text x=\"{}\" y=\"{}\">{words}</text>",
        left + 30.0,
        at + 4.5
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_curve_for_each_system_with_figures() {
        let text = fork_time(&super::super::files::tests::sample());
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        // Linux and tree, dense and sparse.
        assert_eq!(text.matches("<polyline").count(), 4);
        assert_eq!(text.matches("<circle").count(), 2 * (3 + 1));
        assert!(
            text.contains(">Linux<") && text.contains(">sharing=tree<") && !text.contains(">sharing=none<")
        );
        assert!(text.contains(">1M<") && text.contains(">1G<"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn processes_are_counted_along_the_axis() {
        let text = tables(&super::super::files::tests::sample());
        assert_eq!(text.matches("<polyline").count(), 4, "{text}");
        assert_eq!(text.matches("<circle").count(), 2 * (3 + 1));
        assert!(text.contains(">1000<") && text.contains(">of huge pages<"), "{text}");
    }

    #[test]
    fn a_plot_of_nothing_says_so() {
        let report = Report { runs: Vec::new(), ..super::super::files::tests::sample() };
        assert!(fork_time(&report).contains("no figures") && tables(&report).contains("no figures"));
    }
}
