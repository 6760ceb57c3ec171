//! What the kernel says when it is asked, for the judge to compare with what it finds itself: reverse maps of frames, and the
//! numbers that /proc shows of a process.
//!
//! The guest fills the area and then asks for a verification; it empties it afterwards. So at any other instant the
//! numbers of valid records are 0.

use core::sync::atomic::AtomicU64;

/// Most frames asked for at once.
pub const ANSWER_FRAMES: usize = 8;
/// Most places that map them, together.
pub const ANSWER_PLACES: usize = 1024;
/// Most processes whose numbers are given at once.
pub const ANSWER_USAGES: usize = 32;

/// The reverse map of one frame: its places are [`Answers::places`] from `first` on.
#[repr(C)]
#[derive(Default, Debug)]
pub struct FrameAnswer {
    /// The frame.
    pub pfn: AtomicU64,
    /// Index of its first place.
    pub first: AtomicU64,
    /// Its places.
    pub places: AtomicU64,
    /// Places that there was no room for.
    pub left_out: AtomicU64,
}

/// Somewhere that a frame is mapped.
#[repr(C)]
#[derive(Default, Debug)]
pub struct PlaceAnswer {
    /// Slot of the mm.
    pub slot: AtomicU64,
    /// User virtual address of the frame's first byte.
    pub va: AtomicU64,
}

/// What /proc shows of a process.
#[repr(C)]
#[derive(Default, Debug)]
pub struct UsageAnswer {
    /// Slot of its mm.
    pub slot: AtomicU64,
    /// RssAnon, in pages.
    pub rss_anon: AtomicU64,
    /// RssFile and RssShmem, in pages.
    pub rss_object: AtomicU64,
    /// HugetlbPages, in pages of 4 KiB.
    pub hugetlb: AtomicU64,
    /// VmPTE, in pages.
    pub tables: AtomicU64,
    /// VmPTEShared, in pages: tables that other processes use too.
    pub tables_shared: AtomicU64,
    /// VmPTEProp, in bytes: each table divided among the entries that point to it.
    pub tables_prop: AtomicU64,
}

/// The area.
#[repr(C)]
#[derive(Debug)]
pub struct Answers {
    /// Valid records in `frame`.
    pub frames: AtomicU64,
    /// Valid records in `usage`.
    pub usages: AtomicU64,
    /// Frames.
    pub frame: [FrameAnswer; ANSWER_FRAMES],
    /// Their places.
    pub place: [PlaceAnswer; ANSWER_PLACES],
    /// Processes.
    pub usage: [UsageAnswer; ANSWER_USAGES],
}

impl Answers {
    /// Nothing said.
    pub const fn new() -> Answers {
        // Inline constants, because an atomic cannot be repeated by copying.
        Answers {
            frames: AtomicU64::new(0),
            usages: AtomicU64::new(0),
            frame: [const {
                FrameAnswer {
                    pfn: AtomicU64::new(0),
                    first: AtomicU64::new(0),
                    places: AtomicU64::new(0),
                    left_out: AtomicU64::new(0),
                }
            }; ANSWER_FRAMES],
            place: [const { PlaceAnswer { slot: AtomicU64::new(0), va: AtomicU64::new(0) } }; ANSWER_PLACES],
            usage: [const {
                UsageAnswer {
                    slot: AtomicU64::new(0),
                    rss_anon: AtomicU64::new(0),
                    rss_object: AtomicU64::new(0),
                    hugetlb: AtomicU64::new(0),
                    tables: AtomicU64::new(0),
                    tables_shared: AtomicU64::new(0),
                    tables_prop: AtomicU64::new(0),
                }
            }; ANSWER_USAGES],
        }
    }
}

impl Default for Answers {
    fn default() -> Answers {
        Answers::new()
    }
}
