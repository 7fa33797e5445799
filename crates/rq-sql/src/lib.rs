//! SQL as text and data: statements, values, results; splitting and classifying. No database, no I/O.
//!
//! Everything the server, the wire and the shell must agree on about SQL without running any:
//!
//! - [`Value`] and [`ValueRef`]: what SQLite stores, bit for bit.
//! - [`Statement`] and [`Parameter`]: a statement string as a client sent it, with the values to bind.
//! - [`Outcome`] and [`ResultSink`]: what one statement string gave, as data or as a stream.
//! - [`token`], [`split`], [`classify`]: SQLite's lexical rules, enough to cut a text into statements
//!   and to recognise the few kinds that need special treatment. Never used to judge whether
//!   SQL is valid: that is SQLite's business.

mod value;

mod outcome;
mod statement;

pub mod token;

pub mod classify;
pub mod split;

pub use outcome::{Column, End, ErrorKind, Origin, Outcome, ResultSink, Rows, SinkError, SqlError};
pub use statement::{Parameter, Statement};
pub use value::{Value, ValueRef};
