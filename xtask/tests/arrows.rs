//! Who may import whom: the arrows of ARCHITECTURE.md. Dev-dependencies are free.

use std::collections::BTreeMap;
use std::process::Command;

/// Each crate with the crates of this workspace that it may depend on. A crate that is not here has no business being
/// in the workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("ptshare-paging", &[]),
    ("ptshare-abi", &[]),
    ("ptshare-wire", &["ptshare-paging"]),
    ("ptshare-mutants", &[]),
    ("ptshare-trace", &["ptshare-abi"]),
    ("ptshare-sync", &["ptshare-wire"]),
    ("ptshare-mm", &["ptshare-abi", "ptshare-mutants", "ptshare-paging", "ptshare-sync", "ptshare-wire"]),
    (
        "ptshare-machine",
        &["ptshare-abi", "ptshare-mm", "ptshare-mutants", "ptshare-paging", "ptshare-sync", "ptshare-wire"],
    ),
    (
        "ptshare-kernel",
        &[
            "ptshare-abi",
            "ptshare-machine",
            "ptshare-mm",
            "ptshare-mutants",
            "ptshare-paging",
            "ptshare-sync",
            "ptshare-wire",
        ],
    ),
    ("ptshare-init", &["ptshare-abi"]),
    ("ptshare-verifier", &["ptshare-paging", "ptshare-wire"]),
    ("ptshare-vmm", &["ptshare-paging", "ptshare-verifier", "ptshare-wire"]),
    (
        "xtask",
        &[
            "ptshare-abi",
            "ptshare-mutants",
            "ptshare-paging",
            "ptshare-trace",
            "ptshare-verifier",
            "ptshare-vmm",
            "ptshare-wire",
        ],
    ),
    ("ptshare-programs", &["ptshare-trace"]),
    ("ptshare-boot-tests", &["ptshare-mutants", "ptshare-trace", "ptshare-verifier", "ptshare-vmm", "xtask"]),
    (
        "ptshare-model-tests",
        &["ptshare-abi", "ptshare-mm", "ptshare-paging", "ptshare-trace", "ptshare-verifier", "ptshare-wire"],
    ),
];

#[test]
fn every_crate_imports_only_what_the_architecture_allows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    assert_eq!(packages.len(), arrows.len(), "a crate is missing here, or gone");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{name} is not in the list"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let ours = arrows.contains_key(to) && dependency["kind"].is_null();
            assert!(!ours || allowed.contains(&to), "{name} must not depend on {to}");
        }
    }
}
