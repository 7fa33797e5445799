//! How a node comes to belong to a cluster: founding one alone, joining one, or founding one together.
//!
//! # Founding together (`-bootstrap-expect`)
//! Nodes announce themselves to each other again and again. Who has heard of as many as expected, and has the smallest
//! name among them, asks each of the others to agree, under a new cluster id. A node that has no past agrees to one
//! founder at a time ([`AGREEMENT`]), notes the cluster's id durably, and from then on listens to Raft messages of that
//! cluster only. The cluster is founded only when all have agreed. So of two groups that overlap at most one gets
//! a majority to listen to it: the nodes in both listen to one of them.
//!
//! # New addresses
//! A member that starts at another address than the membership has tells those it was told of, which dial it there from then
//! on. So a majority finds itself even if all were given new addresses; then each asks the leader to store its own.
//!
//! # Joining
//! Each address is asked in turn; a node that does not lead names the leader, which is asked next. What the leader answers
//! is final. A node that was a member already only makes sure of it, so the same flags serve for every start.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use rq_security::Credentials;
use tokio::time::Instant;

use crate::{
    Error, Node,
    node::Inner,
    progress::lock,
    raft::Peer,
    service::{
        client::unexpected,
        message::{Answer, Ask, Newcomer},
    },
};

/// How often a joining node is sent on to another leader before it gives up on an address.
const REDIRECTS_MAX: usize = 10;
/// How long a node may take to answer a join, an announcement or a question of a founder.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an agreement to found a cluster excludes others, if nothing comes of it.
const AGREEMENT: Duration = Duration::from_secs(15);
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

/// What a pristine node knows of others that would found a cluster with it.
#[derive(Debug, Default)]
pub(crate) struct Founding {
    state: Mutex<FoundingState>,
}

#[derive(Debug, Default)]
struct FoundingState {
    /// How many are to found the cluster; 0 on a node that does not take part.
    expect: usize,
    /// Who has announced itself, by name.
    heard: BTreeMap<String, Newcomer>,
    /// The founder this node has agreed to, and until when it agrees to no other.
    agreed: Option<(String, Instant)>,
}

