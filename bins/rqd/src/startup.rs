//! The start order an operator sees, and its reverse.

use std::process::ExitCode;

use crate::{Invocation, config::Config};

/// Gives the version of the SQLite library that is linked.
pub(crate) fn sqlite_version() -> &'static str {
    "unknown"
}

/// Runs a node until it is told to stop, and gives the exit code of the process.
pub(crate) fn run(_invocation: &Invocation, config: Config) -> ExitCode {
    let Config { data_directory, warnings, .. } = config;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let directory = data_directory.display();
    tracing::error!("cannot open {directory}: the store is not part of this build");
    ExitCode::FAILURE
}
