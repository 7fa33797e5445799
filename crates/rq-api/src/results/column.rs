//! What the encoder knows about the columns of the result it is writing.
//!
//! Kept in buffers that are used again for every result, so that a result costs no allocation
//! once they have grown.

use std::ops::Range;

use rq_sql::{Column, ValueRef};

use crate::json;

/// How values of a column are answered beyond what their storage class says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    /// As they are.
    Plain,
    /// Integers as `true` or `false`.
    Boolean,
    /// Integers and texts as dates.
    Date,
}

struct State {
    /// The type within `Columns::types`.
    type_name: Range<usize>,
    /// The name as a JSON string within `Columns::keys`.
    key: Range<usize>,
    conversion: Conversion,
    /// Whether BLOBs are answered as text.
    textual: bool,
}

#[derive(Default)]
pub(super) struct Columns {
    states: Vec<State>,
    types: String,
    keys: Vec<u8>,
    /// The columns sorted by name, of equal names only the last. Filled for associative rows.
    order: Vec<usize>,
}

impl Columns {
    /// Takes the columns of the next result.
    pub(super) fn set(&mut self, columns: &[Column], qualify: bool, associative: bool) {
        self.states.clear();
        self.types.clear();
        self.keys.clear();
        self.order.clear();
        for column in columns {
            let type_start = self.types.len();
            lower(&mut self.types, column.declared_type.as_deref().unwrap_or_default());
            let type_name = type_start..self.types.len();
            let key_start = self.keys.len();
            match column.table.as_deref().filter(|_| qualify) {
                Some(table) => {
                    let name = format!("{table}.{}", column.name);
                    json::write_string(&mut self.keys, name.as_bytes());
                }
                None => json::write_string(&mut self.keys, column.name.as_bytes()),
            }
            let declared = &self.types[type_name.clone()];
            self.states.push(State {
                conversion: match declared {
                    "boolean" => Conversion::Boolean,
                    "date" | "datetime" | "timestamp" => Conversion::Date,
                    _ => Conversion::Plain,
                },
                textual: is_textual(declared),
                type_name,
                key: key_start..self.keys.len(),
            });
        }
        if associative {
            self.sort(columns, qualify);
        }
    }

    fn sort(&mut self, columns: &[Column], qualify: bool) {
        let name = |&index: &usize| {
            let column = &columns[index];
            let table = column.table.as_deref().filter(|_| qualify);
            let prefix = table.into_iter().flat_map(|table| table.bytes().chain([b'.']));
            prefix.chain(column.name.bytes())
        };
        self.order.extend(0..columns.len());
        self.order.sort_by(|a, b| name(a).cmp(name(b)));
        // Of equal names, which stand in their original order, the last one counts.
        self.order.reverse();
        self.order.dedup_by(|a, b| name(a).eq(name(b)));
        self.order.reverse();
    }

    /// Gives columns without a type one by the values of the first row.
    pub(super) fn infer(&mut self, row: &[ValueRef<'_>]) {
        for (state, value) in self.states.iter_mut().zip(row) {
            if !state.type_name.is_empty() {
                continue;
            }
            let (inferred, textual) = match value {
                ValueRef::Null => continue,
                ValueRef::Integer(_) => ("integer", false),
                ValueRef::Real(_) => ("real", false),
                ValueRef::Text(_) | ValueRef::Blob(_) => ("text", true),
            };
            let start = self.types.len();
            self.types.push_str(inferred);
            state.type_name = start..self.types.len();
            state.textual = textual;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.states.len()
    }

    /// The columns of associative rows, in the order of their keys.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    /// The name as a JSON string.
    pub(super) fn key(&self, index: usize) -> &[u8] {
        &self.keys[self.states[index].key.clone()]
    }

    /// The type, in lower case.
    pub(super) fn type_name(&self, index: usize) -> &str {
        &self.types[self.states[index].type_name.clone()]
    }

    pub(super) fn conversion(&self, index: usize) -> Conversion {
        self.states[index].conversion
    }

    pub(super) fn is_textual(&self, index: usize) -> bool {
        self.states[index].textual
    }
}

/// Appends a text in lower case, character by character.
fn lower(out: &mut String, text: &str) {
    if text.is_ascii() {
        let start = out.len();
        out.push_str(text);
        out[start..].make_ascii_lowercase();
    } else {
        out.extend(text.chars().flat_map(char::to_lowercase));
    }
}

/// Whether BLOBs in a column of this type are answered as text.
fn is_textual(type_name: &str) -> bool {
    const PREFIXES: [&str; 6] =
        ["varchar", "varying character", "nchar", "native character", "nvarchar", "clob"];
    matches!(type_name, "" | "text" | "json")
        || PREFIXES.iter().any(|prefix| type_name.starts_with(prefix))
}
