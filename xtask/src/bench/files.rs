//! The figures for other programs: CSV and JSON.

use super::Report;
use serde_json::{Map, Value, json};

/// One line a figure: `engine,system,measure,bytes,value,unit`. No field needs quotes.
pub fn csv(report: &Report) -> String {
    let mut out = String::from("engine,system,measure,bytes,value,unit\n");
    for run in &report.runs {
        for ((name, size), value) in run.figures.iter().flatten() {
            let unit = unit(name, run.unit.name());
            out += &format!("{},{},{name},{size},{value},{unit}\n", run.engine, run.system);
        }
    }
    out
}

/// What a figure counts, whatever the engine's clock does.
fn unit<'a>(name: &str, of_time: &'a str) -> &'a str {
    if name.ends_with("_kb") {
        "kB"
    } else if name.ends_with("_per_s") {
        "1/s"
    } else if super::table::is_count(name) {
        "1"
    } else {
        of_time
    }
}

/// Everything, holes included.
pub fn json(report: &Report) -> String {
    let machine: Map<String, Value> =
        report.machine.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let runs: Vec<Value> = report.runs.iter().map(|run| {
        let run_holes: Value =
            run.holes.iter().map(|hole| json!({ "what": hole.what, "why": hole.why })).collect();
        let head = json!({ "engine": run.engine, "system": run.system, "unit": run.unit.name() });
        let (key, value) = match &run.figures {
            Ok(figures) => {
                let list = figures.iter().map(|((name, size), value)| {
                    json!({ "measure": name, "bytes": size, "value": value, "unit": unit(name, run.unit.name()) })
                });
                ("figures", list.collect())
            }
            Err(why) => ("missing", json!(why)),
        };
        let mut run = head;
        run[key] = value;
        run["holes"] = run_holes;
        run
    }).collect();
    format!("{:#}\n", json!({ "machine": machine, "quick": report.quick, "runs": runs }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::measure::{Run, Unit, parse};
    use super::*;

    /// Two engines with figures, and a hole.
    pub fn sample() -> Report {
        let figures = |factor: u64| {
            let mut text = String::new();
            for shift in [20, 26, 30] {
                text += &format!("measure fork {} {}\n", 1u64 << shift, factor << (shift - 18));
                text += &format!("measure vmpte_kb {} 44\n", 1u64 << shift);
            }
            text += &format!("measure scattered_fork {} {}\nmeasure clock 0 73\n", 1u64 << 34, factor << 10);
            for n in [10, 100, 1000] {
                text += &format!("measure crowd{n}_tables_kb {} {}\n", 1u64 << 26, n * factor);
            }
            text += &format!("measure huge10_tables_kb {} {factor}\n", 1u64 << 30);
            Ok(parse(&text))
        };
        let run = |engine, system, unit, figures| Run { engine, system, unit, figures, holes: Vec::new() };
        Report {
            runs: vec![
                run("qemu", "linux", Unit::Instructions, figures(9)),
                run("qemu", "none", Unit::Instructions, Err("no <engine> & no luck".into())),
                run("qemu", "tree", Unit::Instructions, figures(1)),
                run("kvm", "none", Unit::Nanoseconds, figures(70)),
                run("kvm", "tree", Unit::Nanoseconds, figures(7)),
            ],
            machine: vec![("date", "2000-01-01".into())],
            quick: false,
        }
    }

    #[test]
    fn csv_has_one_line_a_figure() {
        let text = csv(&sample());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 4 * 12);
        assert!(lines.iter().all(|line| line.split(',').count() == 6), "{text}");
        assert!(lines.contains(&"qemu,linux,fork,1048576,36,instructions"));
        assert!(lines.contains(&"kvm,tree,vmpte_kb,1048576,44,kB"));
    }

    #[test]
    fn json_says_what_is_missing() {
        let value: Value = serde_json::from_str(&json(&sample())).unwrap();
        assert_eq!(value["runs"].as_array().unwrap().len(), 5);
        assert_eq!(value["runs"][1]["missing"], "no <engine> & no luck");
        assert_eq!(value["runs"][0]["figures"].as_array().unwrap().len(), 12);
        assert_eq!(value["machine"]["date"], "2000-01-01");
    }
}
