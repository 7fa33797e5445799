//! From a request body to statements.
//!
//! One pass over the bytes, straight into [`Statement`]s: memory stays proportional to the body,
//! and the number of statements and parameters is limited. Errors are reported as a streaming
//! parser finds them: element by element; within an element, malformed JSON before wrong types.

use rq_sql::{Parameter, Statement, Value};

use super::{
    blob_literal,
    reader::{Malformed, Reader, Start},
};

/// How to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Take `x'..'` strings for the text they are instead of for BLOBs (`X-Rq-Strict`).
    pub strict: bool,
    /// Keep statements equal to the empty string instead of dropping them.
    pub keep_empty: bool,
    /// The most statements a body may hold; more are refused.
    pub statements_max: usize,
    /// The most parameters all statements of a body may hold together; more are refused.
    pub parameters_max: usize,
}

impl Default for DecodeOptions {
    /// Not strict, without empty statements; up to 1,000,000 statements and 4,000,000 parameters.
    fn default() -> Self {
        Self {
            strict: false,
            keep_empty: false,
            statements_max: 1_000_000,
            parameters_max: 4_000_000,
        }
    }
}

/// Why a body is refused. Displays as the text of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is not JSON, or ends too early, or is nested too deeply.
    #[error("invalid JSON body")]
    InvalidJson,
    /// The body is JSON, but not a list of statements.
    #[error("invalid request")]
    InvalidRequest,
    /// The list is empty.
    #[error("no statements")]
    NoStatements,
    /// A parameter is a number outside of the range of a double; as written.
    #[error("invalid number {0}")]
    InvalidNumber(String),
    /// A parameter is of a kind that cannot be bound: the number as written, or the kind.
    #[error("unsupported type {0}")]
    UnsupportedType(String),
    /// A plain-text body is not UTF-8.
    #[error("string field contains invalid UTF-8")]
    InvalidUtf8,
    /// More statements than allowed, which is the number here.
    #[error("too many statements, the limit is {0}")]
    TooManyStatements(usize),
    /// More parameters than allowed, which is the number here.
    #[error("too many parameters, the limit is {0}")]
    TooManyParameters(usize),
}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::InvalidJson
    }
}

/// Decodes a JSON body. Statements equal to the empty string are dropped unless they are to be kept, so the list can
/// be empty.
///
/// What follows the closing bracket of the list is ignored. Of equal keys in one object the last
/// counts, in the place of the first.
///
/// # Errors
/// The first thing that is wrong, from left to right.
pub fn decode(body: &[u8], options: &DecodeOptions) -> Result<Vec<Statement>, DecodeError> {
    let mut reader = Reader::new(body);
    match reader.start()? {
        Start::Array => reader.expect(b'[')?,
        // Objects are refused at sight, scalars once they are complete.
        Start::Object => return Err(DecodeError::InvalidRequest),
        Start::String | Start::Number | Start::True | Start::False | Start::Null => {
            reader.skip_value(0)?;
            return Err(DecodeError::InvalidRequest);
        }
    }
    if reader.take(b']') {
        return Err(DecodeError::NoStatements);
    }
    let mut decoder = Decoder { options, parameters: 0 };
    let mut statements = Vec::new();
    loop {
        let statement = decoder.statement(&mut reader)?;
        if options.keep_empty || !statement.sql.is_empty() {
            if statements.len() == options.statements_max {
                return Err(DecodeError::TooManyStatements(options.statements_max));
            }
            statements.push(statement);
        }
        if !reader.take(b',') {
            reader.expect(b']')?;
            return Ok(statements);
        }
    }
}

/// Decodes a plain-text body: one statement without parameters, or none if it is empty.
///
/// # Errors
/// If it is not UTF-8.
pub fn decode_text(body: Vec<u8>) -> Result<Vec<Statement>, DecodeError> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let sql = String::from_utf8(body).map_err(|_| DecodeError::InvalidUtf8)?;
    Ok(vec![Statement::new(sql)])
}

struct Decoder<'a> {
    options: &'a DecodeOptions,
    /// Parameters met so far.
    parameters: usize,
}

/// A value, or what is wrong with its type. Malformed JSON is reported before.
type Typed = Result<Value, DecodeError>;

