//! Numbers with names. A word is names joined with `|`, and a hexadecimal rest for what has no name; no bits are `0`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ptshare_abi::sys::general as abi;

/// A table: the numbers of one kind of argument. In a table of `bits` names are combined, in others one stands alone.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Names are combined.
    pub bits: bool,
    /// Name and number.
    pub names: &'static [(&'static str, u64)],
}

const fn bits(names: &'static [(&'static str, u64)]) -> Table {
    Table { bits: true, names }
}

const fn one(names: &'static [(&'static str, u64)]) -> Table {
    Table { bits: false, names }
}

/// The tables, in the order of the indices in [`crate::Kind::Flags`].
pub const TABLES: &[Table] = &[
    // `droppable` is 8; `validate` is shared and private together.
    bits(&[
        ("validate", abi::MAP_SHARED_VALIDATE as u64),
        ("shared", abi::MAP_SHARED as u64),
        ("private", abi::MAP_PRIVATE as u64),
        ("droppable", abi::MAP_DROPPABLE as u64),
        ("fixed", abi::MAP_FIXED as u64),
        ("anon", abi::MAP_ANONYMOUS as u64),
        ("32bit", abi::MAP_32BIT as u64),
        ("growsdown", abi::MAP_GROWSDOWN as u64),
        ("locked", abi::MAP_LOCKED as u64),
        ("noreserve", abi::MAP_NORESERVE as u64),
        ("populate", abi::MAP_POPULATE as u64),
        ("nonblock", abi::MAP_NONBLOCK as u64),
        ("stack", abi::MAP_STACK as u64),
        ("hugetlb", abi::MAP_HUGETLB as u64),
        ("sync", abi::MAP_SYNC as u64),
        ("noreplace", abi::MAP_FIXED_NOREPLACE as u64),
    ]),
    bits(&[
        ("maymove", abi::MREMAP_MAYMOVE as u64),
        ("fixed", abi::MREMAP_FIXED as u64),
        ("dontunmap", abi::MREMAP_DONTUNMAP as u64),
    ]),
    one(&[
        ("normal", abi::MADV_NORMAL as u64),
        ("random", abi::MADV_RANDOM as u64),
        ("sequential", abi::MADV_SEQUENTIAL as u64),
        ("willneed", abi::MADV_WILLNEED as u64),
        ("dontneed", abi::MADV_DONTNEED as u64),
        ("free", abi::MADV_FREE as u64),
        ("remove", abi::MADV_REMOVE as u64),
        ("dontfork", abi::MADV_DONTFORK as u64),
        ("dofork", abi::MADV_DOFORK as u64),
        ("mergeable", abi::MADV_MERGEABLE as u64),
        ("unmergeable", abi::MADV_UNMERGEABLE as u64),
        ("hugepage", abi::MADV_HUGEPAGE as u64),
        ("nohugepage", abi::MADV_NOHUGEPAGE as u64),
        ("dontdump", abi::MADV_DONTDUMP as u64),
        ("dodump", abi::MADV_DODUMP as u64),
        ("wipeonfork", abi::MADV_WIPEONFORK as u64),
        ("keeponfork", abi::MADV_KEEPONFORK as u64),
        ("cold", abi::MADV_COLD as u64),
        ("pageout", abi::MADV_PAGEOUT as u64),
        ("populate_read", abi::MADV_POPULATE_READ as u64),
        ("populate_write", abi::MADV_POPULATE_WRITE as u64),
        ("dontneed_locked", abi::MADV_DONTNEED_LOCKED as u64),
    ]),
    bits(&[
        ("async", abi::MS_ASYNC as u64),
        ("invalidate", abi::MS_INVALIDATE as u64),
        ("sync", abi::MS_SYNC as u64),
    ]),
    bits(&[("onfault", abi::MLOCK_ONFAULT as u64)]),
    bits(&[
        ("current", abi::MCL_CURRENT as u64),
        ("future", abi::MCL_FUTURE as u64),
        ("onfault", abi::MCL_ONFAULT as u64),
    ]),
    bits(&[
        ("cloexec", abi::MFD_CLOEXEC as u64),
        ("sealing", abi::MFD_ALLOW_SEALING as u64),
        ("hugetlb", abi::MFD_HUGETLB as u64),
    ]),
    one(&[("rdonly", abi::O_RDONLY as u64), ("wronly", abi::O_WRONLY as u64), ("rdwr", abi::O_RDWR as u64)]),
    bits(&[
        ("keep", abi::FALLOC_FL_KEEP_SIZE as u64),
        ("punch", abi::FALLOC_FL_PUNCH_HOLE as u64),
        ("zero", abi::FALLOC_FL_ZERO_RANGE as u64),
    ]),
    one(&[
        ("set", abi::SEEK_SET as u64),
        ("cur", abi::SEEK_CUR as u64),
        ("end", abi::SEEK_END as u64),
        ("data", abi::SEEK_DATA as u64),
        ("hole", abi::SEEK_HOLE as u64),
    ]),
    // include/uapi/linux/shm.h
    bits(&[("huge", 0o4000), ("noreserve", 0o10000)]),
    bits(&[("rdonly", 0o10000), ("rnd", 0o20000), ("remap", 0o40000), ("exec", 0o100_000)]),
];

/// The number as text.
pub fn print(table: &Table, word: u64) -> String {
    if !table.bits {
        let name = table.names.iter().find(|name| name.1 == word);
        return name.map_or_else(|| format!("{word:#x}"), |name| name.0.into());
    }
    let mut parts = Vec::new();
    let mut rest = word;
    for &(name, value) in table.names {
        if value != 0 && rest & value == value {
            parts.push(String::from(name));
            rest &= !value;
        }
    }
    if rest != 0 {
        parts.push(format!("{rest:#x}"));
    }
    if parts.is_empty() { "0".into() } else { parts.join("|") }
}

/// The text as a number; `None` if a part of it is neither a name nor a number.
pub fn parse(table: &Table, text: &str) -> Option<u64> {
    text.split('|').try_fold(0, |word, part| {
        let named = table.names.iter().find(|name| name.0 == part).map(|name| name.1);
        Some(word | named.or_else(|| number(part))?)
    })
}

/// A decimal or hexadecimal number.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
