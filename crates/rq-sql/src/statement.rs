//! A statement string as a client sent it.

use crate::Value;

/// One *statement string* with its parameters.
///
/// The text may hold several SQL statements separated by `;` (a "multi-statement string"). It is
/// never rewritten: what is stored here is what SQLite compiles, on every node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// The SQL text, as typed.
    pub sql: String,
    /// The values to bind, flattened to one sequence in the order they were sent.
    pub parameters: Vec<Parameter>,
}

/// One value to bind.
///
/// A positional one binds to the parameter index equal to its position in the list. A named one
/// binds to `:name`, `@name` and `$name`, and still takes up one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The name without its prefix character; `None` or empty for a positional parameter.
    pub name: Option<String>,
    /// What to bind.
    pub value: Value,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    /// A statement with positional parameters.
    pub fn with(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Self {
        let parameters = values.into_iter().map(|value| Parameter { name: None, value }).collect();
        Self { sql: sql.into(), parameters }
    }
}
