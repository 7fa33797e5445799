//! The one table of flags whose feature does not exist yet. It is there to shrink.
//!
//! Such a flag is accepted at its default, because scripts state defaults, and refused
//! otherwise: a node that ignored `-auto-restore` or `-disco-mode` would be worse than one that does
//! not start.

use crate::{cli::Cli, config::Problem, goflag};

const DISCOVERY: &str =
    "nodes do not find each other through other services yet; name them with -join";
const ARCHIVE: &str = "automatic backup and restore do not exist yet";
const OTLP: &str = "metrics are not sent over OTLP yet; they can be read at /debug/vars";

/// A flag whose feature does not exist.
struct Row {
    /// The field of the flag, which is its name with underscores.
    field: &'static str,
    /// Whether it was given another value than its default.
    is_given: fn(&Cli, &Cli) -> bool,
    /// What does not exist, as a sentence.
    what: &'static str,
}

macro_rules! row {
    ($group:ident.$field:ident, $what:expr) => {
        Row {
            field: stringify!($field),
            is_given: |cli, default| cli.$group.$field != default.$group.$field,
            what: $what,
        }
    };
}

/// Every flag that is refused at any value but its default.
const TABLE: &[Row] = &[
    row!(cluster.disco_mode, DISCOVERY),
    row!(cluster.disco_key, DISCOVERY),
    row!(cluster.disco_config, DISCOVERY),
    row!(sqlite.extensions_path, "SQLite extensions cannot be loaded yet"),
    row!(services.auto_backup, ARCHIVE),
    row!(services.auto_restore, ARCHIVE),
    row!(services.cdc_config, "changes of rows are not sent anywhere yet"),
    row!(otlp.otlp_endpoint, OTLP),
    row!(otlp.otlp_interval, OTLP),
    row!(otlp.otlp_insecure, OTLP),
    row!(otlp.otlp_no_verify, OTLP),
    row!(otlp.otlp_ca_cert, OTLP),
    row!(otlp.otlp_cert, OTLP),
    row!(otlp.otlp_key, OTLP),
];

/// Refuses the first flag of the table that was given another value than its default.
pub(crate) fn refuse(cli: &Cli) -> Result<(), Problem> {
    let default = defaults();
    match TABLE.iter().find(|row| (row.is_given)(cli, &default)) {
        Some(row) => {
            let name = row.field.replace('_', "-");
            Err(Problem::fatal(format!("-{name} is refused: {}", row.what)))
        }
        None => Ok(()),
    }
}

/// Gives the command line on which nothing was said.
fn defaults() -> Cli {
    goflag::parse([]).expect("every flag has a default of its own kind")
}

/// Gives a sentence for each flag that is accepted and has no effect.
pub(crate) fn warnings(cli: &Cli) -> Vec<String> {
    let profiles = [
        ("cpu-profile", &cli.profiling.cpu_profile),
        ("mem-profile", &cli.profiling.mem_profile),
        ("trace-profile", &cli.profiling.trace_profile),
    ];
    profiles
        .into_iter()
        .filter(|(_, path)| !path.is_empty())
        .map(|(name, _)| format!("-{name} has no effect: this program writes no profiles"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_flag_and_stands_once() {
        let command = crate::cli::command();
        let mut names: Vec<_> = TABLE.iter().map(|row| row.field.replace('_', "-")).collect();
        for name in &names {
            assert!(
                command.get_arguments().any(|flag| flag.get_long() == Some(name)),
                "{name} is no flag"
            );
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
