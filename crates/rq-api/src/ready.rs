//! The answer of `/readyz`, from what was found out.

/// What was found out about a node's readiness, up to the first thing that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The client asked for the node alone.
    NodeOnly,
    /// There is no leader, or the store is not open.
    NoLeader,
    /// The leader does not answer.
    LeaderNotContactable {
        /// Why.
        error: String,
    },
    /// The store is not ready.
    StoreNotReady,
    /// The store cannot become ready before somebody does something.
    StoreUnfit {
        /// What and why.
        reason: String,
    },
    /// The node did not catch up in time.
    NotSynced {
        /// Why.
        error: String,
    },
    /// A read of the database failed.
    DatabaseFailed {
        /// Whether catching up was asked for, and succeeded.
        synced: bool,
        /// Why; `<nil>` if the read itself succeeded.
        error: String,
        /// What it gave.
        rows: String,
    },
    /// All is well.
    Ready {
        /// Whether catching up was asked for, and succeeded.
        synced: bool,
    },
}

impl Readiness {
    /// The status of the answer: 200 or 503.
    pub fn status(&self) -> u16 {
        match self {
            Self::NodeOnly | Self::Ready { .. } => 200,
            Self::NoLeader
            | Self::LeaderNotContactable { .. }
            | Self::StoreNotReady
            | Self::StoreUnfit { .. }
            | Self::NotSynced { .. }
            | Self::DatabaseFailed { .. } => 503,
        }
    }

    /// The body of the answer: lines without a final newline. All begin with `[+]`, also those
    /// that report a failure; only the status tells.
    pub fn body(&self) -> String {
        let (passed, last) = match self {
            Self::NodeOnly => (1, None),
            Self::NoLeader => (1, Some("leader does not exist".to_owned())),
            Self::LeaderNotContactable { error } => {
                (1, Some(format!("leader not contactable: {error}")))
            }
            Self::StoreNotReady => (2, Some("store not ready".to_owned())),
            Self::StoreUnfit { reason } => (2, Some(format!("store not ready: {reason}"))),
            Self::NotSynced { error } => (3, Some(format!("sync {error}"))),
            Self::DatabaseFailed { synced, error, rows } => {
                (3 + usize::from(*synced), Some(format!("db not ok: ({error}, {rows})")))
            }
            Self::Ready { synced } => (3 + usize::from(*synced), Some("db ok".to_owned())),
        };
        let mut lines: Vec<&str> =
            ["node ok", "leader ok", "store ok", "sync ok"].into_iter().take(passed).collect();
        lines.extend(last.as_deref());
        format!("[+]{}", lines.join("\n[+]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_has_its_lines() {
        let error = || "E".to_owned();
        for (readiness, status, body) in [
            (Readiness::NodeOnly, 200, "[+]node ok"),
            (Readiness::NoLeader, 503, "[+]node ok\n[+]leader does not exist"),
            (
                Readiness::LeaderNotContactable { error: error() },
                503,
                "[+]node ok\n[+]leader not contactable: E",
            ),
            (Readiness::StoreNotReady, 503, "[+]node ok\n[+]leader ok\n[+]store not ready"),
            (
                Readiness::StoreUnfit { reason: error() },
                503,
                "[+]node ok\n[+]leader ok\n[+]store not ready: E",
            ),
            (
                Readiness::NotSynced { error: error() },
                503,
                "[+]node ok\n[+]leader ok\n[+]store ok\n[+]sync E",
            ),
            (
                Readiness::DatabaseFailed { synced: false, error: error(), rows: "[]".into() },
                503,
                "[+]node ok\n[+]leader ok\n[+]store ok\n[+]db not ok: (E, [])",
            ),
            (
                Readiness::Ready { synced: false },
                200,
                "[+]node ok\n[+]leader ok\n[+]store ok\n[+]db ok",
            ),
            (
                Readiness::Ready { synced: true },
                200,
                "[+]node ok\n[+]leader ok\n[+]store ok\n[+]sync ok\n[+]db ok",
            ),
        ] {
            assert_eq!((readiness.status(), readiness.body().as_str()), (status, body));
        }
    }
}
