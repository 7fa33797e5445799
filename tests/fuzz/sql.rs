//! SQL texts: nothing is lost, pieces do not depend on how a text arrives, and what a statement is
//! taken for does not depend on what stands around it.

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_assert, prop_assert_eq},
    sample::Index,
};
use rq_sql::{
    classify::{first_keyword, is_disallowed_pragma, kind},
    split::{Piece, Splitter, statements},
    token::{TokenKind, tokens},
};

use super::{fuzz, mutations, text};

/// Text, start, whether it is empty and complete.
type Owned = (String, usize, bool, bool);

fn owned(piece: Piece<'_>) -> Owned {
    (piece.text.to_owned(), piece.start, piece.is_empty, piece.is_complete)
}

fn sql() -> impl Strategy<Value = String> {
    (text(40), mutations(b"';\"`[]-/*()xE\n \x00\xff")).prop_map(|(text, damage)| {
        let mut bytes = text.into_bytes();
        for one in &damage {
            one.apply(&mut bytes, usize::MAX);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The pieces of a text that arrives in chunks which end at these places.
fn in_chunks(text: &str, ends: &[Index]) -> Vec<Owned> {
    let mut splitter = Splitter::new();
    let mut pieces = Vec::new();
    let mut ends: Vec<_> =
        ends.iter().map(|end| text.floor_char_boundary(end.index(text.len() + 1))).collect();
    ends.push(text.len());
    ends.sort_unstable();
    let mut from = 0;
    for end in ends {
        splitter.push(&text[from..end]);
        from = end;
        while let Some(piece) = splitter.next_piece() {
            pieces.push(owned(piece));
        }
    }
    pieces.extend(splitter.finish().map(owned));
    pieces
}

#[test]
fn pieces_are_the_whole_text_however_it_arrives() {
    fuzz(&(sql(), vec(any::<Index>(), 0..8)), |(text, ends)| {
        let joined: String = tokens(&text).map(|token| token.text).collect();
        prop_assert_eq!(&joined, &text, "tokens lose or change text");
        let whole: Vec<_> = statements(&text).map(owned).collect();
        let joined: String = whole.iter().map(|piece| piece.0.as_str()).collect();
        prop_assert_eq!(&joined, &text, "pieces lose or change text");
        let mut position = 0;
        for (number, (piece, start, is_empty, is_complete)) in whole.iter().enumerate() {
            prop_assert_eq!(*start, position);
            position += piece.len();
            let is_last = number + 1 == whole.len();
            prop_assert!(*is_complete || is_last, "{:?} is cut off", piece);
            let nothing = tokens(piece)
                .all(|token| !token.is_significant() || token.kind == TokenKind::Semicolon);
            prop_assert_eq!(*is_empty, nothing, "{:?}", piece);
            // A piece stands for itself.
            let alone: Vec<_> = statements(piece).map(owned).collect();
            prop_assert_eq!(alone, vec![(piece.clone(), 0, *is_empty, *is_complete)]);
        }
        prop_assert_eq!(in_chunks(&text, &ends), whole, "pieces depend on where chunks end");
        Ok(())
    });
}

#[test]
fn what_a_statement_is_does_not_depend_on_what_stands_around_it() {
    fuzz(&sql(), |text| {
        // Directly behind it: a vertical tab is space to SQLite behind a space, and nowhere else.
        let behind_comment = format!("-- \"\n /* ; SELECT ' */{text}");
        prop_assert_eq!(first_keyword(&behind_comment), first_keyword(&text));
        prop_assert_eq!(kind(&behind_comment), kind(&text));
        prop_assert_eq!(is_disallowed_pragma(&behind_comment), is_disallowed_pragma(&text));
        let behind_another = format!("SELECT ';';{text}");
        prop_assert_eq!(is_disallowed_pragma(&behind_another), is_disallowed_pragma(&text));
        if statements(&text).last().is_none_or(|piece| piece.is_complete) {
            for hidden in ["PRAGMA synchronous=0", "/*;*/pragma main . \"Journal_Mode\" ( x )"] {
                let hidden = format!("{text}{hidden};{text}");
                prop_assert!(is_disallowed_pragma(&hidden), "{:?}", hidden);
            }
        }
        Ok(())
    });
}
