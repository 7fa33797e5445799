//! A client that sends each request once and knows what it does not know.

use std::time::Duration;

use crate::{Connection, Request, Response};

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Answered without an error.
    Done(Response),
    /// Nothing was done: nobody could be reached, or the answer says so.
    NotDone(String),
    /// The answer says that its outcome is unknown, or there was none.
    Unknown(String),
}

impl Fate {
    /// What the answer says.
    ///
    /// An error without the header that tells the outcome counts as unknown; its text begins with
    /// `unexplained`, which no node may answer.
    pub fn of(answer: Response) -> Self {
        let text = || format!("{} {}", answer.status, answer.text().trim_end());
        match answer.header("x-rq-error") {
            None if answer.status == 200 => Self::Done(answer),
            Some(error) if error.contains("outcome=not-done") => Self::NotDone(text()),
            Some(error) if error.contains("outcome=unknown") => Self::Unknown(text()),
            _ => Self::Unknown(format!("unexplained: {}", text())),
        }
    }
}

/// A client of a list of nodes: it stays with one until that fails, then tries the next one with its
/// next request.
#[derive(Debug)]
pub struct Caller {
    addresses: Vec<String>,
    current: usize,
    connection: Option<Connection>,
    timeout: Duration,
}

impl Caller {
    /// A client that begins with the node at this place of the list, and waits this long for it.
    pub fn new(addresses: Vec<String>, first: usize, timeout: Duration) -> Self {
        let current = first % addresses.len();
        Self { addresses, current, connection: None, timeout }
    }

    /// The address of the node the next request goes to.
    pub fn address(&self) -> &str {
        &self.addresses[self.current]
    }

    /// Turns to the next node.
    pub fn turn(&mut self) {
        self.current = (self.current + 1) % self.addresses.len();
        self.connection = None;
    }

    /// Sends a request, once.
    pub fn call(&mut self, request: &Request) -> Fate {
        let opened = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => Connection::open_within(&self.addresses[self.current], self.timeout),
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(error) => {
                self.turn();
                return Fate::NotDone(format!("connecting: {error}"));
            }
        };
        match connection.request(request) {
            Ok(answer) => {
                let closes = answer.header("connection").is_some_and(|value| value == "close");
                if !closes {
                    self.connection = Some(connection);
                }
                let fate = Fate::of(answer);
                if !matches!(fate, Fate::Done(_)) {
                    self.turn();
                }
                fate
            }
            // What was sent may have arrived, even if sending failed in the middle.
            Err(error) => {
                self.turn();
                Fate::Unknown(format!("no answer: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_the_outcome() {
        let cases = [
            (200, None, "done"),
            (200, Some("sql_error; outcome=not-done"), "not done"),
            (503, Some("leader_not_found; outcome=not-done"), "not done"),
            (200, Some("leadership_lost; outcome=unknown"), "unknown"),
            (503, None, "unexplained"),
            (200, Some("sql_error"), "unexplained"),
        ];
        for (status, error, expected) in cases {
            let headers = error.map(|error| ("X-Rq-Error".to_owned(), error.to_owned()));
            let headers = headers.into_iter().collect();
            let fate = match Fate::of(Response { status, headers, body: Vec::new() }) {
                Fate::Done(_) => "done",
                Fate::NotDone(_) => "not done",
                Fate::Unknown(text) if text.starts_with("unexplained") => "unexplained",
                Fate::Unknown(_) => "unknown",
            };
            assert_eq!(fate, expected, "{status} {error:?}");
        }
    }
}
