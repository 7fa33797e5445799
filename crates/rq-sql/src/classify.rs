//! Recognises the few kinds of statements that need special treatment, by their tokens.
//!
//! Conservative: what is not recognised beyond doubt is [`Kind::Other`] and left to SQLite, which
//! also reports what is wrong with it. So a kind is never a promise that a statement is valid, and
//! security must not depend on it; SQLite's authorizer decides there.

use std::borrow::Cow;

use crate::token::{Token, TokenKind, Tokens, tokens};

/// The kind of a text that holds exactly one statement.
///
/// Names come without their quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// No statement at all: white space, comments, `;`.
    Empty,
    /// `VACUUM [schema] [INTO file]`.
    Vacuum {
        /// The schema named, if any.
        schema: Option<Cow<'a, str>>,
        /// Whether INTO follows.
        into: bool,
    },
    /// `ANALYZE [[schema.]name]`.
    Analyze {
        /// What to analyze; everything if absent.
        target: Option<Target<'a>>,
    },
    /// `REINDEX [[schema.]name]`.
    Reindex {
        /// What to build anew; everything if absent.
        target: Option<Target<'a>>,
    },
    /// `PRAGMA [schema.]optimize`, with or without an argument.
    PragmaOptimize {
        /// The schema named, if any.
        schema: Option<Cow<'a, str>>,
        /// The argument as written, a mask.
        argument: Option<&'a str>,
    },
    /// `BEGIN [DEFERRED|IMMEDIATE|EXCLUSIVE] [TRANSACTION [name]]`.
    Begin,
    /// `COMMIT` or `END`, `[TRANSACTION [name]]`.
    Commit,
    /// `ROLLBACK [TRANSACTION [name]]`.
    Rollback,
    /// `ROLLBACK [TRANSACTION [name]] TO [SAVEPOINT] name`.
    RollbackTo {
        /// The savepoint.
        name: Cow<'a, str>,
    },
    /// `SAVEPOINT name`.
    Savepoint {
        /// The savepoint.
        name: Cow<'a, str>,
    },
    /// `RELEASE [SAVEPOINT] name`.
    Release {
        /// The savepoint.
        name: Cow<'a, str>,
    },
    /// Begins with EXPLAIN.
    Explain,
    /// Any other `PRAGMA [schema.]name …`.
    Pragma {
        /// The schema named, if any.
        schema: Option<Cow<'a, str>>,
        /// The name of the PRAGMA, in the case it was typed.
        name: Cow<'a, str>,
        /// Whether a value follows, after `=` or in parentheses.
        has_argument: bool,
    },
    /// Anything else, also more than one statement.
    Other,
}

/// A name that may be qualified with a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The schema, if it was named.
    pub schema: Option<Cow<'a, str>>,
    /// The name of a table, index or collation; or of a schema, if it stands alone.
    pub name: Cow<'a, str>,
}

/// The PRAGMAs no client may set.
const DISALLOWED_TO_SET: [&str; 4] =
    ["journal_mode", "wal_autocheckpoint", "synchronous", "query_only"];

/// The PRAGMA no client may use in any form.
const DISALLOWED: &str = "wal_checkpoint";

/// Keywords SQLite does not accept as a name without quotes, sorted.
const RESERVED: [&str; 58] = [
    "add",
    "all",
    "alter",
    "and",
    "as",
    "autoincrement",
    "between",
    "case",
    "check",
    "collate",
    "commit",
    "constraint",
    "create",
    "default",
    "deferrable",
    "delete",
    "distinct",
    "drop",
    "else",
    "escape",
    "except",
    "exists",
    "foreign",
    "from",
    "group",
    "having",
    "in",
    "index",
    "insert",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "limit",
    "not",
    "nothing",
    "notnull",
    "null",
    "on",
    "or",
    "order",
    "primary",
    "references",
    "returning",
    "select",
    "set",
    "table",
    "then",
    "to",
    "transaction",
    "union",
    "unique",
    "update",
    "using",
    "values",
    "when",
    "where",
];

