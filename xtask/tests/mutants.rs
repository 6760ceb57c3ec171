//! The list of deliberate bugs, the judge's rules, the guest's code, the programs and the committed document agree.

use ptshare_mutants::{PROBES, all};
use ptshare_verifier::catalogue::DRAWN;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xtask::mutants::rules;
use xtask::paths;

fn verifier_rules() -> BTreeSet<&'static str> {
    ptshare_verifier::rules().iter().map(|rule| rule.name).collect()
}

#[test]
fn every_rule_has_a_mutant_or_a_reason() {
    let known = verifier_rules();
    let killers: BTreeSet<&str> = all().map(|mutant| mutant.rule).collect();
    for (rule, reason) in rules::EXCEPTIONS {
        assert!(known.contains(rule), "{rule}: there is no such rule to except");
        assert!(!killers.contains(rule), "{rule} has a mutant, and needs no exception");
        assert!(reason.len() > 20, "{rule}: a reason, please");
    }
    let bare: Vec<&str> = known
        .iter()
        .copied()
        .filter(|rule| !killers.contains(rule) && rules::EXCEPTIONS.iter().all(|e| e.0 != *rule))
        .collect();
    assert!(bare.is_empty(), "no mutant shows that these rules see anything: {bare:?}");
    for (probe, _) in PROBES {
        assert!(killers.contains(probe), "{probe} has no mutant");
    }
}

#[test]
fn every_mutant_names_a_rule_and_its_origin() {
    let known = verifier_rules();
    for mutant in all() {
        let probe = PROBES.iter().any(|probe| probe.0 == mutant.rule);
        assert!(probe || known.contains(mutant.rule), "{}: there is no rule {}", mutant.name, mutant.rule);
        assert!(!mutant.imitates.is_empty() && !mutant.runs.is_empty(), "{}", mutant.name);
    }
}

#[test]
fn the_catalogue_is_covered_or_says_why_not() {
    let mut used = BTreeSet::new();
    for mutant in all() {
        for number in rules::numbers(mutant.imitates) {
            used.insert(number);
            assert!(DRAWN.iter().any(|item| item.number == number), "{}: there is no I{number}", mutant.name);
        }
    }
    for item in DRAWN {
        let covered = used.contains(&item.number) || rules::reason(item.number).is_some();
        assert!(covered, "I{} has neither a mutant nor a reason", item.number);
    }
    for (number, _) in rules::UNPLANTED {
        assert!(!used.contains(number), "I{number} has a mutant, and needs no reason");
    }
}

/// Every `mutant!(NAME)` below a folder, with how often it stands there.
fn planted(folder: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            planted(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&entry).unwrap();
            for part in text.split("mutant!(").skip(1) {
                let name = part.split(')').next().unwrap().trim().to_owned();
                *found.entry(name).or_default() += 1;
            }
        }
    }
}

#[test]
fn every_mutant_is_planted_in_the_guest() {
    let mut found = BTreeMap::new();
    planted(&paths::root().join("guest"), &mut found);
    for mutant in all() {
        let name = mutant.name.to_uppercase().replace('-', "_");
        assert!(found.remove(&name).is_some(), "{} stands nowhere in the guest's code", mutant.name);
    }
    assert!(found.is_empty(), "not in the list: {found:?}");
}

#[test]
fn every_program_exists() {
    let programs = paths::root().join("tests/programs/src/bin");
    for (mutant, line) in
        all().flat_map(|m| m.runs.iter().flat_map(move |run| run.1.iter().map(move |l| (m, l))))
    {
        if let Some((module, test)) = line.split_once("::") {
            let path = paths::root().join("tests/model/tests/concurrency").join(module).with_extension("rs");
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.contains(&format!("fn {test}()")), "{}: there is no test {line}", mutant.name);
            continue;
        }
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let file = programs.join(format!("{name}.rs"));
        let folder = programs.join(name);
        assert!(file.is_file() || folder.join("main.rs").is_file(), "{}: no program {name}", mutant.name);
        for case in words {
            let quoted = format!("(\"{case}\",");
            let known = std::fs::read_dir(&folder)
                .unwrap()
                .any(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().contains(&quoted));
            assert!(known, "{}: {name} has no case {case}", mutant.name);
        }
    }
}

#[test]
fn the_committed_document_is_about_this_list() {
    let text = std::fs::read_to_string(paths::root().join("docs/MUTANTS.md")).unwrap();
    let all_killed = format!("**{0} of {0} mutants killed**", all().count());
    let again = "run `cargo xtask mutants --out docs/MUTANTS.md`";
    assert!(
        text.contains(&all_killed),
        "docs/MUTANTS.md is of another list, or of a run with survivors: {again}"
    );
    for mutant in all() {
        let rows = text.lines().filter(|line| line.starts_with(&format!("| `{}`", mutant.name)));
        let rows: Vec<&str> = rows.collect();
        assert_eq!(rows.len(), 1, "{}: {again}", mutant.name);
        for column in [mutant.what, mutant.imitates, mutant.rule] {
            assert!(rows[0].contains(&format!("| {column} |")), "{}: {again}", mutant.name);
        }
    }
    for rule in verifier_rules() {
        assert!(text.contains(&format!("| {rule} |")), "{rule}: {again}");
    }
}
