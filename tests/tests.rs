//! The suites that need nothing but this workspace. Suites that need more stand in `outside.rs`.
//!
//! One test binary, so that everything is linked once. Environment: `RQ_TEST_RQD` and
//! `RQ_TEST_PROFILE` choose the program under test (see the harness), `RQ_HTTP_SCRIPT` selects
//! scripts of [`http`] by a part of their path, `RQ_FUZZ_SECONDS` and `RQ_FUZZ_SEED` stretch and
//! repeat [`fuzz`], `RQ_KILL_ROUNDS` and `RQ_KILL_SEED` stretch and repeat [`kill`]; those of
//! [`cluster`] are named there.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]
#![expect(clippy::print_stdout, reason = "a test says with which seed it runs, and what it saw")]
#![expect(clippy::print_stderr, reason = "a test says what it leaves out")]

/// The HTTP contract as scripts, one behaviour a file: `http/*`.
mod http;

/// Input that no proper client sends: slow, cut off, endless, too large.
mod bad_input;

/// The process: exit codes, flags, streams, signals, the lock of the data directory.
mod process;

/// `kill -9` in a loop while writers work; nothing acknowledged may be missing or doubled.
mod kill;

/// Three nodes: forming, failing, coming back, and what clients see of it.
mod cluster;

/// Three nodes as their operator and their clients use them.
mod members;

/// Who may depend on whom, licences and sources, module comments, the map.
mod layers;

/// Man pages and completions are what the definitions of the flags say.
mod generated;

/// The commands and outputs of `README.md`, executed.
mod readme;

/// Random bytes into everything that decodes what others wrote.
mod fuzz;

/// Every suite file is listed, here or in `outside.rs`.
#[test]
fn no_suite_is_forgotten() {
    let root = rq_tests::binaries::tests_root();
    let mut lists = String::new();
    for list in ["tests.rs", "outside.rs"] {
        lists.push_str(&std::fs::read_to_string(root.join(list)).unwrap());
    }
    let mut files = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".rs") else { continue };
        if stem == "tests" || stem == "outside" {
            continue;
        }
        files += 1;
        assert!(lists.contains(&format!("\nmod {stem};\n")), "{name} is in no list of suites");
    }
    assert!(files > 0, "no suite file found in {}", root.display());
}
