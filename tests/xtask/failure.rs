//! Why a task could not be done.

use std::{io, path::PathBuf};

/// Why a task could not be done. A measure that misses its floor is not a failure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Cargo did not build a program that is needed.
    #[error("building {program}: {reason}")]
    Build {
        /// The program's name.
        program: &'static str,
        /// What Cargo says.
        reason: String,
    },
    /// A program that was to be measured does not exist.
    #[error("{} is not a program", .0.display())]
    NoProgram(PathBuf),
    /// A program could not be started, or did not do what it was started for.
    #[error("{program}: {reason}")]
    Program {
        /// The program's name.
        program: String,
        /// What went wrong.
        reason: String,
    },
    /// The operating system refused something.
    #[error("{action}: {source}")]
    System {
        /// What was being done.
        action: String,
        /// The refusal.
        source: io::Error,
    },
}

impl Failure {
    /// A refusal of the operating system while doing `action`; for `map_err`.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }

    /// What is wrong with a program that was started.
    pub(crate) fn program(program: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Program { program: program.into(), reason: reason.into() }
    }
}
