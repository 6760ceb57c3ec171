//! Differences that are known and meant, each as narrow as it can be told. docs/FUZZ.md has a section for each.

use ptshare_trace::names::number;
use ptshare_trace::{Call, Op, Trace};

const EINVAL: u64 = 22_u64.wrapping_neg();
const EFAULT: u64 = 14_u64.wrapping_neg();

/// A known difference.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name, which is the title of its section in docs/FUZZ.md.
    pub name: &'static str,
    /// Whether it explains that an operation (with those before it) gave one result on Linux and another in the guest.
    explains: fn(&[Op], &Op, &[u64], &[u64]) -> bool,
    /// What comes after it in the trace cannot be compared.
    pub last: bool,
}

/// All of them.
pub const KNOWN: &[Known] = &[
    Known {
        name: "zero pages of a parent are seen by mincore in the child",
        explains: zero_pages_after_fork,
        last: false,
    },
    Known { name: "pages of fallocate are data", explains: allocated_is_data, last: false },
    Known { name: "attachments that were cut merge again", explains: attachments_merge, last: false },
    Known {
        name: "advice on merging and on transparent huge pages is refused",
        explains: not_configured,
        last: false,
    },
    Known { name: "pieces that were cut merge again before mremap", explains: pieces_merge, last: true },
];

/// Why two lines of reports about one operation differ; `None` if nobody knows.
pub fn reason(trace: &Trace, linux: Option<&String>, guest: Option<&String>) -> Option<&'static Known> {
    let (at, linux) = numbers(linux?)?;
    let (same, guest) = numbers(guest?)?;
    let (op, before) = trace.ops.get(..=at)?.split_last()?;
    KNOWN.iter().find(|known| at == same && (known.explains)(before, op, &linux, &guest))
}

/// The number of an operation, and its result and extra word. An error is negative; what is no number is `u64::MAX`.
fn numbers(line: &str) -> Option<(usize, Vec<u64>)> {
    let mut words = line.split_whitespace();
    let at = words.next()?.parse().ok()?;
    let error = |word: &str| word.strip_prefix('E').and_then(number).map(u64::wrapping_neg);
    Some((at, words.map(|word| number(word).or_else(|| error(word)).unwrap_or(u64::MAX)).collect()))
}

/// fork copies no page tables of a mapping whose pages were only read (`vma_needs_copy`, mm/memory.c); sharing a table
/// shares its zero pages, whoever brought them in.
fn zero_pages_after_fork(before: &[Op], op: &Op, linux: &[u64], guest: &[u64]) -> bool {
    let forked = before.iter().any(|op| op.call == Call::Fork);
    op.call == Call::Mincore && forked && sees_more(linux, guest)
}

/// tmpfs tells pages that fallocate made from such that were written since (`folio_test_uptodate`, mm/shmem.c); here a page
/// that is there is data.
fn allocated_is_data(before: &[Op], op: &Op, linux: &[u64], guest: &[u64]) -> bool {
    const PUNCH: u64 = 2;
    const DATA: u64 = 3;
    let allocated = before.iter().any(|op| op.call == Call::Fallocate && op.args[1] & PUNCH == 0);
    match op.call {
        Call::Seek => allocated && op.args[2] >= DATA,
        Call::Mincore => allocated && sees_more(linux, guest),
        _ => false,
    }
}

/// Whether mincore saw the pages that it saw on Linux, and others.
fn sees_more(linux: &[u64], guest: &[u64]) -> bool {
    match (linux, guest) {
        // The first bit marks the length.
        ([0, linux], [0, guest]) => linux.leading_zeros() == guest.leading_zeros() && linux & !guest == 0,
        _ => false,
    }
}

/// Linux counts the VMAs of a segment, and cannot merge them once they are split, for they have a `close` (`shm_vm_ops`); here
/// they merge like others.
fn attachments_merge(before: &[Op], op: &Op, linux: &[u64], guest: &[u64]) -> bool {
    const SIZE: u64 = (1 << 48) - 1;
    let cuts = [
        Call::Mprotect,
        Call::Madvise,
        Call::Mlock,
        Call::Mlock2,
        Call::Munlock,
        Call::Mlockall,
        Call::Munlockall,
        Call::Mremap,
    ];
    match (linux, guest) {
        ([0, linux], [0, guest]) if op.call == Call::Shmstat => {
            linux & SIZE == guest & SIZE && linux >= guest && before.iter().any(|op| cuts.contains(&op.call))
        }
        _ => false,
    }
}

/// madvise knows advice only of what the kernel is configured with (`madvise_behavior_valid`); the guest has neither KSM nor
/// transparent huge pages.
fn not_configured(_: &[Op], op: &Op, _: &[u64], guest: &[u64]) -> bool {
    // MADV_MERGEABLE to MADV_NOHUGEPAGE.
    op.call == Call::Madvise && (12..=15).contains(&op.args[2]) && guest == [EINVAL]
}

