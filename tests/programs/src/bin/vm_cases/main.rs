//! Short cases that change memory one step at a time and ask the judge after each: at the edges of tables, VMAs and files,
//! where mistakes hide. Arguments name the cases to run; without any, all that need neither huge pages nor a small machine.
//!
//! Every case works in a range of addresses of its own, so that tables of the program itself play no part.

mod change;
mod fork;
mod huge;
mod object;

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::{check, judge, process};

/// Where the cases map: nothing else lies below the same entry of the root.
const BASE: usize = 0x2000_0000_0000;

/// Slots of a PTE page that a case looks at: the first, the last, and some between.
const SLOTS: [usize; 5] = [0, 1, 255, 510, 511];

const CASES: &[(&str, fn())] = &[
    ("edges", fork::edges),
    ("fork_read_only", fork::read_only),
    ("dense", fork::dense),
    ("reverse", fork::reverse),
    ("fork_advice", fork::advice),
    ("rights", change::rights),
    ("tail", change::tail),
    ("moved", change::moved),
    ("discard", change::discard),
    ("neighbours", change::neighbours),
    ("heap", change::heap),
    ("zero", change::zero),
    ("may", object::may),
    ("object", object::object),
    ("truncate", object::truncate),
];

/// Cases that want something of the machine: little memory, userfaultfd.
const NAMED_CASES: &[(&str, fn())] = &[
    ("no_memory", change::no_memory),
    ("watched", change::watched),
    ("huge_pool", huge::pool),
    ("huge_private", huge::private),
    ("huge_pmd", huge::pmd),
    ("huge_fork", huge::fork),
];

/// Private memory of this many tables at [`BASE`].
fn private(tables: usize) -> Region {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let region = Region::try_at(BASE, tables * TABLE, RW, flags);
    check!(region.is_ok(), "mmap failed: {region:?}");
    region.unwrap_or(Region { base: 0, len: 0 })
}

/// Offsets of the pages that cases look at, in every table.
fn places(region: &Region) -> impl Iterator<Item = usize> + use<> {
    (0..region.len / TABLE).flat_map(|table| SLOTS.map(|slot| table * TABLE + slot * PAGE))
}

/// Writes each place's number plus `salt` there.
fn mark(region: &Region, salt: u32) {
    for at in places(region) {
        region.set_word(at, (at / PAGE) as u32 + salt);
    }
}

/// Ends the program unless every place but those of `except` holds what [`mark`] wrote.
fn expect_marked(who: &str, region: &Region, salt: u32, except: &[usize]) {
    for at in places(region).filter(|at| !except.contains(at)) {
        let (found, expected) = (region.word(at), (at / PAGE) as u32 + salt);
        check!(found == expected, "{who}: {found} at {at:#x}, not {expected}");
    }
}

/// How a child ends that reads this byte.
fn reads(region: &Region, at: usize) -> process::Status {
    process::in_child(|| {
        ptshare_programs::signal::default_faults();
        region.get(at);
        0
    })
}

/// How a child ends that writes this byte.
fn writes(region: &Region, at: usize) -> process::Status {
    process::in_child(|| {
        ptshare_programs::signal::default_faults();
        region.set(at, 1);
        0
    })
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let all = CASES.iter().chain(NAMED_CASES);
    for name in &names {
        check!(all.clone().any(|case| case.0 == name), "there is no case {name}");
    }
    for (name, case) in all.clone() {
        let wanted = if names.is_empty() {
            CASES.iter().any(|case| case.0 == *name)
        } else {
            names.iter().any(|n| n == name)
        };
        if wanted {
            case();
            println!("{name}: done");
            judge::answer(name);
        }
    }
}
