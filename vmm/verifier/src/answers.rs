//! Reads what the guest says when it is asked: reverse maps, and /proc's numbers. Nothing of it is trusted: numbers beyond
//! the area are a finding, and what is said is compared by rules.

use std::mem::{offset_of, size_of};

use ptshare_wire::Answers;
use ptshare_wire::answers::{
    ANSWER_FRAMES, ANSWER_PLACES, ANSWER_USAGES, FrameAnswer, PlaceAnswer, UsageAnswer,
};

use crate::census::Bytes;
use crate::report::{Finding, Sink};
use crate::rules::census_is_sound;
use crate::view::PhysView;

/// The reverse map of one frame, as the guest has it.
#[derive(Clone, Debug)]
pub(crate) struct ReverseMap {
    pub(crate) pfn: u64,
    /// Slot of the mm, and address.
    pub(crate) places: Vec<(u64, u64)>,
    /// Places that were not listed for want of room.
    pub(crate) left_out: u64,
}

/// What /proc shows of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) slot: u64,
    /// In pages.
    pub(crate) rss_anon: u64,
    pub(crate) rss_object: u64,
    pub(crate) hugetlb: u64,
    pub(crate) tables: u64,
    pub(crate) tables_shared: u64,
    /// In bytes.
    pub(crate) tables_prop: u64,
}

/// What the guest says.
#[derive(Clone, Default, Debug)]
pub(crate) struct Said {
    pub(crate) frames: Vec<ReverseMap>,
    pub(crate) usages: Vec<Usage>,
}

impl Said {
    /// Reads the area at `pa`; 0 for none.
    pub(crate) fn read(view: &dyn PhysView, pa: u64, sink: &mut Sink) -> Said {
        let mut said = Said::default();
        if pa == 0 {
            return said;
        }
        let Some(head) = Bytes::read(view, pa, offset_of!(Answers, frame)) else {
            broken(sink, "answers in memory", format!("no memory at {pa:#x}"));
            return said;
        };
        let frames = head.u64(offset_of!(Answers, frames)) as usize;
        let usages = head.u64(offset_of!(Answers, usages)) as usize;
        if frames == 0 && usages == 0 {
            return said;
        }
        let Some(area) = Bytes::read(view, pa, size_of::<Answers>()) else {
            broken(sink, "answers in memory", format!("no memory behind {pa:#x}"));
            return said;
        };
        if frames > ANSWER_FRAMES || usages > ANSWER_USAGES {
            broken(
                sink,
                &format!("at most {ANSWER_FRAMES} frames and {ANSWER_USAGES} processes answered for"),
                format!("{frames} and {usages}"),
            );
            return said;
        }
        for i in 0..frames {
            let at = offset_of!(Answers, frame) + i * size_of::<FrameAnswer>();
            let first = area.u64(at + offset_of!(FrameAnswer, first));
            let places = area.u64(at + offset_of!(FrameAnswer, places));
            let end = first.saturating_add(places);
            if end > ANSWER_PLACES as u64 {
                broken(sink, &format!("at most {ANSWER_PLACES} places"), format!("{places} from {first} on"));
                continue;
            }
            let place = |n: u64| {
                let at = offset_of!(Answers, place) + n as usize * size_of::<PlaceAnswer>();
                (area.u64(at + offset_of!(PlaceAnswer, slot)), area.u64(at + offset_of!(PlaceAnswer, va)))
            };
            said.frames.push(ReverseMap {
                pfn: area.u64(at + offset_of!(FrameAnswer, pfn)),
                places: (first..end).map(place).collect(),
                left_out: area.u64(at + offset_of!(FrameAnswer, left_out)),
            });
        }
        said.usages.extend((0..usages).map(|i| {
            let at = offset_of!(Answers, usage) + i * size_of::<UsageAnswer>();
            let word = |field: usize| area.u64(at + field);
            Usage {
                slot: word(offset_of!(UsageAnswer, slot)),
                rss_anon: word(offset_of!(UsageAnswer, rss_anon)),
                rss_object: word(offset_of!(UsageAnswer, rss_object)),
                hugetlb: word(offset_of!(UsageAnswer, hugetlb)),
                tables: word(offset_of!(UsageAnswer, tables)),
                tables_shared: word(offset_of!(UsageAnswer, tables_shared)),
                tables_prop: word(offset_of!(UsageAnswer, tables_prop)),
            }
        }));
        said
    }
}

fn broken(sink: &mut Sink, expected: &str, found: String) {
    sink.report(&census_is_sound::RULE, || Finding::new(&census_is_sound::RULE, expected, found));
}
