//! Many processes, alive together, that read one shared file: what their page tables take in all.

use crate::{BASE, Pipe, report, time};
use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::{PAGE, RW, Region, TABLE, memfd};
use ptshare_programs::process::{self, Gate, wait};
use ptshare_programs::{check, errno_name, now_ns};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

/// Processes that read a file of ordinary pages.
pub fn of_file(readers: usize, size: usize) {
    measure("crowd", readers, &memfd(size), size, PAGE);
}

/// The same with huge pages of 2 MiB, which the machine may not have.
pub fn of_huge_pages(readers: usize, size: usize) {
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB) };
    let why = if fd < 0 {
        Some(ptshare_programs::errno())
    } else {
        // SAFETY: the descriptor was just made, and is nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        match file.set_len(size as u64).map(|()| map(&file, size)) {
            Ok(Ok(region)) => {
                region.unmap();
                measure("huge", readers, &file, size, TABLE);
                None
            }
            Ok(Err(errno)) => Some(errno),
            Err(error) => error.raw_os_error(),
        }
    };
    if let Some(errno) = why {
        println!("hole huge{readers} {size} no huge pages for it ({})", errno_name(errno));
    }
}

fn map(file: &File, size: usize) -> Result<Region, i32> {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: nothing of this program lies there but what it has mapped for this measure.
    let base = unsafe { libc::mmap(BASE as *mut _, size, RW, flags, file.as_raw_fd(), 0) };
    if base as usize == BASE { Ok(Region { base: BASE, len: size }) } else { Err(ptshare_programs::errno()) }
}

/// The parent fills the file and keeps its mapping; each child maps it anew and reads a byte of each page.
fn measure(what: &str, readers: usize, file: &File, size: usize, page: usize) {
    let name = |end: &str| format!("{what}{readers}_{end}");
    let mapped = map(file, size);
    check!(mapped.is_ok(), "{what}: mmap failed: {mapped:?}");
    let region = mapped.unwrap_or(Region { base: BASE, len: 0 });
    (0..size).step_by(page).for_each(|offset| region.set(offset, 1));
    let (results, gate) = (Pipe::new(), Gate::new());
    let before = tables_kb();
    let start = now_ns();
    let mut children = Vec::new();
    let mut sums = [0; 2];
    for _ in 0..readers {
        let Ok(child) = process::try_fork() else { break };
        if child == 0 {
            let faults = process::faults();
            let took = time(|| {
                check!(map(file, size).is_ok(), "a reader cannot map the file");
                let all = (0..size).step_by(page).all(|offset| region.get(offset) == 1);
                check!(all, "a reader sees other bytes");
            });
            results.send(&[process::faults() - faults, took, 0]);
            gate.pass();
            process::leave(0);
        }
        children.push(child);
        let [faults, took, _] = results.receive();
        sums[0] += faults;
        sums[1] += took;
    }
    let all = now_ns() - start;
    let tables = tables_kb().saturating_sub(before);
    let came = children.len();
    let exits = time(|| {
        children.iter().for_each(|_| gate.open());
        children.iter().for_each(|&child| {
            wait(child);
        });
    });
    region.unmap();
    if came < readers {
        println!("hole {what}{readers} {size} only {came} processes could be made");
        return;
    }
    report("", &name("tables_kb"), size, tables);
    report("", &name("faults"), size, sums[0]);
    report("", &name("read_each"), size, sums[1] / readers as u64);
    report("", &name("all"), size, all);
    report("", &name("exits"), size, exits);
}

/// Page tables of all processes together, kB.
fn tables_kb() -> u64 {
    if judge::present() {
        let mut counters = Counters::new();
        counters.read();
        return counters.get("tables_now") * 4;
    }
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("PageTables:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
