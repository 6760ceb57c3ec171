//! `hugetlb-pool-adds-up`. The head speaks for its page; the frames after it have metadata like those inside a free
//! block. Whether the counts of a page in use are right is the subject of `leaf-refs-equal-maps`.

use ptshare_wire::frame::FLAG_POOL_FREE;
use ptshare_wire::huge::HUGE_SIZES;
use ptshare_wire::{FrameKind, HugeSize};

use crate::census::Pool;
use crate::frames::Frame;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-pool-adds-up",
    statement: "hugetlb pages are of a size that there is, aligned to it, free or in use, and as many as the pool of their \
                size says",
    reads: "every head of a hugetlb page and the frames after it; the census's counts",
    why: "a page neither free nor in use is lost until reboot (c5c99429fa57: huge pages leaked at fork)",
    design: &[9, 10],
    catalogue: &[41],
};

/// Sums over all frames, fed in rising order.
#[derive(Default)]
pub(crate) struct Tally {
    /// By size.
    total: [u64; HUGE_SIZES],
    free: [u64; HUGE_SIZES],
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
        let Some(size) = frame.huge_size() else {
            // Whatever it is, what lies behind it is no frame of its own.
            self.end = pfn + HugeSize::Mib2.frames();
            return report(pfn, "a page of 2 MiB or 1 GiB", format!("order {}", frame.level()), sink);
        };
        self.total[size.index()] += 1;
        self.end = pfn + size.frames();
        if !pfn.is_multiple_of(size.frames()) {
            report(pfn, "a head at a multiple of its size", state_of(frame), sink);
        }
        let in_pool = frame.state & FLAG_POOL_FREE != 0;
        self.free[size.index()] += u64::from(in_pool);
        let used = frame.refs != 0 || frame.maps != 0;
        if in_pool && (used || frame.in_cache()) {
            report(pfn, "a free page that nobody refers to", state_of(frame), sink);
        } else if !in_pool && !used {
            report(pfn, "a page that is free in the pool or referred to", state_of(frame), sink);
        }
    }

    /// Compares the sums with the guest's.
    pub(crate) fn finish(&self, pools: &[Pool; HUGE_SIZES], sink: &mut Sink) {
        for (size, pool) in HugeSize::ALL.into_iter().zip(pools) {
            let (total, free) = (self.total[size.index()], self.free[size.index()]);
            for (what, counted, claimed) in [("pages", total, pool.total), ("free pages", free, pool.free)] {
                if counted != claimed {
                    sink.report(&RULE, || {
                        let kib = size.bytes() >> 10;
                        Finding::new(
                            &RULE,
                            format!("{counted} {what} of {kib} KiB, counted in the frame array"),
                            format!("{claimed} in the census"),
                        )
                    });
                }
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
