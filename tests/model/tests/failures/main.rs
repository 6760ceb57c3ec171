//! Every allocation of every operation fails once. The error is reported, nothing that a process can see has changed, the
//! books are in order, the operation succeeds when it is tried again, and nothing is left when all have exited.
//!
//! "Nothing has changed" is meant of mappings and content ([`Snapshot`]) and of the number of data pages. What may stay of a
//! failed operation are tables: an empty one on the way to a page that could not be had, a copy of a shared one that the
//! process would have had to make sooner or later.

mod cases;
mod world;

use cases::{Case, cases};
use ptshare_abi::Errno;
use ptshare_mm::testing::{Answer, FlatKernel, Op, Snapshot};
use ptshare_mm::{Env, FaultOutcome, Sharing};
use ptshare_model_tests::judge;
use ptshare_paging::PAGE_SHIFT;
use ptshare_wire::VmaRec;
use ptshare_wire::frame::FrameKind;
use std::sync::atomic::Ordering::Relaxed;
use world::{World, state};

/// Data pages by kind: private, of files, of the hugetlb pool in use.
fn data_pages(kernel: &FlatKernel) -> [u64; 3] {
    let arena = kernel.arena();
    let mut pages = [0, 0, 0];
    for pfn in arena.managed() {
        let meta = arena.meta(pfn);
        let kind = FrameKind::from_u8(meta.state.load(Relaxed) as u8);
        let used = u64::from(meta.refs.load(Relaxed) > 0);
        match kind {
            Some(FrameKind::Anon) => pages[0] += used,
            Some(FrameKind::Cache) => pages[1] += used,
            Some(FrameKind::Hugetlb) => pages[2] += used,
            _ => {}
        }
    }
    pages
}

/// What an operation may answer when an allocation fails.
fn refusals(op: &Op, before: u64) -> Vec<Answer> {
    let errors = |errors: &[Errno]| errors.iter().map(|&errno| Answer::Error(errno)).collect();
    match op {
        Op::Load { .. } | Op::Store { .. } | Op::Fetch { .. } => {
            // No huge page is SIGBUS.
            vec![Answer::Fault(FaultOutcome::OutOfMemory), Answer::Fault(FaultOutcome::BusAdrErr)]
        }
        Op::Peek { .. } | Op::Poke { .. } => errors(&[Errno::ENOMEM, Errno::EFAULT]),
        Op::Mlock { .. } => errors(&[Errno::ENOMEM, Errno::EAGAIN]),
        Op::Madvise { .. } => errors(&[Errno::ENOMEM, Errno::EFAULT]),
        Op::Punch { .. } | Op::Fallocate { .. } | Op::Pwrite { .. } => errors(&[Errno::ENOSPC]),
        Op::Brk { .. } => vec![Answer::Value(before)],
        _ => errors(&[Errno::ENOMEM]),
    }
}

fn check_books(kernel: &FlatKernel, when: &str) {
    kernel.audit();
    let report = judge(kernel.arena(), &kernel.mms());
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{when}:\n{}", findings.join("\n"));
}

fn assert_same(now: &Snapshot, then: &Snapshot, when: &str) {
    if let Some(difference) = now.difference(then) {
        panic!("{when}: {difference}");
    }
}

/// A snapshot without what one process has in `[start, end)`.
fn without(snapshot: &Snapshot, pid: u32, start: u64, end: u64) -> Snapshot {
    let mut rest = snapshot.clone();
    rest.pages.retain(|&(owner, va), _| owner != pid || va < start || end <= va);
    let vmas = rest.vmas.get_mut(&pid).expect("the process is there");
    let cut = |vma: &VmaRec| {
        let below = VmaRec { end: vma.end.min(start), ..*vma };
        let from = vma.start.max(end);
        let pages = if vma.object == 0 { 0 } else { (from - vma.start) >> PAGE_SHIFT };
        let above = VmaRec { start: from, pgoff: vma.pgoff + pages, ..*vma };
        [below, above].into_iter().filter(|vma| vma.start < vma.end)
    };
    *vmas = vmas.iter().flat_map(cut).collect();
    rest
}