/// The first word of a text behind white space, comments and `;`, as typed; `None` if something
/// else comes first, or nothing.
pub fn first_keyword(sql: &str) -> Option<&str> {
    tokens(sql)
        .find(|token| token.is_significant() && token.kind != TokenKind::Semicolon)
        .filter(|token| token.kind == TokenKind::Word)
        .map(|token| token.text)
}

/// Classifies a text. Cheap for a statement of a kind that is not recognised: only its first word
/// is looked at.
pub fn kind(sql: &str) -> Kind<'_> {
    let mut reader = Reader::new(sql);
    while reader.take_semicolon() {}
    let Some(first) = reader.next() else { return Kind::Empty };
    if first.kind != TokenKind::Word {
        return Kind::Other;
    }
    let recognised = match first.text.to_ascii_lowercase().as_str() {
        "explain" => return Kind::Explain,
        "vacuum" => reader.vacuum(),
        "analyze" => reader.target().map(|target| Kind::Analyze { target }),
        "reindex" => reader.target().map(|target| Kind::Reindex { target }),
        "pragma" => reader.pragma(),
        "begin" => {
            let _mode = ["deferred", "immediate", "exclusive"]
                .into_iter()
                .find(|mode| reader.take_word(mode));
            reader.transaction_name().map(|()| Kind::Begin)
        }
        "commit" | "end" => reader.transaction_name().map(|()| Kind::Commit),
        "rollback" => reader.rollback(),
        "savepoint" => reader.name().map(|name| Kind::Savepoint { name }),
        "release" => {
            reader.take_word("savepoint");
            reader.name().map(|name| Kind::Release { name })
        }
        _ => None,
    };
    recognised.filter(|_| reader.is_at_end()).unwrap_or(Kind::Other)
}

/// Whether any statement of a text is a PRAGMA no client may use: setting `journal_mode`,
/// `wal_autocheckpoint`, `synchronous` or `query_only`, or `wal_checkpoint` in any form.
///
/// Decided by tokens: white space, comments, quotes, a schema, EXPLAIN, the form with parentheses
/// and the position in the text make no difference.
pub fn is_disallowed_pragma(sql: &str) -> bool {
    if !contains_pragma(sql.as_bytes()) {
        return false;
    }
    let mut reader = Reader::new(sql);
    while reader.peek().is_some() {
        if reader.take_word("explain") && reader.take_word("query") {
            reader.take_word("plan");
        }
        if reader.take_word("pragma") && reader.is_disallowed() {
            return true;
        }
        while reader.peek().is_some() && !reader.take_semicolon() {
            reader.next();
        }
    }
    false
}

