//! From all words of a process to what is said and the exit code, without starting a node; and
//! the list of rqlited's flags.

use super::*;

/// Gives exit code and text for words behind the program's name.
fn answer(program: &str, words: &[&str]) -> (u8, String) {
    let invocation = Invocation::new([program].iter().chain(words).map(OsString::from));
    match prepare(&invocation, "3.53.3") {
        Ok(_) => panic!("{words:?} would run"),
        Err(answer) => (answer.code, answer.text),
    }
}

#[test]
fn each_way_to_end_has_its_code_and_text() {
    let (code, text) = answer("/usr/bin/rqlited", &["-version"]);
    assert_eq!(code, 0);
    let expected = format!("rqlited {} ", version::VERSION);
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.contains(" sqlite3.53.3 (commit ") && text.ends_with(", compiler rustc)\n"));

    let (code, text) = answer("rqd", &["-h"]);
    assert_eq!(code, 0);
    assert!(text.starts_with('\n') && text.contains("\nUsage: rqd [flags] <data directory>\n"));

    let (code, text) = answer("rqd", &["-x", "data"]);
    assert_eq!(code, 2);
    assert!(text.starts_with("flag provided but not defined: -x\n\nrqd: "), "{text}");
    assert!(text.contains("\nUsage: rqd [flags] <data directory>\n  -auth string\n"));

    let (code, text) = answer("rqd", &["-http-addr=x", "data"]);
    assert_eq!((code, text.as_str()), (1, "fatal: HTTP bind address not valid\n"));

    let (code, text) = answer("rqd", &["data", "more"]);
    let expected = "arguments after data directory (data) are not accepted ([more])\n";
    assert_eq!((code, text.as_str()), (1, expected));
}

#[test]
fn what_rqlited_logs_before_it_dies_has_the_layout_of_a_log_line() {
    for (words, expected) in [
        (&[][..], "failed to parse command-line flags: missing required argument: DataPath\n"),
        (
            &["-raft-snap-int=1ns", "data"],
            "failed to open store: creating the raft system failed: SnapshotInterval is too low\n",
        ),
    ] {
        let (code, text) = answer("rqlited", words);
        assert_eq!(code, 1);
        let (prefix, message) = text.split_at("[rqlited] 2026/07/24 12:54:16 ".len());
        assert!(prefix.starts_with("[rqlited] 2") && prefix.ends_with(' '), "{text}");
        assert_eq!(message, expected);
    }
}

#[test]
fn the_version_needs_no_data_directory_and_no_sense() {
    for words in [&["-version"][..], &["-version", "-http-addr=x"], &["--version=T", "a", "b"]] {
        assert_eq!(answer("rqd", words).0, 0, "{words:?}");
    }
}

/// Name, kind and default of each of rqlited's flags, as its contract lists them. An empty
/// default is a zero.
const UPSTREAM: [(&str, &str, &str); 68] = [
    ("auth", "string", ""),
    ("auto-backup", "string", ""),
    ("auto-optimize-int", "duration", "24h"),
    ("auto-restore", "string", ""),
    ("auto-vacuum-int", "duration", ""),
    ("bootstrap-expect", "int", ""),
    ("bootstrap-expect-timeout", "duration", "120s"),
    ("cdc-config", "string", ""),
    ("cluster-connect-timeout", "duration", "30s"),
    ("compress-snap-transport", "bool", ""),
    ("cpu-profile", "string", ""),
    ("db-max-ro-conns", "int", "256"),
    ("disco-config", "string", ""),
    ("disco-key", "string", "rqlite"),
    ("disco-mode", "string", ""),
    ("extensions-path", "string", ""),
    ("fk", "bool", ""),
    ("http-addr", "string", "localhost:4001"),
    ("http-adv-addr", "string", ""),
    ("http-allow-origin", "string", ""),
    ("http-ca-cert", "string", ""),
    ("http-cert", "string", ""),
    ("http-key", "string", ""),
    ("http-verify-client", "bool", ""),
    ("http-verify-common-name", "string", ""),
    ("join", "string", ""),
    ("join-as", "string", ""),
    ("join-attempts", "int", "5"),
    ("join-interval", "duration", "3s"),
    ("mem-profile", "string", ""),
    ("node-ca-cert", "string", ""),
    ("node-cert", "string", ""),
    ("node-id", "string", ""),
    ("node-key", "string", ""),
    ("node-no-verify", "bool", ""),
    ("node-verify-client", "bool", ""),
    ("node-verify-common-name", "string", ""),
    ("node-verify-server-name", "string", ""),
    ("otlp-ca-cert", "string", ""),
    ("otlp-cert", "string", ""),
    ("otlp-endpoint", "string", ""),
    ("otlp-insecure", "bool", ""),
    ("otlp-interval", "duration", "30s"),
    ("otlp-key", "string", ""),
    ("otlp-no-verify", "bool", ""),
    ("raft-addr", "string", "localhost:4002"),
    ("raft-adv-addr", "string", ""),
    ("raft-apply-timeout", "duration", "10s"),
    ("raft-cluster-remove-shutdown", "bool", ""),
    ("raft-commit-timeout", "duration", "50ms"),
    ("raft-election-timeout", "duration", "1s"),
    ("raft-heartbeat-timeout", "duration", "1s"),
    ("raft-leader-lease-timeout", "duration", ""),
    ("raft-log-level", "string", "WARN"),
    ("raft-non-voter", "bool", ""),
    ("raft-reap-node-timeout", "duration", ""),
    ("raft-reap-read-only-node-timeout", "duration", ""),
    ("raft-remove-shutdown", "bool", ""),
    ("raft-shutdown-stepdown", "bool", "true"),
    ("raft-snap", "uint", "8192"),
    ("raft-snap-int", "duration", "10s"),
    ("raft-snap-wal-size", "uint", "4194304"),
    ("trace-profile", "string", ""),
    ("version", "bool", ""),
    ("write-queue-batch-size", "int", "128"),
    ("write-queue-capacity", "int", "1024"),
    ("write-queue-timeout", "duration", "50ms"),
    ("write-queue-tx", "bool", ""),
];

#[test]
fn the_definition_has_rqliteds_flags_with_their_kinds_and_defaults() {
    let command = cli::command();
    command.clone().debug_assert();
    let mut found: Vec<_> = command
        .get_arguments()
        .filter(|flag| flag.get_help_heading() != Some(cli::OWN))
        .filter_map(|flag| {
            let default = flag.get_default_values().first().and_then(|value| value.to_str());
            let default = default.unwrap_or("");
            let is_zero = ["", "0", "0s", "false"].contains(&default);
            let kind = flag.get_value_names()?.first()?.to_string();
            Some((flag.get_long()?.to_owned(), kind, if is_zero { "" } else { default }.to_owned()))
        })
        .collect();
    found.sort();
    let expected: Vec<_> = UPSTREAM
        .iter()
        .map(|(name, kind, default)| {
            ((*name).to_owned(), (*kind).to_owned(), (*default).to_owned())
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_argument_has_help() {
    for argument in cli::command().get_arguments() {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.len() > 10, "{} has no help", argument.get_id());
        assert!(!help.ends_with('.'), "{}: {help}", argument.get_id());
    }
}
