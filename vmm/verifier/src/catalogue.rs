//! The invariants that shared page tables must keep, by number, and how each is checked.
//!
//! Two lists. [`DESIGN`] is what ptshare's own design demands. [`DRAWN`] was drawn from the bugs of those who shared page
//! tables before: Linux's hugetlb PMD sharing, McCracken's patches, on-demand-fork, COW-PTE, mshare, KVM's shadow pages.
//! Rules name the numbers that they check ([`RuleInfo::design`](crate::RuleInfo::design),
//! [`RuleInfo::catalogue`](crate::RuleInfo::catalogue)); what no rule can see from outside says here who checks it.

/// Who checks an invariant besides rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// Rules do.
    Rules,
    /// Rules in part, if any name it, and this.
    Also(&'static str),
    /// It is about something that ptshare does not have.
    NotThere(&'static str),
}

/// One invariant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// Its number in its list.
    pub number: u8,
    /// What it says.
    pub says: &'static str,
    /// Who checks it.
    pub check: Check,
}

macro_rules! items {
    ($($number:literal $check:expr, $says:literal;)+) => { &[$(Item { number: $number, says: $says, check: $check },)+] };
}

use Check::{Also, NotThere, Rules};

const PROBE: Check = Also("test program `tlb_probe`, in the guest and under QEMU's emulation");
const CONTENT: Check =
    Also("programs that compare content with Linux's (`tests/programs`) and the model of `tests/model`");
const NO_SWAP: Check = NotThere("no swap");
const NO_REGIONS: Check = NotThere("no mshare regions");

/// The design's invariants.
pub const DESIGN: &[Item] = items! {
    1 Rules, "A table's refs = entries and roots that point to it, over all mms.";
    2 Rules, "A data page's refs = leaf entries + cache + holds.";
    3 Rules, "A table with refs > 1 is COW-shared (all entries that point to it R/W = 0) or an object's (its entries map its object's pages, all its VMAs have the same rights): never a mixture.";
    4 Rules, "A private page with refs > 1 is writable through no path of any mm.";
    5 Rules, "A leaf's rights are within its VMA's rights.";
    6 Rules, "No present user entry lies outside a VMA.";
    7 Rules, "No user path reaches a table, a frame-array page, kernel text or data.";
    8 Rules, "A frame is in one state: free, table, anonymous, cached, hugetlb, kernel, zero; free frames are referenced by nothing.";
    9 Rules, "Frames in all states add up to RAM: nothing leaks, after every process exit.";
    10 Rules, "hugetlb, of either size: alignment, PS bit, reservation counts.";
    11 Rules, "Tables lie at the level that their frame says.";
    12 Rules, "NX, U/S and reserved bits as VMA and level demand.";
    13 Rules, "Each vCPU's CR3 is the root of the mm that it claims to run.";
    14 Rules, "Reverse mapping = the walk.";
    15 Rules, "Sums over tables of memory = what /proc reports.";
};

