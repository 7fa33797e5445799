//! Who sees all messages of Raft, and what must never be seen among them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    raft::wire::{Answer, Header, Request, Sealed},
    service::RAFT,
};

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Who led in each term.
    leaders: BTreeMap<u64, u64>,
    /// Whom each member gave its vote in each term.
    votes: BTreeMap<(u64, u64), u64>,
    /// The first thing that must not be.
    violation: Option<String>,
}

impl Witness {
    /// A request is sent.
    pub(super) fn called(&mut self, from: &str, request: &Bytes) {
        let Some((_, Request::Append(append))) = raft_request(request) else { return };
        if append.vote.committed {
            self.leads(append.vote.leader_id.term, append.vote.leader_id.voted_for, from);
        }
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, by: &str, request: &Bytes, answer: &Bytes) {
        let Some((header, Request::Vote(asked))) = raft_request(request) else { return };
        let Ok(Answer::Vote(answer)) = Answer::decode(answer.clone()) else { return };
        if answer.vote_granted {
            let asked = asked.vote.leader_id;
            let voted = *self.votes.entry((header.to, asked.term)).or_insert(asked.voted_for);
            if voted != asked.voted_for {
                self.violates(format!(
                    "{by} voted for {voted:x} and for {:x} in term {}",
                    asked.voted_for, asked.term
                ));
            }
        }
    }

    /// A member says that it leads in a term.
    pub(super) fn leads(&mut self, term: u64, leader: u64, from: &str) {
        let first = *self.leaders.entry(term).or_insert(leader);
        if first != leader {
            self.violates(format!("{from}: {leader:x} leads in term {term}, as did {first:x}"));
        }
    }

    /// Terms with a leader so far.
    pub(super) fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// The first thing seen that must not be.
    pub(super) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    fn violates(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}

fn raft_request(bytes: &Bytes) -> Option<(Header, Request)> {
    if bytes.first() != Some(&RAFT) {
        return None;
    }
    let sealed = Sealed::decode(bytes.slice(1..)).ok()?;
    Some((sealed.header.clone(), sealed.open().ok()?))
}
