//! Cuts a text into statements, as a whole ([`statements`]) or as it arrives ([`Splitter`]).
//!
//! A statement ends at a `;` outside of strings, quoted identifiers and comments; one that begins
//! `CREATE TRIGGER` (also with TEMP or TEMPORARY, also behind EXPLAIN) ends at the `;` of `; END ;`,
//! so that the statements of its body stay in it. That is the rule of SQLite's own completeness
//! check. A broken CREATE TRIGGER without END therefore takes all that follows with it.
//!
//! One automaton, fed byte by byte, serves both uses: cost is linear in the text, whatever the
//! sizes of chunks, statements and tokens, and the pieces do not depend on where chunks end.
//! It must not change the text: the pieces put together give it back.

use crate::token::{is_space, is_space_start, is_word_byte};

/// A part of a text that holds at most one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The text, with the white space and comments before the statement, and its final `;`.
    pub text: &'a str,
    /// Where it starts, in bytes from the beginning of all text.
    pub start: usize,
    /// Whether there is no statement in it: only white space, comments, perhaps a `;`.
    pub is_empty: bool,
    /// Whether it ends in the `;` that completes it. Only the last piece of a text may not.
    pub is_complete: bool,
}

/// Iterates over the pieces of a text.
#[derive(Clone, Debug)]
pub struct Statements<'a> {
    text: &'a str,
    position: usize,
}

/// Cuts a whole text into pieces.
pub fn statements(text: &str) -> Statements<'_> {
    Statements { text, position: 0 }
}

impl<'a> Iterator for Statements<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let start = self.position;
        let rest = self.text.get(start..).filter(|rest| !rest.is_empty())?;
        let mut automaton = Automaton::new();
        let end = automaton.run(rest.as_bytes());
        if end.is_none() {
            automaton.finish();
        }
        let text = &rest[..end.unwrap_or(rest.len())];
        self.position += text.len();
        Some(Piece { text, start, is_empty: !automaton.significant, is_complete: end.is_some() })
    }
}

/// Cuts a text into pieces while it arrives in chunks.
///
/// - Holds the text of the one statement that is still open, and nothing before it. Its size is
///   not limited here: see [`Splitter::pending_bytes`].
/// - After each [`Splitter::push`], call [`Splitter::next_piece`] until it gives `None`; after the
///   last, [`Splitter::finish`] once.
#[derive(Clone, Debug)]
pub struct Splitter {
    buffer: String,
    /// Bytes at the start of `buffer` that were handed out already.
    consumed: usize,
    /// Bytes of `buffer` the automaton has seen.
    scanned: usize,
    /// Bytes of the text before `buffer`.
    discarded: usize,
    automaton: Automaton,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new()
    }
}

impl Splitter {
    /// A splitter that has seen nothing yet.
    pub fn new() -> Self {
        Self {
            buffer: String::new(),
            consumed: 0,
            scanned: 0,
            discarded: 0,
            automaton: Automaton::new(),
        }
    }

    /// Takes the next chunk of the text.
    pub fn push(&mut self, chunk: &str) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.discarded += self.consumed;
            self.scanned -= self.consumed;
            self.consumed = 0;
        }
        self.buffer.push_str(chunk);
    }

    /// The next complete piece, if there is one in what was pushed so far.
    pub fn next_piece(&mut self) -> Option<Piece<'_>> {
        let Some(length) = self.automaton.run(&self.buffer.as_bytes()[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let from = self.consumed;
        self.scanned += length;
        self.consumed = self.scanned;
        let is_empty = !self.automaton.significant;
        self.automaton = Automaton::new();
        Some(Piece {
            text: &self.buffer[from..self.consumed],
            start: self.discarded + from,
            is_empty,
            is_complete: true,
        })
    }

    /// Ends the text: gives what follows the last complete piece, if there is anything, and
    /// leaves the splitter as new, except that positions go on. Complete pieces must have been
    /// taken before.
    pub fn finish(&mut self) -> Option<Piece<'_>> {
        debug_assert_eq!(self.scanned, self.buffer.len(), "take the complete pieces first");
        self.automaton.finish();
        let is_empty = !self.automaton.significant;
        self.automaton = Automaton::new();
        let from = self.consumed;
        self.consumed = self.buffer.len();
        self.scanned = self.consumed;
        (from < self.consumed).then(|| Piece {
            text: &self.buffer[from..],
            start: self.discarded + from,
            is_empty,
            is_complete: false,
        })
    }

    /// Bytes of the piece that is not complete yet. A caller with a limit on statements compares.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len() - self.consumed
    }

    /// Whether the piece that is not complete yet holds nothing but white space and complete
    /// comments, so that the text could end here without losing anything.
    pub fn is_idle(&self) -> bool {
        let mut automaton = self.automaton.clone();
        let open = matches!(automaton.lexical, Lexical::BlockOpen | Lexical::Block { .. });
        automaton.finish();
        !automaton.significant && !open
    }
}

