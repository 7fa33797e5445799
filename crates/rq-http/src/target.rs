//! Query strings that the HTTP library refuses, and clients send all the same.
//!
//! SQL typed into a URL is often longer than 64 KiB, or has `"`, `<`, `>` or `#` in it unescaped. The library
//! refuses the former and the latter; upstream takes both. So request lines are looked at on their way in, and such a
//! query is replaced by a short token and kept aside for the handler.
//!
//! - Only the query between the first `?` and the next blank of a well-formed request line is ever
//!   touched. No line is added, removed or moved, so the framing of messages stays the library's business.
//! - A line that is longer than a head may be is passed on as it is, and refused by the library.

use std::sync::{Mutex, PoisonError};

/// The longest target the HTTP library takes.
const TARGET_BYTES: usize = 65_534;

/// The longest token that starts a request line we touch, with its blank.
const METHOD_BYTES: usize = 16;

/// What the query that is kept aside is replaced with; a number follows.
const TOKEN: &str = "rq-query-kept-aside=";

/// The query kept aside for the request that comes next, and the number of its token.
#[derive(Debug, Default)]
pub(crate) struct Aside(Mutex<(u64, Option<String>)>);

impl Aside {
    /// Takes the query behind a token; `None` if `query` is no token given by us.
    pub(crate) fn take(&self, query: &str) -> Option<String> {
        let number: u64 = query.strip_prefix(TOKEN)?.parse().ok()?;
        let mut aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if aside.0 == number { aside.1.take() } else { None }
    }

    /// Puts a query aside and gives its token.
    fn put(&self, query: String) -> String {
        let mut aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        aside.0 += 1;
        aside.1 = Some(query);
        format!("{TOKEN}{}", aside.0)
    }
}

/// What to do with the beginning of a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inspection {
    /// It is fine.
    Pass,
    /// The first line is not complete; more is needed.
    More,
    /// This stands in its place.
    Replace(Vec<u8>),
}

/// Looks at the bytes that begin a head.
pub(crate) fn inspect(bytes: &[u8], aside: &Aside) -> Inspection {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if may_become_request(bytes) { Inspection::More } else { Inspection::Pass };
    };
    let (line, rest) = bytes.split_at(end);
    let Some(query) = query_of(line) else { return Inspection::Pass };
    if query.target_bytes <= TARGET_BYTES && query.text.iter().all(|byte| is_accepted(*byte)) {
        return Inspection::Pass;
    }
    let token = aside.put(String::from_utf8_lossy(query.text).into_owned());
    let mut replaced = Vec::with_capacity(bytes.len() - query.text.len() + token.len());
    replaced.extend_from_slice(&line[..query.start]);
    replaced.extend_from_slice(token.as_bytes());
    replaced.extend_from_slice(&line[query.start + query.text.len()..]);
    replaced.extend_from_slice(rest);
    Inspection::Replace(replaced)
}

struct Query<'a> {
    /// Where it starts in the line.
    start: usize,
    text: &'a [u8],
    target_bytes: usize,
}

/// Finds the query in a request line of HTTP/1: `METHOD /path?query HTTP/1.x`.
fn query_of(line: &[u8]) -> Option<Query<'_>> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_http1 = version.starts_with(b"HTTP/1.") && words.next().is_none();
    if !is_http1 || method.is_empty() || !method.iter().all(u8::is_ascii_uppercase) {
        return None;
    }
    let mark = target.iter().position(|byte| *byte == b'?')?;
    let text = &target[mark + 1..];
    // Control characters are for the library to refuse.
    if !target.starts_with(b"/") || text.iter().any(u8::is_ascii_control) {
        return None;
    }
    Some(Query { start: method.len() + 1 + mark + 1, text, target_bytes: target.len() })
}

/// Whether bytes without a line's end can still become a request line that has to be touched.
fn may_become_request(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(METHOD_BYTES)];
    match start.iter().position(|byte| *byte == b' ') {
        Some(blank) => {
            start[..blank].iter().all(u8::is_ascii_uppercase)
                && start.get(blank + 1).is_none_or(|byte| *byte == b'/')
        }
        None => start.len() < METHOD_BYTES && start.iter().all(u8::is_ascii_uppercase),
    }
}

/// Whether the HTTP library takes a byte in a query, and takes it for part of it.
fn is_accepted(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(head: &str) -> Option<(String, String)> {
        let aside = Aside::default();
        match inspect(head.as_bytes(), &aside) {
            Inspection::Replace(bytes) => {
                let query = aside.take(&format!("{TOKEN}1")).unwrap();
                Some((String::from_utf8(bytes).unwrap(), query))
            }
            Inspection::Pass => None,
            Inspection::More => panic!("complete"),
        }
    }

    #[test]
    fn ordinary_heads_pass() {
        for head in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /db/query?q=SELECT%201&x=!$'()*+,;:@[\\]^_`{|}~ HTTP/1.1\r\n",
            "GET /a\"b HTTP/1.1\r\n",
            "GET /?q=\"a b\" HTTP/1.1\r\n",
            "GET /?q=\"\u{1}\" HTTP/1.1\r\n",
            "get /?q=\"\" HTTP/1.1\r\n",
            "GET http://host/?q=\"\" HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "X-Header: GET /?q=\" HTTP/1.1\r\n",
            "\r\nGET /?q=\" HTTP/1.1\r\n",
        ] {
            assert_eq!(replaced(head), None, "{head:?}");
        }
    }

    #[test]
    fn odd_queries_are_kept_aside() {
        let (head, query) =
            replaced("GET /db/query?q=SELECT+\"a\"+<>+#é&pretty HTTP/1.1\r\nHost: x\r\n\r\nrest")
                .unwrap();
        assert_eq!(head, format!("GET /db/query?{TOKEN}1 HTTP/1.1\r\nHost: x\r\n\r\nrest"));
        assert_eq!(query, "q=SELECT+\"a\"+<>+#é&pretty");
    }

    #[test]
    fn long_queries_are_kept_aside() {
        let long = "x".repeat(TARGET_BYTES);
        let (head, query) = replaced(&format!("GET /db/query?q={long} HTTP/1.0\r\n")).unwrap();
        assert_eq!(head, format!("GET /db/query?{TOKEN}1 HTTP/1.0\r\n"));
        assert_eq!(query.len(), TARGET_BYTES + 2);
    }

    #[test]
    fn only_what_may_become_a_request_is_waited_for() {
        let aside = Aside::default();
        for (bytes, expected) in [
            ("G", Inspection::More),
            ("GET", Inspection::More),
            ("GET ", Inspection::More),
            ("GET /db", Inspection::More),
            ("PRI * HT", Inspection::Pass),
            ("Host: x", Inspection::Pass),
            ("\u{16}\u{3}", Inspection::Pass),
            ("AVERYLONGWORDWITHOUTEND", Inspection::Pass),
        ] {
            assert_eq!(inspect(bytes.as_bytes(), &aside), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_token_is_good_once_and_only_ours() {
        let aside = Aside::default();
        let token = aside.put("a".to_owned());
        assert_eq!(aside.take("rq-query-kept-aside=7"), None);
        assert_eq!(aside.take("q=1"), None);
        assert_eq!(aside.take(&token), Some("a".to_owned()));
        assert_eq!(aside.take(&token), None);
    }
}
