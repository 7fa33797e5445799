//! Name and password as a caller presents them.
//!
//! Read from the `Authorization` header of a request (RFC 7617). Everything that is not a well
//! formed Basic header counts as no credentials at all, never as an error: the caller is
//! anonymous then, and the permission check decides.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// A user name and a password, not yet verified.
///
/// - The name is never empty: without one the caller is anonymous.
/// - The password does not appear in `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// Takes a name and a password; `None` if the name is empty.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Option<Self> {
        let username = username.into();
        if username.is_empty() {
            return None;
        }
        Some(Self { username, password: password.into() })
    }

    /// Reads the value of an `Authorization` header.
    ///
    /// `None` (anonymous) for another scheme, for text that is not padded standard base64, not
    /// UTF-8 or without a colon, and for an empty name. A password may contain colons.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        const SCHEME: &[u8] = b"Basic ";
        let (scheme, encoded) = value.split_at_checked(SCHEME.len())?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return None;
        }
        let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Self::new(username, password)
    }

    /// Gives the name.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Gives the password, to be verified or passed on to the leader; never to be shown.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, String)> {
        Credentials::from_header(text.as_bytes()).map(|c| (c.username, c.password))
    }

    #[test]
    fn basic_headers_are_read() {
        let encoded = |plain: &str| BASE64_STANDARD.encode(plain);
        let pair = |name: &str, word: &str| Some((name.to_owned(), word.to_owned()));
        assert_eq!(read("Basic dXNlcjpwYXNz"), pair("user", "pass"));
        assert_eq!(read("bAsIc dXNlcjpwYXNz"), pair("user", "pass"));
        assert_eq!(read(&format!("Basic {}", encoded("u:a:b:c"))), pair("u", "a:b:c"));
        assert_eq!(read(&format!("Basic {}", encoded("u:"))), pair("u", ""));
        assert_eq!(read(&format!("Basic {}", encoded("é:ü"))), pair("é", "ü"));
    }

    #[test]
    fn everything_else_is_anonymous() {
        let no_colon = format!("Basic {}", BASE64_STANDARD.encode("userpass"));
        let no_name = format!("Basic {}", BASE64_STANDARD.encode(":pass"));
        let not_utf8 = format!("Basic {}", BASE64_STANDARD.encode(b"u:\xff\xfe"));
        for header in [
            "",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Basic dXNlcjpwYXNz=",
            "Basic  dXNlcjpwYXNz",
            "Bearer dXNlcjpwYXNz",
            "Digest username=\"user\"",
            "dXNlcjpwYXNz",
            &no_colon,
            &no_name,
            &not_utf8,
        ] {
            assert_eq!(read(header), None, "{header:?}");
        }
    }

    #[test]
    fn debug_output_hides_the_password() {
        let credentials = Credentials::new("alice", "s3cret").unwrap();
        let shown = format!("{credentials:?}");
        assert!(shown.contains("alice") && !shown.contains("s3cret"), "{shown}");
    }
}