/// The invariants drawn from other people's bugs. 1 to 12: any sharing; to 28: COW-shared tables; to 38: files' tables; to
/// 47: hugetlb; to 54: swap and reverse mapping; then regions like mshare's, and CPUs.
pub const DRAWN: &[Item] = items! {
    1 Rules, "Every present non-leaf entry points inside RAM to a frame in use as a table.";
    2 Rules, "A table's level is one below its parent's; no frame is a table at two levels.";
    3 Rules, "A table is never counted too low.";
    4 Rules, "A table is never counted too high.";
    5 Rules, "Every table frame is reachable from a live root.";
    6 Rules, "No cycles; a root reaches a table once, unless it is an object's and two VMAs alias.";
    7 Rules, "No user leaf maps a table, kernel memory or metadata.";
    8 Rules, "Every present leaf maps an allocated frame whose type fits the VMA.";
    9 Rules, "Reserved bits are 0, PS only where legal, large leaves aligned, frames exist.";
    10 Rules, "The kernel half is the same in all roots; U/S by half.";
    11 Rules, "Roots are not shared; data frames are not counted as tables are.";
    12 Rules, "What the guest says is shared is what its own count says.";
    13 Rules, "A COW-shared table under a writable VMA has R/W = 0 in every entry that points to it.";
    14 Rules, "The same where the VMA is not writable now.";
    15 Rules, "A private frame mapped by slots of two tables has no path with effective write.";
    16 Rules, "A COW-shared table sits at the same address in each root.";
    17 Rules, "All sharers' VMAs over a table's span agree.";
    18 Rules, "A present leaf lies inside a VMA, with no more rights than it, and not under PROT_NONE.";
    19 PROBE, "After fork returns no CPU caches a writable translation for a COW range of the parent.";
    20 PROBE, "After unshare no CPU that runs this mm walks the old table.";
    21 CONTENT, "Bytes seen by a process = the parent's image at fork + its own writes.";
    22 Rules, "The words of a shared table do not change, but for A, D and fills that serve all sharers.";
    23 CONTENT, "A populated span is never seen empty, nor replaced by an empty table.";
    24 Rules, "A frame's refs = distinct table slots that map it + cache + holds.";
    25 NotThere("no pins that outlive a system call"), "A table that holds a pinned private frame is not COW-shared.";
    26 Also("`tests/model/tests/failures`: each allocation of each operation fails once"), "A failed unshare leaves table, counts and VMAs as before, and the call says so.";
    27 Also("tests of `guest/mm` that count faults"), "With count 1 and a writable VMA, one write fault makes the path writable.";
    28 Rules, "Table bytes per mm and in all = recomputed values.";
    29 Also("test programs `shared_file_tables` and `object_unshare`"), "All sharers of a file's table read the same bytes at the same offset.";
    30 Rules, "Every sharer's VMA covers the whole span of a file's table.";
    31 Rules, "Same file, same phase of offset and address.";
    32 Rules, "Same rights; a private writable VMA never shares a file's table.";
    33 Rules, "No leaf maps an index beyond the end of the file or a punched hole.";
    34 PROBE, "After a downgrade in a shared table no CPU of any sharer caches the old right.";
    35 Also("tests of `guest/mm` on the registry; the list has no second count to compare"), "Registered sharers of a table = roots that reach it.";
    36 NotThere("no write-back: files live in memory"), "D of a dropped slot is folded into the frame before its last reference goes.";
    37 NotThere("no reclaim"), "A page locked by one sharer is never evicted through another.";
    38 Also("`tests/model/tests/unshare`, by operation and kind of mapping"), "Unsharing by drop leaves present slots to the others; the leaver's next access refaults.";
    39 Rules, "A PMD page is shared only by shared hugetlb VMAs over the whole GiB, with the same rights.";
    40 Rules, "A VMA boundary inside the GiB forbids sharing there.";
    41 Rules, "Present entries of hugetlb tables are PS = 1, aligned, over the frames of one huge page of their size.";
    42 Rules, "Huge pages are counted once a table.";
    43 NotThere("no migration, no poison"), "Migration of a huge page leaves no leaf to the old frame.";
    44 PROBE, "Unshare flushes the whole GiB before the lock is released.";
    45 Also("the schedules of `tests/model/tests/concurrency`: walker-against-free"), "Every lockless walker has left before a table is edited privately.";
    46 Rules, "A VMA with per-mm entry state does not share its table.";
    47 Also("test programs `mremap_cow` and `tlb_probe`"), "mremap: the destination has the source's content, the source is empty.";
    48 NO_SWAP, "A swap slot is not counted too low.";
    49 NO_SWAP, "A swap slot is not counted too high.";
    50 NO_SWAP, "A slot is in one state.";
    51 Rules, "The reverse map reaches every user of a frame.";
    52 Rules, "Every item of the reverse map leads to a live mm and VMA.";
    53 NotThere("no reclaim"), "An evicted frame is mapped and cached by nobody before it is used again.";
    54 NotThere("no reclaim"), "Reclaim from a shared table flushes all sharers.";
    55 NO_REGIONS, "An attached entry equals the region's own.";
    56 NO_REGIONS, "Nothing of one process alone lies below an attached entry.";
    57 NO_REGIONS, "Attachments are counted; a region's tables go with the last.";
    58 NO_REGIONS, "fork hands an attached entry on unchanged.";
    59 NO_REGIONS, "A downgrade in a region is flushed on the CPUs of all who are attached.";
    60 PROBE, "Each vCPU's CR3 is a live root; cached rights are within the tables'; no user leaf is global.";
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RuleInfo;

    fn agree(list: &[Item], numbers: fn(&RuleInfo) -> &'static [u8]) {
        for (i, item) in list.iter().enumerate() {
            assert_eq!(usize::from(item.number), i + 1);
            let checked = crate::rules().iter().any(|rule| numbers(rule).contains(&item.number));
            match item.check {
                Rules => assert!(checked, "no rule checks {}: {}", item.number, item.says),
                Also(_) => {}
                NotThere(why) => assert!(!checked, "a rule checks {}, of which is said: {why}", item.number),
            }
        }
        for number in crate::rules().iter().flat_map(numbers) {
            assert!(list.iter().any(|item| item.number == *number), "there is no invariant {number}");
        }
    }

    #[test]
    fn every_invariant_has_a_rule_or_a_reason() {
        agree(DESIGN, |rule| rule.design);
        agree(DRAWN, |rule| rule.catalogue);
    }
}
