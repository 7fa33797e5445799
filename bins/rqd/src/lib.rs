//! The node program: what a person at a terminal sees of it.
//!
//! One run goes: words → [`goflag`] (Go's syntax, by the definition in [`cli`]) → [`config`]
//! (checked and typed) → [`telemetry`] → `startup` (listeners, store, node, HTTP, signals).
//! Until the configuration is checked nothing is opened, bound or created. Standard output stays
//! empty; everything is said on standard error.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | stopped by SIGTERM or SIGINT; `-version`; `-h` |
//! | 1 | flags that do not go together; any failure at start or while running |
//! | 2 | a flag that is none, or a value that is not of its kind |

pub mod cli;
pub mod config;
pub mod goflag;
pub mod telemetry;
pub mod usage;
pub mod version;

mod startup;

use std::{ffi::OsString, io::Write as _, path::Path, process::ExitCode};

use crate::{
    config::{Config, Problem},
    goflag::Stop,
};

/// How the program was called.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The last part of the path it was called by, for example `rqd` or `rqlited`.
    pub program: String,
    /// All words, the program's own path first.
    pub words: Vec<OsString>,
}

/// What is to be said instead of running, and the exit code to say it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What goes to standard error, ends of lines included.
    pub text: String,
    /// The exit code.
    pub code: u8,
}

/// Runs the program on the words it was called with, and gives its exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = Invocation::new(words);
    match prepare(&invocation, startup::sqlite_version()) {
        Ok(config) => {
            telemetry::install(&invocation.program, config.log);
            startup::run(&invocation, config)
        }
        Err(answer) => {
            // Nobody is left to tell if standard error is closed.
            drop(std::io::stderr().write_all(answer.text.as_bytes()));
            ExitCode::from(answer.code)
        }
    }
}

/// Turns the words into a configuration, or into what is to be said instead.
pub fn prepare(invocation: &Invocation, sqlite_version: &str) -> Result<Config, Answer> {
    let program = &invocation.program;
    let words = invocation.words.get(1..).unwrap_or_default();
    if words.is_empty() {
        let text = "failed to parse command-line flags: missing required argument: DataPath";
        return Err(Answer { text: telemetry::line(program, text), code: 1 });
    }
    let cli = goflag::parse(words.iter().cloned()).map_err(|stop| match stop {
        Stop::Help => Answer { text: usage::render(program), code: 0 },
        Stop::Misuse(text) => {
            Answer { text: format!("{text}\n{}", usage::render(program)), code: 2 }
        }
    })?;
    if cli.general.version.0 {
        return Err(Answer { text: version::line(program, sqlite_version), code: 0 });
    }
    Config::check(&cli).map_err(|problem| {
        let text = match &problem {
            Problem::Fatal(_) | Problem::Bare(_) => format!("{problem}\n"),
            Problem::Logged(text) => telemetry::line(program, text),
        };
        Answer { text, code: 1 }
    })
}

impl Invocation {
    /// Takes all words of a process, its own path first.
    pub fn new(words: impl IntoIterator<Item = OsString>) -> Self {
        let words: Vec<_> = words.into_iter().collect();
        let program = words
            .first()
            .and_then(|word| Path::new(word).file_name())
            .map_or_else(|| "rqd".to_owned(), |name| name.to_string_lossy().into_owned());
        Self { program, words }
    }
}

#[cfg(test)]
mod tests;
