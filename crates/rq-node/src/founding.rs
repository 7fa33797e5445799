//! Founding a cluster together with others (`-bootstrap-expect`).
//!
//! # How
//! Nodes announce themselves to each other again and again. Who has heard of as many as expected, and has the smallest
//! name among them, asks each of the others to agree, under a new cluster id. A node that has no past agrees to one
//! founder at a time ([`AGREEMENT`]), notes the cluster's id durably, and from then on listens to Raft messages of that
//! cluster only. The cluster is founded only when all have agreed. So of two groups that overlap at most one gets
//! a majority to listen to it: the nodes in both listen to one of them.
//!
//! A founder's id is the same in each round. With another one in each, a question that arrives when its round is long over
//! would take a node out of the cluster that was founded since, and its Raft would never be heard there.
//!
//! # Who counts
//! - Who was not heard for [`HEARD_FOR`] is gone: nobody waits for it to found anything.
//! - A question to found is meant for one incarnation of one node. A ghost, whose address another node has by now, never
//!   becomes a voter.
//! - Founders run the same engine and read each other's log, have different names and different addresses.
//! - They are asked in the order of their names, one after the other: were all asked at once, two founders could each
//!   hold some of the nodes that both want, again and again. The first one that does not agree ends the round.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use rq_security::Credentials;
use tokio::time::Instant;

use crate::{
    Error,
    formation::GREETING_TIMEOUT,
    membership::{check_program, check_words},
    node::Inner,
    progress::lock,
    raft::Peer,
    service::message::{Ask, Newcomer},
};

/// How long an agreement to found a cluster excludes others, if nothing comes of it. Beyond half of it the founder gives
/// its round up.
const AGREEMENT: Duration = Duration::from_secs(15);
/// How long after its last announcement a node counts as there; several passes.
const HEARD_FOR: Duration = Duration::from_secs(15);
/// The most nodes that are kept in mind; further ones are refused until one of these is forgotten.
const HEARD_MAX: usize = 256;
/// The longest cluster id that is agreed to, in bytes.
const CLUSTER_BYTES_MAX: usize = 64;

/// What a pristine node knows of others that would found a cluster with it.
#[derive(Debug, Default)]
pub(crate) struct Founding {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many are to found the cluster; 0 on a node that does not take part.
    expect: usize,
    /// Who has announced itself, and when it did last, by name.
    heard: BTreeMap<String, (Newcomer, Instant)>,
    /// The founder this node has agreed to, and until when it agrees to no other.
    agreed: Option<(String, Instant)>,
    /// The id of the cluster that this node founds, once it has asked for it.
    cluster: Option<String>,
}

impl Founding {
    /// From now on this node would found a cluster with others, so many with itself.
    pub(crate) fn expect(&self, expect: usize) {
        lock(&self.state).expect = expect;
    }
}

impl State {
    /// Notes that a node is there.
    ///
    /// # Errors
    /// Another one of its name is, or there are too many.
    fn hear(&mut self, newcomer: Newcomer, now: Instant) -> Result<(), String> {
        self.forget_silent(now);
        let Newcomer { name, raft_id, raft_addr, .. } = &newcomer;
        match self.heard.get(name) {
            // It was started again with an empty directory, or at another address: its former self is gone.
            Some((known, _)) if known.raft_id == *raft_id || known.raft_addr == *raft_addr => {}
            Some((known, _)) => {
                return Err(format!(
                    "node {name} is at {} already; two nodes cannot have one id",
                    known.raft_addr
                ));
            }
            None if self.heard.len() >= HEARD_MAX => {
                return Err(format!("{HEARD_MAX} nodes have announced themselves already"));
            }
            None => {}
        }
        // Of two nodes at one address the former is gone.
        self.heard.retain(|other, (known, _)| other == name || known.raft_addr != *raft_addr);
        self.heard.insert(name.clone(), (newcomer, now));
        Ok(())
    }

    fn forget_silent(&mut self, now: Instant) {
        self.heard.retain(|_, (_, at)| now.saturating_duration_since(*at) < HEARD_FOR);
    }

    /// The founders, if enough are there: those with the smallest names, in their order.
    fn founders(&mut self, now: Instant) -> Option<Vec<Newcomer>> {
        self.forget_silent(now);
        let enough = self.expect > 0 && self.heard.len() >= self.expect;
        let heard = self.heard.values().take(self.expect);
        enough.then(|| heard.map(|(newcomer, _)| newcomer.clone()).collect())
    }
}

