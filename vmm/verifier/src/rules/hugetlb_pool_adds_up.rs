//! `hugetlb-pool-adds-up`. The head speaks for its page; the frames after it have metadata like those inside a free
//! block. Whether the counts of a page in use are right is the subject of `leaf-refs-equal-maps`.

use ptshare_wire::FrameKind;
use ptshare_wire::frame::{FLAG_POOL_FREE, HUGE_FRAMES};

use crate::frames::Frame;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-pool-adds-up",
    statement: "hugetlb pages are aligned, free or in use, and as many as the pool says",
    reads: "every head of a hugetlb page and the 511 frames after it; the census's counts",
    why: "a page neither free nor in use is lost until reboot (c5c99429fa57: huge pages leaked at fork)",
    design: &[9, 10],
    catalogue: &[41],
};

/// Sums over all frames, fed in rising order.
#[derive(Default)]
pub(crate) struct Tally {
    total: u64,
    free: u64,
    /// First frame after the page met last.
    end: u64,
}

impl Tally {
    /// Counts one frame; says whether it lies inside a hugetlb page, behind its head.
    #[inline]
    pub(crate) fn frame(&mut self, pfn: u64, frame: &Frame, sink: &mut Sink) -> bool {
        if self.covers(pfn) {
            // Its count, like that of a free frame: free-frames-unreferenced.
            if frame.state != 0 {
                report(pfn, "state 0 behind the head", state_of(frame), sink);
            }
            return true;
        }
        if frame.kind() == Some(FrameKind::Hugetlb) {
            self.head(pfn, frame, sink);
        }
        false
    }

    /// Does this frame, not fed yet, lie behind the head of a hugetlb page?
    #[inline]
    pub(crate) fn covers(&self, pfn: u64) -> bool {
        pfn < self.end
    }

    fn head(&mut self, pfn: u64, frame: &Frame, sink: &mut Sink) {
        self.total += 1;
        self.end = pfn + HUGE_FRAMES;
        if !pfn.is_multiple_of(HUGE_FRAMES) {
            report(pfn, "a head at a multiple of 512 frames", state_of(frame), sink);
        }
        let in_pool = frame.state & FLAG_POOL_FREE != 0;
        self.free += u64::from(in_pool);
        let used = frame.refs != 0 || frame.maps != 0;
        if in_pool && (used || frame.in_cache()) {
            report(pfn, "a free page that nobody refers to", state_of(frame), sink);
        } else if !in_pool && !used {
            report(pfn, "a page that is free in the pool or referred to", state_of(frame), sink);
        }
    }

    /// Compares the sums with the guest's: total, free, reserved, surplus.
    pub(crate) fn finish(&self, [total, free, ..]: [u64; 4], sink: &mut Sink) {
        for (what, counted, claimed) in [("pages", self.total, total), ("free pages", self.free, free)] {
            if counted != claimed {
                sink.report(&RULE, || {
                    Finding::new(
                        &RULE,
                        format!("{counted} {what}, counted in the frame array"),
                        format!("{claimed} in the census"),
                    )
                });
            }
        }
    }
}

fn state_of(frame: &Frame) -> String {
    format!("state {:#x}, refs {}, {} leaves", frame.state, frame.refs, frame.maps)
}

fn report(pfn: u64, expected: &str, found: String, sink: &mut Sink) {
    sink.report(&RULE, || Finding::new(&RULE, expected, found).frame(pfn));
}
