//! Binds the parameters of a statement string to its statements, one after the other.
//!
//! The list of a statement string is one flat sequence. Each statement of the string takes as many
//! items from its front as it has slots; named items of the whole list are visible to all. Reads and
//! writes share this file, so that a statement means the same on both paths. It never looks at values.

use rq_sql::{ErrorKind, Origin, Parameter, SqlError};

use crate::prepared::Prepared;

/// The characters that may precede a name in SQL.
const PREFIXES: [char; 3] = [':', '@', '$'];

/// The parameters of one statement string, being consumed.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    parameters: &'a [Parameter],
    consumed: usize,
    origin: Origin,
}

impl<'a> Arguments<'a> {
    /// Checks the names and stands before the first item.
    ///
    /// # Errors
    /// A name that does not begin with a letter.
    pub(crate) fn new(parameters: &'a [Parameter], origin: Origin) -> Result<Self, SqlError> {
        for parameter in parameters {
            if let Some(name) = parameter.name.as_deref()
                && name.chars().next().is_some_and(|first| !first.is_alphabetic())
            {
                let message = format!("name {name:?} does not begin with a letter");
                return Err(SqlError { kind: ErrorKind::Parameters, message, origin });
            }
        }
        Ok(Self { parameters, consumed: 0, origin })
    }

    /// Binds the next statement of the string. Slots that nothing fills are NULL.
    ///
    /// # Errors
    /// Fewer items left than the statement has slots; a value beyond SQLite's size limit.
    pub(crate) fn bind_next(&mut self, statement: &mut Prepared) -> Result<(), SqlError> {
        let slots = statement.parameter_count();
        statement.clear_bindings();
        if slots == 0 {
            return Ok(());
        }
        let left = self.parameters.len() - self.consumed;
        if left < slots {
            let got = match self.origin {
                Origin::Read => left,
                Origin::Write => self.parameters.len(),
            };
            let message = format!("not enough args to execute query: want {slots} got {got}");
            return Err(SqlError { kind: ErrorKind::Parameters, message, origin: self.origin });
        }
        let window = self.consumed..self.consumed + slots;
        self.consumed = window.end;
        for (position, parameter) in self.parameters[window.clone()].iter().enumerate() {
            match name_of(parameter) {
                None => self.bind(statement, position + 1, parameter)?,
                Some(name) => self.bind_named(statement, name, parameter)?,
            }
        }
        for (position, parameter) in self.parameters.iter().enumerate() {
            if !window.contains(&position)
                && let Some(name) = name_of(parameter)
            {
                self.bind_named(statement, name, parameter)?;
            }
        }
        Ok(())
    }

    fn bind_named(
        &self,
        statement: &mut Prepared,
        name: &str,
        parameter: &Parameter,
    ) -> Result<(), SqlError> {
        for prefix in PREFIXES {
            if let Some(index) = statement.parameter_index(&format!("{prefix}{name}")) {
                self.bind(statement, index, parameter)?;
            }
        }
        Ok(())
    }

    fn bind(
        &self,
        statement: &mut Prepared,
        index: usize,
        parameter: &Parameter,
    ) -> Result<(), SqlError> {
        statement
            .bind(index, parameter.value.as_ref())
            .map_err(|error| error.into_sql_error(self.origin))
    }
}

/// The name an item binds by; an empty one makes it positional.
fn name_of(parameter: &Parameter) -> Option<&str> {
    parameter.name.as_deref().filter(|name| !name.is_empty())
}
