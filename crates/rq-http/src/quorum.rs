//! Why there is no leader: who votes, who of them answers, how many are needed.
//!
//! Asking the others takes time that neither a status nor an error may take. So they are asked in the background,
//! whenever somebody wants to know and the last answer is old, and the last answer is what is shown.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rq_node::Node;

/// How old an answer may be before the others are asked again.
const FRESH: Duration = Duration::from_secs(2);
/// How long each of the others may take to answer.
const CONTACT_TIME: Duration = Duration::from_secs(1);
/// How often the log says that there is no leader.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What was found out last.
#[derive(Debug, Default)]
pub(crate) struct Quorum {
    seen: Mutex<Seen>,
    is_looking: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the others were asked, and who answered.
    reachable: Option<(Instant, Vec<String>)>,
    told: Option<Instant>,
}

/// Why there is, or is not, a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// The names of all voters.
    pub(crate) voters: Vec<String>,
    /// Those that answered when last asked, this node included; `None` before they were asked.
    pub(crate) reachable: Option<Vec<String>>,
    /// How many of them can elect a leader.
    pub(crate) needed: usize,
    /// How long ago this node last heard of a leader; `None` for never.
    pub(crate) last_contact: Option<Duration>,
}

impl Quorum {
    /// What is known now. If that is old and `is_wanted`, the others are asked meanwhile.
    pub(crate) fn outlook(self: &Arc<Self>, node: &Node, is_wanted: bool) -> Outlook {
        let voters: Vec<String> = node
            .members()
            .into_iter()
            .filter(|member| member.voter)
            .map(|member| member.id)
            .collect();
        let (reachable, is_fresh) = {
            let seen = self.seen();
            let fresh = |at: &Instant| at.elapsed() < FRESH;
            (
                seen.reachable.as_ref().map(|(_, names)| names.clone()),
                seen.reachable.as_ref().is_some_and(|(at, _)| fresh(at)),
            )
        };
        if !is_fresh && is_wanted {
            self.look(node);
        }
        Outlook {
            needed: voters.len() / 2 + 1,
            reachable: reachable
                .map(|names| names.into_iter().filter(|name| voters.contains(name)).collect()),
            voters,
            last_contact: node.last_contact(),
        }
    }

    /// Says in the log, now and then, why there is no leader.
    pub(crate) fn tell(&self, outlook: &Outlook) {
        let mut seen = self.seen();
        if outlook.reachable.is_none() || seen.told.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        seen.told = Some(Instant::now());
        drop(seen);
        tracing::warn!(component = "http", "leader not found: {}", outlook.detail());
    }

    fn look(self: &Arc<Self>, node: &Node) {
        if self.is_looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (quorum, node) = (Arc::clone(self), node.clone());
        tokio::spawn(async move {
            if let Ok(contacts) = node.contact_members(CONTACT_TIME, 0).await {
                let reached = contacts.into_iter().filter(|contact| contact.reached.is_ok());
                let names = reached.map(|contact| contact.member.id).collect();
                quorum.seen().reachable = Some((Instant::now(), names));
            }
            quorum.is_looking.store(false, Ordering::Release);
        });
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlook {
    /// One line, as `X-Rq-Detail` carries it.
    pub(crate) fn detail(&self) -> String {
        let reachable =
            self.reachable.as_ref().map_or_else(|| "unknown".to_owned(), |names| names.join(","));
        let contact = self.last_contact.map_or_else(
            || "never".to_owned(),
            |elapsed| format!("{:.1}s ago", elapsed.as_secs_f64()),
        );
        format!(
            "voters={}; reachable={reachable}; needed={}; last-contact={contact}",
            self.voters.join(","),
            self.needed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_names_everything() {
        let outlook = Outlook {
            voters: vec!["1".to_owned(), "2".to_owned(), "3".to_owned()],
            reachable: Some(vec!["1".to_owned()]),
            needed: 2,
            last_contact: Some(Duration::from_millis(3240)),
        };
        let expected = "voters=1,2,3; reachable=1; needed=2; last-contact=3.2s ago";
        assert_eq!(outlook.detail(), expected);
        let unknown = Outlook { reachable: None, last_contact: None, ..outlook };
        let expected = "voters=1,2,3; reachable=unknown; needed=2; last-contact=never";
        assert_eq!(unknown.detail(), expected);
    }
}
