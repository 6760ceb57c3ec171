//! Reverse mapping and what /proc says of sharing, in trees: judged at every exit, and looked at in a dump.

use ptshare_boot_tests::{Programs, assert_clean, config, difference, guest};
use ptshare_verifier::inspect::Guest;
use ptshare_verifier::inspect::tree::{Depth, Node};
use ptshare_vmm::{Config, VerifyMode};
use std::collections::BTreeMap;

#[test]
fn programs_see_what_they_did_where_whole_trees_are_shared() {
    let Some(built) = guest() else { return };
    let mut programs = Programs::new();
    for name in ["rmap_truncate", "proc_views"] {
        programs.test_program(&built, name);
    }
    let (outcome, results) =
        programs.boot(&built, Config { verify: VerifyMode::EveryExit, ..config(&built, "tree") });
    let differences: String =
        results.iter().zip(programs.on_host()).map(|(guest, host)| difference(guest, &host, false)).collect();
    assert!(differences.is_empty(), "{differences}{}", outcome.kernel_log);
    assert_clean(&outcome);
    let views = &results[1];
    let [all, shared, part] = ["vmpte_kb", "vmpte_shared_kb", "vmpte_prop_kb"].map(|name| views.metric(name));
    // What parent and child share is half the parent's; the rest, on the paths that they have written to, is its own.
    assert!(shared > 0 && part < all && part + shared / 2 >= all, "{all}, {shared}, {part} kB");
    assert!(outcome.verifier.rules.iter().any(|rule| rule == "reverse-map-equals-walk"));
}

/// Tables of a tree: frame, and where it begins.
fn tables(node: &Node, list: &mut Vec<(u64, u64)>) {
    list.push((node.pfn, node.start));
    node.children.iter().for_each(|child| tables(child, list));
}

#[test]
fn a_dump_at_the_end_shows_that_nothing_is_left() {
    let Some(built) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.ptdump");
    let mut programs = Programs::new();
    programs.test_program(&built, "family");
    let config = Config {
        dump_path: Some(path.clone()),
        dump_at: Some("end".into()),
        cmdline_extra: "hugepages=4".into(),
        ..config(&built, "tree")
    };
    let (outcome, _) = programs.boot(&built, config);
    assert_clean(&outcome);
    assert_eq!(outcome.verifier.dumps, 2, "one that the program asked for, and one at the end");

    // The last one stays: only init is left, and it shares nothing.
    let end = Guest::read(&path).unwrap();
    assert!(end.verdict().is_clean());
    let summary = end.summary(false);
    assert!(summary.processes.iter().all(|process| process.tables_shared == 0), "{summary}");
}

#[test]
fn every_sharer_of_a_table_has_it_in_its_tree() {
    let Some(built) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.ptdump");
    let mut programs = Programs::new();
    programs.test_program(&built, "family");
    let config = Config { dump_path: Some(path.clone()), ..config(&built, "tree") };
    let (outcome, _) = programs.boot(&built, config);
    assert_clean(&outcome);
    let guest = Guest::read(&path).unwrap();
    assert!(guest.verdict().is_clean());

    // Trees, process by process, say where each table is; `sharers` must say the same, table by table.
    let mut from_trees: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let (mut shared, mut sum) = (0, 0);
    for process in guest.summary(false).processes {
        let pid = process.mm.pid;
        for tree in guest.tree(pid, Depth { levels: 4, leaves: true }).unwrap() {
            let mut list = Vec::new();
            tables(&tree.root, &mut list);
            assert_eq!(list.len() as u64, tree.tables, "pid {pid}");
            shared += tree.tables_shared;
            sum += tree.tables_part_bytes;
            list.into_iter().for_each(|(pfn, start)| from_trees.entry(pfn).or_default().push((pid, start)));
        }
    }
    assert!(shared > 0, "nothing is shared");
    // Divided among the sharers, tables add up to those that there are.
    let all = from_trees.len() as u64 * 4096;
    assert!((all - 16..=all).contains(&sum), "{sum} of {all} bytes");
    for (pfn, mut places) in from_trees {
        let mut said: Vec<_> =
            guest.sharers(pfn).unwrap().places.iter().map(|place| (place.mm.pid, place.va)).collect();
        said.sort_unstable();
        places.sort_unstable();
        assert_eq!(said, places, "table {pfn:#x}");
    }
}
