//! Cuts SQL text into tokens by SQLite's own lexical rules.
//!
//! Accepts any text, whatever its length, and never fails: what SQLite would call an illegal token
//! is a token of kind [`TokenKind::Illegal`]. Every byte of the text belongs to exactly one token,
//! so the tokens put together give the text back. It must not judge grammar or allocate.
//!
//! SQLite stops reading at a NUL byte. Here NUL is an illegal token of one byte and what follows
//! is still cut into tokens; callers that care refuse such text before.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// White space, or a byte order mark.
    Space,
    /// `-- …` up to, and without, the end of the line; or `/* … */`. A block comment that is not
    /// closed runs to the end of the text.
    Comment,
    /// `'…'`, with `''` standing for one quote.
    String,
    /// An identifier in double quotes, square brackets or backticks.
    Quoted,
    /// `x'…'` with an even number of hexadecimal digits.
    Blob,
    /// A number: `1`, `.5`, `1e-7`, `0xFF`, `1_000`.
    Number,
    /// A bind variable: `?`, `?12`, `:a`, `@a`, `$a`, `$a::b(c)`, also `#a`.
    Variable,
    /// `;`
    Semicolon,
    /// `(`
    OpenParenthesis,
    /// `)`
    CloseParenthesis,
    /// Any other operator or punctuation: `=`, `==`, `->>`, `.`, `,` …
    Operator,
    /// A keyword or an identifier without quotes.
    Word,
    /// What SQLite refuses: a string or quoted identifier that is not closed, a malformed number,
    /// a stray character.
    Illegal,
}

/// One token of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// Its text, verbatim, never empty.
    pub text: &'a str,
    /// Where it starts, in bytes from the beginning of the text.
    pub start: usize,
}

/// Iterates over all tokens of a text, white space and comments included.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    text: &'a str,
    position: usize,
}

/// Cuts a text into tokens.
pub fn tokens(text: &str) -> Tokens<'_> {
    Tokens { text, position: 0 }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = self.text.get(self.position..).filter(|rest| !rest.is_empty())?;
        let (kind, mut length) = lex(rest.as_bytes());
        // Only an illegal single byte can end within a character: SQLite works on bytes there.
        while !rest.is_char_boundary(length) {
            length += 1;
        }
        let start = self.position;
        self.position += length;
        Some(Token { kind, text: &rest[..length], start })
    }
}

impl<'a> Token<'a> {
    /// Whether the token means anything to the grammar, that is: is neither space nor comment.
    pub fn is_significant(&self) -> bool {
        !matches!(self.kind, TokenKind::Space | TokenKind::Comment)
    }

    /// Whether it is this keyword, in any case of letters.
    pub fn is_word(&self, keyword: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    /// The name this token stands for where SQLite's grammar wants a name: a word as it is, a
    /// quoted identifier or string without its quotes. `None` for every other kind.
    pub fn name(&self) -> Option<std::borrow::Cow<'a, str>> {
        match self.kind {
            TokenKind::Word => Some(self.text.into()),
            TokenKind::String | TokenKind::Quoted => {
                let inner = &self.text[1..self.text.len() - 1];
                Some(match self.text.as_bytes()[0] {
                    b'\'' if inner.contains('\'') => inner.replace("''", "'").into(),
                    b'"' if inner.contains('"') => inner.replace("\"\"", "\"").into(),
                    b'`' if inner.contains('`') => inner.replace("``", "`").into(),
                    _ => inner.into(),
                })
            }
            TokenKind::Space
            | TokenKind::Comment
            | TokenKind::Blob
            | TokenKind::Number
            | TokenKind::Variable
            | TokenKind::Semicolon
            | TokenKind::OpenParenthesis
            | TokenKind::CloseParenthesis
            | TokenKind::Operator
            | TokenKind::Illegal => None,
        }
    }
}

/// Whether a byte can stand inside a word. All bytes of non-ASCII characters can.
pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Whether a byte can begin white space. A vertical tab can only continue it.
pub(crate) fn is_space_start(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c' | b'\r')
}

/// Whether a byte can continue white space.
pub(crate) fn is_space(byte: u8) -> bool {
    is_space_start(byte) || byte == b'\x0b'
}

