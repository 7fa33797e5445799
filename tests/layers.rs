//! The shape of the workspace as an executable rule: who may depend on whom, what comes from
//! outside and under which licence, what every file begins with.
//!
//! A new edge between crates, or a second owner of a heavy library, needs an edit of the tables
//! here; that is the point.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use rq_tests::binaries::{tests_root, workspace_root};
use serde_json::Value;

/// For each package of ours, the packages of ours it may depend on. Arrows only point down.
const EDGES: &[(&str, &[&str])] = &[
    ("base2histogram", &[]),
    ("rq-sql", &[]),
    ("rq-storage", &[]),
    ("rq-security", &[]),
    ("rq-api", &["rq-sql"]),
    ("rq-sqlite", &["rq-sql"]),
    ("rq-node", &["rq-sql", "rq-sqlite", "rq-storage", "rq-security"]),
    ("rq-http", &["rq-api", "rq-sql", "rq-security", "rq-node"]),
    ("rqd", &["rq-http", "rq-node", "rq-security"]),
    ("rq-tests", &["rqd", "rq-api", "rq-node", "rq-sql", "rq-storage"]),
];

/// Libraries from outside that only these packages may name.
const OWNERS: &[(&str, &[&str])] = &[
    ("openraft", &["rq-node"]),
    ("rusqlite", &["rq-sqlite"]),
    ("libsqlite3-sys", &["rq-sqlite"]),
    ("axum", &["rq-http", "rq-tests"]),
    ("hyper", &["rq-http"]),
    ("hyper-util", &["rq-http"]),
    ("tower", &["rq-http"]),
    ("clap", &["rqd", "rq-tests"]),
    ("argon2", &["rq-security"]),
    ("x509-cert", &["rq-security"]),
    ("prost", &["rq-node"]),
    ("zstd", &["rq-node"]),
    ("mimalloc", &["rqd", "rq-tests"]),
    ("goldenscript", &["rq-sql", "rq-sqlite", "rq-storage", "rq-node", "rq-tests"]),
];

/// Crates without an asynchronous runtime, and without anything that speaks to a network.
const SYNCHRONOUS: &[&str] = &["rq-sql", "rq-storage", "rq-sqlite", "rq-api"];

/// What no synchronous crate may name.
const ASYNCHRONOUS: &[&str] =
    &["tokio", "futures-util", "hyper", "axum", "http", "tower", "socket2"];

/// Licences we may link. An expression needs one alternative made of these alone.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What Cargo knows of the workspace and everything below it.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let output = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(workspace_root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
});

fn packages() -> impl Iterator<Item = &'static Value> {
    METADATA["packages"].as_array().unwrap().iter()
}

/// The packages of this workspace.
fn ours() -> BTreeMap<&'static str, &'static Value> {
    packages()
        .filter(|package| package["source"].is_null())
        .map(|package| (package["name"].as_str().unwrap(), package))
        .collect()
}

/// The names a package's manifest depends on; those of tests and build scripts included.
fn dependencies(package: &'static Value) -> BTreeSet<&'static str> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    dependencies.map(|dependency| dependency["name"].as_str().unwrap()).collect()
}

#[test]
fn arrows_only_point_down() {
    let ours = ours();
    let known: BTreeSet<_> = EDGES.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<_> = ours.keys().copied().collect();
    assert_eq!(found, known, "packages of the workspace and of the table differ");
    for (name, allowed) in EDGES {
        let inner: Vec<_> =
            dependencies(ours[name]).into_iter().filter(|name| known.contains(name)).collect();
        for dependency in inner {
            assert!(allowed.contains(&dependency), "{name} may not depend on {dependency}");
        }
    }
}

#[test]
fn the_table_of_edges_has_no_cycle() {
    let mut below: BTreeSet<&str> = BTreeSet::new();
    let mut remaining: Vec<_> = EDGES.to_vec();
    while !remaining.is_empty() {
        let before = remaining.len();
        remaining.retain(|(name, allowed)| {
            let ready = allowed.iter().all(|dependency| below.contains(dependency));
            if ready {
                below.insert(name);
            }
            !ready
        });
        assert!(remaining.len() < before, "a cycle among {remaining:?}");
    }
}

