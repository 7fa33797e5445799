//! How a node comes to belong to a cluster: founding one alone, joining one, or founding one together (`founding`).
//!
//! # For good
//! A node without a past may note one cluster's id after another while a cluster is being founded. The one that it founds or
//! joins, or whose Raft speaks to it, is settled (`identity`): nothing takes it into another one from then on.
//!
//! # New addresses
//! A member that starts tells the other members and those it was told of where it is, and they dial it there from then on. So
//! a majority finds itself even if all were given new addresses; then each asks the leader to store its own, and goes on to see
//! to it (`whereabouts`). And an address
//! that was mistyped once is forgotten when the node comes back with the right one.
//!
//! # Joining
//! All addresses are asked at once who is there, so that silent ones cost their time once. Those that answer are asked to take
//! this node, one after the other; a node that does not lead names the leader, which is asked next. What the leader
//! answers is final. A node that was a member already only makes sure of it, so the same flags serve for every start.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    future::{Either, join_all, select},
    stream::FuturesUnordered,
};
use rq_security::Credentials;

use crate::{
    Error, Node,
    membership::check_words,
    node::Inner,
    raft::Peer,
    service::{
        client::unexpected,
        message::{Answer, Ask, Newcomer},
    },
};

/// How often a joining node is sent on to another leader before it gives up on an address.
const REDIRECTS_MAX: usize = 10;
/// How long the leader may take to make a node a member.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take to say that it is there, to take note of an announcement or to agree to found a cluster. One
/// that takes longer counts as absent until the next pass.
pub(crate) const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two passes of founding together, at least; as much again is random.
const PASS_INTERVAL: Duration = Duration::from_millis(300);

/// How a node is to come to belong to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formation {
    /// A pristine node founds a cluster of one; any other waits for its peers.
    Alone,
    /// Joins through one of these addresses.
    Join {
        /// Internode addresses.
        addresses: Vec<String>,
        /// Passes over the addresses.
        attempts: u64,
        /// The time between two passes.
        interval: Duration,
        /// On whose behalf.
        credentials: Option<Credentials>,
    },
    /// Joins an existing cluster, or founds one together with others.
    Together {
        /// Internode addresses of all of them.
        addresses: Vec<String>,
        /// How many found it.
        expect: usize,
        /// How long it may take.
        timeout: Duration,
        /// On whose behalf.
        credentials: Option<Credentials>,
    },
}

impl Formation {
    fn credentials(&self) -> Option<&Credentials> {
        match self {
            Self::Alone => None,
            Self::Join { credentials, .. } | Self::Together { credentials, .. } => {
                credentials.as_ref()
            }
        }
    }
}

impl Node {
    /// Comes to belong to a cluster, as told. Returns once it does, or when its peers are to be waited for.
    ///
    /// # Errors
    /// A sentence for the operator; the process is to end with it.
    pub async fn form(&self, formation: &Formation) -> Result<(), String> {
        let inner = self.inner();
        // Raft shows the members it knows once it runs: until then everybody looks like a node without a past.
        inner.consensus.is_initialized().await.map_err(|error| error.to_string())?;
        inner.remember_credentials(formation.credentials());
        match formation {
            Formation::Alone => {
                if !inner.consensus.is_alone() {
                    inner.announce(&[], None).await;
                }
                inner.stand_alone().await.map_err(|error| error.to_string())
            }
            Formation::Join { addresses, attempts, interval, credentials } => {
                inner.refuse_join_of_single_node()?;
                for attempt in 1..=*attempts {
                    if inner.join_loudly(addresses, credentials.as_ref()).await {
                        return Ok(());
                    }
                    if inner.progress.is_stopping() {
                        return Err("stopped while joining".to_owned());
                    }
                    if let Some(reason) = inner.progress.given_up() {
                        return Err(reason);
                    }
                    if attempt < *attempts {
                        tracing::info!(
                            component = "cluster-join",
                            "failed to join cluster at {addresses:?}, sleeping {interval:?} before retry"
                        );
                        tokio::time::sleep(*interval).await;
                    }
                }
                tracing::error!(
                    component = "cluster-join",
                    "failed to join cluster at {addresses:?}, after {attempts} attempt(s)"
                );
                Err("failed to join cluster: failed to join cluster".to_owned())
            }
            Formation::Together { addresses, expect, timeout, credentials } => {
                let founding = inner.found_together(addresses, *expect, credentials.as_ref());
                match tokio::time::timeout(*timeout, founding).await {
                    Ok(result) => result,
                    Err(_) => Err("boot timeout".to_owned()),
                }
            }
        }
    }
}