impl Inner {
    /// Another node would found a cluster.
    ///
    /// # Errors
    /// None can be founded with it.
    pub(crate) fn hear(&self, newcomer: Newcomer) -> Result<(), Error> {
        let mut founding = lock(&self.founding.state);
        if founding.expect == 0 || newcomer.replica || newcomer.cluster.is_some() {
            return Ok(());
        }
        let heard = check_words(&newcomer)
            .and_then(|()| check_program(&newcomer, self.engine_epoch()))
            .and_then(|()| self.check_different(&newcomer));
        let (name, address) = (newcomer.name.clone(), newcomer.raft_addr.clone());
        let heard =
            heard.and_then(|()| founding.hear(newcomer, Instant::now()).map_err(Error::Membership));
        if let Err(error) = &heard {
            self.notices.warn(
                "cluster-bootstrap",
                &format!(
                    "no cluster can be founded with node {name:.64} at {address:.64}: {error}"
                ),
            );
        }
        heard
    }

    /// Counts this node, which has no past, among the founders if it would be one; tells whether it would.
    pub(crate) fn hear_of_itself(&self, own: Newcomer) -> bool {
        let mut founding = lock(&self.founding.state);
        let founds = founding.expect > 0 && !own.replica;
        if founds {
            founding.heard.insert(own.name.clone(), (own, Instant::now()));
        }
        founds
    }

    /// Another node must have another name and another address than this one.
    fn check_different(&self, other: &Newcomer) -> Result<(), Error> {
        if other.raft_id == self.raft_id {
            return Ok(());
        }
        if other.name == self.node_id {
            return Err(Error::Membership(format!(
                "node {} is at {} already; two nodes cannot have one id",
                self.node_id, self.options.raft_addr
            )));
        }
        if other.raft_addr == self.options.raft_addr {
            return Err(Error::Membership(format!(
                "node {} is at {} already; two nodes cannot have one address",
                self.node_id, self.options.raft_addr
            )));
        }
        Ok(())
    }

    /// Founds the cluster if as many as expected are here and it falls to this node.
    pub(crate) async fn found_if_all_are_here(
        &self,
        credentials: Option<&Credentials>,
    ) -> Result<(), Error> {
        let Some(founders) = lock(&self.founding.state).founders(Instant::now()) else {
            return Ok(());
        };
        if founders.first().is_none_or(|first| first.raft_id != self.raft_id)
            || self.consensus.is_initialized().await?
        {
            return Ok(());
        }
        let began = Instant::now();
        let cluster = {
            let mut founding = lock(&self.founding.state);
            founding.cluster.get_or_insert_with(|| self.new_cluster_id()).clone()
        };
        for other in &founders {
            if let Err(error) = self.ask_to_found(other, &cluster, credentials).await {
                // It will announce itself again if it is still there.
                if other.raft_id != self.raft_id {
                    lock(&self.founding.state).heard.remove(&other.name);
                }
                return Err(error);
            }
        }
        let refuse = |reason: &str| Err(Error::Membership(reason.to_owned()));
        if began.elapsed() > AGREEMENT / 2 {
            return refuse("agreeing took so long that some may have agreed with others by now");
        }
        if !self.cluster.settle_if_of(&cluster) {
            return refuse("this node has agreed with another one meanwhile");
        }
        let members = founders.into_iter().map(|founder| {
            let Newcomer { name, raft_id, raft_addr, api_url, .. } = founder;
            (raft_id, Peer { name, raft_addr, api_url, replica: false })
        });
        let members: BTreeMap<u64, Peer> = members.collect();
        tracing::info!(
            component = "cluster-bootstrap",
            "expected number of nodes ({}) is here, founding cluster {cluster}",
            members.len()
        );
        self.consensus.found(members).await
    }

    async fn ask_to_found(
        &self,
        other: &Newcomer,
        cluster: &str,
        credentials: Option<&Credentials>,
    ) -> Result<(), Error> {
        let founder = self.newcomer().await?;
        let Newcomer { name, raft_id, raft_addr, .. } = other;
        if *raft_id == self.raft_id {
            return self.agree_to_found(founder, cluster, (name, *raft_id)).await;
        }
        let (cluster, name) = (cluster.to_owned(), name.clone());
        let ask = Ask::Found { founder, cluster, name, raft_id: *raft_id };
        let answer = self.client.ask(raft_addr, ask, credentials.cloned(), GREETING_TIMEOUT).await;
        answer.map(drop)
    }