/// Two neighbours that are alike merge here. On Linux they do not if each got an `anon_vma` of its own by a fault, or if they have
/// a `close`; then mremap to another length, or to a place of the kernel's choice, meets the end of a VMA.
fn pieces_merge(before: &[Op], op: &Op, linux: &[u64], guest: &[u64]) -> bool {
    const ENOMEM: u64 = 12_u64.wrapping_neg();
    // Or finds no room behind the longer VMA, or that what is to be cut off reaches beyond user memory.
    const USER_END: u64 = 1 << 47;
    let cut_off = op.args[1] > op.args[2] && op.args[1] >= USER_END;
    let goes_on = guest == [ENOMEM]
        || cut_off && guest == [EINVAL]
        || guest.first().is_some_and(|&r| r == u64::MAX || r < 1 << 63);
    // A move to a fixed place that keeps its length takes all VMAs of the range, but segments go alone.
    const FIXED: u64 = 2;
    let attached = before.iter().any(|op| op.call == Call::Shmat);
    let one_vma = op.args[1] != op.args[2] || op.args[3] & FIXED == 0 || attached;
    op.call == Call::Mremap && one_vma && linux == [EFAULT] && goes_on
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptshare_trace::text::parse_all;

    fn explained(trace: &str, linux: &str, guest: &str) -> bool {
        let trace = parse_all(trace).unwrap().remove(0);
        reason(&trace, Some(&linux.into()), Some(&guest.into())).is_some()
    }

    #[test]
    fn mincore_may_see_more_after_a_fork_and_never_less() {
        let forked = "trace 1\np0 fork p1\np1 mincore a+0x0 2p";
        assert!(explained(forked, "1 0x0 0x4", "1 0x0 0x6"));
        assert!(!explained(forked, "1 0x0 0x6", "1 0x0 0x4"));
        assert!(!explained(forked, "1 0x0 0x5", "1 0x0 0x6"));
        assert!(!explained(forked, "1 0x0 0x4", "1 0x0 0xc"));
        assert!(!explained(forked, "1 E12", "1 0x0 0x6"));
        assert!(!explained("trace 1\np0 maps\np0 mincore a+0x0 2p", "1 0x0 0x4", "1 0x0 0x6"));
    }

    #[test]
    fn holes_differ_only_after_fallocate() {
        let seek = |mode: &str| format!("trace 1\np0 fallocate f0 {mode} 0x0 1p\np0 seek f0 0x0 hole");
        assert!(explained(&seek("0"), "1 0x0", "1 0x1000"));
        assert!(explained(&seek("keep"), "1 0x0", "1 0x1000"));
        assert!(!explained(&seek("keep|punch"), "1 0x0", "1 0x1000"));
        assert!(!explained("trace 1\np0 fallocate f0 0 0x0 1p\np0 seek f0 0x0 end", "1 0x0", "1 0x1000"));
    }

    #[test]
    fn attachments_may_be_fewer_when_they_were_cut() {
        let cut = "trace 1\np0 mprotect a+0x0 1p r--\np0 shmstat s0";
        assert!(explained(cut, "1 0x0 0x3000000001000", "1 0x0 0x2000000001000"));
        assert!(!explained(cut, "1 0x0 0x2000000001000", "1 0x0 0x3000000001000"));
        assert!(!explained(cut, "1 0x0 0x3000000001000", "1 0x0 0x2000000002000"));
        assert!(!explained(
            "trace 1\np0 maps\np0 shmstat s0",
            "1 0x0 0x3000000001000",
            "1 0x0 0x2000000001000"
        ));
    }

    #[test]
    fn pages_of_fallocate_are_seen_by_mincore() {
        let mincore = |mode: &str| format!("trace 1\np0 fallocate f0 {mode} 0x0 1p\np0 mincore a+0x0 1p");
        assert!(explained(&mincore("0"), "1 0x0 0x2", "1 0x0 0x3"));
        assert!(!explained(&mincore("0"), "1 0x0 0x3", "1 0x0 0x2"));
        assert!(!explained(&mincore("keep|punch"), "1 0x0 0x2", "1 0x0 0x3"));
    }

    #[test]
    fn only_a_change_of_length_may_meet_an_end_that_is_not_there() {
        let remap = |to: &str| format!("trace 1\np0 mremap h0+0x0 3p {to} maymove|fixed a+0x80203000 -");
        assert!(explained(&remap("4p"), "0 E14", "0 a+0x80203000"));
        assert!(!explained(&remap("3p"), "0 E14", "0 a+0x80203000"));
        let segment = "trace 1\np0 shmat s0 a+0x0 0 -\np0 mremap a+0x0 3p 3p maymove|fixed a+0x80203000 -";
        assert!(explained(segment, "1 E14", "1 a+0x80203000"));
        assert!(!explained(&remap("4p"), "0 E14", "0 E22"));
        let wraps = "trace 1\np0 mremap h0+0x0 0xfffffffffffcd000 3p maymove|fixed a+0x80203000 -";
        assert!(explained(wraps, "0 E14", "0 E22"));
        assert!(!explained(wraps, "0 E22", "0 E14"));
        assert!(!explained(&remap("4p"), "0 a+0x80203000", "0 E14"));
    }

    #[test]
    fn only_advice_on_what_is_not_there_is_refused() {
        let advise = |advice: &str| format!("trace 1\np0 madvise a+0x0 1p {advice}");
        assert!(explained(&advise("nohugepage"), "0 0x0", "0 E22"));
        assert!(explained(&advise("mergeable"), "0 E12", "0 E22"));
        assert!(!explained(&advise("mergeable"), "0 E22", "0 0x0"));
        assert!(!explained(&advise("dontneed"), "0 0x0", "0 E22"));
    }

    #[test]
    fn each_is_described() {
        let document = std::fs::read_to_string(crate::paths::root().join("docs/FUZZ.md")).unwrap();
        for known in KNOWN {
            assert!(
                document.contains(&format!("### {}\n", known.name)),
                "{} is not in docs/FUZZ.md",
                known.name
            );
        }
    }
}
