//! Flags in the syntax of Go's `flag` package, which operators' scripts are written for.
//!
//! [`parse`] walks the words as Go does, checks each value by the kind its flag has in the one
//! definition of [`crate::cli`], and stops at the first word that is wrong. What it hands on to
//! clap is in one plain form and cannot fail there. The rules: one dash or two; `-flag=value`
//! for every kind, `-flag value` for all but booleans; the last of several counts; flags end at
//! the first other word, at `-`, and behind `--`.

mod duration;
mod number;

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command, FromArgMatches as _};

pub use duration::GoDuration;
pub(crate) use number::{parse_int, parse_uint};

use crate::cli::{Cli, command};

/// A boolean flag's value, in Go's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch(pub bool);

impl std::str::FromStr for Switch {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self(false)),
            _ => Err("parse error"),
        }
    }
}

/// Why parsing ended without a command line to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The usage was asked for.
    Help,
    /// A word was wrong; the text says which, in Go's sentence.
    Misuse(String),
}

/// Parses the words behind the program's name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    let command = command();
    let plain = translate(&command, words)?;
    command
        .try_get_matches_from(plain)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| Stop::Misuse(error.to_string()))
}

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A boolean, taken by `=` alone.
    Bool,
    /// Any text.
    Text,
    /// A signed integer.
    Int,
    /// An unsigned integer.
    Uint,
    /// A length of time.
    Duration,
}

impl Kind {
    /// Reads the kind off a flag's definition, where the value's name states it.
    pub(crate) fn of(flag: &Arg) -> Self {
        match flag.get_value_names().and_then(<[_]>::first).map(|name| name.as_str()) {
            Some("bool") => Self::Bool,
            Some("int") => Self::Int,
            Some("uint") => Self::Uint,
            Some("duration") => Self::Duration,
            _ => Self::Text,
        }
    }

    /// Checks a value; the error is the end of Go's sentence.
    fn check(self, value: &str) -> Result<(), &'static str> {
        match self {
            Self::Text => Ok(()),
            Self::Bool => value.parse().map(|Switch(_)| ()),
            Self::Int => parse_int(value).map(|_| ()),
            Self::Uint => parse_uint(value).map(|_| ()),
            Self::Duration => value.parse().map(|_: GoDuration| ()),
        }
    }
}

/// Rewrites the words into `--name=value` …, `--`, and the words that are no flags.
fn translate(
    command: &Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, Stop> {
    let mut words = words.into_iter();
    // Clap takes the first word for the program.
    let mut plain = vec![OsString::from(command.get_name())];
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        let Some(typed) = flag_text(&word)? else {
            rest.push(word);
            break;
        };
        plain.push(flag(command, typed, &mut words)?.into());
    }
    plain.push("--".into());
    plain.append(&mut rest);
    plain.extend(words);
    Ok(plain)
}

/// Gives a flag's text without its dashes; `None` for a word that is no flag.
fn flag_text(word: &OsStr) -> Result<Option<&str>, Stop> {
    if word.len() < 2 || word.as_encoded_bytes()[0] != b'-' {
        return Ok(None);
    }
    let Some(text) = word.to_str() else {
        return Err(Stop::Misuse(format!("bad flag syntax: {}", word.to_string_lossy())));
    };
    let bare = text.strip_prefix("--").unwrap_or(&text[1..]);
    if bare.is_empty() || bare.starts_with(['-', '=']) {
        return Err(Stop::Misuse(format!("bad flag syntax: {text}")));
    }
    Ok(Some(bare))
}

/// Checks one flag and gives it in the plain form, taking its value from the words behind if it
/// is not attached.
fn flag(
    command: &Command,
    typed: &str,
    words: &mut impl Iterator<Item = OsString>,
) -> Result<String, Stop> {
    let (name, attached) = match typed.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (typed, None),
    };
    let Some(flag) = command.get_arguments().find(|flag| flag.get_long() == Some(name)) else {
        return Err(match name {
            "h" | "help" => Stop::Help,
            _ => Stop::Misuse(format!("flag provided but not defined: -{name}")),
        });
    };
    let kind = Kind::of(flag);
    let value = match attached {
        Some(value) => value,
        None if kind == Kind::Bool => "true".to_owned(),
        None => words
            .next()
            .ok_or_else(|| Stop::Misuse(format!("flag needs an argument: -{name}")))?
            .into_string()
            .map_err(|word| invalid(name, &word.to_string_lossy(), "not valid UTF-8"))?,
    };
    if kind == Kind::Bool {
        kind.check(&value).map_err(|reason| {
            Stop::Misuse(format!("invalid boolean value {value:?} for -{name}: {reason}"))
        })?;
    }
    kind.check(&value).map_err(|reason| invalid(name, &value, reason))?;
    let choices = flag.get_possible_values();
    if !choices.is_empty() && !choices.iter().any(|choice| choice.matches(&value, true)) {
        let names: Vec<_> = choices.iter().map(clap::builder::PossibleValue::get_name).collect();
        return Err(invalid(name, &value, &format!("must be one of {}", names.join(", "))));
    }
    Ok(format!("--{name}={value}"))
}

fn invalid(name: &str, value: &str, reason: &str) -> Stop {
    Stop::Misuse(format!("invalid value {value:?} for flag -{name}: {reason}"))
}

#[cfg(test)]
mod tests;
