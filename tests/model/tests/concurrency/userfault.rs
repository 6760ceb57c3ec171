//! Registering with userfaultfd, which takes tables out of the sharing, against fork, which puts them in.

use crate::harness::{BASE, Case, SPAN, cpu, expect, explore, place, store, word};
use ptshare_mm::{FaultOutcome, Sharing, Userfault};
use ptshare_wire::vma::VM_UFFD_MISSING;

/// A missing page of a registered range is reported from the moment on at which registering has returned, and the tables
/// there are the process's own, whichever of both was first.
#[test]
fn registration_meets_fork() {
    for mode in [Sharing::None, Sharing::Pte, Sharing::Tree] {
        explore(move || {
            let case = Case::new(900);
            let parent = case.parent(2);
            let sharer = parent.fork(mode, 0).unwrap();
            let uffd = Userfault::new(&parent, false);
            uffd.enable(0).unwrap();
            let fork = cpu(&case.arena, &parent, move |_, mm| mm.fork(mode, 0).unwrap());
            let register = {
                let uffd = uffd.clone();
                cpu(&case.arena, &parent, move |arena, mm| {
                    uffd.register(BASE, BASE + SPAN, VM_UFFD_MISSING).unwrap();
                    let missing = arena.user_load(mm, place(0, 9));
                    assert!(matches!(missing, Err(FaultOutcome::Userfault(_))), "{missing:?}");
                    expect(arena, mm, place(0, 0), &[word(place(0, 0))]);
                    // Not there: a write would take the table out of any sharing.
                    store(arena, mm, place(1, 1), 4);
                })
            };
            let reader = cpu(&case.arena, &sharer, |arena, mm| {
                // Where all share a table, its read fills for all: another page.
                expect(arena, mm, place(0, 10), &[0]);
                expect(arena, mm, place(0, 1), &[word(place(0, 1))]);
            });
            let child = fork.join().unwrap();
            register.join().unwrap();
            reader.join().unwrap();
            // The child is registered with nobody.
            expect(&case.arena, &child, place(0, 9), &[0]);
            expect(&case.arena, &child, place(1, 1), &[4, word(place(1, 1))]);
            expect(&case.arena, &parent, place(1, 1), &[4]);
            // Rule `userfaultfd-owns-tables` holds while the range is registered.
            case.judge(&[&parent, &sharer, &child]);
            uffd.close();
            drop(uffd);
            case.finish(vec![parent, sharer, child]);
        });
    }
}
