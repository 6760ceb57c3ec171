//! One cell: an operator joins, operates, is looked at with all the others, and exits.

use crate::family::{Family, Kind, Range, SPAN};
use crate::operations::Call;
use crate::table::Row;
use ptshare_mm::FaultOutcome;
use ptshare_paging::Pfn;

/// What a row says of the tables of a kind, in a range.
fn expectation(kind: Kind, row: &Row, range: &Range) -> Option<&'static str> {
    let ranges = if kind.is_huge() { row.ranges.1 } else { row.ranges.0 };
    let column = match kind {
        Kind::Anonymous { .. } => 0,
        Kind::PrivateFile { .. } => 1,
        Kind::SharedFile { .. } => 2,
        Kind::Code => 3,
        Kind::HugeShared => 4,
        Kind::HugePrivate { .. } => 5,
    };
    let cell = row.cells[column];
    (ranges.contains(range.name) && cell != "-").then_some(cell)
}

/// The fate of a table at this place (`O`, `W`, `P`) in the range.
fn fate(kind: Kind, cell: &str, place: u8) -> u8 {
    let fate = match (place, cell.starts_with('E')) {
        (b'O', _) | (_, true) => b'K',
        (b'W', _) => cell.as_bytes()[0],
        _ => cell.as_bytes()[1],
    };
    if fate == b'O' && !kind.has_shared_tables() { b'K' } else { fate }
}

/// Tries a cell; `false` if there is nothing to try.
pub fn try_cell(family: &mut Family, row: &Row, range: &Range) -> bool {
    let kind = family.kind;
    let Some(cell) = expectation(kind, row, range) else { return false };
    let what = format!("{} of range {} of {kind:?} with {} sharers", row.name, range.name, family.sharers);
    let counts = family.counts();
    let before: Vec<Vec<Option<Pfn>>> = family.others.iter().map(|&other| family.tables(other)).collect();
    let operator = family.join();
    if kind.has_shared_tables() {
        // One set of tables for all.
        assert!(before[0].iter().all(Option::is_some), "{what}");
        for tables in before.iter().chain([&family.tables(operator)]) {
            assert_eq!(*tables, before[0], "{what}");
        }
    }
    let had = family.tables(operator);
    operate(family, row, range, operator, cell, &what, |family, moved_to| {
        family.check_books(&what);
        for ((place, had), now) in range.tables.bytes().zip(had).zip(family.tables(operator)) {
            let found = match now {
                None => b'G',
                _ if now == had => b'K',
                Some(_) => b'O',
            };
            let wanted = fate(kind, cell, place);
            assert_eq!(
                char::from(found),
                char::from(wanted),
                "a table that lies {:?}: {what}",
                char::from(place)
            );
        }
        for (&other, tables) in family.others.iter().zip(&before) {
            assert_eq!(family.tables(other), *tables, "tables of another sharer: {what}");
            check_other(family, range, other, cell, &what);
        }
        check_operator(family, range, operator, cell, moved_to, &what);
        family.check_books(&what);
    });
    family.kernel.exit(operator.0);
    if cell.ends_with("wiped") {
        family.fill_file();
        let (pid, at) = family.others[0];
        family.fill(pid, at);
        for &(pid, at) in &family.others.clone() {
            for page in family.kind.pages() {
                family.kernel.load(pid, at + page).expect("it is mapped");
            }
        }
    }
    assert_eq!(family.counts(), counts, "counts after the exit: {what}");
    family.check_books(&what);
    true
}

fn operate(
    family: &mut Family,
    row: &Row,
    range: &Range,
    (pid, base): (u32, u64),
    cell: &str,
    what: &str,
    check: impl FnOnce(&mut Family, u64),
) {
    let mut call = Call {
        pid,
        start: base + range.start,
        end: base + range.end,
        base,
        whole: family.kind.len(),
        unit: family.kind.unit(),
        target: base + 2 * family.kind.len() + range.start,
        file: (0, range.start),
        kernel: &mut family.kernel,
    };
    let outcome = (row.run)(&mut call);
    let moved_to = match outcome {
        Ok(to) => to,
        Err(errno) => {
            assert_eq!(cell, errno.name(), "{what}");
            0
        }
    };
    assert_eq!(cell.starts_with('E'), outcome.is_err(), "{what}");
    check(family, moved_to);
}

/// Another sharer reads everything as before, with no fault.
fn check_other(family: &Family, range: &Range, (pid, at): (u32, u64), cell: &str, what: &str) {
    let mm = family.kernel.mm(pid);
    for page in family.kind.pages() {
        let wiped = cell.ends_with("wiped") && (range.start..range.end).contains(&page);
        if wiped {
            assert_eq!(family.kernel.load(pid, at + page), Ok(0), "{page:#x} of another sharer: {what}");
            continue;
        }
        let Some(frame) = mm.translate(at + page, false) else {
            panic!("another sharer has lost {page:#x}: {what}");
        };
        let word = family.kernel.arena().word(frame, 0);
        assert_eq!(word, family.kind.word(page), "{page:#x} of another sharer: {what}");
    }
}

/// The operator reads what the cell says.
fn check_operator(
    family: &Family,
    range: &Range,
    (pid, at): (u32, u64),
    cell: &str,
    moved_to: u64,
    what: &str,
) {
    let kind = family.kind;
    let after = cell.split(' ').nth(1).unwrap_or("same");
    let of_file = |page| if matches!(kind, Kind::Anonymous { .. }) { 0 } else { Kind::word_of_file(page) };
    for page in kind.pages() {
        let inside = (range.start..range.end).contains(&page);
        let same = Ok(kind.word(page));
        let wanted = match after {
            _ if !inside => same,
            "same" => same,
            "hole" | "moved" => Err(FaultOutcome::SegvMapErr),
            "zero" | "wiped" => Ok(0),
            "file" | "left" => Ok(of_file(page)),
            "next" => Ok(Kind::word_of_file(page + SPAN)),
            "none" => Err(FaultOutcome::SegvAccErr),
            other => panic!("the table says {other:?}"),
        };
        assert_eq!(family.kernel.load(pid, at + page), wanted, "{page:#x} of the operator: {what}");
        if inside && matches!(after, "moved" | "left") {
            let there = moved_to + (page - range.start);
            assert_eq!(family.kernel.load(pid, there), same, "{page:#x} of the operator, moved: {what}");
        }
    }
}