impl Inner {
    async fn stand_alone(&self) -> Result<(), Error> {
        if self.consensus.is_initialized().await? {
            if self.consensus.members().is_empty() {
                return Err(Error::Membership(
                    "this node has voted in a cluster before, but neither its log nor its database says in which: \
                     files of its data directory are gone. Restore the whole directory, or start with an empty one \
                     (with -join, if the other nodes are there)"
                        .to_owned(),
                ));
            }
            return self.consensus.elect_if_alone().await;
        }
        if self.options.replica {
            return Err(Error::Membership(
                "cannot create a new non-voting node without joining it to an existing cluster"
                    .to_owned(),
            ));
        }
        tracing::info!(component = "store", "bootstrapping single new node");
        // Always a new one: what is noted may be the id of a cluster that others found without this node.
        self.cluster.settle(&self.new_cluster_id(), true).map_err(Error::Membership)?;
        self.consensus.found(BTreeMap::from([(self.raft_id, self.own_peer())])).await
    }

    /// A node that is a cluster of its own holds data that joining another one would throw away.
    fn refuse_join_of_single_node(&self) -> Result<(), String> {
        let members = self.consensus.members();
        if let [only] = members.as_slice()
            && only.raft_id == self.raft_id
        {
            return Err("node is the only node in a single-node cluster, joining other clusters not supported"
                .to_owned());
        }
        Ok(())
    }

    /// One pass, with a word for each address that it came to nothing with; true once a leader has taken this node.
    async fn join_loudly(&self, addresses: &[String], credentials: Option<&Credentials>) -> bool {
        let failures = match self.join_and_announce(addresses, credentials).await {
            Ok(at) => {
                tracing::info!(component = "cluster-join", "successfully joined cluster at {at}");
                return true;
            }
            Err(failures) => failures,
        };
        for (address, error) in failures {
            let hint = match error {
                Error::Unauthorized(_) if credentials.is_none() => {
                    " (did you forget to set -join-as?)"
                }
                _ => "",
            };
            tracing::warn!(
                component = "cluster-join",
                "failed to join via node at {address}: {}{hint}",
                reason(&address, &error)
            );
        }
        false
    }

    /// As [`Self::join_loudly`], without a word for each address that does not answer yet.
    async fn join_quietly(&self, addresses: &[String], credentials: Option<&Credentials>) -> bool {
        let failures = match self.join_and_announce(addresses, credentials).await {
            Ok(at) => {
                tracing::info!(
                    component = "cluster-bootstrap",
                    "succeeded directly joining cluster via node at {at} as {}",
                    if self.options.replica { "NON_VOTER" } else { "VOTER" }
                );
                return true;
            }
            Err(failures) => failures,
        };
        for (address, error) in failures {
            if !matches!(error, Error::Unreachable(_) | Error::LeaderNotFound | Error::NotOpen) {
                self.notices.warn(
                    "cluster-bootstrap",
                    &format!("joining via node at {address} was refused: {error}"),
                );
            }
        }
        false
    }

    /// Joins through any of the addresses, and tells them meanwhile that this node is here. Gives the address of the
    /// leader that took it, or why it came to nothing with each.
    async fn join_and_announce(
        &self,
        addresses: &[String],
        credentials: Option<&Credentials>,
    ) -> Result<String, Vec<(String, Error)>> {
        let announcing = pin!(self.announce(addresses, credentials));
        let joining = pin!(self.join_through(addresses, credentials));
        match select(joining, announcing).await {
            Either::Left((Ok(at), _)) => Ok(at),
            Either::Left((failed, announcing)) => {
                announcing.await;
                failed
            }
            Either::Right(((), joining)) => joining.await,
        }
    }

