//! What the other members have acknowledged to this node while it leads, so that one that lost it again is noticed.
//!
//! openraft takes it for impossible: it would send the same again and again, and count heartbeats of such a member.
//! The numbers are of one term: what a member acknowledged to a leader before may have been replaced since.

use std::{collections::BTreeMap, sync::Mutex};

use crate::progress::lock;

/// The last entry that each member has acknowledged, by its number, with the term of the leader that it told.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<BTreeMap<u64, (u64, u64)>>);

impl Acknowledged {
    /// Notes that a member holds everything up to an entry, durably.
    pub(super) fn note(&self, member: u64, term: u64, index: u64) {
        let mut all = lock(&self.0);
        let latest = all.entry(member).or_default();
        *latest = (*latest).max((term, index));
    }

    /// The last entry that a member has acknowledged to this node as the leader of a term; `None` if it has not
    /// acknowledged any.
    pub(super) fn upto(&self, member: u64, term: u64) -> Option<u64> {
        let all = lock(&self.0);
        all.get(&member).filter(|(of, _)| *of == term).map(|(_, index)| *index)
    }
}

/// Why a member that holds entries up to `reach` takes no part any more, although it had acknowledged more.
pub(crate) fn sentence(reach: u64, acknowledged: u64) -> String {
    format!(
        "it has lost entries that it had acknowledged: it holds those up to {reach}, and had said that it holds those up \
         to {acknowledged}. Its data directory was put back from an older copy, or its disk has lost what it had stored. Put \
         the newest data directory back; or remove the node, and let it join with an empty one"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_of_one_term_and_grows() {
        let all = Acknowledged::default();
        assert_eq!(all.upto(1, 3), None);
        for (term, index) in [(3, 10), (3, 8), (2, 20)] {
            all.note(1, term, index);
            assert_eq!(all.upto(1, 3), Some(10));
        }
        assert_eq!((all.upto(1, 2), all.upto(2, 3)), (None, None));
        all.note(1, 4, 7);
        assert_eq!((all.upto(1, 3), all.upto(1, 4)), (None, Some(7)));
    }
}
