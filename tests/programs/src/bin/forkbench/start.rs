//! How the program starts where there is more to do than to measure.

use crate::mapping;
use ptshare_programs::memory::PAGE;
use ptshare_programs::process;

/// Runs the rest as a child after all free memory has been used once. What may be left unused, this process keeps.
pub fn aged(own_path: &str, rest: &[String]) -> ! {
    const LEFT: usize = 64 << 20;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let free_kb: usize = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    for (size, keep) in [(((free_kb << 10).saturating_sub(LEFT)) & !(PAGE - 1), false), (LEFT, true)] {
        if size != 0 {
            let region = mapping(size, libc::MAP_PRIVATE);
            (0..size).step_by(PAGE).for_each(|offset| region.set(offset, 1));
            if !keep {
                region.unmap();
            }
        }
    }
    let code = std::process::Command::new(own_path).args(rest).status().ok().and_then(|status| status.code());
    process::leave(code.unwrap_or(1))
}
