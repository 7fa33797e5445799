//! Whether what clients saw can be explained by one copy of the data and one operation at a time.
//!
//! - [`History`] records what clients did: when each operation was sent, when its answer came, what
//!   the answer was, or that nobody knows.
//! - [`mod@search`] looks for an order of these operations that keeps their order in time and that a
//!   [`Model`] of one copy accepts.
//! - [`Register`], [`List`] and [`Bank`] are such models.
//!
//! Nothing here speaks to a node. The search is the one of Wing and Gong with the memory of Lowe: it
//! takes the operations that could come next one after the other and never visits the same set of
//! done operations with the same state twice.

mod history;
mod models;
mod search;

#[cfg(test)]
mod simulated;

pub use history::{Clock, History, Operation};
pub use models::{
    Bank, BankCall, BankSeen, List, ListCall, ListSeen, Register, RegisterCall, RegisterSeen,
    Transfer,
};
pub use search::{Model, OperationOf, Verdict, search, search_by_key};
