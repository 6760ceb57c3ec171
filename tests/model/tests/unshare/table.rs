//! What each operation must do, by kind of mapping.
//!
//! A cell says what becomes of a table wholly inside the range and of one partly inside: `G` gone from the operator, `O` the
//! operator has one of its own, `K` kept. (A table outside the range is always kept.) Then what the operator reads in the
//! range: what it read before (`same`), nothing (`hole`), zeros (`zero`), the file behind it (`file`), no access (`none`),
//! zeros or the file here and the content elsewhere (`left`), the content elsewhere and nothing here (`moved`), zeros for
//! everyone (`wiped`), what stands a span further on in the file (`next`). Or the error that leaves all as it was; or `-` where the operation means nothing.
//!
//! Where fork has not shared the tables (private huge pages without tree sharing) there is nothing to copy: read `K` for `O`.

use crate::operations::*;

/// A row.
pub struct Row {
    pub name: &'static str,
    pub run: Operation,
    /// The ranges on which it is tried, of small and of huge pages.
    pub ranges: (&'static str, &'static str),
    /// Private memory, private file mapping, shared file mapping, private read-only file mapping; shared huge pages, private
    /// huge pages.
    pub cells: [&'static str; 6],
}

const ALL: (&str, &str) = ("ABCDEF", "ACDEF");
/// Without the whole mapping.
const PARTS: (&str, &str) = ("ABCDE", "ACDE");
/// The whole mapping.
const WHOLE: (&str, &str) = ("F", "F");
/// Of huge pages one only: there are not enough to populate more.
const FILLS: (&str, &str) = ("ABCDEF", "D");

const fn row(
    name: &'static str,
    run: Operation,
    ranges: (&'static str, &'static str),
    cells: [&'static str; 6],
) -> Row {
    Row { name, run, ranges, cells }
}

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    //   operation                          ranges        private    private    shared     read-only  shared     private
    //                                                    memory     file       file       file       huge       huge
    row("nothing", nothing,                 ALL,   ["KK same",  "KK same",  "KK same",  "KK same",  "KK same",  "KK same"]),
    row("munmap", munmap,                   ALL,   ["GO hole",  "GO hole",  "GG hole",  "GG hole",  "GG hole",  "GO hole"]),
    row("mmap over", map_anonymous,         ALL,   ["GO zero",  "GO zero",  "GG zero",  "GG zero",  "GG zero",  "GO zero"]),
    row("mmap of shared memory", map_shared, ALL,  ["GO zero",  "GO zero",  "GG zero",  "GG zero",  "GG zero",  "GO zero"]),
    row("mmap(POPULATE)", map_populated,    ALL,   ["OO zero",  "OO zero",  "OO zero",  "OO zero",  "-",        "-"]),
    row("mmap of the file", map_file_again, ALL,   ["-",        "GO file",  "GG same",  "GG same",  "-",        "-"]),
    row("mprotect(NONE)", protect_none,     ALL,   ["OO none",  "OO none",  "GG none",  "GG none",  "GG none",  "OO none"]),
    row("mprotect(READ)", protect_read,     ALL,   ["OO same",  "OO same",  "GG same",  "KK same",  "GG same",  "OO same"]),
    row("mprotect(EXEC)", protect_exec,     ALL,   ["OO same",  "OO same",  "GG same",  "GG same",  "GG same",  "OO same"]),
    row("mprotect(RW)", protect_write,      ALL,   ["KK same",  "KK same",  "KK same",  "GG same",  "KK same",  "KK same"]),
    row("mprotect and back", protect_and_back, ALL, ["OO same", "OO same",  "GG same",  "GG same",  "GG same",  "OO same"]),
    row("mremap shrinks", remap_shrink,     PARTS, ["GO hole",  "GO hole",  "GG hole",  "GG hole",  "GG hole",  "GO hole"]),
    row("mremap grows, moving", remap_grow, PARTS, ["GO moved", "GO moved", "GG moved", "GG moved", "EINVAL",   "EINVAL"]),
    row("mremap grows in place", remap_grow, WHOLE, ["KK same", "KK same",  "KK same",  "KK same",  "EINVAL",   "EINVAL"]),
    row("mremap moves", remap_move,         ALL,   ["GO moved", "GO moved", "GG moved", "GG moved", "GG moved", "GO moved"]),
    row("mremap moves out of step", remap_move_out_of_step, ALL,
                                                   ["GO moved", "GO moved", "GG moved", "GG moved", "GG moved", "GO moved"]),
    row("mremap moves over a mapping", remap_move_over, ALL,
                                                   ["GO moved", "GO moved", "GG moved", "GG moved", "GG moved", "GO moved"]),
    row("mremap(DONTUNMAP)", remap_leave,   ALL,   ["GO left",  "GO left",  "GG left",  "GG left",  "EINVAL",   "EINVAL"]),
    row("mremap(old length 0)", remap_again, ALL,  ["EINVAL",   "EINVAL",   "KK same",  "EINVAL",   "EINVAL",   "EINVAL"]),
    // What it maps, it populates: from the tables that the others have.
    row("remap_file_pages", remap_pages, ("ABCDEF", ""),
                                                   ["EINVAL",   "EINVAL",   "KK same",  "EINVAL",   "-",        "-"]),
    row("remap_file_pages further on", remap_pages_on, ("ABCDE", ""),
                                                   ["EINVAL",   "EINVAL",   "OO next",  "EINVAL",   "-",        "-"]),
    row("MADV_DONTNEED", dont_need,         ALL,   ["GO zero",  "GO file",  "GG same",  "GG same",  "GG same",  "GO zero"]),
    row("MADV_DONTNEED_LOCKED", dont_need_locked, ALL,
                                                   ["GO zero",  "GO file",  "GG same",  "GG same",  "GG same",  "GO zero"]),
    row("MADV_FREE", free,                  ALL,   ["GO zero",  "EINVAL",   "EINVAL",   "EINVAL",   "EINVAL",   "EINVAL"]),
    row("MADV_REMOVE", remove,              ALL,   ["EINVAL",   "EACCES",   "KK wiped", "EACCES",   "KK wiped", "EACCES"]),
    row("MADV_POPULATE_READ", populate_read, FILLS, ["KK same", "KK same",  "KK same",  "KK same",  "KK same",  "KK same"]),
    row("MADV_POPULATE_WRITE", populate_write, FILLS, ["OO same", "OO same", "KK same", "EINVAL",   "KK same",  "OO same"]),
    row("MADV_DONTFORK", dont_fork,         ALL,   ["OO same",  "OO same",  "GG same",  "GG same",  "GG same",  "OO same"]),
    row("MADV_DOFORK", do_fork,             ALL,   ["KK same",  "KK same",  "KK same",  "KK same",  "KK same",  "KK same"]),
    row("MADV_WIPEONFORK", wipe_on_fork,    ALL,   ["OO same",  "EINVAL",   "EINVAL",   "EINVAL",   "EINVAL",   "EINVAL"]),
    row("MADV_SEQUENTIAL", sequential,      ALL,   ["KK same",  "KK same",  "KG same",  "KG same",  "KG same",  "KO same"]),
    row("MADV_DONTDUMP", dont_dump,         ALL,   ["KK same",  "KK same",  "KG same",  "KG same",  "KG same",  "KO same"]),
    row("MADV_RANDOM", random,              ALL,   ["KK same",  "KK same",  "KG same",  "KG same",  "KG same",  "KO same"]),
    row("MADV_WILLNEED", will_need,         ALL,   ["KK same",  "KK same",  "KK same",  "KK same",  "KK same",  "KK same"]),
    row("MADV_COLD", cold,                  ALL,   ["KK same",  "KK same",  "KK same",  "KK same",  "EINVAL",   "EINVAL"]),
    row("mlock", lock,                      FILLS, ["OO same",  "OO same",  "KO same",  "KO same",  "KK same",  "OO same"]),
    row("mlock2(ONFAULT)", lock_on_fault,   FILLS, ["KK same",  "KK same",  "KG same",  "KG same",  "KK same",  "OO same"]),
    row("munlock", unlock,                  FILLS, ["KK same",  "KK same",  "KG same",  "KG same",  "-",        "-"]),
    row("mlockall(ONFAULT)", lock_all,      WHOLE, ["KK same",  "KK same",  "KK same",  "KK same",  "KK same",  "KK same"]),
    row("msync", sync,                      ALL,   ["KK same",  "KK same",  "KK same",  "KK same",  "KK same",  "KK same"]),
    row("a store", store,                   ("D", "D"), ["-O same", "-O same", "-K same", "EFAULT", "-K same",  "-O same"]),
    row("fork", fork,                       ALL,   ["KK same",  "KK same",  "KK same",  "KK same",  "KK same",  "KK same"]),
    row("shmdt", munmap,                    WHOLE, ["-",        "-",        "GG hole",  "-",        "GG hole",  "-"]),
    row("exec", exec,                       WHOLE, ["GG hole",  "GG hole",  "GG hole",  "GG hole",  "GG hole",  "GG hole"]),
];
