//! Log lines that may recur at the speed of a network: each text at most once in a while.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::progress::lock;

/// The same text is not said again for this long.
const QUIET: Duration = Duration::from_secs(30);
/// Texts remembered; beyond it the memory starts over.
const TEXTS_MAX: usize = 256;

/// Remembers what was said. Owned by whoever would say it.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    said: Mutex<HashMap<String, Instant>>,
}

impl Notices {
    /// Warns, unless the same was said a moment ago.
    pub(crate) fn warn(&self, component: &'static str, text: &str) {
        if self.is_new(text) {
            tracing::warn!(component = component, "{text}");
        }
    }

    /// Says something, unless the same was said a moment ago.
    pub(crate) fn tell(&self, component: &'static str, text: &str) {
        if self.is_new(text) {
            tracing::info!(component = component, "{text}");
        }
    }

    fn is_new(&self, text: &str) -> bool {
        let now = Instant::now();
        let mut said = lock(&self.said);
        if said.get(text).is_some_and(|before| now.duration_since(*before) < QUIET) {
            return false;
        }
        if said.len() >= TEXTS_MAX {
            said.clear();
        }
        said.insert(text.to_owned(), now);
        true
    }
}
