//! Which pages are compared when a process ends: a trace can map gigabytes and touches few pages of them.
//!
//! Wherever an operation names a page, that page is watched, and the pages beside the ends of each range; wherever mremap
//! takes such a page, and wherever a mapping shows a page of a file that is touched, too. What a trace never names can only
//! be zero or unmapped, and its neighbours stand for it.

use crate::place::{ARENA_BYTES, Base};
use crate::{Call, Kind, Op, PAGE, Place, Trace};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// Most watched pages.
pub const WATCHED: usize = 128;
/// Most watched pages of a file.
pub const FILE_PAGES: usize = 16;
/// Small ranges are watched whole, up to this many pages.
const WHOLE: u64 = 8;

/// What is compared at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Pages, ascending.
    pub places: Vec<Place>,
    /// Pages of files, by index, ascending.
    pub file_pages: Vec<u64>,
}

/// A mapping of a file, as the trace asks for it.
struct View {
    start: Place,
    pages: u64,
    first: u64,
}

/// What to watch of a trace. The same trace gives the same answer everywhere.
pub fn watch(trace: &Trace) -> Watch {
    let mut places = BTreeSet::new();
    let mut file_pages = BTreeSet::new();
    let mut views: Vec<View> = Vec::new();
    for op in &trace.ops {
        add_op(&mut places, op);
        match op.call {
            Call::Mmap if op.args[4] != crate::call::NONE => views.push(View {
                start: Place(op.args[0]).page(),
                pages: op.args[1].div_ceil(PAGE),
                first: op.args[5] / PAGE,
            }),
            Call::Pwrite | Call::Pread => add_file(&mut file_pages, op.args[1], op.args[2]),
            Call::PwriteFrom | Call::PreadInto => add_file(&mut file_pages, op.args[3], op.args[2]),
            Call::Ftruncate => add_file(&mut file_pages, op.args[1].saturating_sub(1), 1),
            Call::Fallocate => add_file(&mut file_pages, op.args[2], op.args[3]),
            _ => {}
        }
        if op.call == Call::Mremap {
            move_pages(&mut places, op);
        }
    }
    for view in &views {
        let shown: Vec<u64> = places
            .iter()
            .filter_map(|place| distance(view.start, *place))
            .filter(|&page| page < view.pages)
            .map(|page| view.first + page)
            .collect();
        file_pages.extend(shown);
    }
    for view in &views {
        let shown = file_pages.iter().filter(|&&page| page >= view.first && page - view.first < view.pages);
        places.extend(shown.map(|page| view.start.plus((page - view.first) * PAGE)));
    }
    places.retain(|place| match place.base() {
        Base::Arena => place.offset() < ARENA_BYTES,
        base => base != Base::Null,
    });
    Watch { places: thin(places, WATCHED), file_pages: thin(file_pages, FILE_PAGES) }
}

/// Pages from one place to another with the same base.
fn distance(from: Place, to: Place) -> Option<u64> {
    (from.base() == to.base()).then(|| to.offset().checked_sub(from.offset()))?.map(|bytes| bytes / PAGE)
}

fn add_op(places: &mut BTreeSet<Place>, op: &Op) {
    let Some(at) = op.call.kinds().iter().position(|&kind| kind == Kind::Addr) else { return };
    let start = Place(op.args[at]).page();
    let pages = match (op.call, op.call.kinds().get(at + 1)) {
        (_, Some(Kind::Bytes)) => op.args[at + 1].div_ceil(PAGE),
        (_, Some(Kind::Count)) => op.args[at + 1],
        _ => 1,
    };
    add_range(places, start, pages);
    if op.call == Call::Mremap {
        add_range(places, start, op.args[2].div_ceil(PAGE));
        add_range(places, Place(op.args[4]).page(), op.args[2].div_ceil(PAGE));
    }
}

fn add_range(places: &mut BTreeSet<Place>, start: Place, pages: u64) {
    // A length that is wrong on purpose names nothing.
    let pages = pages.min(ARENA_BYTES / PAGE);
    if start.offset() >= PAGE {
        places.insert(start.at(start.offset() - PAGE));
    }
    let ends = (0..pages.min(WHOLE)).chain(pages.saturating_sub(1)..pages + 1);
    places.extend(ends.map(|page| start.plus(page * PAGE)));
}

fn add_file(pages: &mut BTreeSet<u64>, offset: u64, len: u64) {
    if offset < 1 << 40 && len < 1 << 40 {
        let (first, last) = (offset / PAGE, (offset + len.max(1) - 1) / PAGE);
        pages.extend([first, first + 1, last, last + 1]);
    }
}

/// Where mremap takes the pages watched so far.
fn move_pages(places: &mut BTreeSet<Place>, op: &Op) {
    let (old, new) = (Place(op.args[0]), Place(op.args[4]));
    let pages = op.args[1].div_ceil(PAGE);
    let moved: Vec<Place> = places
        .iter()
        .filter_map(|place| distance(old, *place))
        .filter(|&page| page < pages)
        .map(|page| new.plus(page * PAGE))
        .collect();
    places.extend(moved);
}

/// At most `most` of these, evenly.
fn thin<T: Copy>(from: BTreeSet<T>, most: usize) -> Vec<T> {
    let all: Vec<T> = from.into_iter().collect();
    let count = all.len();
    if count <= most {
        return all;
    }
    (0..most).filter_map(|i| all.get(i * count / most).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_all;

    fn watched(text: &str) -> Vec<u64> {
        let trace = parse_all(text).unwrap().remove(0);
        watch(&trace).places.iter().map(|place| place.offset() / PAGE).collect()
    }

    #[test]
    fn touched_pages_are_followed_through_moves_and_files() {
        let moved = watched(
            "trace 1\np0 mmap a+0x10000 100p rw- private|anon|fixed - 0 -\np0 store a+0x40000 0x1\n\
             p0 mremap a+0x10000 100p 100p maymove|fixed a+0x800000 -",
        );
        assert!(moved.contains(&0x40) && moved.contains(&(0x800 + 0x30)), "{moved:?}");
        let shown = watched(
            "trace 1\np0 mmap a+0x10000 100p rw- shared|fixed f0 0 -\n\
             p0 mmap a+0x900000 100p rw- shared|fixed f0 10p -\np0 store a+0x40000 0x1\np0 pwrite f0 60p 0x10 0x1",
        );
        assert!(shown.contains(&(0x900 + 0x30 - 10)), "{shown:?}");
        assert!(shown.contains(&(0x10 + 60)) && shown.contains(&(0x900 + 50)), "{shown:?}");
    }

    #[test]
    fn nothing_outside_the_arena_is_watched() {
        let all = watched("trace 1\np0 munmap a+0xfffff000 16p\np0 munmap a+0x0 0xffffffffffff0000");
        assert!(all.iter().all(|&page| page < ARENA_BYTES / PAGE), "{all:?}");
    }
}
