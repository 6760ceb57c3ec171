//! Invariants of shared page tables, numbered I1 to I60: what the bugs of on-demand-fork, of Linux's hugetlb PMD sharing, of
//! the 2003 and 2006 patches, of copy-on-write PTE tables and of mshare broke, or could have. Each has a mutant here, or a
//! reason why it has none.

/// One invariant.
pub struct Entry {
    /// Its number.
    pub number: u8,
    /// What it says.
    pub invariant: &'static str,
    /// Why no mutant breaks it; empty if one does.
    pub absent: &'static str,
}

const fn entry(number: u8, invariant: &'static str) -> Entry {
    Entry { number, invariant, absent: "" }
}

const fn absent(number: u8, invariant: &'static str, absent: &'static str) -> Entry {
    Entry { number, invariant, absent }
}

const NO_SWAP: &str = "this kernel has no swap";
const NO_REGIONS: &str = "this kernel has no mshare-like regions";
const ONE_CPU: &str = "needs a second CPU: one CPU flushes on every switch of address spaces";

/// The catalogue.
pub static ENTRIES: &[Entry] = &[
    entry(1, "an entry above the leaves points to a live frame typed as a table"),
    entry(2, "a table hangs one level below its parent, and at one level only"),
    entry(3, "a table's count is not below the number of its parents"),
    entry(4, "nor above it"),
    entry(5, "every table is reachable or on a list of free frames"),
    entry(6, "an address space reaches a table once, unless two mappings show the same part of a file"),
    entry(7, "no user leaf maps a table, kernel memory or metadata"),
    entry(8, "a leaf maps an allocated frame of a kind that its mapping can have"),
    entry(9, "reserved bits are zero, large leaves aligned"),
    entry(10, "the kernel half is the same everywhere and out of user mode's reach"),
    absent(
        11,
        "frames that are never shared count 0 or 1",
        "covered by I3, I4 and I24: one count rule for all frames",
    ),
    entry(12, "what the kernel says about sharing agrees with the counts"),
    entry(13, "a copy-on-write table with two parents has R/W = 0 in all of them"),
    entry(14, "also where the memory cannot be written to at the time"),
    entry(15, "a private page with two leaves is writable through none"),
    entry(16, "a copy-on-write table lies at the same address for all"),
    entry(17, "its users have the same mappings over its span"),
    entry(18, "a leaf lies inside a mapping and within its rights"),
    entry(19, "after fork no CPU holds the right to write what has become shared"),
    absent(20, "after unsharing no CPU walks the old table", ONE_CPU),
    entry(21, "a process sees its image at fork and its own writes"),
    entry(22, "a shared table changes for nobody"),
    absent(23, "a populated span is never without a table at rest", ONE_CPU),
    entry(24, "a frame's count is the number of its leaves, once a table"),
    absent(25, "a table over a pinned page is not shared", "no page is pinned beyond a system call"),
    absent(
        26,
        "an unsharing that fails changes nothing",
        "checked by the core's own tests, which fail every allocation in turn",
    ),
    entry(27, "the last user's write succeeds"),
    entry(28, "numbers of pages and tables are what a walk finds"),
    entry(29, "a leaf maps the file's page for its place"),
    entry(30, "every user's mapping covers the whole span of a file's table"),
    entry(31, "at the same place in the file"),
    entry(32, "with the same rights, and never private and writable"),
    entry(33, "no leaf maps what lies beyond the end of the file"),
    entry(34, "whoever loses a right in a shared table loses it on every CPU"),
    entry(35, "the list of a file's tables names those that are in use"),
    absent(36, "a dropped leaf's dirty bit is kept", "files live in memory: nothing is written back"),
    absent(37, "a locked page is not evicted through another user", NO_SWAP),
    entry(38, "leaving a shared table leaves its entries to the others"),
    entry(39, "a PMD page is shared by equal hugetlb mappings that cover its GiB"),
    entry(40, "a mapping's border inside that GiB ends the sharing"),
    entry(41, "a huge leaf maps one whole aligned huge page"),
    entry(42, "a huge page counts once a PMD page, not once a process"),
    absent(43, "no leaf is left to a huge page that has moved", "huge pages do not move"),
    absent(44, "leaving a PMD page flushes its whole GiB", ONE_CPU),
    absent(45, "no walker is left in a table that becomes private", ONE_CPU),
    absent(
        46,
        "mappings with state of their own in their entries do not share",
        "this kernel keeps no such state",
    ),
    entry(47, "mremap moves each page by the same distance"),
    absent(48, "a swap slot counts its entries, not fewer", NO_SWAP),
    absent(49, "and not more", NO_SWAP),
    absent(50, "a swap slot is in one state", NO_SWAP),
    entry(51, "the reverse map finds every leaf"),
    entry(52, "and names nobody who is gone"),
    entry(53, "a page is reused after the flush only"),
    absent(54, "reclaim from a shared table reaches all its users", NO_SWAP),
    absent(55, "an attached region's entry is its owner's", NO_REGIONS),
    absent(56, "nothing of the process itself lies below it", NO_REGIONS),
    absent(57, "a region counts those who attach it", NO_REGIONS),
    absent(58, "fork leaves an attached region as it is", NO_REGIONS),
    entry(59, "a shootdown reaches every CPU that runs the address space"),
    entry(60, "a CPU runs a live root, and no user leaf outlives a switch"),
];

/// The numbers of the catalogue in a text: of `I13, CVE-2021-38198` only 13.
pub fn numbers(text: &str) -> Vec<u8> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| word.strip_prefix('I')?.parse().ok())
        .collect()
}