impl Node {
    /// Comes to belong to a cluster, as told. Returns once it does, or when its peers are to be waited for.
    ///
    /// # Errors
    /// A sentence for the operator; the process is to end with it.
    pub async fn form(&self, formation: &Formation) -> Result<(), String> {
        let inner = self.inner();
        match formation {
            Formation::Alone => inner.stand_alone().await.map_err(|error| error.to_string()),
            Formation::Join { addresses, attempts, interval, credentials } => {
                inner.refuse_join_of_single_node()?;
                for attempt in 1..=*attempts {
                    inner.tell_new_address(addresses, credentials.as_ref()).await;
                    if inner.join_through(addresses, credentials.as_ref()).await {
                        return Ok(());
                    }
                    if inner.progress.is_stopping() {
                        return Err("stopped while joining".to_owned());
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
            return self.consensus.elect_if_alone().await;
        }
        if self.options.replica {
            return Err(Error::Membership(
                "cannot create a new non-voting node without joining it to an existing cluster"
                    .to_owned(),
            ));
        }
        tracing::info!(component = "store", "bootstrapping single new node");
        let id = self.cluster.id().unwrap_or_else(|| self.new_cluster_id());
        self.cluster.adopt(&id, true).map_err(Error::Membership)?;
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

    /// One pass over the addresses; true once a leader has taken this node.
    async fn join_through(&self, addresses: &[String], credentials: Option<&Credentials>) -> bool {
        for address in addresses {
            match self.join_at(address, credentials).await {
                Ok(at) => {
                    tracing::info!(
                        component = "cluster-join",
                        "successfully joined cluster at {at}"
                    );
                    return true;
                }
                Err(error) => tracing::warn!(
                    component = "cluster-join",
                    "failed to join via node at {address}: {error}"
                ),
            }
        }
        false
    }

    /// Asks at `address`, and wherever it is sent on to; gives the address of the leader that took it.
    async fn join_at(
        &self,
        address: &str,
        credentials: Option<&Credentials>,
    ) -> Result<String, Error> {
        let mut at = address.to_owned();
        for _ in 0..REDIRECTS_MAX {
            let ask = Ask::Join(self.newcomer().await?);
            match self.client.ask(&at, ask, credentials.cloned(), ASK_TIMEOUT).await {
                Ok(Answer::Joined { cluster, already: _ }) => {
                    let pristine = !self.consensus.is_initialized().await?;
                    self.cluster.adopt(&cluster, pristine).map_err(Error::Membership)?;
                    return Ok(at);
                }
                Ok(other) => return Err(unexpected(&at, &other)),
                Err(Error::NotLeader { leader: Some(leader) }) => at = leader.raft_addr,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Membership("max redirects exceeded".to_owned()))
    }

    /// This node, as it presents itself to others.
    async fn newcomer(&self) -> Result<Newcomer, Error> {
        let member = self.consensus.is_initialized().await?;
        Ok(Newcomer {
            name: self.node_id.clone(),
            raft_id: self.raft_id,
            raft_addr: self.options.raft_addr.clone(),
            api_url: self.options.api_url.clone(),
            replica: self.options.replica,
            epoch: rq_sqlite::ENGINE_EPOCH,
            format: crate::command::FORMAT.into(),
            cluster: self.cluster.id().filter(|_| member),
        })
    }

    async fn found_together(
        &self,
        addresses: &[String],
        expect: usize,
        credentials: Option<&Credentials>,
    ) -> Result<(), String> {
        lock(&self.founding.state).expect = expect;
        loop {
            if self.progress.is_stopping() {
                return Err("stopped while forming a cluster".to_owned());
            }
            if self.consensus.leader().is_some() && !self.has_moved() {
                return Ok(());
            }
            self.tell_new_address(addresses, credentials).await;
            if self.join_quietly(addresses, credentials).await {
                return Ok(());
            }
            if !self.options.replica {
                self.announce(addresses, credentials).await;
                if let Err(error) = self.found_if_all_are_here(credentials).await {
                    tracing::info!(component = "cluster-bootstrap", "not founded yet: {error}");
                }
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

    /// As [`Self::join_through`], without a word for each address that does not answer yet.
    async fn join_quietly(&self, addresses: &[String], credentials: Option<&Credentials>) -> bool {
        for address in addresses {
            match self.join_at(address, credentials).await {
                Ok(at) => {
                    tracing::info!(
                        component = "cluster-bootstrap",
                        "succeeded directly joining cluster via node at {at} as {}",
                        if self.options.replica { "NON_VOTER" } else { "VOTER" }
                    );
                    return true;
                }
                Err(Error::Unreachable(_) | Error::LeaderNotFound | Error::NotOpen) => {}
                Err(error) => self.notices.warn(
                    "cluster-bootstrap",
                    &format!("joining via node at {address} was refused: {error}"),
                ),
            }
        }
        false
    }

    /// Tells everybody that this node is here, itself among them.
    async fn announce(&self, addresses: &[String], credentials: Option<&Credentials>) {
        let Ok(own) = self.newcomer().await else { return };
        if own.cluster.is_none() {
            self.hear(own.clone());
        }
        for address in addresses.iter().filter(|address| **address != own.raft_addr) {
            let ask = Ask::Notify(own.clone());
            if let Err(error) =
                self.client.ask(address, ask, credentials.cloned(), ASK_TIMEOUT).await
            {
                tracing::debug!(
                    component = "cluster-bootstrap",
                    "{address} could not be notified: {error}"
                );
            }
        }
    }

    /// Whether the membership has this node at another address.
    fn has_moved(&self) -> bool {
        let members = self.consensus.members();
        let own = members.iter().find(|member| member.raft_id == self.raft_id);
        own.is_some_and(|own| own.peer.raft_addr != self.options.raft_addr)
    }

    /// A member that was given another address tells the others: if all were, none could be found otherwise.
    async fn tell_new_address(&self, addresses: &[String], credentials: Option<&Credentials>) {
        if self.has_moved() {
            self.announce(addresses, credentials).await;
        }
    }

    /// Another node is here: it would found a cluster, or is a member that was given another address.
    ///
    /// # Errors
    /// Raft has ended.
    pub(crate) async fn notified(&self, newcomer: Newcomer) -> Result<(), Error> {
        if !self.consensus.is_initialized().await? {
            self.hear(newcomer);
            return Ok(());
        }
        let same_cluster = newcomer.cluster.is_some_and(|theirs| self.cluster.is(&theirs));
        let members = self.consensus.members();
        let known = members.iter().find(|member| member.raft_id == newcomer.raft_id);
        if same_cluster && known.is_some_and(|known| known.peer.raft_addr != newcomer.raft_addr) {
            tracing::info!(
                component = "store",
                "node {} says that it is at {} now",
                newcomer.name,
                newcomer.raft_addr
            );
            self.cluster.note_address(newcomer.raft_id, &newcomer.raft_addr);
        }
        Ok(())
    }

    fn hear(&self, newcomer: Newcomer) {
        let mut founding = lock(&self.founding.state);
        if founding.expect > 0 && !newcomer.replica && newcomer.cluster.is_none() {
            founding.heard.insert(newcomer.name.clone(), newcomer);
        }
    }

    /// Founds the cluster if as many as expected are here and it falls to this node.
    async fn found_if_all_are_here(&self, credentials: Option<&Credentials>) -> Result<(), Error> {
        let founders = {
            let founding = lock(&self.founding.state);
            if founding.heard.len() < founding.expect {
                return Ok(());
            }
            let founders: Vec<Newcomer> =
                founding.heard.values().take(founding.expect).cloned().collect();
            founders
        };
        if founders.first().is_none_or(|first| first.name != self.node_id)
            || self.consensus.is_initialized().await?
        {
            return Ok(());
        }
        let cluster = self.new_cluster_id();
        let founder = self.newcomer().await?;
        for other in &founders {
            let agreed = if other.raft_id == self.raft_id {
                self.agree_to_found(founder.clone(), &cluster).await
            } else {
                let ask = Ask::Found { founder: founder.clone(), cluster: cluster.clone() };
                let answer =
                    self.client.ask(&other.raft_addr, ask, credentials.cloned(), ASK_TIMEOUT).await;
                answer.map(drop)
            };
            if let Err(error) = agreed {
                // It will announce itself again if it is still there.
                if other.raft_id != self.raft_id {
                    lock(&self.founding.state).heard.remove(&other.name);
                }
                return Err(error);
            }
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

    /// Agrees to belong to the cluster that another node founds, if it has no past and has not agreed to somebody else.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn agree_to_found(
        &self,
        founder: Newcomer,
        cluster: &str,
    ) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Membership(reason));
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
