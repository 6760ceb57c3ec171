//! What a CPU of the guest spins for, in one word of its census record: for reports of a guest that hangs.
//!
//! Bits 56 to 63 hold the rank of a lock, or [`ANSWER`]; the others the low bits of the lock's address, or the number of the
//! CPU whose answer to a TLB shootdown is missing. 0: nothing.

use core::fmt;

/// In the place of a rank: an answer.
const ANSWER: u8 = 0xff;
const SHIFT: u32 = 56;
/// What kernel addresses have in the bits that carry the rank.
const KERNEL: u64 = 0xff << SHIFT;

/// Names of the locks' ranks: the guest's lock order (`guest/sync/src/rank.rs`, which checks the list).
pub const RANKS: &[(u8, &str)] = &[
    (1, "Namespace"),
    (2, "Inode"),
    (3, "Files"),
    (4, "Pipe"),
    (5, "Ipc"),
    (6, "Tasks"),
    (7, "Signals"),
    (8, "Dentry"),
    (10, "Mmap"),
    (11, "MmapChild"),
    (12, "IMmap"),
    (13, "PageTable"),
    (14, "TablePud"),
    (15, "TablePmd"),
    (16, "TablePte"),
    (17, "TableCopy"),
    (18, "PageCache"),
    (19, "ObjectTables"),
    (20, "Futex"),
    (21, "WaitQueue"),
    (22, "RunQueue"),
    (23, "Timer"),
    (24, "Console"),
    (25, "Registry"),
    (26, "Userfault"),
    (30, "Heap"),
    (31, "Frames"),
];

/// What a CPU spins for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// A lock.
    Lock {
        /// Its place in the lock order.
        rank: u8,
        /// Its kernel-virtual address.
        address: u64,
    },
    /// Another CPU's answer to a TLB shootdown.
    Answer {
        /// Number of that CPU.
        cpu: u64,
    },
}

impl Wait {
    /// The word.
    pub const fn word(self) -> u64 {
        match self {
            Wait::Lock { rank, address } => (rank as u64) << SHIFT | address & !KERNEL,
            Wait::Answer { cpu } => (ANSWER as u64) << SHIFT | cpu,
        }
    }

    /// From the word.
    pub const fn from_word(word: u64) -> Option<Wait> {
        match (word >> SHIFT) as u8 {
            0 => None,
            ANSWER => Some(Wait::Answer { cpu: word & !KERNEL }),
            rank => Some(Wait::Lock { rank, address: word | KERNEL }),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Lock { rank, address } => {
                let name = RANKS.iter().find(|row| row.0 == *rank).map_or("unknown", |row| row.1);
                write!(f, "the {name} lock at {address:#x}")
            }
            Wait::Answer { cpu } => write!(f, "CPU {cpu} to flush its TLB"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_word_says_what_was_put_in() {
        assert_eq!(Wait::from_word(0), None);
        let lock = Wait::Lock { rank: 10, address: 0xffff_8880_0000_1040 };
        let answer = Wait::Answer { cpu: 3 };
        for (wait, text) in
            [(lock, "the Mmap lock at 0xffff888000001040"), (answer, "CPU 3 to flush its TLB")]
        {
            assert_eq!(Wait::from_word(wait.word()), Some(wait));
            assert_eq!(wait.to_string(), text);
        }
    }
}
