//! Golden texts of small guests.

use super::tree::Depth;
use super::*;
use crate::testing::{Builder, sample, sample_gib};
use ptshare_wire::vma::{VM_MAYREAD, VM_MAYWRITE, VM_READ, VM_WRITE};

const RW: u64 = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE;
const HEAP: u64 = 0x4000_0000;
const PAGE: u64 = 0x1000;
const LEAF: u64 = Pte::WRITE | Pte::NO_EXEC;

fn open(guest: crate::testing::Guest) -> Guest {
    Guest::open(guest.image, guest.census_pa, guest.vcpus).unwrap()
}

/// A process with a page in each of three PTE pages' spans, and its child, which has written to the first.
fn parent_and_child(child_writes: bool) -> Guest {
    let mut b = Builder::new();
    let parent = b.mm(1);
    b.vma(parent, HEAP, HEAP + (6 << 20), RW, 0, HEAP >> 12);
    for table in 0..3 {
        b.map_anon(parent, HEAP + (table << 21), LEAF);
    }
    b.map_anon(parent, HEAP + PAGE, LEAF);
    let child = b.fork(parent, 2);
    if child_writes {
        b.unshare(child, HEAP);
        b.cow(child, HEAP);
    }
    b.vcpu(Some(parent));
    open(b.finish())
}

#[test]
fn the_tree_shows_who_shares_what() {
    let guest = parent_and_child(true);
    assert!(guest.verdict().findings.iter().all(|f| f.rule == "cow-shared-entries-read-only"));
    let all = Depth { levels: 4, leaves: true };
    let text = guest.tree(2, all).unwrap()[0].to_string();
    assert_eq!(
        text,
        "\
pid 2 (mm slot 1): 6 tables, of which 2 shared; 20480 bytes when each is divided among its sharers
000000000000-ffffffffffff  PGD page 0x40b, 1 entry
  000000000000-007fffffffff  PUD page 0x40c, 1 entry, R/W=1
    000040000000-00007fffffff  PMD page 0x40d, 3 entries, R/W=1
      000040000000-0000401fffff  PTE page 0x40e, 2 entries, R/W=1
        000040000000-000040000fff  1 leaf, rw-, Anon
        000040001000-000040001fff  1 leaf, r--, Anon
      000040200000-0000403fffff  PTE page 0x407, 1 entry, R/W=0, 2 parents; also used by pid 1
        000040200000-000040200fff  1 leaf, r--, Anon
      000040400000-0000405fffff  PTE page 0x409, 1 entry, R/W=0, 2 parents; also used by pid 1
        000040400000-000040400fff  1 leaf, r--, Anon
"
    );
    let tables = Depth { levels: 4, leaves: false };
    let text = guest.tree(2, tables).unwrap()[0].to_string();
    assert!(
        text.ends_with("2 PTE pages from 0x407 on, each: 1 entry, R/W=0, 2 parents; also used by pid 1\n")
    );
    let root = Depth { levels: 1, leaves: false };
    assert_eq!(guest.tree(1, root).unwrap()[0].to_string().lines().count(), 2);
    let error = guest.tree(77, all).unwrap_err().to_string();
    assert_eq!(error, "no process 77 has an address space; there are 1, 2");
}

#[test]
fn sharers_and_mappers_are_named_with_their_addresses() {
    let guest = parent_and_child(true);
    let text = guest.sharers(0x407).unwrap().to_string();
    assert_eq!(
        text,
        "\
frame 0x407: PTE page, refs 2, 1 entry
  2 entries and roots point to it
  pid 1 (mm slot 0), va 0x40200000, r-x
  pid 2 (mm slot 1), va 0x40200000, r-x
"
    );
    let page = guest.walk(1, HEAP + PAGE).unwrap()[0].steps[3].frame.clone().unwrap();
    assert_eq!(
        guest.who(page.pfn).to_string(),
        format!(
            "\
frame {:#x}: Anon, refs 2, private, page 0x40001 in its VMAs, family 100
  pid 1 (mm slot 0), va 0x40001000, r--
  pid 2 (mm slot 1), va 0x40001000, r--
",
            page.pfn
        )
    );
    let shared = guest.walk(1, HEAP + (2 << 20)).unwrap()[0].steps[3].frame.clone().unwrap();
    let text = guest.who(shared.pfn).to_string();
    assert!(text.contains("va 0x40200000, r--, through PTE page 0x407, which has 2 parents"), "{text}");
    let error = guest.sharers(page.pfn).unwrap_err().to_string();
    assert!(error.contains("is no page table") && error.contains("who 0x"), "{error}");
    assert!(guest.who(0x1fff).to_string().contains("never given out\n  no process has it"));
    assert!(guest.who(u64::MAX).to_string().contains("no memory of the census"));
}

