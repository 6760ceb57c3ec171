//! The list, one file a subject. A mutant's static is its name in upper case, and stands in the guest's code as
//! `mutant!(NAME)`.

mod change;
mod count;
mod fork;
mod huge;
mod object;
mod several;
mod stale;
mod unshare;

use crate::Mutant;
pub use change::*;
pub use count::*;
pub use fork::*;
pub use huge::*;
pub use object::*;
pub use several::*;
pub use stale::*;
pub use unshare::*;

/// Mutants of one subject.
#[derive(Debug)]
pub struct Group {
    /// The subject.
    pub title: &'static str,
    /// Its mutants.
    pub mutants: &'static [&'static Mutant],
}

/// Every group, in the order of the documents.
pub static GROUPS: [&Group; 8] = [
    &fork::GROUP,
    &unshare::GROUP,
    &count::GROUP,
    &change::GROUP,
    &object::GROUP,
    &huge::GROUP,
    &stale::GROUP,
    &several::GROUP,
];

/// Defines the mutants of a file, and its group.
macro_rules! group {
    ($title:literal: $($id:ident = $name:literal, $what:literal, imitates $imitates:literal,
      killed by $rule:literal in [$($boot:ident: $($program:literal),+);+] $($ci:ident)?;)+) => {
        $(
            #[doc = $what]
            pub static $id: Mutant = Mutant {
                name: $name,
                what: $what,
                imitates: $imitates,
                rule: $rule,
                runs: &[$((crate::Boot::$boot, &[$($program),+])),+],
                ci: false $(|| $crate::list::$ci())?,
            };
        )+
        pub(super) static GROUP: $crate::list::Group =
            $crate::list::Group { title: $title, mutants: &[$(&$id),+] };
    };
}
use group;

/// `ci` at the end of a mutant's definition: CI runs it.
const fn ci() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use crate::all;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_words_with_hyphens_and_unique() {
        let names: BTreeSet<&str> = all().map(|m| m.name).collect();
        assert_eq!(names.len(), all().count());
        for name in names {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
    }

    #[test]
    fn there_are_enough_and_ci_runs_a_part() {
        let (total, ci) = (all().count(), all().filter(|m| m.ci).count());
        assert!(total >= 45, "{total}");
        assert!(ci * 5 >= total && ci * 2 <= total, "{ci} of {total}");
    }
}