/// Where in a token the automaton stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lexical {
    /// Between two tokens.
    Between,
    /// In white space.
    Space,
    /// In a word of which the automaton keeps the first bytes.
    Word,
    /// Behind this many bytes of what may be a byte order mark.
    Mark(u8),
    /// In a string or quoted identifier that ends at this byte. A doubled quote looks like an end
    /// and a new beginning, which comes to the same.
    Quoted(u8),
    /// Behind a `-` that may begin a comment.
    Dash,
    /// Behind a `/` that may begin a comment.
    Slash,
    /// In a comment to the end of the line.
    Line,
    /// Right behind `/*`, which is no comment if the text ends here.
    BlockOpen,
    /// In a block comment; the last byte was a star or not.
    Block { star: bool },
    /// Behind a `.` that may begin a number.
    Dot,
    /// Behind a leading `0`.
    Zero,
    /// In the digits before a decimal point.
    Digits,
    /// In the digits behind a decimal point.
    Fraction,
    /// Behind the `e` of a number.
    Exponent,
    /// Behind `e+` or `e-`, which belongs to the number only if a digit follows.
    ExponentSign { minus: bool },
    /// In what clings to a number.
    Tail,
    /// In the digits of a bind variable that begins with `?`.
    Numbered,
    /// In a bind variable: whether it has a name yet, and whether a `:` is pending that belongs to
    /// it only if another follows.
    Variable { named: bool, colon: bool },
    /// In the parentheses of a bind variable.
    VariableParenthesis,
}

/// Where in a statement the automaton stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grammar {
    /// Before the first word.
    Start,
    /// In a statement that ends at the next `;`.
    Normal,
    /// Behind EXPLAIN.
    Explain,
    /// Behind CREATE, perhaps with TEMP.
    Create,
    /// In the definition of a trigger.
    Trigger,
    /// Behind a `;` in the definition of a trigger.
    TriggerSemicolon,
    /// Behind `; END` in the definition of a trigger.
    TriggerEnd,
}

/// The longest word the automaton must recognise, and one byte to tell longer words apart.
const WORD_BYTES: usize = "temporary".len() + 1;

#[derive(Clone, Debug)]
struct Automaton {
    lexical: Lexical,
    grammar: Grammar,
    /// Whether a token other than `;` was seen.
    significant: bool,
    word: [u8; WORD_BYTES],
    word_length: usize,
}

impl Automaton {
    fn new() -> Self {
        Self {
            lexical: Lexical::Between,
            grammar: Grammar::Start,
            significant: false,
            word: [0; WORD_BYTES],
            word_length: 0,
        }
    }

    /// Reads until a statement is complete and tells how many bytes that took; `None` if all bytes
    /// were read before.
    fn run(&mut self, text: &[u8]) -> Option<usize> {
        let mut position = 0;
        while position < text.len() {
            // Inside long tokens, go to the next byte that can matter at once.
            let wanted = match self.lexical {
                Lexical::Quoted(end) => Some(end),
                Lexical::Line => Some(b'\n'),
                Lexical::Block { star: false } => Some(b'*'),
                _ => None,
            };
            if let Some(wanted) = wanted {
                position += text[position..].iter().position(|&byte| byte == wanted)?;
            }
            if self.step(text[position]) {
                return Some(position + 1);
            }
            position += 1;
        }
        None
    }