    async fn join_through(
        &self,
        addresses: &[String],
        credentials: Option<&Credentials>,
    ) -> Result<String, Vec<(String, Error)>> {
        let looks = addresses.iter().map(|address| async move {
            (address, self.client.metadata(address, GREETING_TIMEOUT).await)
        });
        let mut looks: FuturesUnordered<_> = looks.collect();
        let mut silent = BTreeSet::new();
        let mut failures = Vec::new();
        while let Some((address, look)) = looks.next().await {
            let joined = match look {
                Ok(_) => self.join_at(address, credentials, &mut silent).await,
                Err(error) => Err(error),
            };
            match joined {
                Ok(at) => return Ok(at),
                Err(error) => failures.push((address.clone(), error)),
            }
        }
        Err(failures)
    }

    /// Asks at `address`, and wherever it is sent on to, but not where somebody was `silent` in this pass; gives the
    /// address of the leader that took it.
    pub(crate) async fn join_at(
        &self,
        address: &str,
        credentials: Option<&Credentials>,
        silent: &mut BTreeSet<String>,
    ) -> Result<String, Error> {
        let mut at = address.to_owned();
        for _ in 0..REDIRECTS_MAX {
            let ask = Ask::Join(self.newcomer().await?);
            match self.client.ask(&at, ask, credentials.cloned(), JOIN_TIMEOUT).await {
                Ok(Answer::Joined { cluster, already: _ }) => {
                    let pristine = !self.consensus.is_initialized().await?;
                    self.cluster.settle(&cluster, pristine).map_err(Error::Membership)?;
                    return Ok(at);
                }
                Ok(Answer::Excluded(reason)) => {
                    self.exclude_itself(&reason);
                    return Err(Error::Membership(reason));
                }
                Ok(other) => return Err(unexpected(&at, &other)),
                Err(Error::NotLeader { leader: Some(leader) }) => {
                    if silent.contains(&leader.raft_addr) {
                        let sentence = format!("the leader, {}, does not answer", leader.raft_addr);
                        return Err(Error::Unreachable(sentence));
                    }
                    at = leader.raft_addr;
                }
                Err(error) => {
                    if matches!(error, Error::Unreachable(_) | Error::OutcomeUnknown(_)) {
                        silent.insert(at);
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::Membership("max redirects exceeded".to_owned()))
    }

    /// This node, as it presents itself to others.
    pub(crate) async fn newcomer(&self) -> Result<Newcomer, Error> {
        let member = self.consensus.is_initialized().await?;
        Ok(Newcomer {
            name: self.node_id.clone(),
            raft_id: self.raft_id,
            raft_addr: self.options.raft_addr.clone(),
            api_url: self.options.api_url.clone(),
            replica: self.options.replica,
            epoch: self.engine_epoch(),
            format: crate::command::FORMAT.into(),
            cluster: self.cluster.id().filter(|_| member),
            process: Some(self.process),
        })
    }

    async fn found_together(
        &self,
        addresses: &[String],
        expect: usize,
        credentials: Option<&Credentials>,
    ) -> Result<(), String> {
        self.founding.expect(expect);
        loop {
            if self.progress.is_stopping() {
                return Err("stopped while forming a cluster".to_owned());
            }
            if let Some(reason) = self.progress.given_up() {
                return Err(reason);
            }
            if self.consensus.leader().is_some() && self.outdated_entry().is_none() {
                return Ok(());
            }
            if self.join_quietly(addresses, credentials).await {
                return Ok(());
            }
            if !self.options.replica
                && let Err(error) = self.found_if_all_are_here(credentials).await
            {
                tracing::info!(component = "cluster-bootstrap", "not founded yet: {error}");
            }
            let random = self.random_below(PASS_INTERVAL);
            let changed = self.leader_known();
            drop(tokio::time::timeout(PASS_INTERVAL + random, changed).await);
        }
    }

    /// Waits until a leader is known.
    pub(crate) async fn leader_known(&self) {
        let mut changes = self.consensus.changes();
        while self.consensus.leader().is_none() && changes.next().await {}
    }

    /// Tells all at these addresses that this node is here, if it is a member or would found a cluster; and the other members
    /// if it is one.
    pub(crate) async fn announce(&self, addresses: &[String], credentials: Option<&Credentials>) {
        let Ok(own) = self.newcomer().await else { return };
        if own.cluster.is_none() && !self.hear_of_itself(own.clone()) {
            // It has nothing to say: it founds nothing, and nobody knows it.
            return;
        }
        let members = self.consensus.members().into_iter();
        let members = members.map(|member| self.dialled(member.raft_id, &member.peer));
        let mut to: BTreeSet<String> = addresses.iter().cloned().chain(members).collect();
        to.remove(&own.raft_addr);
        let announcements = to.into_iter().map(|address| {
            let ask = Ask::Notify(own.clone());
            async move {
                let answer =
                    self.client.ask(&address, ask, credentials.cloned(), GREETING_TIMEOUT).await;
                match answer {
                    Err(error @ Error::Membership(_)) => self.notices.warn(
                        "cluster-bootstrap",
                        &format!("{address} takes no notice of this node: {error}"),
                    ),
                    Err(error) => tracing::debug!(
                        component = "cluster-bootstrap",
                        "{address} could not be notified: {}",
                        reason(&address, &error)
                    ),
                    Ok(Answer::Excluded(reason)) => self.exclude_itself(&reason),
                    Ok(_) => {}
                }
            }
        });
        join_all(announcements).await;
    }

    fn dialled(&self, raft_id: u64, peer: &Peer) -> String {
        self.cluster.address(raft_id, &peer.raft_addr)
    }

    /// Another node is here: it would found a cluster, or is a member that says where it is.
    ///
    /// # Errors
    /// Raft has ended; no cluster can be founded with it; its address cannot be dialled from here.
    pub(crate) async fn notified(&self, newcomer: Newcomer) -> Result<Answer, Error> {
        if !self.consensus.is_initialized().await? {
            return self.hear(newcomer).map(|()| Answer::Done);
        }
        let same_cluster = newcomer.cluster.as_ref().is_some_and(|theirs| self.cluster.is(theirs));
        let members = self.consensus.members();
        let known = members.iter().find(|member| member.raft_id == newcomer.raft_id);
        let Some(known) = known.filter(|_| same_cluster) else { return Ok(Answer::Done) };
        if self.dialled(known.raft_id, &known.peer) != newcomer.raft_addr {
            check_words(&newcomer)?;
            self.client.resolve(&newcomer.raft_addr).await?;
            if let Some(reason) = self.find_double(&newcomer, &known.peer).await {
                return Ok(Answer::Excluded(reason));
            }
            tracing::info!(
                component = "store",
                "node {} says that it is at {} now",
                known.peer.name,
                newcomer.raft_addr
            );
            self.cluster.note_address(newcomer.raft_id, &newcomer.raft_addr);
        }
        Ok(Answer::Done)
    }
}

/// Why somebody at `address` could not do something, for a sentence that names the address already.
fn reason(address: &str, error: &Error) -> String {
    let sentence = error.to_string();
    let rest = sentence.strip_prefix(address).and_then(|rest| rest.strip_prefix(": "));
    rest.map_or_else(|| sentence.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_an_address_once() {
        for (said, expected) in [
            ("a:4002: connection refused", "connection refused"),
            ("b:4002: connection refused", "b:4002: connection refused"),
            ("a:40021: connection refused", "a:40021: connection refused"),
            ("the leader, a:4002, does not answer", "the leader, a:4002, does not answer"),
        ] {
            assert_eq!(reason("a:4002", &Error::Unreachable(said.to_owned())), expected);
        }
    }
}
