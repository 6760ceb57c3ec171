//! What is compared when a process ends: the content of the watched pages, and of files when it is the last.

use crate::control::UNREADABLE;
use crate::turns::Machine;
use crate::{access, files};
use ptshare_trace::place::Base;
use ptshare_trace::{PAGE, Place};
use std::sync::atomic::Ordering::SeqCst;

/// Adds a number to a sum in which order counts; zeros leave 0 what it is.
pub fn mix(sum: u64, number: u64) -> u64 {
    (sum ^ number).rotate_left(9).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A page's record in words.
pub fn page_words(page: u64) -> String {
    if page >> 32 == UNREADABLE >> 32 {
        format!("signal {} code {}", page as u16, (page >> 16) as u16)
    } else {
        format!("{page:x}")
    }
}

/// Most ranges of one process.
const RANGES: usize = 96;

/// Notes what this process sees: its mappings, and the content of watched pages that can be read. A page that is mapped
/// and gives a signal is noted, too; what is not mapped is known from the mappings.
pub fn record(machine: &mut Machine<'_>) {
    let control = machine.control;
    let mut ranges = Ranges { all: [(0, 0); RANGES], count: 0 };
    machine.maps(&mut |range| ranges.add(range));
    for (place, record) in machine.watched.places.iter().zip(&control.pages[machine.me]) {
        let Some(address) = address(machine, *place, &ranges) else { continue };
        let page = match access::page(address) {
            Ok(sum) => sum,
            Err(fault) => UNREADABLE | (fault.code as u64 & 0xffff) << 16 | fault.signal as u64 & 0xffff,
        };
        record.store(page, SeqCst);
    }
    if control.living() == 1 {
        record_files(machine);
    }
}

/// What can be read of the arena and the heap.
struct Ranges {
    all: [(u64, u64); RANGES],
    count: usize,
}

impl Ranges {
    fn add(&mut self, (start, end, rights): (u64, u64, &str)) {
        if let Some(place) = self.all.get_mut(self.count).filter(|_| rights.starts_with('r')) {
            *place = (start, end);
            self.count += 1;
        }
    }

    fn have(&self, address: u64) -> bool {
        self.all[..self.count].iter().any(|(start, end)| (*start..*end).contains(&address))
    }
}

fn address(machine: &Machine<'_>, place: Place, ranges: &Ranges) -> Option<u64> {
    if let Base::Handle(n) = place.base() {
        let (start, len) = machine.handles[n];
        return (place.offset() < len).then(|| start + place.offset());
    }
    machine.resolve(place, PAGE).filter(|&address| ranges.have(address))
}

fn record_files(machine: &mut Machine<'_>) {
    for (slot, pages) in machine.control.files.iter().enumerate() {
        let fd = machine.fds[slot];
        if fd < 0 {
            continue;
        }
        let (last, pages) = pages.split_last().expect("a file has more than one record");
        last.store(files::size(fd) as u64, SeqCst);
        for (page, record) in machine.watched.file_pages.iter().zip(pages) {
            let (got, sum) = machine.pread(fd, PAGE, page * PAGE);
            record.store(mix(sum, if got > 0 { 0 } else { got as u64 }), SeqCst);
        }
    }
}
