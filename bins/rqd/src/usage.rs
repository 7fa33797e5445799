//! The usage text, in the layout of Go's `PrintDefaults`, from the definition in [`crate::cli`].
//!
//! Flags are sorted by name: first those of rqlited, then, under a heading, ours.

use clap::{Arg, Command};

use crate::{
    cli,
    goflag::{GoDuration, Kind},
};

/// Renders the usage under the name the program was called by.
pub fn render(program: &str) -> String {
    let command = cli::command();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("\n{program}: {about}.\n\nUsage: {program} [flags] <data directory>\n");
    let (own, upstream): (Vec<_>, Vec<_>) =
        flags(&command).into_iter().partition(|flag| flag.get_help_heading() == Some(cli::OWN));
    for flag in upstream {
        text.push_str(&entry(flag));
    }
    text.push_str(&format!("\n{}:\n", cli::OWN));
    for flag in own {
        text.push_str(&entry(flag));
    }
    text
}

/// Lists the flags in the order of their names.
fn flags(command: &Command) -> Vec<&Arg> {
    let mut flags: Vec<_> =
        command.get_arguments().filter(|flag| flag.get_long().is_some()).collect();
    flags.sort_by_key(|flag| flag.get_long());
    flags
}

fn entry(flag: &Arg) -> String {
    let name = flag.get_long().unwrap_or_default();
    let kind = Kind::of(flag);
    let word = match kind {
        Kind::Bool => "",
        Kind::Text => " string",
        Kind::Int => " int",
        Kind::Uint => " uint",
        Kind::Duration => " duration",
    };
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let default = default_text(flag, kind);
    format!("  -{name}{word}\n    \t{help}{default}\n")
}

/// Gives ` (default …)` as Go shows values of the kind; nothing for a zero.
fn default_text(flag: &Arg, kind: Kind) -> String {
    let Some(value) = flag.get_default_values().first().and_then(|value| value.to_str()) else {
        return String::new();
    };
    let shown = match kind {
        Kind::Text if value.is_empty() => return String::new(),
        Kind::Text => format!("{value:?}"),
        Kind::Bool | Kind::Int | Kind::Uint if ["false", "0"].contains(&value) => {
            return String::new();
        }
        Kind::Bool | Kind::Int | Kind::Uint => value.to_owned(),
        Kind::Duration => match value.parse::<GoDuration>() {
            Ok(duration) if duration == GoDuration::default() => return String::new(),
            Ok(duration) => duration.to_string(),
            Err(_) => value.to_owned(),
        },
    };
    format!(" (default {shown})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_gos() {
        let text = render("rqlited");
        assert!(text.starts_with("\nrqlited: "), "{text}");
        for expected in [
            "\n\nUsage: rqlited [flags] <data directory>\n  -auth string\n    \t",
            "\n  -fk\n    \tEnforce foreign keys. Must be equal on all nodes\n",
            "\n  -http-addr string\n    \tAddress the HTTP API listens on. For HTTPS also set \
             -http-cert and -http-key (default \"localhost:4001\")\n",
            " (default 5)\n  -join-interval duration\n",
            "\n  -raft-snap uint\n    \tNumber of log entries after which a snapshot is due \
             (default 8192)\n",
            "(default 2m0s)\n",
            "(default 24h0m0s)\n",
            "\n  -raft-shutdown-stepdown\n    \tHand over leadership before the node stops \
             (default true)\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is missing in {text}");
        }
        assert!(!text.contains("(default 0"), "zero defaults go without saying: {text}");
    }

    #[test]
    fn flags_are_sorted_and_ours_come_last() {
        let text = render("rqd");
        let (upstream, own) = text.split_once(&format!("\n{}:\n", cli::OWN)).unwrap();
        let names = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.strip_prefix("  -")).map(str::to_owned).collect()
        };
        assert_eq!(names(upstream).len(), 68);
        assert!(names(upstream).is_sorted() && names(own).is_sorted());
        assert!(!names(upstream).iter().any(|name| name.starts_with("limit-")));
        assert!(names(own).iter().any(|name| name.starts_with("limit-")));
    }
}
