//! The plot: what fork takes against the size of the memory, both axes logarithmic, as SVG.

use super::Report;
use ptshare_vmm::show_size;
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 480.0;
/// The frame that the curves lie in: left, top, right, bottom.
const FRAME: [f64; 4] = [76.0, 56.0, 616.0, 420.0];

/// The curves: system, words for the legend, colour. The colours differ for colour-blind readers too.
const CURVES: [(&str, &str, &str); 4] = [
    ("linux", "Linux", "#555555"),
    ("none", "sharing=none", "#d55e00"),
    ("pte", "sharing=pte", "#0072b2"),
    ("tree", "sharing=tree", "#009e73"),
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

/// The plot of the runs under emulation, or a page that says that there is none.
pub fn fork_time(report: &Report) -> String {
    let runs: Vec<_> = report.runs.iter().filter(|run| run.engine == "qemu" && run.figures.is_ok()).collect();
    let points = |system: &str, name: &str| -> Vec<(u64, u64)> {
        let found = runs.iter().filter(|run| run.system == system);
        found
            .flat_map(|run| {
                run.sizes(name).into_iter().filter_map(|size| Some((size, run.figure(name, size)?)))
            })
            .filter(|&(size, value)| size > 0 && value > 0)
            .collect()
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"30\" font-size=\"17\">What fork costs, by the size of the parent's memory</text>\n",
        FRAME[0]
    );
    let every: Vec<(u64, u64)> =
        CURVES.iter().flat_map(|c| [points(c.0, "fork"), points(c.0, "sparse_fork")].concat()).collect();
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
    draw_axes(&mut out, &x, &y, (first, last), (small, large));
    let mut at = FRAME[1] + 14.0;
    for (system, words, colour) in CURVES {
        let (dense, sparse) = (points(system, "fork"), points(system, "sparse_fork"));
        draw_curve(&mut out, &x, &y, &dense, colour, "");
        draw_curve(&mut out, &x, &y, &sparse, colour, " stroke-dasharray=\"6 4\"");
        if !dense.is_empty() || !sparse.is_empty() {
            legend(&mut out, at, colour, "", words);
            at += 22.0;
        }
    }
    at += 10.0;
    legend(&mut out, at, "black", "", "every page");
    legend(&mut out, at + 22.0, "black", " stroke-dasharray=\"6 4\"", "a page in 2 MiB");
    out + "</svg>\n"
}

fn draw_axes(out: &mut String, x: &Axis, y: &Axis, decades: (u32, u32), sizes: (u64, u64)) {
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
    // A tick at each power of four, from 1 MiB on in both directions.
    for shift in (10..60).step_by(2).filter(|&shift| (sizes.0..=sizes.1).contains(&(1u64 << shift))) {
        let at = x.at((1u64 << shift) as f64);
        let label = show_size(1 << shift);
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
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">private memory of the parent, bytes</text>",
        bottom + 44.0
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(20 {centre}) rotate(-90)\" text-anchor=\"middle\">instructions in the parent</text>"
    );
}

fn draw_curve(out: &mut String, x: &Axis, y: &Axis, points: &[(u64, u64)], colour: &str, dash: &str) {
    let places: Vec<String> = points
        .iter()
        .map(|&(size, value)| format!("{:.1},{:.1}", x.at(size as f64), y.at(value as f64)))
        .collect();
    if places.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
        places.join(" ")
    );
    for place in places {
        if let Some((cx, cy)) = place.split_once(',') {
            let _ = writeln!(out, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
    }
}

fn legend(out: &mut String, at: f64, colour: &str, dash: &str, words: &str) {
    let left = FRAME[2] + 14.0;
    let _ = writeln!(
        out,
        "<path d=\"M{left} {at}h24\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\
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
    fn a_plot_of_nothing_says_so() {
        let report = Report { runs: Vec::new(), ..super::super::files::tests::sample() };
        assert!(fork_time(&report).contains("no figures"));
    }
}
