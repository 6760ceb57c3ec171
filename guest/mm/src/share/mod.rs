//! Sharing: one table below several entries.
//!
//! ```text
//!        mm A: PMD entry, R/W = 0 --+
//!                                   +--> PTE page, refs 2 --> pages, each counted once
//!        mm B: PMD entry, R/W = 0 --+
//! ```
//!
//! *Sharing* (fork) counts an entry more and clears R/W in both. *Unsharing* gives one mm a copy: what both tables now
//! point to is counted once more, and private writable leaves lose R/W in the copy **and in the original**, since the
//! original may become writable again when its last sharer takes it back. *Reclaiming* is that: with a count of 1, R/W
//! is set again and nothing is copied. *Detaching* drops the entry and the count, and no more (`FlushBatch`).
//!
//! Rule `sharers-agree`: all mms that share a table have the same VMAs over its span. So a read fault may fill an absent
//! entry for all of them, and any change to VMAs unshares or detaches first.
//!
//! Tables over an object's own pages need none of that: see [`object`].
//!
//! Nothing here depends on the level: an entry of a PMD page that points to a PTE page is write-protected and counted
//! like a leaf, so that whole subtrees can be shared by the same code.

mod copy;
mod dense;
mod fork;
mod object;
#[cfg(test)]
mod object_tests;
#[cfg(test)]
mod random;
mod registry;
mod reserve;
#[cfg(test)]
mod tests;
mod unshare;

pub(crate) use object::{disown, drop_object_ref, is_object_meta, is_object_table};
#[cfg(any(test, feature = "testing"))]
pub(crate) use registry::ObjectKey;
pub use registry::ObjectTables;

use copy::{copy_entries, copy_huge_flag, copy_leaf, copy_table};
use dense::{copy_dense, is_dense};