    /// Takes the end of the text into account.
    fn finish(&mut self) {
        match self.lexical {
            Lexical::Word => self.end_word(),
            Lexical::Dash
            | Lexical::Slash
            | Lexical::BlockOpen
            | Lexical::Dot
            | Lexical::Quoted(_)
            | Lexical::Mark(_) => self.other(),
            // Whatever else is open has been counted when it began, or is a comment.
            Lexical::Between
            | Lexical::Space
            | Lexical::Line
            | Lexical::Block { .. }
            | Lexical::Zero
            | Lexical::Digits
            | Lexical::Fraction
            | Lexical::Exponent
            | Lexical::ExponentSign { .. }
            | Lexical::Tail
            | Lexical::Numbered
            | Lexical::Variable { .. }
            | Lexical::VariableParenthesis => {}
        }
        self.lexical = Lexical::Between;
    }

    /// Takes one byte; true if it completes a statement.
    fn step(&mut self, byte: u8) -> bool {
        match self.lexical {
            Lexical::Between => return self.begin(byte),
            Lexical::Space if is_space(byte) => {}
            Lexical::Word if is_word_byte(byte) => self.push_word(byte),
            Lexical::Word => {
                self.end_word();
                return self.begin(byte);
            }
            Lexical::Mark(1) if byte == 0xBB => self.lexical = Lexical::Mark(2),
            Lexical::Mark(2) if byte == 0xBF => self.lexical = Lexical::Between,
            Lexical::Mark(_) => {
                self.other();
                self.lexical = Lexical::Tail;
                return self.step(byte);
            }
            Lexical::Quoted(end) if byte == end => self.lexical = Lexical::Between,
            Lexical::Line if byte == b'\n' => self.lexical = Lexical::Space,
            Lexical::Quoted(_) | Lexical::Line => {}
            Lexical::Dash if byte == b'-' => self.lexical = Lexical::Line,
            Lexical::Slash if byte == b'*' => self.lexical = Lexical::BlockOpen,
            Lexical::Dot if byte.is_ascii_digit() => {
                self.other();
                self.lexical = Lexical::Fraction;
            }
            Lexical::Dash | Lexical::Slash | Lexical::Dot => {
                self.other();
                return self.begin(byte);
            }
            Lexical::Block { star: true } if byte == b'/' => self.lexical = Lexical::Between,
            Lexical::BlockOpen | Lexical::Block { .. } => {
                self.lexical = Lexical::Block { star: byte == b'*' };
            }
            Lexical::Zero
            | Lexical::Digits
            | Lexical::Fraction
            | Lexical::Exponent
            | Lexical::ExponentSign { .. }
            | Lexical::Tail => return self.step_number(byte),
            Lexical::Variable { named, colon } => return self.step_variable(byte, named, colon),
            Lexical::VariableParenthesis if byte == b')' => self.lexical = Lexical::Between,
            Lexical::VariableParenthesis if byte != 0 && !is_space(byte) => {}
            Lexical::Numbered if byte.is_ascii_digit() => {}
            Lexical::Space | Lexical::Numbered | Lexical::VariableParenthesis => {
                return self.begin(byte);
            }
        }
        false
    }

    /// Takes the first byte of a token; true if it completes a statement.
    fn begin(&mut self, byte: u8) -> bool {
        self.lexical = match byte {
            b';' => {
                self.lexical = Lexical::Between;
                return self.semicolon();
            }
            b'-' => Lexical::Dash,
            b'/' => Lexical::Slash,
            b'.' => Lexical::Dot,
            // Counted at the end of the token, or of the text: see `finish`.
            0xEF => Lexical::Mark(1),
            _ if is_space_start(byte) => Lexical::Space,
            b'?' => {
                self.other();
                Lexical::Numbered
            }
            b'$' | b'@' | b':' | b'#' => {
                self.other();
                Lexical::Variable { named: false, colon: false }
            }
            b'\'' | b'"' | b'`' => {
                self.other();
                Lexical::Quoted(byte)
            }
            b'[' => {
                self.other();
                Lexical::Quoted(b']')
            }
            b'0' => {
                self.other();
                Lexical::Zero
            }
            b'1'..=b'9' => {
                self.other();
                Lexical::Digits
            }
            _ if is_word_byte(byte) => {
                self.word_length = 0;
                self.push_word(byte);
                Lexical::Word
            }
            _ => {
                self.other();
                Lexical::Between
            }
        };
        false
    }