#[test]
fn a_walk_shows_each_entry() {
    let guest = parent_and_child(false);
    let text = guest.walk(2, HEAP + 2 * PAGE).unwrap()[0].to_string();
    assert!(text.contains("VMA 40000000-40600000 rw-p"), "{text}");
    assert!(text.contains("PMD[  0]") && text.contains("PTE page, refs 2, 2 entries"), "{text}");
    assert!(text.ends_with("  nothing is mapped there\n"), "{text}");
    let text = guest.walk(2, HEAP).unwrap()[0].to_string();
    assert!(text.contains("PTE[  0]") && text.ends_with("  allows     r--\n"), "{text}");
    let text = guest.walk(2, 0x7000_0000_0000).unwrap()[0].to_string();
    assert!(text.contains("no VMA") && text.contains("PGD[224]"), "{text}");
}

#[test]
fn two_moments_are_compared_by_process_and_address() {
    let (before, after) = (parent_and_child(false), parent_and_child(true));
    assert_eq!(before.diff(&before).to_string(), "no difference\n");
    let diff = before.diff(&after);
    let text = diff.to_string();
    assert!(text.contains("pid 2 (mm slot 1), va 0x40000000, PMD: pfn 0x405 P.UA...x -> pfn 0x"), "{text}");
    assert!(text.contains("frame 0x405, PTE page: refs 2 -> 1"), "{text}");
    assert!(text.contains("tables_now"), "{text}");
    assert!(diff.vmas.is_empty() && diff.new.is_empty() && diff.gone.is_empty());
    let lone = {
        let mut b = Builder::new();
        let parent = b.mm(1);
        b.vma(parent, HEAP, HEAP + (4 << 20), RW, 0, HEAP >> 12);
        open(b.finish())
    };
    let text = before.diff(&lone).to_string();
    assert!(text.contains("processes that are gone\n  pid 2 (mm slot 1)"), "{text}");
    assert!(text.contains("pid 1 (mm slot 0): - VMA 40000000-40600000"), "{text}");
    assert!(text.contains("pid 1 (mm slot 0): + VMA 40000000-40400000"), "{text}");
    assert!(text.contains("va 0x0, PGD: - pfn"), "{text}");
}

#[test]
fn the_summary_lists_processes_and_their_vmas() {
    let guest = open(sample());
    let text = guest.summary(true).to_string();
    assert!(text.contains("process pid 3 (mm slot 2)") && text.contains("cpu 1   in the kernel's own root"));
    assert!(text.contains("VMA 400000-404000 r-xp object 1 page 0x0"), "{text}");
    assert!(text.contains("5 private, 5 of objects, 512 huge"), "{text}");
    let json = serde_json::to_value(guest.summary(false)).unwrap();
    assert_eq!(json["processes"].as_array().unwrap().len(), 5);
}

#[test]
fn a_broken_census_is_an_error_that_says_what_still_works() {
    let mut guest = sample();
    guest.image.write_u64(guest.census_pa, 0);
    let error = Guest::open(guest.image, guest.census_pa, guest.vcpus).err().unwrap().to_string();
    assert!(error.contains("verdict") && error.contains("magic"), "{error}");
}

#[test]
fn every_corrupted_guest_can_be_looked_at() {
    let (small, gib) = (sample(), sample_gib());
    for corruption in crate::testing::corruptions() {
        let mut whole = &small;
        let mut guest = whole.clone();
        if !(corruption.apply)(&mut guest.image, guest.census_pa) {
            whole = &gib;
            guest = whole.clone();
            assert!((corruption.apply)(&mut guest.image, guest.census_pa), "{}", corruption.name);
        }
        let Ok(guest) = Guest::open(guest.image, guest.census_pa, guest.vcpus) else { continue };
        for pid in 1..=5 {
            if let Ok(trees) = guest.tree(pid, Depth { levels: 4, leaves: true }) {
                assert!(trees.iter().all(|tree| !tree.to_string().is_empty()));
            }
        }
        assert!(!guest.diff(&open(whole.clone())).to_string().is_empty());
    }
}
