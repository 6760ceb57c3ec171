//! Replays the traces of a file on the core alone and prints what each operation gave, as `trace_run` does on Linux and in the
//! guest. `trace_model none|pte|tree FILE`; traces that cannot be replayed here are said to be `skipped`.

use ptshare_mm::Sharing;
use ptshare_model_tests::trace::replay;
use ptshare_trace::text;
use std::process::ExitCode;

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, file] = arguments.as_slice() else {
        return Err("usage: trace_model none|pte|tree FILE".into());
    };
    let sharing = match mode.as_str() {
        "none" => Sharing::None,
        "pte" => Sharing::Pte,
        "tree" => Sharing::Tree,
        _ => return Err(format!("`{mode}` is not one of none, pte, tree")),
    };
    let content = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let traces = text::parse_all(&content).map_err(|error| format!("{file}: {error}"))?;
    for (at, trace) in traces.iter().enumerate() {
        println!("begin {at} {:#x}", trace.seed);
        if trace.is_for_the_core() {
            replay(trace, sharing, &mut |_, kernel| kernel.audit())
                .iter()
                .for_each(|line| println!("{line}"));
        } else {
            println!("skipped");
        }
        println!("end {at}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trace_model: {error}");
            ExitCode::from(2)
        }
    }
}
