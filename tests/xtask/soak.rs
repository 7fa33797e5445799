//! Runs the randomized suites for long, by `cargo test` with the variables they read.
//!
//! It knows names of suites and variables, nothing of what they do; their verdict is passed on.

use std::{
    hash::{BuildHasher as _, RandomState},
    io::{self, BufRead as _, BufReader},
    process::{ChildStdout, Command, ExitCode, Stdio},
    time::Instant,
};

use rq_tests::binaries::workspace_root;

use crate::{
    cli::{ClusterPart, SoakArguments, Suite},
    failure::Failure,
    output,
};

/// Crash points of `crash`, if nothing else is asked for.
const CRASH_POINTS: u64 = 10_000;

/// Seeds of `determinism`, if nothing else is asked for.
const DETERMINISM_SEEDS: u64 = 100;

/// Seeds the determinism suite goes through when it is started once for a soak.
const DETERMINISM_SEEDS_PER_START: u64 = 20;

/// Logs of `storage`, if nothing else is asked for.
const STORAGE_RUNS: u64 = 20_000;

/// Kills of `kill`, if nothing else is asked for.
const KILL_ROUNDS: u64 = 500;

/// Schedules of `schedules`, if nothing else is asked for.
const SCHEDULES: u64 = 2_000;

/// Orders in which a cluster is started, if nothing else is asked for.
const CLUSTER_RACES: u64 = 200;

/// Runs of the images of a cluster, if nothing else is asked for.
const CLUSTER_IMAGES: u64 = 20;

/// Seconds of each history of a cluster, if nothing else is asked for.
const CLUSTER_SECONDS: u64 = 300;

/// Seconds between two restarts of nodes, if nothing else is asked for.
const CLUSTER_PEACE_SECONDS: u64 = 10;

/// Every part of the suite of clusters, the short ones first.
const CLUSTER_PARTS: [ClusterPart; 5] = [
    ClusterPart::Rolling,
    ClusterPart::Races,
    ClusterPart::Images,
    ClusterPart::Histories,
    ClusterPart::Nemesis,
];

/// One start of Cargo: its arguments, and the variables the suite reads.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    arguments: Vec<&'static str>,
    variables: Vec<(&'static str, String)>,
}

