//! Which mutant is switched on.

use crate::{Mutant, all};
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

static SELECTED: AtomicPtr<Mutant> = AtomicPtr::new(core::ptr::null_mut());

/// Switches on the mutant of this name, until the next call; says whether there is one.
pub fn select(name: &str) -> bool {
    let Some(mutant) = all().find(|mutant| mutant.name == name) else { return false };
    SELECTED.store(core::ptr::from_ref(mutant).cast_mut(), Relaxed);
    true
}

/// Is it this one?
#[inline]
pub fn is_selected(mutant: &'static Mutant) -> bool {
    core::ptr::eq(SELECTED.load(Relaxed), mutant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mutant_at_a_time() {
        let mut names = all();
        let (a, b) = (names.next().unwrap(), names.next().unwrap());
        assert!(!is_selected(a));
        assert!(select(a.name));
        assert!(is_selected(a) && !is_selected(b));
        assert!(!select("no-such-mutant"));
        assert!(select(b.name));
        assert!(is_selected(b) && !is_selected(a));
    }
}
