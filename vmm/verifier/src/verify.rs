//! [`verify`]: the order of one verification.

use std::collections::HashSet;
use std::time::Instant;

use ptshare_paging::{ENTRIES, Entry, Pte};

use crate::answers::Said;
use crate::census::{Census, Mm};
use crate::frames::Frames;
use crate::graph::{Builder, Graph, each_nonzero, user_slots};
use crate::history::{History, Memory};
use crate::opinion::{self, Translate};
use crate::recount::Recount;
use crate::report::{Report, Sink};
use crate::rules::{
    census_is_sound, cpu_runs_its_mm, frame_has_one_state, frames_add_up, free_blocks_disjoint,
    free_frames_unreferenced, hugetlb_pool_adds_up, hugetlb_reservations_backed, kernel_half_identical,
    leaf_refs_equal_maps, page_tables_counted_once, pages_reachable, proc_numbers_equal_walk,
    reverse_map_equals_walk, roots_not_shared, shared_table_unchanged, table_present_count,
    table_refs_equal_parents, tables_reachable, user_bit_by_half, vma_rights_allowed,
};
use crate::spaces::Walker;
use crate::view::PhysView;

/// A vCPU as the VMM sees it while it is paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vcpu {
    /// Index in the census's CPU table.
    pub index: u32,
    /// CR3.
    pub cr3: u64,
    /// It was in user mode (CPL 3).
    pub user: bool,
}

/// Limits of a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Findings kept for each rule; the rest is only counted.
    pub max_findings_per_rule: usize,
    /// Entries that the walks may look at together before they give up (with a finding). The default is far beyond any
    /// real guest.
    pub entry_budget: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { max_findings_per_rule: 16, entry_budget: 1 << 34 }
    }
}

/// What a verdict may use besides memory. Everything may be left out.
#[derive(Default)]
pub struct Aids<'a> {
    /// What the verdict before saw; this one's takes its place.
    pub history: Option<&'a mut History>,
    /// Translates addresses of a CPU's address space.
    pub translate: Option<&'a mut Translate<'a>>,
    /// Chooses which.
    pub seed: u64,
}

/// As [`verify_with`], with nothing but memory.
pub fn verify(view: &dyn PhysView, census_pa: u64, vcpus: &[Vcpu], options: &Options) -> Report {
    verify_with(view, census_pa, vcpus, options, Aids::default())
}

/// Checks every rule on the memory behind `view`, starting from the census header at `census_pa`.
///
/// Call it while all vCPUs are paused; `vcpus` gives their state. Never panics and always ends, whatever the memory holds.
/// If a CPU is inside a critical section nothing is checked and [`Report::in_critical`] is set.
pub fn verify_with(
    view: &dyn PhysView,
    census_pa: u64,
    vcpus: &[Vcpu],
    options: &Options,
    aids: Aids<'_>,
) -> Report {
    let begin = Instant::now();
    let mut sink = Sink::new(options.max_findings_per_rule);
    let mut report = Report::default();
    let _ = judge(view, census_pa, vcpus, options, aids, &mut sink, &mut report);
    (report.findings, report.suppressed) = sink.finish();
    report.nanos = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    report.micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    report
}

