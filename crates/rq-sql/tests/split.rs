//! The splitter, by cases and by random texts: pieces give the text back, do not depend on chunks,
//! and agree with the tokens of `rq_sql::token`.

use rq_sql::{
    split::{Splitter, statements},
    token::{TokenKind, tokens},
};

/// A small generator of random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("smaller than a usize")
    }
}

/// Parts from which hostile texts are put together.
const PARTS: &[&str] = &[
    ";",
    ";",
    ";",
    " ",
    "\n",
    "\x0b",
    "\0",
    "'",
    "\"",
    "`",
    "[",
    "]",
    "--",
    "-",
    "/",
    "*",
    "/*",
    "*/",
    "create",
    "CREATE",
    "temp",
    "temporary",
    "trigger",
    "TRIGGER",
    "end",
    "END",
    "explain",
    "query",
    "plan",
    "begin",
    "select",
    "x",
    "X'",
    "0",
    "00",
    "12",
    "0x",
    "_",
    ".",
    "e",
    "E+",
    "1e-",
    "+",
    "$",
    "@",
    ":",
    "::",
    "#",
    "?",
    "(",
    ")",
    ",",
    "é",
    "\u{feff}",
    "\u{fb00}",
    "\u{1f600}",
    "a",
    "b$",
    "\u{7f}",
];

fn text(random: &mut Random) -> String {
    (0..random.below(30)).map(|_| PARTS[random.below(PARTS.len())]).collect()
}

/// What the splitter should do, said with tokens: (text, empty, complete).
fn by_tokens(text: &str) -> Vec<(String, bool, bool)> {
    #[derive(PartialEq)]
    enum State {
        Start,
        Normal,
        Explain,
        Create,
        Trigger,
        Semicolon,
        End,
    }
    let mut pieces = Vec::new();
    let (mut piece, mut empty, mut state) = (String::new(), true, State::Start);
    for token in tokens(text) {
        piece.push_str(token.text);
        if !token.is_significant() {
            continue;
        }
        let word = |words: &[&str]| words.iter().any(|word| token.is_word(word));
        let semicolon = token.kind == TokenKind::Semicolon;
        if semicolon && !matches!(state, State::Trigger | State::Semicolon) {
            pieces.push((std::mem::take(&mut piece), empty, true));
            (empty, state) = (true, State::Start);
            continue;
        }
        empty = false;
        state = match state {
            State::Trigger | State::Semicolon if semicolon => State::Semicolon,
            State::Semicolon if word(&["end"]) => State::End,
            State::Trigger | State::Semicolon | State::End => State::Trigger,
            State::Start if word(&["explain"]) => State::Explain,
            State::Start | State::Explain if word(&["create"]) => State::Create,
            State::Explain if word(&["explain", "temp", "temporary", "trigger", "end"]) => {
                State::Normal
            }
            State::Explain => State::Explain,
            State::Create if word(&["temp", "temporary"]) => State::Create,
            State::Create if word(&["trigger"]) => State::Trigger,
            State::Start | State::Normal | State::Create => State::Normal,
        };
    }
    if !piece.is_empty() {
        pieces.push((piece, empty, false));
    }
    pieces
}

fn by_statements(text: &str) -> Vec<(String, bool, bool)> {
    statements(text)
        .map(|piece| {
            assert_eq!(&text[piece.start..piece.start + piece.text.len()], piece.text);
            (piece.text.to_owned(), piece.is_empty, piece.is_complete)
        })
        .collect()
}

fn by_splitter(text: &str, mut chunk: impl FnMut() -> usize) -> Vec<(String, bool, bool)> {
    let mut pieces = Vec::new();
    let mut splitter = Splitter::new();
    let mut rest = text;
    let mut position = 0;
    while !rest.is_empty() {
        let mut length = chunk().clamp(1, rest.len());
        while !rest.is_char_boundary(length) {
            length += 1;
        }
        splitter.push(&rest[..length]);
        rest = &rest[length..];
        while let Some(piece) = splitter.next_piece() {
            assert_eq!(piece.start, position, "pieces follow each other");
            position += piece.text.len();
            pieces.push((piece.text.to_owned(), piece.is_empty, piece.is_complete));
        }
        assert!(splitter.pending_bytes() <= text.len());
    }
    if let Some(piece) = splitter.finish() {
        assert_eq!(piece.start, position, "pieces follow each other");
        pieces.push((piece.text.to_owned(), piece.is_empty, piece.is_complete));
    }
    pieces
}