/// Kind and length of the token at the beginning of `text`, which is not empty.
fn lex(text: &[u8]) -> (TokenKind, usize) {
    let at = |index: usize| text.get(index).copied().unwrap_or(0);
    match text[0] {
        byte if is_space_start(byte) => (TokenKind::Space, run(text, 1, is_space)),
        b'-' if at(1) == b'-' => (TokenKind::Comment, find(text, 2, b'\n').unwrap_or(text.len())),
        b'-' if at(1) == b'>' => (TokenKind::Operator, 2 + usize::from(at(2) == b'>')),
        // An opening at the very end of the text is division and star, not a comment.
        b'/' if at(1) == b'*' && text.len() > 2 => (TokenKind::Comment, block_comment(text)),
        b'(' => (TokenKind::OpenParenthesis, 1),
        b')' => (TokenKind::CloseParenthesis, 1),
        b';' => (TokenKind::Semicolon, 1),
        b'=' => (TokenKind::Operator, 1 + usize::from(at(1) == b'=')),
        b'<' => (TokenKind::Operator, 1 + usize::from(matches!(at(1), b'=' | b'>' | b'<'))),
        b'>' => (TokenKind::Operator, 1 + usize::from(matches!(at(1), b'=' | b'>'))),
        b'!' if at(1) == b'=' => (TokenKind::Operator, 2),
        b'|' => (TokenKind::Operator, 1 + usize::from(at(1) == b'|')),
        b'\'' => quoted(text, TokenKind::String),
        b'"' | b'`' => quoted(text, TokenKind::Quoted),
        b'[' => match find(text, 1, b']') {
            Some(end) => (TokenKind::Quoted, end + 1),
            None => (TokenKind::Illegal, text.len()),
        },
        b'0'..=b'9' => number(text),
        b'.' if at(1).is_ascii_digit() => number(text),
        b'-' | b'/' | b'+' | b'*' | b'%' | b',' | b'&' | b'~' | b'.' => (TokenKind::Operator, 1),
        b'?' => (TokenKind::Variable, run(text, 1, |byte| byte.is_ascii_digit())),
        b'$' | b'@' | b':' | b'#' => variable(text),
        b'x' | b'X' if at(1) == b'\'' => blob(text),
        0xEF if text.starts_with(b"\xEF\xBB\xBF") => (TokenKind::Space, 3),
        byte if is_word_byte(byte) => (TokenKind::Word, run(text, 1, is_word_byte)),
        _ => (TokenKind::Illegal, 1),
    }
}

/// The first index from `from` whose byte does not match.
fn run(text: &[u8], from: usize, matches: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().position(|&byte| !matches(byte)).unwrap_or(rest.len())
}

/// The first index from `from` with this byte.
fn find(text: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.iter().position(|&byte| byte == wanted).map(|index| from + index)
}

fn block_comment(text: &[u8]) -> usize {
    let mut from = 2;
    while let Some(star) = find(text, from, b'*') {
        if text.get(star + 1) == Some(&b'/') {
            return star + 2;
        }
        from = star + 1;
    }
    text.len()
}

fn quoted(text: &[u8], kind: TokenKind) -> (TokenKind, usize) {
    let quote = text[0];
    let mut from = 1;
    while let Some(end) = find(text, from, quote) {
        if text.get(end + 1) != Some(&quote) {
            return (kind, end + 1);
        }
        from = end + 2;
    }
    (TokenKind::Illegal, text.len())
}

fn blob(text: &[u8]) -> (TokenKind, usize) {
    let digits_end = run(text, 2, |byte| byte.is_ascii_hexdigit());
    if text.get(digits_end) == Some(&b'\'') && digits_end.is_multiple_of(2) {
        return (TokenKind::Blob, digits_end + 1);
    }
    (TokenKind::Illegal, find(text, digits_end, b'\'').map_or(text.len(), |end| end + 1))
}

fn number(text: &[u8]) -> (TokenKind, usize) {
    let at = |index: usize| text.get(index).copied().unwrap_or(0);
    let digits = |from| run(text, from, |byte| byte.is_ascii_digit() || byte == b'_');
    let mut end;
    if text[0] == b'0' && matches!(at(1), b'x' | b'X') && at(2).is_ascii_hexdigit() {
        end = run(text, 3, |byte| byte.is_ascii_hexdigit() || byte == b'_');
    } else {
        end = digits(0);
        if at(end) == b'.' {
            end = digits(end + 1);
        }
        let signed = usize::from(matches!(at(end + 1), b'+' | b'-'));
        if matches!(at(end), b'e' | b'E') && at(end + 1 + signed).is_ascii_digit() {
            end = digits(end + 2);
        }
    }
    let word_end = run(text, end, is_word_byte);
    (if word_end > end { TokenKind::Illegal } else { TokenKind::Number }, word_end)
}

