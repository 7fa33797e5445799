//! Looking at the other members: who answers, how fast, and what each says of itself.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::{Error, Member, Node, node::Inner, service::message::Metadata};

/// What contacting a member gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The member, as the membership has it.
    pub member: Member,
    /// Whether it leads, by this node's account.
    pub leads: bool,
    /// What it said, or why it said nothing.
    pub reached: Result<Reached, String>,
}

/// What a member said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The URL of its HTTP API.
    pub api_url: String,
    /// The level of the HTTP API it implements.
    pub version: String,
    /// The last entry it knows to be committed.
    pub commit_index: u64,
    /// How long it took to answer.
    pub elapsed: Duration,
}

impl Node {
    /// Whether another node answers at this internode address.
    pub async fn is_answered(&self, address: &str, timeout: Duration) -> bool {
        self.inner().client.metadata(address, timeout).await.is_ok()
    }

    /// Every member, sorted by id, as this node knows them.
    pub fn members(&self) -> Vec<Member> {
        self.inner().consensus.view().members
    }

    /// How long ago this node last heard of a leader, itself included; `None` for never.
    pub fn last_contact(&self) -> Option<Duration> {
        let inner = self.inner();
        if inner.consensus.leads() {
            return Some(Duration::ZERO);
        }
        // One that led without a quorum at last was in contact as long as it had one.
        let contacts = [inner.progress.leader_silent_for(), inner.consensus.quorum_silent_for()];
        contacts.into_iter().flatten().min()
    }

    /// Waits until a leader is known; for ever on a node that has stopped.
    pub async fn leader_known(&self) {
        self.inner().leader_known().await;
        if self.leader().is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Contacts all members at once; those that do not answer cost `timeout` once, and once more for each retry.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn contact_members(
        &self,
        timeout: Duration,
        retries: u32,
    ) -> Result<Vec<Contact>, Error> {
        let inner = self.open_inner()?;
        let members = inner.consensus.view().members;
        let contacts = members.into_iter().map(|member| inner.contact(member, timeout, retries));
        Ok(join_all(contacts).await)
    }

    /// Contacts the leader.
    ///
    /// # Errors
    /// No leader is known, or the node is stopping.
    pub async fn contact_leader(&self, timeout: Duration, retries: u32) -> Result<Contact, Error> {
        let inner = self.open_inner()?;
        let leader = inner.consensus.leader().ok_or(Error::LeaderNotFound)?;
        Ok(inner.contact(leader, timeout, retries).await)
    }
}

impl Inner {
    async fn contact(&self, member: Member, timeout: Duration, retries: u32) -> Contact {
        let leads = self.consensus.leader().is_some_and(|leader| leader.id == member.id);
        let began = Instant::now();
        if member.id == self.node_id {
            let own = self.metadata();
            let reached = Reached {
                api_url: own.api_url,
                version: own.version,
                commit_index: own.commit_index,
                elapsed: began.elapsed(),
            };
            return Contact { member, leads, reached: Ok(reached) };
        }
        let mut reached = Err(String::new());
        for _ in 0..=retries {
            let began = Instant::now();
            reached = match self.client.metadata(&member.raft_addr, timeout).await {
                Ok(metadata) if metadata.name != member.id => {
                    Err(format!("{} answers as node {}", member.raft_addr, metadata.name))
                }
                // It founded one of its own, or was recovered without this node.
                Ok(Metadata { cluster: Some(theirs), .. }) if !self.cluster.is(&theirs) => {
                    Err(format!("{} answers as a node of cluster {theirs}", member.raft_addr))
                }
                Ok(metadata) => Ok(Reached {
                    api_url: metadata.api_url,
                    version: metadata.version,
                    commit_index: metadata.commit_index,
                    elapsed: began.elapsed(),
                }),
                Err(error) => Err(error.to_string()),
            };
            if reached.is_ok() {
                break;
            }
        }
        Contact { member, leads, reached }
    }
}