/// The verification proper; `None` if it ended before its end.
fn judge(
    view: &dyn PhysView,
    census_pa: u64,
    vcpus: &[Vcpu],
    options: &Options,
    aids: Aids<'_>,
    sink: &mut Sink,
    report: &mut Report,
) -> Option<()> {
    let census = Census::read(view, census_pa, sink)?;
    let cpus = census.cpus(view, sink)?;
    if cpus.iter().any(|cpu| cpu.critical != 0) {
        report.in_critical = true;
        return None;
    }
    let mms = census.mms(view, sink)?;
    let mut frames = Frames::read(view, &census, sink)?;
    report.mms = mms.len() as u64;
    report.vmas = mms.iter().map(|mm| mm.vmas.len() as u64).sum();

    let mut budget = options.entry_budget;
    let phys_mask = census.phys_mask();
    let memory = aids.history.map(|history| Memory::new(history, census.totals.shared_by_fork));
    let (graph, memory) = Builder {
        view,
        mms: &mms,
        frames: &mut frames,
        sink,
        phys_mask,
        budget: &mut budget,
        graph: Graph::default(),
        pending: Vec::new(),
        memory,
    }
    .run();
    report.tables = graph.tables.len() as u64;
    report.tables_shared = graph.tables.iter().filter(|t| t.parents > 1).count() as u64;

    for mm in &mms {
        vma_rights_allowed::mm(mm, sink);
    }
    let walker = Walker::new(view, &mms, &frames, &graph, sink, phys_mask, &mut budget);
    report.entries_walked = graph.entries_walked + walker.run();

    check_frames(&census, &frames, sink, report);
    for table in &graph.tables {
        table_refs_equal_parents::table(table, &graph, &frames, &mms, sink);
        table_present_count::table(table, &frames, &mms, sink);
        roots_not_shared::table(table, &graph, &mms, sink);
    }
    if let Some(memory) = memory {
        for suspect in &memory.suspects {
            shared_table_unchanged::word(suspect, &graph, &frames, &mms, sink);
        }
        report.tables_compared = memory.compared;
        memory.keep();
    }
    if let Some(translator) = aids.translate {
        match opinion::ask(view, vcpus, &mms, aids.seed, translator, sink) {
            Ok(asked) => report.addresses_compared = asked,
            Err(why) => report.translate_refused = Some(why),
        }
    }
    check_kernel_half(view, &census, &mms, sink);
    cpu_runs_its_mm::check(&census, &cpus, &mms, vcpus, sink);
    // What is derived from the books is judged where they are right: otherwise it is wrong too, and no finding of its own.
    if sink.total() == 0 {
        page_tables_counted_once::check(census.totals, &graph, sink);
        let recount = Recount::new(view, &frames, &graph, phys_mask, Vec::new());
        hugetlb_reservations_backed::owners(&census, &mms, recount, sink);
        let said = Said::read(view, census.answers, sink);
        if !said.frames.is_empty() || !said.usages.is_empty() {
            let wanted = said.frames.iter().map(|answer| answer.pfn).collect();
            check_answers(&said, &mms, Recount::new(view, &frames, &graph, phys_mask, wanted), sink);
        }
    }
    locate(view, &graph, &mms, sink);
    Some(())
}

/// The rules about single frames and their sums.
fn check_frames(census: &Census, frames: &Frames, sink: &mut Sink, report: &mut Report) {
    let mut tally = frames_add_up::Tally::default();
    let mut pool = hugetlb_pool_adds_up::Tally::default();
    let mut blocks = free_blocks_disjoint::Blocks::default();
    for chunk in frames.chunks() {
        report.frames_checked += chunk.pfns.end - chunk.pfns.start;
        // Most of a large pool: nothing that any rule objects to.
        if chunk.is_blank() && pool.covers(chunk.pfns.end - 1) && !chunk.pfns.contains(&census.zero_page) {
            continue;
        }
        for (pfn, frame) in chunk.iter() {
            frame_has_one_state::frame(pfn, frame, census.zero_page, sink);
            free_frames_unreferenced::frame(pfn, frame, sink);
            leaf_refs_equal_maps::frame(pfn, frame, sink);
            // What lies behind the head of a huge page is no frame of its own.
            if !pool.frame(pfn, frame, sink) {
                tally.frame(frame);
                blocks.frame(pfn, frame, sink);
                tables_reachable::frame(pfn, frame, sink);
                pages_reachable::frame(pfn, frame, sink);
            }
        }
    }
    tally.finish(census, sink);
    blocks.finish(census, sink);
    pool.finish(&census.hugetlb, sink);
    hugetlb_reservations_backed::counts(&census.hugetlb, sink);
    report.kinds = tally.kinds;
    report.kinds.virgin = frames.virgin();
}

