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

/// Notes what this process sees.
pub fn record(machine: &mut Machine<'_>) {
    let control = machine.control;
    for (place, record) in machine.watched.places.iter().zip(&control.pages[machine.me]) {
        let Some(address) = address(machine, *place) else { continue };
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

fn address(machine: &Machine<'_>, place: Place) -> Option<u64> {
    match place.base() {
        Base::Handle(n) => {
            let (start, len) = machine.handles[n];
            (place.offset() < len).then(|| start + place.offset())
        }
        _ => machine.resolve(place, PAGE),
    }
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
