//! Log lines about peers, which strangers must not be able to flood the log with.
//!
//! One line for each peer and reason in a while; what was left out is counted and said with the next.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The same reason for the same peer is not said again for this long.
const QUIET: Duration = Duration::from_secs(10);
/// Peers and reasons remembered; beyond it the memory starts over, and the next line is for everybody.
const REMEMBERED_MAX: usize = 256;
/// Lines within [`QUIET`], whoever they are about; a crowd of strangers gets no more.
const LINES_MAX: u32 = 64;

/// The characters of a reason; the rest is left out.
const REASON_CHARS_MAX: usize = 400;

/// What was said about whom.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    said: HashMap<(String, String), Said>,
    /// When the present count of lines began, and the count.
    window: Option<(Instant, u32)>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    left_out: u64,
}

impl Notices {
    /// Warns that an incoming connection was closed.
    pub(crate) fn refused(&self, peer: SocketAddr, reason: &str) {
        let reason = &readable(reason);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if let Some(left_out) = self.is_new(&peer.ip().to_string(), reason) {
            tracing::warn!(component = "mux", "refused {peer}: {reason}{}", more(left_out));
        }
    }

    /// Warns about a connection to another node.
    pub(crate) fn unreachable(&self, to: &str, reason: &str) {
        let reason = &readable(reason);
        if let Some(left_out) = self.is_new(to, reason) {
            tracing::warn!(component = "mux", "cannot reach {to}: {reason}{}", more(left_out));
        }
    }

    /// Tells that a node that could not be reached could.
    pub(crate) fn reached(&self, to: &str) {
        if let Some(left_out) = self.is_new(to, "reached again") {
            tracing::info!(component = "mux", "reached {to} again{}", more(left_out));
        }
    }

    /// Tells about something of this node that is in trouble.
    pub(crate) fn trouble(&self, text: &str) {
        if let Some(left_out) = self.is_new("", text) {
            tracing::error!(component = "mux", "{text}{}", more(left_out));
        }
    }

    /// Everything remembered, for tests.
    #[cfg(test)]
    pub(crate) fn said(&self) -> Vec<String> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.said.keys().map(|(peer, reason)| format!("{peer}: {reason}")).collect()
    }

    /// Gives how often the line was left out since it was last said; `None` if it is to be left out again.
    fn is_new(&self, peer: &str, reason: &str) -> Option<u64> {
        let now = Instant::now();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer.to_owned(), reason.to_owned());
        if let Some(said) = memory.said.get_mut(&key)
            && now - said.at < QUIET
        {
            said.left_out += 1;
            return None;
        }
        match &mut memory.window {
            Some((began, lines)) if now - *began < QUIET => {
                if *lines >= LINES_MAX {
                    return None;
                }
                *lines += 1;
            }
            window => *window = Some((now, 1)),
        }
        if memory.said.len() >= REMEMBERED_MAX {
            memory.said.clear();
        }
        let before = memory.said.insert(key, Said { at: now, left_out: 0 });
        Some(before.map_or(0, |said| said.left_out))
    }
}

/// Gives a reason as a line of bearable length: certificates of strangers have a say in some.
fn readable(reason: &str) -> String {
    reason.chars().filter(|character| !character.is_control()).take(REASON_CHARS_MAX).collect()
}

fn more(left_out: u64) -> String {
    if left_out == 0 { String::new() } else { format!(" ({left_out} more times before)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_in_a_while_with_a_count() {
        let notices = Notices::default();
        assert_eq!(notices.is_new("a", "x"), Some(0));
        assert_eq!(notices.is_new("a", "x"), None);
        assert_eq!(notices.is_new("a", "x"), None);
        assert_eq!(notices.is_new("a", "y"), Some(0));
        assert_eq!(notices.is_new("b", "x"), Some(0));
        tokio::time::advance(QUIET).await;
        assert_eq!(notices.is_new("a", "x"), Some(2));
    }

    #[test]
    fn what_others_have_a_say_in_stays_one_line() {
        assert_eq!(readable("a\n\u{1b}[31mb\0"), "a[31mb");
        assert_eq!(readable(&"x".repeat(1 << 20)).len(), REASON_CHARS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_gets_a_bounded_number_of_lines() {
        let notices = Notices::default();
        let said = (0..10_000).filter(|i| notices.is_new(&i.to_string(), "x").is_some()).count();
        assert_eq!(said, LINES_MAX as usize);
        tokio::time::advance(QUIET).await;
        assert_eq!(notices.is_new("late", "x"), Some(0));
    }
}
