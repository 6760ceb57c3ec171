//! What each rule of the verifier owes: a mutant that it kills, or a reason why there is none.

/// Rules without a mutant, and why. A rule that has one must not stand here.
pub const EXCEPTIONS: &[(&str, &str)] = &[];