/// What a case comes to when nothing fails.
struct Reference {
    before: Snapshot,
    pages_before: [u64; 3],
    brk: u64,
    answer: Answer,
    after: Snapshot,
    allocations: u64,
}

fn reference(world: World, case: &Case) -> Reference {
    let mut kernel = state(world).kernel;
    let (before, pages_before) = (kernel.snapshot(), data_pages(&kernel));
    let brk = kernel.brk(case.pid, 0);
    kernel.arena().fail_at(0);
    let answer = kernel.apply(case.pid, &case.op);
    let allocations = kernel.arena().allocations_asked();
    assert!(matches!(answer, Answer::Value(_)), "{}: {answer:?}", case.name);
    check_books(&kernel, case.name);
    Reference { before, pages_before, brk, answer, after: kernel.snapshot(), allocations }
}

/// Fails the `k`-th allocation of the case, and tries again.
fn fail(world: World, case: &Case, reference: &Reference, k: u64) {
    let mut made = state(world);
    let kernel = &mut made.kernel;
    let when = format!("{} with allocation {k} of {} failing in {world:?}", case.name, reference.allocations);
    kernel.arena().fail_at(k);
    let answer = kernel.apply(case.pid, &case.op);
    let refused = kernel.arena().allocations_refused();
    kernel.arena().fail_at(0);
    assert_eq!(refused, 1, "{when}");
    check_books(kernel, &when);
    let survives = case.tolerates && answer == reference.answer;
    if survives {
        assert_same(&kernel.snapshot(), &reference.after, &when);
    } else {
        assert!(refusals(&case.op, reference.brk).contains(&answer), "{when}: {answer:?}");
        let mut now = kernel.snapshot();
        if let Some((start, end)) = case.may_lose {
            let then = without(&reference.before, case.pid, start, end);
            if now.vmas == then.vmas {
                // All of it, or nothing.
                assert_same(&now, &then, &when);
                now = reference.before.clone();
            }
        }
        if case.mapping_stays && now.vmas == reference.after.vmas {
            now.vmas = reference.before.vmas.clone();
        }
        assert_same(&now, &reference.before, &when);
        if !case.fills {
            let lost = case.may_lose.is_some();
            let now = data_pages(kernel);
            assert!(lost || now == reference.pages_before, "{when}: {now:?} data pages");
        }
        let again = kernel.apply(case.pid, &case.op);
        assert_eq!(again, reference.answer, "{when}, tried again");
        assert_same(&kernel.snapshot(), &reference.after, &format!("{when}, tried again"));
        check_books(kernel, &format!("{when}, tried again"));
    }
    made.end(&when);
}

/// Every case in one world. Gives cases, and failures in all.
fn run(world: World) -> (usize, u64) {
    let cases = cases(&world);
    let mut failures = 0;
    let mut free_of_allocations = Vec::new();
    for case in &cases {
        let reference = reference(world, case);
        for k in 1..=reference.allocations {
            fail(world, case, &reference, k);
        }
        failures += reference.allocations;
        if reference.allocations == 0 {
            free_of_allocations.push(case.name);
        }
    }
    println!(
        "{world:?}: {} cases, {failures} failures; nothing is allocated by {free_of_allocations:?}",
        cases.len()
    );
    (cases.len(), failures)
}

#[test]
fn when_every_level_is_copied() {
    let (cases, failures) = run(World { sharing: Sharing::None, share_file: true, share_hugetlb: true });
    assert!(cases >= 125 && failures > 220, "{cases} cases, {failures} failures");
}

#[test]
fn when_pte_pages_are_shared() {
    let (cases, failures) = run(World { sharing: Sharing::Pte, share_file: true, share_hugetlb: true });
    assert!(cases >= 125 && failures > 260, "{cases} cases, {failures} failures");
}

#[test]
fn when_whole_trees_are_shared() {
    let (cases, failures) = run(World { sharing: Sharing::Tree, share_file: true, share_hugetlb: true });
    assert!(cases >= 125 && failures > 400, "{cases} cases, {failures} failures");
}

#[test]
fn when_objects_share_no_tables() {
    let (cases, failures) = run(World { sharing: Sharing::Pte, share_file: false, share_hugetlb: false });
    assert!(cases >= 125 && failures > 260, "{cases} cases, {failures} failures");
}
