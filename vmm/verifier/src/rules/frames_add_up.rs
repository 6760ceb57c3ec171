//! `frames-add-up`. A free or kernel frame that something refers to is the subject of another rule, and is not
//! counted twice here: the guest's number may or may not include it.

use ptshare_wire::{FrameKind, HugeSize};

use crate::census::Census;
use crate::frames::Frame;
use crate::report::{Finding, KindCounts, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "frames-add-up",
    statement: "the census's free_frames and kernel_frames are the frames of those kinds",
    reads: "kind of every frame below the virgin marks; free_frames and kernel_frames of the census",
    why: "a frame that no sum contains is lost for good, and one that two contain is handed out twice; an operation \
          that fails half-way is where counts and frames part",
    design: &[9],
    catalogue: &[],
};

/// Sums over all frames.
#[derive(Default)]
pub(crate) struct Tally {
    /// Frames by state.
    pub(crate) kinds: KindCounts,
    free_referenced: u64,
    kernel_referenced: u64,
}

impl Tally {
    /// Counts one frame.
    #[inline]
    pub(crate) fn frame(&mut self, frame: &Frame) {
        let used = u64::from(frame.is_referenced());
        match frame.kind() {
            Some(FrameKind::Free) => {
                self.kinds.free += 1;
                self.free_referenced += used;
            }
            Some(FrameKind::Kernel) => {
                self.kinds.kernel += 1;
                self.kernel_referenced += used;
            }
            Some(FrameKind::Table) => self.kinds.table += 1,
            Some(FrameKind::Anon) => self.kinds.anon += 1,
            Some(FrameKind::Cache) => self.kinds.cache += 1,
            Some(FrameKind::Zero) => self.kinds.zero += 1,
            Some(FrameKind::Hugetlb) => {
                self.kinds.hugetlb += frame.huge_size().unwrap_or(HugeSize::Mib2).frames();
            }
            None => self.kinds.unknown += 1,
        }
    }

    /// Compares the sums with the guest's.
    pub(crate) fn finish(&self, census: &Census, sink: &mut Sink) {
        compare("free frames", self.kinds.free, self.free_referenced, census.free_frames, sink);
        compare("kernel frames", self.kinds.kernel, self.kernel_referenced, census.kernel_frames, sink);
    }
}

fn compare(what: &str, counted: u64, referenced: u64, claimed: u64, sink: &mut Sink) {
    if !(counted - referenced..=counted).contains(&claimed) {
        sink.report(&RULE, || {
            Finding::new(
                &RULE,
                format!("{counted} {what}, counted in the frame array"),
                format!("{claimed} in the census"),
            )
        });
    }
}