#[test]
fn statements_end_where_sqlite_ends_them() {
    // Pieces are shown with `|` behind each; `~` marks an empty one, `…` an incomplete one.
    let cases = [
        ("", ""),
        ("a;b", "a;|b…|"),
        (" ; /* c; */ ;", "~ ;|~ /* c; */ ;|"),
        ("a;\n-- end;\n", "a;|~\n-- end;\n…|"),
        ("'a;''b;';\"c;\"\"d\";[e;];`f;`;", "'a;''b;';|\"c;\"\"d\";|[e;];|`f;`;|"),
        ("(a;b);", "(a;|b);|"),
        ("/* ; */ a /* ;", "/* ; */ a /* ;…|"),
        ("/*", "/*…|"),
        (
            "create trigger t begin a; case when 1 then 2 end; END; b;",
            "create trigger t begin a; case when 1 then 2 end; END;| b;|",
        ),
        ("CREATE TEMP TRIGGER t BEGIN a;/**/END;b", "CREATE TEMP TRIGGER t BEGIN a;/**/END;|b…|"),
        (
            "create temporary trigger t begin a; end x; end;",
            "create temporary trigger t begin a; end x; end;|",
        ),
        ("explain create trigger t begin a; end;b;", "explain create trigger t begin a; end;|b;|"),
        (
            "explain query plan create trigger t begin a; end;",
            "explain query plan create trigger t begin a; end;|",
        ),
        ("create table trigger(a); b;", "create table trigger(a);| b;|"),
        ("\"create\" trigger; b;", "\"create\" trigger;| b;|"),
        ("create trigger broken; a;", "create trigger broken; a;…|"),
        ("createtrigger; create triggers;", "createtrigger;| create triggers;|"),
        ("$a(;) :b; ?1$c(;);", "$a(;) :b;| ?1$c(;);|"),
        ("1.$a(;);1e-$a(;);1e-5$a(;);", "1.$a(;|);|1e-$a(;);|1e-5$a(;|);|"),
        ("\u{feff}a;\u{feff};", "\u{feff}a;|~\u{feff};|"),
    ];
    for (text, expected) in cases {
        let rendered: String = by_statements(text)
            .into_iter()
            .map(|(text, empty, complete)| {
                let mark = if empty { "~" } else { "" };
                format!("{mark}{text}{}|", if complete { "" } else { "…" })
            })
            .collect();
        assert_eq!(rendered, expected, "pieces of {text:?}");
    }
}

#[test]
fn random_texts_split_the_same_way_whole_in_chunks_and_by_tokens() {
    let seed = std::env::var("RQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed} (RQ_SEED)");
    let mut random = Random(seed);
    for _ in 0..60_000 {
        let text = text(&mut random);
        let whole: String = tokens(&text).map(|token| token.text).collect();
        assert_eq!(whole, text, "tokens give the text back");
        let expected = by_tokens(&text);
        let pieces = by_statements(&text);
        assert_eq!(pieces, expected, "statements of {text:?}");
        let whole: String = pieces.iter().map(|(text, ..)| text.as_str()).collect();
        assert_eq!(whole, text, "pieces give the text back");
        let chunks = by_splitter(&text, || 1 + random.below(4));
        assert_eq!(chunks, expected, "chunks of {text:?}");
        rq_sql::classify::kind(&text);
        rq_sql::classify::is_disallowed_pragma(&format!("pragma {text}"));
        rq_sql::classify::first_keyword(&text);
    }
}

#[test]
fn long_tokens_in_small_chunks_cost_linear_time() {
    // Quadratic cost would take hours here.
    for part in ["'a", "[a", "/* *", "aaaa", "1111", "$aaa(", "    ", "-- a", "x'aa"] {
        let mut splitter = Splitter::new();
        splitter.push(part);
        for _ in 0..200_000 {
            splitter.push("aaaaaaaaaa");
            assert!(splitter.next_piece().is_none());
        }
        assert_eq!(splitter.pending_bytes(), part.len() + 2_000_000);
    }
}

#[test]
fn the_splitter_forgets_what_it_gave_out() {
    let mut splitter = Splitter::new();
    for _ in 0..1000 {
        splitter.push("select 1;");
        assert_eq!(splitter.next_piece().expect("complete").text, "select 1;");
        assert!(splitter.next_piece().is_none());
        assert_eq!(splitter.pending_bytes(), 0);
        assert!(splitter.is_idle());
    }
    for (text, idle) in [
        (" -- c", true),
        ("\n", true),
        (" /* c", false),
        (" */ -- d", true),
        ("\n-", false),
        ("- e\n", true),
    ] {
        splitter.push(text);
        assert!(splitter.next_piece().is_none());
        assert_eq!(splitter.is_idle(), idle, "after {text:?}");
    }
    splitter.push("'");
    assert!(splitter.next_piece().is_none());
    assert!(!splitter.is_idle());
    assert!(!splitter.finish().expect("something is left").is_complete);
    assert!(splitter.is_idle());
    assert!(splitter.finish().is_none());
}
