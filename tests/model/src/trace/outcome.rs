//! What is compared when a process ends.

use super::{Replay, signal};
use ptshare_trace::place::Base;
use ptshare_trace::report::{mix, page_sum, unreadable};
use ptshare_trace::watch::{FILE_PAGES, WATCHED};
use ptshare_trace::{PAGE, Place};

impl Replay<'_> {
    /// Notes what a process sees: its mappings, and the content of watched pages that can be read.
    pub(super) fn final_state(&mut self, who: usize, at: usize) {
        let readable = self.note_maps(who, at);
        let places = self.watched.places.clone();
        let mut pages = vec![0; places.len().min(WATCHED)];
        for (place, page) in places.iter().zip(&mut pages) {
            let Some(address) = self.watched_address(who, *place, &readable) else { continue };
            let pid = self.pid(who);
            *page = page_sum(|offset| self.kernel.load(pid, address + offset)).unwrap_or_else(|outcome| {
                let (signal, code) = signal(outcome);
                unreadable(signal, code)
            });
        }
        let sum = pages.into_iter().fold(0, mix);
        if sum != 0 {
            self.memory.push((who, sum));
        }
        if self.procs.iter().flatten().count() == 1 {
            self.final_files(who);
        }
    }

    fn watched_address(&self, who: usize, place: Place, readable: &[(u64, u64)]) -> Option<u64> {
        if let Base::Handle(handle) = place.base() {
            let (start, len) = self.procs[who].as_ref()?.handles[handle];
            return (place.offset() < len).then(|| start + place.offset());
        }
        let address = self.resolve(who, place, PAGE)?;
        readable.iter().any(|(start, end)| (*start..*end).contains(&address)).then_some(address)
    }

    fn final_files(&mut self, who: usize) {
        for (slot, fd) in self.process(who).fds.into_iter().enumerate() {
            let Some(fd) = fd else { continue };
            let object = self.kernel.file(fd.file).clone();
            let mut records = vec![0; FILE_PAGES + 1];
            for (&page, record) in self.watched.file_pages.iter().zip(&mut records) {
                if !fd.readable {
                    // EBADF, as the interpreter records it.
                    *record = mix(0, -9_i64 as u64);
                    continue;
                }
                let mut bytes = vec![0; PAGE as usize];
                let got = object.read_at(page * PAGE, &mut bytes);
                let sum = bytes.iter().take(got).fold(0, |sum, &byte| mix(sum, byte.into()));
                *record = mix(sum, 0);
            }
            records[FILE_PAGES] = object.size_bytes();
            let sum = records.into_iter().fold(0, mix);
            if sum != 0 {
                self.files.push((slot, sum));
            }
        }
    }
}
