//! How fast the judge is: entries walked a second, on one core, over guests of several shapes.
//!
//! `cargo bench -p ptshare-verifier --features testing`. An entry walked is one of the words of a table that a walk looks at, absent ones
//! included; the last column counts present leaves alone. Each figure is the mean of
//! many verdicts, in time on the core.

use ptshare_paging::{ENTRIES, PAGE_BYTES};
use ptshare_verifier::testing::{Guest, Shape, large};
use ptshare_verifier::{Aids, History, Options, PhysView, verify_with};

/// Memory in one piece, as a VMM has it.
struct Flat(Vec<u64>);

impl Flat {
    fn new(guest: &Guest) -> Flat {
        let frames = guest.image.extents().iter().map(|e| e.end).max().unwrap_or(0);
        let mut words = vec![0; frames as usize * ENTRIES];
        for pfn in guest.image.populated() {
            let mut page = [0; ENTRIES];
            if guest.image.read_page(pfn, &mut page) {
                words[pfn as usize * ENTRIES..][..ENTRIES].copy_from_slice(&page);
            }
        }
        Flat(words)
    }
}

impl PhysView for Flat {
    fn read_bytes(&self, pa: u64, out: &mut [u8]) -> bool {
        let first = (pa / 8) as usize;
        let Some(words) = self.0.get(first..first + (pa as usize % 8 + out.len()).div_ceil(8)) else {
            return false;
        };
        if pa.is_multiple_of(8) && out.len().is_multiple_of(8) {
            for (bytes, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *bytes = word.to_le_bytes();
            }
            return true;
        }
        for (i, byte) in out.iter_mut().enumerate() {
            let at = pa as usize % 8 + i;
            *byte = words[at / 8].to_le_bytes()[at % 8];
        }
        true
    }

    fn read_u64(&self, pa: u64) -> Option<u64> {
        self.0.get((pa / 8) as usize).copied().filter(|_| pa.is_multiple_of(8))
    }

    fn read_page(&self, pfn: u64, out: &mut [u64; ENTRIES]) -> bool {
        let page =
            self.0.get(pfn as usize * (PAGE_BYTES / 8) as usize..).and_then(|w| w.first_chunk::<ENTRIES>());
        page.map(|page| *out = *page).is_some()
    }
}

/// Time on the core for each shape, ns.
const ENOUGH_NS: u64 = 500_000_000;

/// Nanoseconds that this thread has had a core, so that others on the machine do not count (proc(5), schedstat).
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn main() {
    let dense = Shape { tables: 256, pages: 512, children: 0, unshared: 0, file: 0 };
    let shapes = [
        ("dense private memory", dense),
        ("the same, 20 children", Shape { children: 20, ..dense }),
        ("half of it unshared", Shape { children: 2, unshared: 128, ..dense }),
        ("a file's pages", Shape { tables: 1, file: 256, ..dense }),
        ("one page a table", Shape { tables: 4096, pages: 1, children: 20, ..dense }),
    ];
    println!(
        "{:24} {:>8} {:>9} {:>10} {:>9} {:>12}",
        "guest", "tables", "entries", "us", "M/s", "M leaves/s"
    );
    for (name, shape) in shapes {
        let guest = large(&shape);
        let view = Flat::new(&guest);
        let mut history = History::default();
        let (mut rounds, mut last) = (0, None);
        let begin = cpu_ns();
        // The clock is only as fine as the scheduler's tick.
        while cpu_ns() - begin < ENOUGH_NS || rounds < 10 {
            let aids = Aids { history: Some(&mut history), ..Aids::default() };
            let report = verify_with(&view, guest.census_pa, &guest.vcpus, &Options::default(), aids);
            assert!(report.is_clean(), "{name}: {:?}", report.findings.first());
            last = Some(report);
            rounds += 1;
        }
        let seconds = (cpu_ns() - begin) as f64 / 1e9 / f64::from(rounds);
        let Some(report) = last else { continue };
        let leaves = (shape.tables + shape.file + shape.unshared) * shape.pages;
        println!(
            "{name:24} {:>8} {:>9} {:>10.0} {:>9.1} {:>12.1}",
            report.tables,
            report.entries_walked,
            seconds * 1e6,
            report.entries_walked as f64 / seconds / 1e6,
            leaves as f64 / seconds / 1e6
        );
    }
}
