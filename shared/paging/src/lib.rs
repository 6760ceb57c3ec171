//! x86-64 four-level paging as both sides of ptshare see it: addresses, levels, entry words.
//!
//! ```text
//!  CR3 -> PGD (level 4) -> PUD (3) -> PMD (2) -> PTE (1) -> 4 KiB page
//!         512 GiB/entry    1 GiB      2 MiB      4 KiB
//!                          or leaf    or leaf
//! ```
//!
//! A *table* is one 4 KiB page of 512 *entries*; a *leaf* is an entry that maps memory. Bit positions come from the
//! Intel SDM, volume 3A, "4-Level Paging and 5-Level Paging"; they stand in [`entry`] and nowhere else.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod entry;
pub mod level;

pub use addr::{PAGE_BYTES, PAGE_SHIFT, Pa, Pfn, USER_END, is_user_range, page_ceil, page_floor};
pub use entry::{Entry, Pte};
pub use level::{ENTRIES, Level, Slot};