/// Whether the bytes `pragma` occur in any case of letters.
fn contains_pragma(text: &[u8]) -> bool {
    const WANTED: &[u8] = b"pragma";
    let mut rest = text;
    while let Some(position) = rest.iter().position(|byte| byte | 0x20 == b'p') {
        rest = &rest[position..];
        if rest.get(..WANTED.len()).is_some_and(|head| head.eq_ignore_ascii_case(WANTED)) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Reads the significant tokens of a text, one ahead.
struct Reader<'a> {
    sql: &'a str,
    tokens: Tokens<'a>,
    next: Option<Token<'a>>,
}

impl<'a> Reader<'a> {
    fn new(sql: &'a str) -> Self {
        let mut reader = Self { sql, tokens: tokens(sql), next: None };
        reader.advance();
        reader
    }

    fn advance(&mut self) {
        self.next = self.tokens.find(Token::is_significant);
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.next
    }

    fn next(&mut self) -> Option<Token<'a>> {
        let token = self.next;
        self.advance();
        token
    }

    fn take_if(&mut self, wanted: impl FnOnce(&Token<'a>) -> bool) -> bool {
        let found = self.next.as_ref().is_some_and(wanted);
        if found {
            self.advance();
        }
        found
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        self.take_if(|token| token.is_word(keyword))
    }

    fn take_operator(&mut self, operator: &str) -> bool {
        self.take_if(|token| token.kind == TokenKind::Operator && token.text == operator)
    }

    fn take_semicolon(&mut self) -> bool {
        self.take_if(|token| token.kind == TokenKind::Semicolon)
    }

    /// Whether nothing follows but `;`.
    fn is_at_end(&mut self) -> bool {
        while self.take_semicolon() {}
        self.next.is_none()
    }

    /// A name, if one comes next.
    fn name(&mut self) -> Option<Cow<'a, str>> {
        let token = self.next?;
        if token.kind == TokenKind::Word && is_reserved(token.text) {
            return None;
        }
        let name = token.name()?;
        self.advance();
        Some(name)
    }

    /// `[schema.]name`.
    fn qualified(&mut self) -> Option<Target<'a>> {
        let first = self.name()?;
        if !self.take_operator(".") {
            return Some(Target { schema: None, name: first });
        }
        let name = self.name()?;
        Some(Target { schema: Some(first), name })
    }

    /// `[[schema.]name]`; the outer `None` if something else comes.
    #[expect(clippy::option_option, reason = "the outer level is failure, the inner the value")]
    fn target(&mut self) -> Option<Option<Target<'a>>> {
        if self.is_at_end() { Some(None) } else { self.qualified().map(Some) }
    }

    fn vacuum(&mut self) -> Option<Kind<'a>> {
        let schema = self.name();
        let into = self.take_word("into");
        if into {
            // The file name may be any expression.
            while self.next.is_some_and(|token| token.kind != TokenKind::Semicolon) {
                self.advance();
            }
        }
        Some(Kind::Vacuum { schema, into })
    }

    fn pragma(&mut self) -> Option<Kind<'a>> {
        let Target { schema, name } = self.qualified()?;
        let argument = self.argument()?;
        Some(if name.eq_ignore_ascii_case("optimize") {
            Kind::PragmaOptimize { schema, argument }
        } else {
            Kind::Pragma { schema, name, has_argument: argument.is_some() }
        })
    }

    /// `= value` or `(value)`; the inner `None` if neither comes, the outer if it is malformed.
    #[expect(clippy::option_option, reason = "the outer level is failure, the inner the value")]
    fn argument(&mut self) -> Option<Option<&'a str>> {
        let parenthesis = self.take_if(|token| token.kind == TokenKind::OpenParenthesis);
        if !parenthesis && !self.take_operator("=") && !self.take_operator("==") {
            return Some(None);
        }
        let start = self.next?.start;
        if !self.take_operator("-") {
            self.take_operator("+");
        }
        let value = self.next()?;
        let is_value = matches!(
            value.kind,
            TokenKind::Word | TokenKind::String | TokenKind::Quoted | TokenKind::Number
        );
        let closed =
            !parenthesis || self.take_if(|token| token.kind == TokenKind::CloseParenthesis);
        let argument = &self.sql[start..value.start + value.text.len()];
        (is_value && closed).then_some(Some(argument))
    }

    /// `[TRANSACTION [name]]`.
    fn transaction_name(&mut self) -> Option<()> {
        if self.take_word("transaction") {
            self.name();
        }
        Some(())
    }

    fn rollback(&mut self) -> Option<Kind<'a>> {
        self.transaction_name()?;
        if !self.take_word("to") {
            return Some(Kind::Rollback);
        }
        self.take_word("savepoint");
        self.name().map(|name| Kind::RollbackTo { name })
    }

    /// The next token, unless it ends the statement: then it stays.
    fn next_of_statement(&mut self) -> Option<Token<'a>> {
        if self.peek()?.kind == TokenKind::Semicolon {
            return None;
        }
        self.next()
    }

    /// Whether what follows the word PRAGMA makes it one that is not allowed.
    fn is_disallowed(&mut self) -> bool {
        // Reserved words are no names to SQLite, but nothing is lost by taking them as such.
        let mut name = self.next_of_statement().and_then(|token| token.name());
        if self.take_operator(".") {
            name = self.next_of_statement().and_then(|token| token.name());
        }
        let Some(name) = name else { return false };
        if name.eq_ignore_ascii_case(DISALLOWED) {
            return true;
        }
        let sets = self.next.is_some_and(|token| {
            token.kind == TokenKind::OpenParenthesis || matches!(token.text, "=" | "==")
        });
        sets && DISALLOWED_TO_SET.iter().any(|disallowed| name.eq_ignore_ascii_case(disallowed))
    }
}

