//! One table per rule of the syntax.

use super::*;

fn parsed(words: &[&str]) -> Cli {
    parse(words.iter().map(OsString::from)).unwrap_or_else(|stop| panic!("{words:?}: {stop:?}"))
}

fn stopped(words: &[&str]) -> Stop {
    match parse(words.iter().map(OsString::from)) {
        Ok(_) => panic!("{words:?} was accepted"),
        Err(stop) => stop,
    }
}

fn misuse(words: &[&str]) -> String {
    match stopped(words) {
        Stop::Misuse(text) => text,
        Stop::Help => panic!("{words:?} asked for help"),
    }
}

#[test]
fn one_dash_or_two_and_a_value_behind_equals_or_space() {
    for words in [
        &["-http-addr", "h:1", "d"][..],
        &["--http-addr", "h:1", "d"],
        &["-http-addr=h:1", "d"],
        &["--http-addr=h:1", "d"],
    ] {
        let cli = parsed(words);
        assert_eq!(cli.http.http_addr, "h:1", "{words:?}");
        assert_eq!(cli.words, ["d"], "{words:?}");
    }
    assert_eq!(parsed(&["-http-addr", "-x", "d"]).http.http_addr, "-x", "whatever it looks like");
    assert_eq!(parsed(&["-auth", "--", "d"]).services.auth, "--");
    assert_eq!(parsed(&["-auth=a=b", "d"]).services.auth, "a=b");
    assert_eq!(parsed(&["-auth=", "d"]).services.auth, "");
    assert_eq!(parsed(&["-auth", "", "d"]).services.auth, "");
    assert_eq!(parsed(&["-join", "a,b,c", "d"]).cluster.join, "a,b,c");
}

#[test]
fn booleans_take_their_value_behind_equals_alone() {
    for word in ["1", "t", "T", "true", "TRUE", "True"] {
        assert!(parsed(&[&format!("-fk={word}"), "d"]).sqlite.fk.0, "{word}");
    }
    for word in ["0", "f", "F", "false", "FALSE", "False"] {
        let cli = parsed(&[&format!("--raft-shutdown-stepdown={word}"), "d"]);
        assert!(!cli.raft.raft_shutdown_stepdown.0, "{word}");
    }
    for word in ["yes", "tRUE", "2", "", " true"] {
        assert_eq!(
            misuse(&[&format!("-fk={word}"), "d"]),
            format!("invalid boolean value {word:?} for -fk: parse error")
        );
    }
    let cli = parsed(&["-fk", "true", "-write-queue-tx"]);
    assert!(cli.sqlite.fk.0 && !cli.queue.write_queue_tx.0);
    assert_eq!(cli.words, ["true", "-write-queue-tx"], "true is the data directory");
}

#[test]
fn numbers_know_bases_and_their_range() {
    assert_eq!(parsed(&["-raft-snap", "0x10", "d"]).raft.raft_snap, 16);
    assert_eq!(parsed(&["-raft-snap=1_000", "d"]).raft.raft_snap, 1000);
    assert_eq!(parsed(&["-db-max-ro-conns", "-0b11", "d"]).sqlite.db_max_ro_conns, -3);
    for (words, expected) in [
        (&["-raft-snap", "x"][..], r#"invalid value "x" for flag -raft-snap: parse error"#),
        (&["--raft-snap=-1"], r#"invalid value "-1" for flag -raft-snap: parse error"#),
        (&["-raft-snap="], r#"invalid value "" for flag -raft-snap: parse error"#),
        (
            &["-raft-snap", "18446744073709551616"],
            r#"invalid value "18446744073709551616" for flag -raft-snap: value out of range"#,
        ),
        (&["-join-attempts=1.5"], r#"invalid value "1.5" for flag -join-attempts: parse error"#),
    ] {
        assert_eq!(misuse(words), expected);
    }
}

#[test]
fn lengths_of_time_are_gos() {
    let parse = |text: &str| parsed(&["-raft-snap-int", text, "d"]).raft.raft_snap_int.to_string();
    assert_eq!(parse("1.5h"), "1h30m0s");
    assert_eq!(parse("0"), "0s");
    assert_eq!(parse("-5s"), "-5s");
    for text in ["1d", "5", "x"] {
        assert_eq!(
            misuse(&["-raft-snap-int", text]),
            format!("invalid value {text:?} for flag -raft-snap-int: parse error")
        );
    }
}

#[test]
fn choices_are_checked() {
    assert_eq!(parsed(&["-log-format=JSON", "d"]).own.log_format, crate::cli::LogFormat::Json);
    assert_eq!(
        misuse(&["-log-format", "xml"]),
        r#"invalid value "xml" for flag -log-format: must be one of text, json"#
    );
}

#[test]
fn of_several_the_last_counts() {
    let cli = parsed(&["-fk", "-raft-snap=1", "-fk=false", "--raft-snap", "2", "d"]);
    assert!(!cli.sqlite.fk.0);
    assert_eq!(cli.raft.raft_snap, 2);
}

#[test]
fn flags_end_at_the_first_other_word() {
    for (words, expected) in [
        (&["d", "-fk"][..], &["d", "-fk"][..]),
        (&["--", "-fk"], &["-fk"]),
        (&["-", "-fk"], &["-", "-fk"]),
        (&["--", "--", "x"], &["--", "x"]),
        (&["", "-fk"], &["", "-fk"]),
        (&["d", "--"], &["d", "--"]),
        (&["d", "--undefined", "-h"], &["d", "--undefined", "-h"]),
    ] {
        let cli = parsed(words);
        assert_eq!(cli.words, expected, "{words:?}");
        assert!(!cli.sqlite.fk.0, "{words:?}");
    }
}

#[test]
fn the_first_wrong_word_is_reported() {
    for (words, expected) in [
        (&["-x"][..], "flag provided but not defined: -x"),
        (&["--x=1", "d"], "flag provided but not defined: -x"),
        (&["-raft-timeout", "1s"], "flag provided but not defined: -raft-timeout"),
        (&["-words", "d"], "flag provided but not defined: -words"),
        (&["-FK", "d"], "flag provided but not defined: -FK"),
        (&["-raft", "d"], "flag provided but not defined: -raft"),
        (&["-auth"], "flag needs an argument: -auth"),
        (&["-fk", "--auth"], "flag needs an argument: -auth"),
        (&["---fk"], "bad flag syntax: ---fk"),
        (&["-=x"], "bad flag syntax: -=x"),
        (&["--=x"], "bad flag syntax: --=x"),
        (&["-raft-snap=x", "-x"], "invalid value \"x\" for flag -raft-snap: parse error"),
        (&["-x", "-h"], "flag provided but not defined: -x"),
    ] {
        assert_eq!(misuse(words), expected, "{words:?}");
    }
}

#[test]
fn help_is_asked_for_in_several_ways() {
    for words in [&["-h"][..], &["--h"], &["-help"], &["--help"], &["-fk", "-h", "-x"], &["-h=1"]] {
        assert_eq!(stopped(words), Stop::Help, "{words:?}");
    }
}

#[test]
fn words_that_are_not_utf_8_are_data_or_errors() {
    use std::os::unix::ffi::OsStringExt as _;
    let word = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let cli = parse([word(b"/data/\xff")]).unwrap();
    assert_eq!(cli.words, [word(b"/data/\xff")]);
    assert!(matches!(parse([word(b"-\xff")]), Err(Stop::Misuse(_))));
    assert!(matches!(parse([word(b"-auth"), word(b"\xff")]), Err(Stop::Misuse(_))));
}
