//! The only place from which the task runner prints.
//!
//! Results go to standard output, everything else to standard error. A reader that has gone away
//! is no error: there is nobody left to tell.

use std::io::{self, Write as _};

/// Prints a result, followed by the end of the line.
pub(crate) fn line(text: &str) {
    let mut stdout = io::stdout().lock();
    let _closed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Says what is going on.
pub(crate) fn note(text: &str) {
    let _closed = writeln!(io::stderr().lock(), "{text}");
}
