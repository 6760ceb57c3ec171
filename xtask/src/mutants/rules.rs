//! What the judge's rules and the catalogue of invariants owe: a mutant, or a reason why there is none.

use ptshare_verifier::catalogue::{Check, DRAWN};

/// Rules without a mutant, and why. A rule that has one must not stand here.
pub const EXCEPTIONS: &[(&str, &str)] = &[(
    "kvm-translate-agrees",
    "it is about the judge's own walk: no bug of a guest breaks it, and tests of the verifier give it wrong answers",
)];

/// Invariants of the catalogue without a mutant, and why, beside those about what ptshare does not have.
pub const UNPLANTED: &[(u8, &str)] = &[
    (11, "the counts of roots and data frames are those of I4 and I24, which have mutants"),
    (
        23,
        "an entry goes from one table to the other in one store; and who finds it empty waits for `page_table_lock` before \
         adding a table, so that a window would show nothing",
    ),
    (
        44,
        "a page that is still cached is the object's as long as it is anybody's: what takes it from the object flushes every CPU",
    ),
];

/// Why an invariant has no mutant, if there is a reason.
pub fn reason(number: u8) -> Option<&'static str> {
    let not_there = DRAWN.iter().find(|item| item.number == number).and_then(|item| match item.check {
        Check::NotThere(what) => Some(what),
        _ => None,
    });
    UNPLANTED.iter().find(|unplanted| unplanted.0 == number).map(|unplanted| unplanted.1).or(not_there)
}

/// The numbers of the catalogue in a text: of `I13, CVE-2021-38198` only 13.
pub fn numbers(text: &str) -> Vec<u8> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| word.strip_prefix('I')?.parse().ok())
        .collect()
}