    fn step_number(&mut self, byte: u8) -> bool {
        let digit = byte.is_ascii_digit();
        self.lexical = match self.lexical {
            Lexical::Zero if matches!(byte, b'x' | b'X') => Lexical::Tail,
            Lexical::Zero | Lexical::Digits if digit || byte == b'_' => Lexical::Digits,
            Lexical::Zero | Lexical::Digits if byte == b'.' => Lexical::Fraction,
            Lexical::Fraction if digit || byte == b'_' => Lexical::Fraction,
            Lexical::Zero | Lexical::Digits | Lexical::Fraction if matches!(byte, b'e' | b'E') => {
                Lexical::Exponent
            }
            Lexical::Exponent if matches!(byte, b'+' | b'-') => {
                Lexical::ExponentSign { minus: byte == b'-' }
            }
            Lexical::ExponentSign { .. } if digit => Lexical::Tail,
            Lexical::ExponentSign { minus: true } => {
                self.lexical = Lexical::Dash;
                return self.step(byte);
            }
            Lexical::ExponentSign { minus: false } => return self.begin(byte),
            _ if is_word_byte(byte) => Lexical::Tail,
            _ => return self.begin(byte),
        };
        false
    }

    fn step_variable(&mut self, byte: u8, named: bool, colon: bool) -> bool {
        self.lexical = match byte {
            b':' if colon => Lexical::Variable { named, colon: false },
            // The pending colon begins a variable of its own.
            _ if colon => {
                self.lexical = Lexical::Variable { named: false, colon: false };
                return self.step_variable(byte, false, false);
            }
            b':' => Lexical::Variable { named, colon: true },
            b'(' if named => Lexical::VariableParenthesis,
            _ if is_word_byte(byte) => Lexical::Variable { named: true, colon: false },
            _ => return self.begin(byte),
        };
        false
    }

    fn push_word(&mut self, byte: u8) {
        if let Some(slot) = self.word.get_mut(self.word_length) {
            *slot = byte;
            self.word_length += 1;
        }
    }

    fn end_word(&mut self) {
        let word = &self.word[..self.word_length];
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        self.grammar = match self.grammar {
            Grammar::Start if is("explain") => Grammar::Explain,
            Grammar::Start | Grammar::Explain if is("create") => Grammar::Create,
            // EXPLAIN QUERY PLAN: other words may stand between.
            Grammar::Explain
                if !["explain", "temp", "temporary", "trigger", "end"]
                    .iter()
                    .any(|keyword| is(keyword)) =>
            {
                Grammar::Explain
            }
            Grammar::Create if is("temp") || is("temporary") => Grammar::Create,
            Grammar::Create if is("trigger") => Grammar::Trigger,
            Grammar::TriggerSemicolon if is("end") => Grammar::TriggerEnd,
            Grammar::Trigger | Grammar::TriggerSemicolon | Grammar::TriggerEnd => Grammar::Trigger,
            Grammar::Start | Grammar::Normal | Grammar::Explain | Grammar::Create => {
                Grammar::Normal
            }
        };
        self.significant = true;
    }

    /// A token that is neither word nor `;`.
    fn other(&mut self) {
        self.grammar = match self.grammar {
            Grammar::Explain => Grammar::Explain,
            Grammar::Start | Grammar::Normal | Grammar::Create => Grammar::Normal,
            Grammar::Trigger | Grammar::TriggerSemicolon | Grammar::TriggerEnd => Grammar::Trigger,
        };
        self.significant = true;
    }

    fn semicolon(&mut self) -> bool {
        match self.grammar {
            Grammar::Trigger | Grammar::TriggerSemicolon => {
                self.grammar = Grammar::TriggerSemicolon;
                false
            }
            Grammar::Start
            | Grammar::Normal
            | Grammar::Explain
            | Grammar::Create
            | Grammar::TriggerEnd => true,
        }
    }
}