fn is_reserved(word: &str) -> bool {
    RESERVED.binary_search(&word.to_ascii_lowercase().as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_words_are_sorted() {
        assert!(RESERVED.is_sorted());
    }

    fn name(name: &str) -> Cow<'_, str> {
        Cow::Borrowed(name)
    }

    fn target<'a>(schema: Option<&'a str>, table: &'a str) -> Option<Target<'a>> {
        Some(Target { schema: schema.map(name), name: name(table) })
    }

    #[test]
    fn maintenance_is_recognised_exactly() {
        let vacuum =
            |schema: Option<&'static str>, into| Kind::Vacuum { schema: schema.map(name), into };
        let optimize = |schema: Option<&'static str>, argument| Kind::PragmaOptimize {
            schema: schema.map(name),
            argument,
        };
        for (sql, expected) in [
            ("", Kind::Empty),
            (" ;; -- x\n /* y */", Kind::Empty),
            ("VACUUM", vacuum(None, false)),
            (";vacuum /* all */ ; -- now", vacuum(None, false)),
            ("VACUUM main", vacuum(Some("main"), false)),
            ("VACUUM INTO 'f'", vacuum(None, true)),
            ("VACUUM [main] INTO ? || 'x';", vacuum(Some("main"), true)),
            ("VACUUM; SELECT 1", Kind::Other),
            ("VACUUM INTO 'f'; SELECT 1", Kind::Other),
            ("VACUUM main.t", Kind::Other),
            ("VACUUM select", Kind::Other),
            ("VACUUM\0", Kind::Other),
            ("\"vacuum\"", Kind::Other),
            ("ANALYZE", Kind::Analyze { target: None }),
            ("analyze t;", Kind::Analyze { target: target(None, "t") }),
            ("ANALYZE \"a\"\"b\".'c''d'", Kind::Analyze { target: target(Some("a\"b"), "c'd") }),
            ("ANALYZE a.", Kind::Other),
            ("ANALYZE a b", Kind::Other),
            ("REINDEX nocase", Kind::Reindex { target: target(None, "nocase") }),
            ("REINDEX;;", Kind::Reindex { target: None }),
            ("PRAGMA optimize", optimize(None, None)),
            ("pragma main . \"OPTIMIZE\" ( 0xfffe ) ;", optimize(Some("main"), Some("0xfffe"))),
            ("PRAGMA optimize=-1", optimize(None, Some("-1"))),
            ("PRAGMA optimize == 2", optimize(None, Some("2"))),
            ("PRAGMA optimize(1", Kind::Other),
            ("PRAGMA optimize=", Kind::Other),
            ("EXPLAIN QUERY PLAN SELECT 1", Kind::Explain),
            ("SELECT 1", Kind::Other),
            ("(", Kind::Other),
        ] {
            assert_eq!(kind(sql), expected, "kind of {sql:?}");
        }
    }

    #[test]
    fn transactions_and_pragmas_are_recognised_exactly() {
        let pragma = |schema: Option<&'static str>, has_argument| Kind::Pragma {
            schema: schema.map(name),
            name: name("foreign_keys"),
            has_argument,
        };
        for (sql, expected) in [
            ("PRAGMA foreign_keys", pragma(None, false)),
            ("PRAGMA temp.foreign_keys = on", pragma(Some("temp"), true)),
            ("PRAGMA", Kind::Other),
            ("BEGIN", Kind::Begin),
            ("BEGIN IMMEDIATE TRANSACTION x;", Kind::Begin),
            ("BEGIN x", Kind::Other),
            ("BEGIN; COMMIT", Kind::Other),
            ("commit", Kind::Commit),
            ("END TRANSACTION", Kind::Commit),
            ("ROLLBACK", Kind::Rollback),
            ("ROLLBACK TRANSACTION 'x'", Kind::Rollback),
            ("ROLLBACK TO x", Kind::RollbackTo { name: name("x") }),
            ("ROLLBACK TRANSACTION TO SAVEPOINT [x]", Kind::RollbackTo { name: name("x") }),
            ("ROLLBACK TO SAVEPOINT", Kind::Other),
            ("SAVEPOINT a", Kind::Savepoint { name: name("a") }),
            ("SAVEPOINT", Kind::Other),
            ("SAVEPOINT 1", Kind::Other),
            ("RELEASE SAVEPOINT a", Kind::Release { name: name("a") }),
            ("RELEASE a", Kind::Release { name: name("a") }),
        ] {
            assert_eq!(kind(sql), expected, "kind of {sql:?}");
        }
    }

    #[test]
    fn disallowed_pragmas_are_found_wherever_they_hide() {
        for sql in [
            "PRAGMA journal_mode = DELETE",
            "pragma\tmain.Journal_Mode=wal",
            "PRAGMA journal_mode(wal)",
            "PRAGMA wal_autocheckpoint=1000",
            "PRAGMA main.wal_autocheckpoint(1000)",
            "PRAGMA wal_checkpoint",
            "PRAGMA main.wal_checkpoint(TRUNCATE)",
            "PRAGMA synchronous=OFF",
            "PRAGMA synchronous == OFF",
            "PRAGMA query_only=1",
            "-- comment\nPRAGMA/**/synchronous/**/(1)",
            "SELECT 1; PRAGMA synchronous=1",
            "\u{feff}PRAGMA synchronous=1",
            "PRAGMA \"synchronous\"=1",
            "PRAGMA [main].'synchronous'=1",
            "PRAGMA `synchronous`=1",
            "EXPLAIN PRAGMA synchronous=1",
            "EXPLAIN QUERY PLAN PRAGMA synchronous=1",
            "; ; PRAGMA synchronous=1",
            "PRAGMA foreign_keys; PRAGMA synchronous=1",
            "PRAGMA;PRAGMA synchronous=0;PRAGMA;",
            "PRAGMA main.;PRAGMA synchronous=0",
        ] {
            assert!(is_disallowed_pragma(sql), "{sql:?} is allowed");
        }
        for sql in [
            "",
            "SELECT 1",
            "PRAGMA journal_mode",
            "PRAGMA main.journal_mode;",
            "PRAGMA synchronous; SELECT (1) = 1",
            "PRAGMA foreign_keys=1",
            "PRAGMA user_version(5)",
            "SELECT 'PRAGMA synchronous=1'",
            "SELECT '; PRAGMA synchronous=1'",
            "-- PRAGMA synchronous=1",
            "SELECT \"pragma\" FROM t WHERE synchronous=1",
            "SELECT pragma FROM wal_checkpoint",
            "pragma",
            "PRAGMA main.",
        ] {
            assert!(!is_disallowed_pragma(sql), "{sql:?} is refused");
        }
    }

    #[test]
    fn first_keyword_skips_what_means_nothing() {
        assert_eq!(first_keyword(" /* x */ ; -- y\n Select 1"), Some("Select"));
        assert_eq!(first_keyword("'a' select"), None);
        assert_eq!(first_keyword("--"), None);
    }
}