/// Runs a suite. The exit code is that of the first start of Cargo that failed, or success.
pub(crate) fn run(arguments: &SoakArguments) -> Result<ExitCode, Failure> {
    let begin = Instant::now();
    // Small enough to be typed again, and for suites to count up from.
    let chance = RandomState::new().hash_one(std::process::id()) >> 40;
    if arguments.suite != Suite::Cluster
        && (arguments.part.is_some() || arguments.seconds.is_some())
    {
        return Err(Failure::program("soak", "parts and seconds belong to the suite cluster"));
    }
    let starts = starts(arguments, chance);
    let count = starts.len();
    let mut code = 0;
    for (number, start) in (1..).zip(starts) {
        output::line(&format!("start {number} of {count}: {}", start.describe()));
        code = start.run()?;
        if code != 0 {
            break;
        }
    }
    let verdict = if code == 0 { "passed" } else { "FAILED" };
    output::line(&format!("{verdict} after {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(ExitCode::from(code))
}

/// What has to be started for a suite. `chance` is the seed if none is asked for.
fn starts(arguments: &SoakArguments, chance: u64) -> Vec<Start> {
    let SoakArguments { suite, part, points, seconds, seed } = *arguments;
    let first = seed.unwrap_or(chance);
    match suite {
        Suite::Cluster => {
            let parts = part.map_or_else(|| CLUSTER_PARTS.to_vec(), |part| vec![part]);
            parts.into_iter().map(|part| cluster_start(part, points, seconds, first)).collect()
        }
        Suite::Crash => vec![Start::new(
            &["-p", "rq-node", "--lib", "crash"],
            vec![
                ("RQ_SOAK_POINTS", points.unwrap_or(CRASH_POINTS).to_string()),
                ("RQ_SOAK_SEED", first.to_string()),
            ],
        )],
        Suite::Determinism => {
            let seeds = points.unwrap_or(DETERMINISM_SEEDS);
            (0..seeds.div_ceil(DETERMINISM_SEEDS_PER_START))
                .map(|number| first + number * DETERMINISM_SEEDS_PER_START)
                .map(|seed| {
                    Start::new(
                        &["-p", "rq-sqlite", "--test", "apply", "determinism"],
                        vec![("RQ_SOAK", "1".to_owned()), ("RQ_SEED", seed.to_string())],
                    )
                })
                .collect()
        }
        // The suite takes either a number of runs, with seeds it chooses, or the one seed to repeat.
        Suite::Storage => vec![Start::new(
            &["-p", "rq-storage", "--lib", "log::crash"],
            vec![seed.map_or_else(
                || ("RQ_CRASH_RUNS", points.unwrap_or(STORAGE_RUNS).to_string()),
                |seed| ("RQ_CRASH_SEED", seed.to_string()),
            )],
        )],
        // With assertions: openraft's see what cannot be seen from outside.
        Suite::Schedules => vec![Start::new(
            &["-p", "rq-node", "--lib", "schedules::clusters"],
            vec![
                ("RQ_SCHEDULES", points.unwrap_or(SCHEDULES).to_string()),
                ("RQ_SCHEDULE_SEED", first.to_string()),
                ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true".to_owned()),
            ],
        )],
        Suite::Kill => vec![Start::new(
            &["-p", "rq-tests", "--test", "tests", "kill::"],
            vec![
                ("RQ_KILL_ROUNDS", points.unwrap_or(KILL_ROUNDS).to_string()),
                ("RQ_KILL_SEED", first.to_string()),
                ("RQ_TEST_PROFILE", "release".to_owned()),
            ],
        )],
    }
}

fn cluster_start(part: ClusterPart, points: Option<u64>, seconds: Option<u64>, seed: u64) -> Start {
    let runs = |default: u64| ("RQ_CLUSTER_RUNS", points.unwrap_or(default).to_string());
    let seconds = |default: u64| ("RQ_CLUSTER_SECONDS", seconds.unwrap_or(default).to_string());
    let (binary, test, extent) = match part {
        ClusterPart::Races => ("tests", "cluster::forming::races", runs(CLUSTER_RACES)),
        ClusterPart::Images => ("tests", "cluster::images::hostile", runs(CLUSTER_IMAGES)),
        ClusterPart::Histories => ("tests", "cluster::histories::", seconds(CLUSTER_SECONDS)),
        ClusterPart::Rolling => ("tests", "cluster::rolling::", seconds(CLUSTER_PEACE_SECONDS)),
        ClusterPart::Nemesis => ("outside", "nemesis::everything", seconds(CLUSTER_SECONDS)),
    };
    let variables = vec![
        extent,
        ("RQ_CLUSTER_SEED", seed.to_string()),
        ("RQ_TEST_PROFILE", "release".to_owned()),
    ];
    // One history at a time: clusters beside each other would take each other's processors.
    let mut start = Start::new(&["-p", "rq-tests", "--test", binary, test], variables);
    start.arguments.push("--test-threads=1");
    start
}

impl Start {
    fn new(suite: &[&'static str], variables: Vec<(&'static str, String)>) -> Self {
        let mut arguments = vec!["test", "--release"];
        arguments.extend(suite);
        arguments.extend(["--", "--nocapture"]);
        Self { arguments, variables }
    }

    /// The line that does the same in a shell.
    fn describe(&self) -> String {
        let variables: String =
            self.variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        format!("{variables}cargo {}", self.arguments.join(" "))
    }

    /// The exit code; 1 for an end by a signal.
    ///
    /// A success in which no test ran is a failure: a suite that was renamed must not seem to pass.
    fn run(&self) -> Result<u8, Failure> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut child = Command::new(cargo)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(workspace_root())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::system("starting cargo"))?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let passed = forward(stdout).map_err(Failure::system("reading what cargo prints"))?;
        let status = child.wait().map_err(Failure::system("waiting for cargo"))?;
        if !status.success() {
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        if passed == 0 {
            return Err(Failure::program("cargo test", "ran no test"));
        }
        Ok(0)
    }
}

/// Prints what a suite prints, line by line, and returns how many tests passed.
fn forward(stdout: ChildStdout) -> io::Result<u64> {
    let mut passed = 0;
    for bytes in BufReader::new(stdout).split(b'\n') {
        let bytes = bytes?;
        let line = String::from_utf8_lossy(&bytes);
        passed += passed_tests(&line).unwrap_or_default();
        output::line(&line);
    }
    Ok(passed)
}

/// How many tests passed, if this is the line that tells.
fn passed_tests(line: &str) -> Option<u64> {
    line.strip_prefix("test result: ok. ")?.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(suite: Suite, points: Option<u64>, seed: Option<u64>) -> SoakArguments {
        SoakArguments { suite, part: None, points, seconds: None, seed }
    }

    fn described(suite: Suite, points: Option<u64>, seed: Option<u64>) -> Vec<String> {
        starts(&arguments(suite, points, seed), 7).iter().map(Start::describe).collect()
    }

    #[test]
    fn points_and_seed_reach_the_suite() {
        let cases = [
            (
                Suite::Crash,
                "RQ_SOAK_POINTS=20 RQ_SOAK_SEED=3 cargo test --release -p rq-node --lib crash",
            ),
            (
                Suite::Determinism,
                "RQ_SOAK=1 RQ_SEED=3 cargo test --release -p rq-sqlite --test apply determinism",
            ),
            (Suite::Storage, "RQ_CRASH_SEED=3 cargo test --release -p rq-storage --lib log::crash"),
            (
                Suite::Schedules,
                "RQ_SCHEDULES=20 RQ_SCHEDULE_SEED=3 CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
                 cargo test --release -p rq-node --lib schedules::clusters",
            ),
            (
                Suite::Kill,
                "RQ_KILL_ROUNDS=20 RQ_KILL_SEED=3 RQ_TEST_PROFILE=release \
                 cargo test --release -p rq-tests --test tests kill::",
            ),
        ];
        for (suite, line) in cases {
            assert_eq!(described(suite, Some(20), Some(3)), [format!("{line} -- --nocapture")]);
        }
    }

    #[test]
    fn without_a_seed_one_is_chosen_and_shown() {
        assert!(described(Suite::Crash, None, None)[0].contains("RQ_SOAK_SEED=7 "));
        assert!(described(Suite::Kill, None, None)[0].contains("RQ_KILL_SEED=7 "));
        // This suite chooses its seeds itself.
        assert!(described(Suite::Storage, Some(9), None)[0].starts_with("RQ_CRASH_RUNS=9 cargo"));
    }

    #[test]
    fn the_suites_read_these_variables() {
        let files = [
            (Suite::Crash, "crates/rq-node/src/testing/crash.rs"),
            (Suite::Determinism, "crates/rq-sqlite/tests/apply/determinism.rs"),
            (Suite::Storage, "crates/rq-storage/src/log/crash.rs"),
            (Suite::Schedules, "crates/rq-node/src/testing/schedules/mod.rs"),
            (Suite::Kill, "tests/kill.rs"),
        ];
        for (suite, file) in files {
            let text = std::fs::read_to_string(workspace_root().join(file)).unwrap();
            for seed in [None, Some(1)] {
                for start in starts(&arguments(suite, None, seed), 7) {
                    let mut variables = start.variables.iter().map(|(name, _)| *name);
                    // These are for the harness and for Cargo.
                    let others = ["RQ_TEST_PROFILE", "CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS"];
                    let missing =
                        variables.find(|name| !others.contains(name) && !text.contains(name));
                    assert_eq!(missing, None, "{file}");
                }
            }
        }
    }

    #[test]
    fn parts_of_the_cluster_are_tests_there_are() {
        let asked = SoakArguments {
            part: Some(ClusterPart::Races),
            ..arguments(Suite::Cluster, Some(20), Some(3))
        };
        let line = starts(&asked, 7)[0].describe();
        assert_eq!(
            line,
            "RQ_CLUSTER_RUNS=20 RQ_CLUSTER_SEED=3 RQ_TEST_PROFILE=release cargo test --release \
             -p rq-tests --test tests cluster::forming::races -- --nocapture --test-threads=1"
        );
        let all = described(Suite::Cluster, None, None);
        assert_eq!(all.len(), CLUSTER_PARTS.len());
        let mut text = String::new();
        for file in ["cluster", "cluster/forming", "cluster/images", "cluster/histories", "nemesis"]
        {
            let path = workspace_root().join(format!("tests/{file}.rs"));
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
        for (line, name) in
            all.iter().zip(["mod rolling", "fn races", "fn hostile", "mod histories", "everything"])
        {
            assert!(text.contains(name), "{line}");
        }
        for variable in ["RQ_CLUSTER_RUNS", "RQ_CLUSTER_SECONDS", "RQ_CLUSTER_SEED"] {
            assert!(text.contains(&format!("(\"{variable}\"")), "{variable}");
        }
    }

    #[test]
    fn passed_tests_are_counted() {
        let cases = [
            ("test result: ok. 12 passed; 0 failed; 0 ignored", Some(12)),
            ("test result: ok. 0 passed; 0 failed; 0 ignored", Some(0)),
            ("test result: FAILED. 3 passed; 1 failed", None),
            ("test testing::crash::one ... ok", None),
        ];
        for (line, expected) in cases {
            assert_eq!(passed_tests(line), expected, "{line}");
        }
    }

    #[test]
    fn determinism_goes_on_where_the_last_start_ended() {
        let lines = described(Suite::Determinism, Some(41), Some(100));
        assert_eq!(lines.len(), 3);
        for (line, seed) in lines.iter().zip([100, 120, 140]) {
            assert!(line.contains(&format!("RQ_SEED={seed} ")), "{line}");
        }
    }
}
