//! The answers of execute, query and request, byte for byte.
//!
//! [`Results`] takes results through [`rq_sql::ResultSink`] and writes them straight into one
//! buffer; [`Results::finish`] closes the envelope.

mod column;
mod date;
mod encoder;
mod room;

pub use encoder::{Answer, Envelope, Limits, Options, Results, Unrepresentable};
pub use room::{Room, Share};