    /// Agrees to belong to the cluster that another node founds, if it is this one that is `meant`, by name and number,
    /// has no past and has not agreed to somebody else.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn agree_to_found(
        &self,
        founder: Newcomer,
        cluster: &str,
        meant: (&str, u64),
    ) -> Result<(), Error> {
        let agreed = self.consider(founder, cluster, meant).await;
        if let Err(error) = &agreed {
            self.notices.warn(
                "cluster-bootstrap",
                &format!("this node does not found a cluster as it was asked to: {error}"),
            );
        }
        agreed
    }

    async fn consider(
        &self,
        founder: Newcomer,
        cluster: &str,
        (name, raft_id): (&str, u64),
    ) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Membership(reason));
        if name != self.node_id || raft_id != self.raft_id {
            return refuse(format!(
                "it is meant for node {name:.64} with the number {raft_id:016x}; here is node {} with the number {:016x}",
                self.node_id, self.raft_id
            ));
        }
        if cluster.is_empty() || cluster.len() > CLUSTER_BYTES_MAX {
            return refuse("it names no cluster".to_owned());
        }
        check_words(&founder)?;
        check_program(&founder, self.engine_epoch())?;
        self.check_different(&founder)?;
        if self.consensus.is_initialized().await? {
            return refuse(format!("node {} is a member of a cluster already", self.node_id));
        }
        let mut founding = lock(&self.founding.state);
        if founding.expect == 0 {
            return refuse(format!("node {} does not found a cluster", self.node_id));
        }
        if let Some((name, until)) = &founding.agreed
            && *name != founder.name
            && Instant::now() < *until
        {
            return refuse(format!("node {} has agreed with node {name}", self.node_id));
        }
        self.cluster.adopt(cluster, true).map_err(Error::Membership)?;
        founding.agreed = Some((founder.name, Instant::now() + AGREEMENT));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, raft_id: u64, address: &str) -> Newcomer {
        let (name, raft_addr) = (name.to_owned(), format!("{address}:4002"));
        Newcomer { name, raft_id, raft_addr, ..Newcomer::default() }
    }

    fn names(state: &mut State, now: Instant) -> Option<Vec<(String, u64)>> {
        let founders = state.founders(now)?.into_iter();
        Some(founders.map(|founder| (founder.name, founder.raft_id)).collect())
    }

    #[test]
    fn founders_are_the_smallest_names_among_those_that_were_heard_lately() {
        let begin = Instant::now();
        let mut state = State { expect: 3, ..State::default() };
        for (name, id) in [("d", 4), ("a", 1), ("b", 2)] {
            state.hear(node(name, id, name), begin).unwrap();
        }
        let of = |all: [(&str, u64); 3]| Some(all.map(|(name, id)| (name.to_owned(), id)).to_vec());
        assert_eq!(names(&mut state, begin), of([("a", 1), ("b", 2), ("d", 4)]));
        // One that died is waited for a while, and then no longer.
        let later = begin + HEARD_FOR / 2;
        for (name, id) in [("c", 3), ("b", 2), ("d", 4)] {
            state.hear(node(name, id, name), later).unwrap();
        }
        assert_eq!(names(&mut state, later), of([("a", 1), ("b", 2), ("c", 3)]));
        assert_eq!(names(&mut state, begin + HEARD_FOR), of([("b", 2), ("c", 3), ("d", 4)]));
        assert_eq!(names(&mut state, later + HEARD_FOR), None);
        assert!(state.heard.is_empty());
    }

    #[test]
    fn a_name_and_an_address_belong_to_one_founder_each() {
        let begin = Instant::now();
        let mut state = State { expect: 2, ..State::default() };
        state.hear(node("a", 1, "x"), begin).unwrap();
        state.hear(node("b", 2, "y"), begin).unwrap();
        let refused = state.hear(node("b", 3, "z"), begin).unwrap_err();
        assert!(refused.contains("two nodes cannot have one id"), "{refused}");
        // It has another address by now; it has lost its disk.
        for came_back in [node("b", 2, "z"), node("b", 3, "z")] {
            state.hear(came_back, begin).unwrap();
        }
        let of = |name: &str, id| Some(vec![("a".to_owned(), 1), (name.to_owned(), id)]);
        assert_eq!(names(&mut state, begin), of("b", 3));
        // Its name was changed: there are not three of them.
        state.hear(node("c", 4, "z"), begin).unwrap();
        assert_eq!(names(&mut state, begin), of("c", 4));
        for number in 0..2 * HEARD_MAX as u64 {
            let name = number.to_string();
            let heard = state.hear(node(&name, 10 + number, &name), begin);
            assert_eq!(heard.is_ok(), number + 2 < HEARD_MAX as u64, "{number}");
        }
        assert_eq!(state.heard.len(), HEARD_MAX);
    }
}
