//! Which process loses which table by which operation: a table of expectations ([`table::ROWS`]), tried on every kind of
//! mapping, on ranges that are and are not aligned to tables, with 2, 3 and 17 sharers.
//!
//! In each cell one sharer (the operator) does the operation to a range of a mapping whose tables it shares with all the
//! others. Then: each table of the operator is what the row says (kept, copied, gone); each of the others has the very tables
//! that it had, and reads every page as before without a fault; the operator reads what the row says inside the range and
//! what was there outside it; the judge finds nothing; and when the operator has exited all counts are what they were before
//! it came.

mod cell;
mod family;
mod operations;
mod table;

use cell::try_cell;
use family::{Family, Kind};
use table::{ROWS, Row};

const SHARERS: [usize; 3] = [2, 3, 17];

/// All rows for one kind of mapping. Gives the number of cells.
fn all_rows(kind: Kind) -> usize {
    let mut cells = 0;
    for sharers in SHARERS {
        let mut family = Family::new(kind, sharers);
        for row in ROWS {
            for range in kind.ranges() {
                cells += usize::from(try_cell(&mut family, row, range));
            }
        }
        family.end();
    }
    println!("{kind:?}: {cells} cells");
    cells
}

#[test]
fn private_memory_shared_by_fork() {
    assert!(all_rows(Kind::Anonymous { tree: false }) >= 680);
    assert!(all_rows(Kind::Anonymous { tree: true }) >= 680);
}

#[test]
fn private_mappings_of_files_shared_by_fork() {
    assert!(all_rows(Kind::PrivateFile { tree: false }) >= 680);
    assert!(all_rows(Kind::PrivateFile { tree: true }) >= 680);
}

#[test]
fn shared_mappings_of_files() {
    assert!(all_rows(Kind::SharedFile { forked: false }) >= 680);
    assert!(all_rows(Kind::SharedFile { forked: true }) >= 680);
}

#[test]
fn read_only_private_mappings_of_files() {
    assert!(all_rows(Kind::Code) >= 680);
}

#[test]
fn shared_huge_pages() {
    assert!(all_rows(Kind::HugeShared) >= 465);
}

#[test]
fn private_huge_pages() {
    assert!(all_rows(Kind::HugePrivate { tree: false }) >= 465);
    assert!(all_rows(Kind::HugePrivate { tree: true }) >= 465);
}

#[test]
fn every_operation_has_a_row_of_its_own() {
    let mut names: Vec<&str> = ROWS.iter().map(|row: &Row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
}
