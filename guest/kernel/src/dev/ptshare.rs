//! `/dev/ptshare`: a program's way to the judge. The grammar is in `ptshare_wire::stats`.

use crate::fs::caller;
use crate::fs::virt::number;
use crate::syscall::SysResult;
use crate::{answers, task, verify};
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::{Machine, hyper, smp};
use ptshare_mm::Env;
use ptshare_paging::Pfn;

/// Longest line that the device takes.
pub const LINE_MAX: usize = 256;

/// What reading the device gives: `name value` for each counter, then the frame counts, then a line `mapped PID ADDRESS` for
/// each place that the last `rmap` found.
pub fn read_text() -> String {
    let mut text = String::new();
    if text.try_reserve(1024).is_err() {
        return text;
    }
    let census = Machine.census();
    census.stats.each(|name, value| {
        let _ = writeln!(text, "{name} {}", value.load(Relaxed));
    });
    let free = Machine.allocator().lock().free_frames(census);
    let _ = writeln!(text, "free_frames {free}");
    let _ = writeln!(text, "kernel_frames {}", census.kernel_frames.load(Relaxed));
    let _ = writeln!(text, "sharing {}", census.sharing.load(Relaxed));
    let _ = writeln!(text, "processes {}", task::process_count());
    for place in answers::last() {
        let _ = writeln!(text, "mapped {} {:#x}", place.pid, place.va);
    }
    text
}

/// Takes one line, with or without its newline. A checkpoint happens before the call returns.
///
/// # Errors
/// EINVAL for a line that is too long or not of the grammar, or a frame that has no reverse map; EPERM to ask for one without
/// CAP_SYS_ADMIN.
pub fn write(line: &[u8]) -> SysResult {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    if text.len() > LINE_MAX || text.contains(&b'\n') {
        return Err(Errno::EINVAL.into());
    }
    let word_end = text.iter().position(|&b| b == b' ').unwrap_or(text.len());
    match &text[..word_end] {
        b"checkpoint" => verify::on_request(text.get(word_end + 1..).unwrap_or(b"")),
        b"answer" => verify::on_request_with_answers(text.get(word_end + 1..).unwrap_or(b"")),
        b"rmap" => {
            caller::need(caller::CAP_SYS_ADMIN)?;
            let pfn = text.get(word_end + 1..).and_then(number).ok_or(Errno::EINVAL)?;
            let given = answers::frame(Pfn(pfn)).map_err(|_| Errno::EINVAL)?;
            verify::on_request_given(b"rmap", &given);
        }
        b"scenario" | b"result" => {
            // The host reads the counters. A process that has been waited for may not have left its stack yet, on its CPU.
            let _still = smp::stop_others();
            hyper::event(text);
        }
        b"metric" => hyper::event(text),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(line.len() as u64)
}