#[test]
fn heavy_libraries_have_one_owner() {
    for (name, package) in ours() {
        for dependency in dependencies(package) {
            let owners = OWNERS.iter().find(|(library, _)| *library == dependency);
            if let Some((_, owners)) = owners {
                assert!(owners.contains(&name), "{name} may not name {dependency}");
            }
        }
    }
}

#[test]
fn what_is_synchronous_stays_so() {
    let ours = ours();
    for name in SYNCHRONOUS {
        for dependency in dependencies(ours[name]) {
            assert!(!ASYNCHRONOUS.contains(&dependency), "{name} may not name {dependency}");
        }
    }
}

#[test]
fn everything_from_outside_comes_from_one_place() {
    for package in packages() {
        let Some(source) = package["source"].as_str() else { continue };
        let name = &package["name"];
        assert!(
            source.starts_with("registry+") && source.ends_with("/crates.io-index"),
            "{name} comes from {source}"
        );
    }
}

#[test]
fn every_licence_is_allowed() {
    for package in packages() {
        let name = &package["name"];
        let licence = package["license"]
            .as_str()
            .unwrap_or_else(|| panic!("{name} does not state its licence"));
        assert!(is_allowed(licence), "{name}: {licence}");
    }
}

/// Whether one alternative of an SPDX expression is made of allowed licences alone.
#[test]
fn both_licences_are_there_in_full_and_no_nodes_data() {
    let read = |name: &str| fs::read_to_string(workspace_root().join(name)).unwrap();
    let licence = read("LICENSE");
    for sentence in [
        "MIT License",
        "Permission is hereby granted",
        "Apache License",
        "END OF TERMS AND CONDITIONS",
    ] {
        assert!(licence.contains(sentence), "LICENSE lacks {sentence:?}");
    }
    for (name, package) in ours() {
        assert_eq!(package["license"], "MIT OR Apache-2.0", "{name}");
    }
    // The directory of the README's node lies within the project.
    assert!(read("README.md").contains("./rq-data") && read(".gitignore").contains("/rq-data\n"));
}

fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    // Without brackets AND binds closer than OR; a bracketed OR inside an AND then reads stricter
    // or equal for the terms we allow, because every term of some alternative must be allowed.
    expression.split(" OR ").any(|alternative| {
        alternative.split(" AND ").all(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[test]
fn manifests_are_complete() {
    for (name, package) in ours() {
        for key in ["description", "license", "repository"] {
            assert!(package[key].is_string(), "{name} lacks {key}");
        }
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} has lints of its own");
        assert!(!manifest.contains("path = \"../"), "{name} names a crate by its path");
    }
}

/// Every Rust file of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["bins", "crates", "tests"] {
        collect(&workspace_root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "the sources were not found");
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        // A sentence, not a word.
        let says = first.strip_prefix("//! ").is_some_and(|words| words.split(' ').count() >= 2);
        assert!(says, "{} begins with {first:?}", path.display());
    }
}

#[test]
fn no_test_is_switched_off() {
    // Spelt in two parts, so that this file passes.
    let marks = [concat!("#[", "ignore"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

#[test]
fn the_map_shows_every_crate() {
    let map = fs::read_to_string(workspace_root().join("crates/README.md")).unwrap();
    for name in ours().keys() {
        assert!(map.contains(&format!("`{name}`")), "crates/README.md does not mention `{name}`");
    }
    let is_name = |word: &&str| {
        let mut letters = word.strip_prefix("rq-").unwrap_or_default().chars();
        !word.ends_with('-')
            && word.starts_with("rq-")
            && letters.all(|letter| letter.is_ascii_lowercase())
    };
    for word in map.split('`').filter(is_name) {
        let exists = ours().contains_key(word);
        assert!(exists, "crates/README.md mentions {word}, which does not exist");
    }
}

#[test]
fn the_crates_list_equals_the_folders() {
    let mut folders = BTreeSet::new();
    for parent in ["crates", "bins"] {
        for entry in fs::read_dir(workspace_root().join(parent)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut names: BTreeSet<_> = ours().keys().map(|name| (*name).to_owned()).collect();
    names.remove("rq-tests");
    assert_eq!(folders, names, "a crate is named as its folder");
    assert!(tests_root().ends_with("tests"));
}
