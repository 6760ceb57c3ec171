//! The protocol of counts, unsharing, flushes and frees under a scheduler that explores interleavings (shuttle): the
//! core's own code, on the arena, with a processor for each thread.
//!
//! A turn may end before every read or write of an entry, every look at a frame's metadata, every lock, and in every spin
//! loop. Processors keep translations for as long as they may, and answer flushes in user mode and in spin loops only.
//! Each execution ends with the judge's verdict, the arena's own audit (counts, stale translations), and the frames of
//! the beginning. Stale translations, walks through freed tables and frames reused too early fail it on the way.
//!
//! | file | cases |
//! |---|---|
//! | `exits.rs` | the last sharers drop at once; exit against fork, and against a search for a sharer |
//! | `faults.rs` | faults of threads of one mm, and of sharers, against unsharing, fork, mprotect, munmap, mremap, discard |
//! | `objects.rs` | faults and fork against truncate; the search for an object's table against its end |
//! | `huge.rs` | the same for PMD pages of hugetlb objects |
//! | `rmap.rs` | the search for a page's mappings against fork, munmap, exit and exec |
//! | `userfault.rs` | registering with userfaultfd against fork |
//! | `rules.rs` | no case: which rule of the protocol which cases are about, and what has been seen to fail them |
//! | `mistakes.rs` | the schedules find what is wrong: lost, unawaited and unanswered flushes, and a walk that forgets about answers |
//!
//! `PTSHARE_SCHEDULES=N` sets the number of executions of each case under either scheduler, `PTSHARE_SEED=N` other schedules;
//! a failure prints the schedule to replay. The order of locks is checked on the way, for each processor. Built with the feature
//! `mutants`, `PTSHARE_MUTANT=NAME` switches on a deliberate bug of the core, as `cargo xtask mutants` does: each of the rules
//! has one that some case here finds (`shared/mutants/src/list/several.rs`).
//!
//! Shuttle explores sequentially consistent interleavings of the real code. It cannot see a memory ordering that is too weak;
//! on x86, whose locked instructions are full barriers, the counts and locks here have no weaker form.

mod exits;
mod faults;
mod harness;
mod huge;
mod mistakes;
mod objects;
mod rmap;
mod rules;
mod userfault;