fn variable(text: &[u8]) -> (TokenKind, usize) {
    let mut end = 1;
    let mut named = false;
    while let Some(&byte) = text.get(end) {
        if is_word_byte(byte) {
            named = true;
            end += 1;
        } else if byte == b'(' && named {
            end = run(text, end + 1, |byte| byte != b')' && byte != 0 && !is_space(byte));
            if text.get(end) != Some(&b')') {
                return (TokenKind::Illegal, end);
            }
            return (TokenKind::Variable, end + 1);
        } else if byte == b':' && text.get(end + 1) == Some(&b':') {
            end += 2;
        } else {
            break;
        }
    }
    (if named { TokenKind::Variable } else { TokenKind::Illegal }, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders tokens as `kind:text`, white space left out.
    fn render(text: &str) -> String {
        tokens(text)
            .filter(|token| token.kind != TokenKind::Space)
            .map(|token| format!("{:?}:{}", token.kind, token.text))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn tokens_follow_the_rules_of_sqlite() {
        let cases = [
            ("", ""),
            ("a$1_é", "Word:a$1_é"),
            (
                "1_000 0xFf 0x_1 0x .5 5. 1.e5",
                "Number:1_000 Number:0xFf Illegal:0x_1 Illegal:0x Number:.5 Number:5. Number:1.e5",
            ),
            (
                "1e5 1e+5 1e-5 1e 1e+ 1a",
                "Number:1e5 Number:1e+5 Number:1e-5 Illegal:1e Illegal:1e Operator:+ Illegal:1a",
            ),
            ("1e--x", "Illegal:1e Comment:--x"),
            ("'a''b' 'c", "String:'a''b' Illegal:'c"),
            (
                r#""a""b" `c``d` [e]f] [g"#,
                r#"Quoted:"a""b" Quoted:`c``d` Quoted:[e] Word:f Illegal:] Illegal:[g"#,
            ),
            (
                "x'00' X'' x'0' x'0g' x'1",
                "Blob:x'00' Blob:X'' Illegal:x'0' Illegal:x'0g' Illegal:x'1",
            ),
            ("x'0''1'", "Illegal:x'0' String:'1'"),
            (
                "? ?12 ?a :a @b $c #d : $",
                "Variable:? Variable:?12 Variable:? Word:a Variable::a Variable:@b Variable:$c Variable:#d Illegal:: Illegal:$",
            ),
            (
                "$a::b(c;d) $a(b c) $(a) :a::b",
                "Variable:$a::b(c;d) Illegal:$a(b Word:c CloseParenthesis:) Illegal:$ OpenParenthesis:( Word:a CloseParenthesis:) Variable::a::b",
            ),
            (
                "/* a; */ /*/ */ /**/ -- b;\n c",
                "Comment:/* a; */ Comment:/*/ */ Comment:/**/ Comment:-- b; Word:c",
            ),
            ("/* open", "Comment:/* open"),
            ("/*", "Operator:/ Operator:*"),
            (
                "a->b->>c<=>=<>!=<<>>||==",
                "Word:a Operator:-> Word:b Operator:->> Word:c Operator:<= Operator:>= Operator:<> Operator:!= Operator:<< Operator:>> Operator:|| Operator:==",
            ),
            (
                "a.b,(c);",
                "Word:a Operator:. Word:b Operator:, OpenParenthesis:( Word:c CloseParenthesis:) Semicolon:;",
            ),
            ("! ^ \\ \0", "Illegal:! Illegal:^ Illegal:\\ Illegal:\0"),
            ("\u{feff}a\u{feff}", "Word:a\u{feff}"),
            ("\x0ba \x0b", "Illegal:\x0b Word:a"),
        ];
        for (text, expected) in cases {
            assert_eq!(render(text), expected, "tokens of {text:?}");
        }
    }

    #[test]
    fn names_lose_their_quotes() {
        for (text, name) in [
            ("a", Some("a")),
            ("'a''b'", Some("a'b")),
            (r#""a""b""#, Some("a\"b")),
            ("[a\"b]", Some("a\"b")),
            ("`a``b`", Some("a`b")),
            ("''", Some("")),
            ("1", None),
            (";", None),
            ("'a", None),
        ] {
            let token = tokens(text).next().expect("one token");
            assert_eq!(token.name().as_deref(), name, "name of {text:?}");
        }
    }
}