impl Decoder<'_> {
    fn statement(&mut self, reader: &mut Reader<'_>) -> Result<Statement, DecodeError> {
        match reader.start()? {
            Start::String => Ok(Statement::new(reader.string()?)),
            Start::Array => self.array_statement(reader),
            Start::Object => Err(DecodeError::InvalidRequest),
            Start::Number | Start::True | Start::False | Start::Null => {
                reader.skip_value(0)?;
                Err(DecodeError::InvalidRequest)
            }
        }
    }

    /// Reads `["sql", parameter…]`. A wrong type is remembered while the rest of the array is
    /// checked to be JSON.
    fn array_statement(&mut self, reader: &mut Reader<'_>) -> Result<Statement, DecodeError> {
        reader.expect(b'[')?;
        if reader.take(b']') {
            return Err(DecodeError::InvalidRequest);
        }
        let mut statement = Statement::default();
        let mut wrong = None;
        if reader.start()? == Start::String {
            statement.sql = reader.string()?;
        } else {
            reader.skip_value(0)?;
            wrong = Some(DecodeError::InvalidRequest);
        }
        while reader.take(b',') {
            if wrong.is_some() {
                reader.skip_value(0)?;
            } else if reader.start()? == Start::Object {
                wrong = self.named(reader, &mut statement.parameters)?;
            } else {
                self.count()?;
                match self.value(reader, 0)? {
                    Ok(value) => statement.parameters.push(Parameter { name: None, value }),
                    Err(error) => wrong = Some(error),
                }
            }
        }
        reader.expect(b']')?;
        wrong.map_or(Ok(statement), Err)
    }

    /// Reads an object of named parameters; gives what is wrong with the type of one.
    fn named(
        &mut self,
        reader: &mut Reader<'_>,
        parameters: &mut Vec<Parameter>,
    ) -> Result<Option<DecodeError>, DecodeError> {
        reader.expect(b'{')?;
        if reader.take(b'}') {
            return Ok(None);
        }
        let mut entries: Vec<(String, Typed)> = Vec::new();
        loop {
            self.count()?;
            let key = reader.string()?;
            reader.expect(b':')?;
            let value = self.value(reader, 1)?;
            entries.push((key, value));
            if !reader.take(b',') {
                reader.expect(b'}')?;
                break;
            }
        }
        for (name, value) in last_of_equals(entries) {
            match value {
                Ok(value) => {
                    let name = Some(name).filter(|name| !name.is_empty());
                    parameters.push(Parameter { name, value });
                }
                Err(error) => return Ok(Some(error)),
            }
        }
        Ok(None)
    }

    /// Reads a value to bind, which stands in `depth` levels of the parameter.
    fn value(&self, reader: &mut Reader<'_>, depth: usize) -> Result<Typed, Malformed> {
        Ok(Ok(match reader.start()? {
            Start::String => {
                let text = reader.string()?;
                match blob_literal(&text).filter(|_| !self.options.strict) {
                    Some(blob) => Value::Blob(blob),
                    None => Value::text(text),
                }
            }
            Start::Number => return Ok(number(reader.number()?)),
            Start::True => {
                reader.literal("true")?;
                Value::Integer(1)
            }
            Start::False => {
                reader.literal("false")?;
                Value::Integer(0)
            }
            Start::Null => {
                reader.literal("null")?;
                Value::Null
            }
            Start::Array => return byte_array(reader, depth),
            Start::Object => {
                reader.skip_value(depth)?;
                return Ok(Err(unsupported("map[string]interface {}")));
            }
        }))
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        if self.parameters == self.options.parameters_max {
            return Err(DecodeError::TooManyParameters(self.options.parameters_max));
        }
        self.parameters += 1;
        Ok(())
    }
}

fn unsupported(what: &str) -> DecodeError {
    DecodeError::UnsupportedType(what.to_owned())
}

fn number(text: &str) -> Typed {
    if let Ok(integer) = text.parse::<i64>() {
        return Ok(Value::Integer(integer));
    }
    match text.parse::<f64>() {
        Ok(real) if real.is_finite() => Ok(Value::Real(real)),
        _ => Err(DecodeError::InvalidNumber(text.to_owned())),
    }
}

/// Reads an array, which is a BLOB if it holds integers from 0 to 255 only.
fn byte_array(reader: &mut Reader<'_>, depth: usize) -> Result<Typed, Malformed> {
    reader.expect(b'[')?;
    let mut bytes = Vec::new();
    let mut wrong = None;
    if reader.take(b']') {
        return Ok(Ok(Value::Blob(bytes)));
    }
    loop {
        let name = match reader.start()? {
            Start::Number => {
                let text = reader.number()?;
                match text.parse::<i64>().ok().and_then(|integer| u8::try_from(integer).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        None
                    }
                    None => Some(text),
                }
            }
            start => {
                reader.skip_value(depth + 1)?;
                Some(go_type(start))
            }
        };
        wrong = wrong.or(name);
        if !reader.take(b',') {
            reader.expect(b']')?;
            break;
        }
    }
    Ok(wrong.map_or(Ok(Value::Blob(bytes)), |name| Err(unsupported(name))))
}

/// The name of the type Go decodes a value into.
fn go_type(start: Start) -> &'static str {
    match start {
        Start::String => "string",
        Start::Number => "json.Number",
        Start::True | Start::False => "bool",
        Start::Null => "<nil>",
        Start::Array => "[]interface {}",
        Start::Object => "map[string]interface {}",
    }
}

/// Keeps of equal names the last value, in the place of the first.
fn last_of_equals(mut entries: Vec<(String, Typed)>) -> Vec<(String, Typed)> {
    if entries.len() < 2 {
        return entries;
    }
    let mut order: Vec<usize> = (0..entries.len()).collect();
    // Stable, so equal names stay in the order they came in.
    order.sort_by(|&a, &b| entries[a].0.cmp(&entries[b].0));
    let mut obsolete = vec![false; entries.len()];
    let mut swaps = Vec::new();
    for equals in order.chunk_by(|&a, &b| entries[a].0 == entries[b].0) {
        if let [first, .., last] = *equals {
            swaps.push((first, last));
            for &other in &equals[1..] {
                obsolete[other] = true;
            }
        }
    }
    if swaps.is_empty() {
        return entries;
    }
    for (first, last) in swaps {
        entries.swap(first, last);
    }
    let mut index = 0;
    entries.retain(|_| {
        index += 1;
        !obsolete[index - 1]
    });
    entries
}
