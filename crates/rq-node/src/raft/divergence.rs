//! What is applied here and is not the cluster's: a data directory was copied or put back, so that one number in Raft had
//! two histories.
//!
//! openraft takes what it has applied for what everybody has: it does not compare it, or cuts the log beneath it. The
//! database would go on with entries that nobody else has, and be read. So whoever brings entries of the cluster, or has
//! the log cut, asks here first; a node that has diverged stops for good, and leads no more.

use openraft::raft::AppendEntriesRequest;
use rq_sqlite::EntryId;

use super::{TypeConfig, entry_id};

/// Why a node stops that has applied `applied`, where the cluster has another entry, or none.
pub(super) fn sentence(applied: EntryId) -> String {
    let EntryId { term, index } = applied;
    format!(
        "entry {index} of term {term}, which is applied here, is not the cluster's: this node has diverged from it, \
         because a data directory was copied or put back. Keep this one if its data may be needed, and come back with an \
         empty one"
    )
}

/// Whether a leader that sends this has another entry than `applied` in its place. Nothing is known of it if the request
/// does not reach there.
pub(super) fn contradicts(request: &AppendEntriesRequest<TypeConfig>, applied: EntryId) -> bool {
    // The default stands for nothing: before the first entry, and for the first, which is everybody's.
    if applied == EntryId::default() {
        return false;
    }
    let previous = request.prev_log_id.as_ref().map(entry_id);
    let first = previous.map_or(0, |previous| previous.index + 1);
    let theirs = match previous {
        Some(previous) if previous.index == applied.index => Some(previous),
        _ => applied
            .index
            .checked_sub(first)
            .and_then(|at| request.entries.get(usize::try_from(at).ok()?))
            .map(|entry| entry_id(&entry.log_id)),
    };
    theirs.is_some_and(|theirs| theirs != applied)
}

/// Whether a database that reaches `theirs` holds another entry than `applied` in its place: terms never fall in a log.
pub(super) fn is_contradicted_by_database(applied: EntryId, theirs: EntryId) -> bool {
    applied != EntryId::default()
        && (theirs.index <= applied.index && theirs.term > applied.term
            || theirs.index == applied.index && theirs.term != applied.term)
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::*;
    use crate::raft::log_id;

    fn request(previous: Option<(u64, u64)>, terms: &[u64]) -> AppendEntriesRequest<TypeConfig> {
        let id = |(term, index)| log_id(EntryId { term, index });
        let first = previous.map_or(0, |(_, index)| index + 1);
        let entries = (first..).zip(terms).map(|(index, term)| {
            openraft::Entry::new(id((*term, index)), openraft::EntryPayload::Blank)
        });
        AppendEntriesRequest {
            vote: openraft::Vote::new_committed(9, 1),
            prev_log_id: previous.map(id),
            entries: entries.collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn an_entry_that_is_not_the_applied_one_is_noticed_wherever_it_stands() {
        let applied = EntryId { term: 3, index: 10 };
        for (previous, terms, expected) in [
            (Some((3, 10)), &[][..], false),
            (Some((4, 10)), &[], true),
            (Some((2, 10)), &[4], true),
            (Some((2, 8)), &[2, 3, 5], false),
            (Some((2, 8)), &[2, 4, 5], true),
            (Some((2, 8)), &[2], false),
            (Some((5, 12)), &[5], false),
            (None, &[], false),
        ] {
            assert_eq!(contradicts(&request(previous, terms), applied), expected, "{previous:?}");
        }
        let nothing = EntryId::default();
        assert!(!contradicts(&request(None, &[0, 1]), nothing));
        assert!(!contradicts(&request(Some((1, 3)), &[]), nothing));
    }

    #[test]
    fn a_database_contradicts_what_is_applied_if_terms_would_fall() {
        let applied = EntryId { term: 3, index: 10 };
        for (term, index, expected) in
            [(3, 10, false), (2, 8, false), (3, 9, false), (4, 11, false), (4, 9, true)]
                .into_iter()
                .chain([(4, 10, true), (2, 10, true)])
        {
            let theirs = EntryId { term, index };
            assert_eq!(is_contradicted_by_database(applied, theirs), expected, "{theirs:?}");
            assert!(!is_contradicted_by_database(EntryId::default(), theirs));
        }
    }
}
