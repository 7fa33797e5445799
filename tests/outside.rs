//! The suites that need more than this workspace: other languages and their registries, root.
//!
//! A suite whose needs are not met is reported as *ignored*, with the reason, never as passed.
//! `RQ_TEST_REQUIRE_ALL=1` turns each unmet need into a failure. `RQ_TEST_OFFLINE=1` counts as
//! having no registries.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]
#![expect(clippy::print_stdout, reason = "a test says with which seed it runs, and what it saw")]
#![expect(clippy::print_stderr, reason = "a suite that is left out is said to be")]

use std::{env, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// Unmodified client libraries of other languages, a scenario each: `clients/*`.
mod clients;

/// A real schema and data, sent over HTTP and compared with what stock SQLite makes of it.
mod chinook;

/// A member whose program is not that of its database.
mod engine;

/// Ordinary statements through HTTP and through SQLite directly.
mod sql_equal;

/// A file system that fills up and is freed.
mod full_disk;

/// A cluster that is cut apart, slowed down, filled up, stopped and set wrong.
mod nemesis;

/// HTTPS, client certificates and reload, with a client that is not ours.
mod https;

/// A cluster by every combination of TLS on its two ports.
mod tls_matrix;

/// What a suite needs that this machine may lack: `Err` says what is missing.
type Need = fn() -> Result<(), String>;

/// A suite: its name, its needs, and what to run.
pub struct Suite {
    /// The name it is reported and filtered by.
    pub name: &'static str,
    /// Tells whether it can run here.
    pub need: Need,
    /// Panics if it fails.
    pub run: fn(),
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let suites = [
        clients::suites(),
        chinook::suites(),
        engine::suites(),
        sql_equal::suites(),
        full_disk::suites(),
        https::suites(),
        tls_matrix::suites(),
        nemesis::suites(),
    ];
    let trials = suites.into_iter().flatten().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[expect(clippy::needless_pass_by_value, reason = "taken apart")]
fn trial(suite: Suite) -> Trial {
    let Suite { name, need, run } = suite;
    let unmet = need().err();
    let reported = unmet.clone();
    let trial = Trial::test(name, move || match reported {
        Some(reason) => Err(Failed::from(reason)),
        None => {
            run();
            Ok(())
        }
    });
    match unmet {
        Some(reason) if env::var_os("RQ_TEST_REQUIRE_ALL").is_none() => {
            eprintln!("SKIPPED {name}: {reason}");
            trial.with_ignored_flag(true)
        }
        _ => trial,
    }
}