/// What the kernel says when it is asked.
fn check_answers(said: &Said, mms: &[Mm], mut recount: Recount<'_>, sink: &mut Sink) {
    let mut walked = vec![Vec::new(); said.frames.len()];
    for mm in mms {
        let below = recount.root(mm.root);
        for (va, which) in &below.places {
            walked[*which].push((u64::from(mm.id.slot), *va));
        }
    }
    if recount.complete() {
        for (answer, walked) in said.frames.iter().zip(walked) {
            reverse_map_equals_walk::answer(answer, walked, sink);
        }
    }
    for usage in &said.usages {
        let mm = mms.iter().find(|mm| u64::from(mm.id.slot) == usage.slot);
        let below = mm.map(|mm| recount.root(mm.root)).unwrap_or_default();
        proc_numbers_equal_walk::usage(usage, mm, &below, sink);
    }
}

/// The rules about the upper half of the roots.
fn check_kernel_half(view: &dyn PhysView, census: &Census, mms: &[Mm], sink: &mut Sink) {
    let mut kernel = [0; ENTRIES];
    if !view.read_page(census.kernel_root, &mut kernel) {
        return census_is_sound::kernel_root_unreadable(census.kernel_root, sink);
    }
    user_bit_by_half::kernel_root(census.kernel_root, &kernel, sink);
    for mm in mms {
        kernel_half_identical::mm(mm, &kernel, view, sink);
    }
}

/// Mappings named in the note of a finding.
const MAPPINGS_NAMED: usize = 4;

/// Findings about a data frame know no address: searches the leaves that map it, and names some.
fn locate(view: &dyn PhysView, graph: &Graph, mms: &[Mm], sink: &mut Sink) {
    let homeless = |f: &crate::Finding| f.mm.is_none() && f.va.is_none() && f.frame.is_some();
    if !sink.findings_mut().iter().any(homeless) {
        return;
    }
    let mut page = [0; ENTRIES];
    let wanted: HashSet<u64> =
        sink.findings_mut().iter().filter(|f| homeless(f)).filter_map(|f| f.frame).collect();
    let mut names: Vec<(usize, Vec<String>)> = (0..)
        .zip(sink.findings_mut().iter())
        .filter(|(_, f)| homeless(f))
        .map(|(i, _)| (i, vec![]))
        .collect();
    for table in graph.tables.iter().filter(|t| t.walked) {
        let Some(mm) = mms.get(table.mm as usize) else { continue };
        if !view.read_page(table.pfn, &mut page) {
            continue;
        }
        each_nonzero(&page, user_slots(table.level), |slot, raw| {
            let (Entry::Leaf(pfn) | Entry::NoAccess(pfn)) = Pte(raw).decode(table.level) else { return };
            if !wanted.contains(&pfn.0) {
                return;
            }
            let va = table.base + ((slot as u64) << table.level.shift());
            for (index, found) in &mut names {
                let Some(finding) = sink.findings_mut().get_mut(*index) else { continue };
                if finding.frame != Some(pfn.0) || found.len() >= MAPPINGS_NAMED {
                    continue;
                }
                if found.is_empty() {
                    (finding.mm, finding.va) = (Some(mm.id), Some(va));
                    (finding.level, finding.entry) = (Some(table.level as u8), Some(raw));
                }
                found.push(format!("pid {} at {va:#x}", mm.id.pid));
            }
        });
    }
    for (index, found) in names {
        if let Some(finding) = sink.findings_mut().get_mut(index)
            && finding.detail.is_empty()
        {
            finding.detail = match found.as_slice() {
                [] => "no leaf maps this frame".into(),
                _ => format!("mapped by {}", found.join(", ")),
            };
        }
    }
}
