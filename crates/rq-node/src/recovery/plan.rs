//! What a recovery is going to do, noted durably before anything is done, so that a crash leaves it undone or to be finished.
//!
//! While a plan stands, Raft has not run: the log ends with the entry before the recovery or with its own, and nothing else
//! has changed since.

use std::path::Path;

use rq_sqlite::EntryId;
use rq_storage::{Files, Vote, read_small, replace_small};
use serde::{Deserialize, Serialize};

use crate::OpenError;

/// A plan is as long as the membership in it; more is none of ours.
const PLAN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The term of a recovery's entry is so much higher than that of the entry before. No cluster comes that far by elections,
/// so its number alone tells what it is.
const TERM_LEAP: u64 = 1_000_000;

/// A recovery that was decided upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The file that asked for it, in its canonical form.
    pub(super) file: String,
    /// The cluster as it was.
    pub(super) cluster: String,
    /// The cluster that goes on.
    pub(super) target: String,
    base_term: u64,
    base_index: u64,
    vote_term: u64,
    /// The new membership, as log entries hold it.
    pub(super) membership: Vec<u8>,
}

impl Plan {
    /// Plans a recovery behind the entry `base`.
    ///
    /// The new cluster's id follows from the old one, the file and `base`: nodes recovered with the same file from equal
    /// logs are of one cluster, all others are not. So entries of the same position are the same entries, and no
    /// node comes in that has applied what the others do not have.
    pub(super) fn new(
        file: String,
        cluster: String,
        base: EntryId,
        vote: Option<Vote>,
        membership: Vec<u8>,
    ) -> Self {
        let EntryId { term, index } = base;
        let target = format!("{:016x}", digest(&format!("{cluster}\n{term} {index}\n{file}")));
        // Whatever was promised to anybody stands.
        let vote_term = (term + TERM_LEAP).max(vote.map_or(0, |vote| vote.term + 1));
        Self { file, cluster, target, base_term: term, base_index: index, vote_term, membership }
    }

    /// The last entry before the recovery.
    pub(super) fn base(&self) -> EntryId {
        EntryId { term: self.base_term, index: self.base_index }
    }

    /// The position of the recovery's own entry.
    pub(super) fn entry(&self) -> EntryId {
        EntryId { term: self.base_term + TERM_LEAP, index: self.base_index + 1 }
    }

    /// The vote of the node, which the next election must exceed.
    pub(super) fn vote(&self, raft_id: u64) -> Vote {
        Vote { term: self.vote_term, node_id: raft_id, committed: false }
    }

    /// Reads the plan that stands, if one does.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(files: &dyn Files, path: &Path) -> Result<Option<Self>, OpenError> {
        let Some(bytes) = read_small(files, path, PLAN_BYTES_MAX)? else { return Ok(None) };
        let plan = serde_json::from_slice(&bytes);
        plan.map(Some)
            .map_err(|error| OpenError::Recovery(format!("{} is damaged: {error}", path.display())))
    }

    /// Makes the plan stand, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn store(&self, files: &dyn Files, path: &Path) -> Result<(), OpenError> {
        let bytes = serde_json::to_vec(self);
        let bytes = bytes.map_err(|error| OpenError::Recovery(error.to_string()))?;
        Ok(replace_small(files, path, &bytes)?)
    }
}

/// FNV-1a, 64 bits, never 0: against accidents, not against anybody.
fn digest(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_nodes_plan_one_cluster_and_others_do_not() {
        let plan = |file: &str, cluster: &str, index: u64, vote: Option<Vote>| {
            let base = EntryId { term: 3, index };
            Plan::new(file.to_owned(), cluster.to_owned(), base, vote, vec![1])
        };
        let voted = |term: u64| Some(Vote { term, node_id: 9, committed: true });
        let first = plan("a", "c", 10, voted(4));
        assert_eq!(first.entry(), EntryId { term: 1_000_003, index: 11 });
        assert_eq!(first.vote(7), Vote { term: 1_000_003, node_id: 7, committed: false });
        assert_eq!(plan("a", "c", 10, voted(2_000_000)).vote(7).term, 2_000_001);
        assert_eq!(plan("a", "c", 10, None).target, first.target, "whatever it voted");
        for other in [plan("b", "c", 10, None), plan("a", "d", 10, None), plan("a", "c", 11, None)]
        {
            assert_ne!(other.target, first.target);
        }
    }
}
