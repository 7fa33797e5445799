//! Asking the other nodes, before anything is changed, how far they are: who recovers must not be behind.
//!
//! Nodes that are recovered at the same time see each other: while one asks, it answers. Whoever refuses goes on answering
//! until its time is over.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Error,
    internode::{Answerer, Lane},
    raft::membership::Listed,
    service::{
        SERVICE,
        client::Client,
        envelope::Sealed,
        message::{Answer, Ask, Metadata},
    },
};

/// How long nodes named in the file are asked: so far apart may they be started and still see each other.
pub(super) const ASKING_TIME: Duration = Duration::from_secs(5);
/// How long one question may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two questions to a node that does not answer.
const QUESTION_INTERVAL: Duration = Duration::from_millis(200);

/// What is asked for, and on whose behalf.
#[derive(Debug)]
pub(super) struct Survey<'a> {
    /// This node's number in Raft.
    pub(super) own: u64,
    /// The cluster as it was.
    pub(super) cluster: &'a str,
    /// The cluster that goes on.
    pub(super) target: &'a str,
    /// Term and index of the last entry here.
    pub(super) last: (u64, u64),
    /// The members before.
    pub(super) before: &'a [Listed],
    /// The members that the file names.
    pub(super) after: &'a [Listed],
}

/// What a member answered, or why it did not.
type Sight = Result<Metadata, String>;

impl Survey<'_> {
    /// Asks everybody, and decides.
    ///
    /// # Errors
    /// A sentence for the operator: recovering this node would lose something, or come to nothing.
    pub(super) async fn carry_out(&self, client: &Client) -> Result<(), String> {
        let deadline = Instant::now() + ASKING_TIME;
        let named = self.others().map(|member| async move {
            (member, ask_until(client, &member.peer.raft_addr, deadline).await)
        });
        let left_out = self.left_out().map(|member| async move {
            (member, ask(client, &member.peer.raft_addr, QUESTION_TIMEOUT).await)
        });
        let (named, left_out) = tokio::join!(join_all(named), join_all(left_out));
        let verdict = self.judge_left_out(&left_out).and_then(|()| self.judge_named(&named));
        if verdict.is_err() {
            sleep_until(deadline).await;
        }
        verdict
    }

    fn others(&self) -> impl Iterator<Item = &Listed> {
        self.after.iter().filter(|member| member.raft_id != self.own)
    }

    /// Members that the file does not name, at addresses that it does not name either.
    fn left_out(&self) -> impl Iterator<Item = &Listed> {
        let ids: BTreeSet<u64> = self.after.iter().map(|member| member.raft_id).collect();
        let addresses: BTreeSet<&str> =
            self.after.iter().map(|member| member.peer.raft_addr.as_str()).collect();
        self.before.iter().filter(move |member| {
            !ids.contains(&member.raft_id) && !addresses.contains(member.peer.raft_addr.as_str())
        })
    }

    /// Who is given up must not be the leader of a living cluster.
    fn judge_left_out(&self, seen: &[(&Listed, Sight)]) -> Result<(), String> {
        for (member, sight) in seen {
            let Ok(metadata) = sight else { continue };
            if metadata.raft_id != member.raft_id {
                continue;
            }
            self.refuse_living(metadata)?;
            let name = &member.peer.name;
            if metadata.cluster.as_deref() == Some(self.cluster) && metadata.last_log > self.last {
                let (_, index) = metadata.last_log;
                tracing::warn!(
                    component = "store",
                    "recovery: node {name} answers, is not in the file, and holds entries up to {index}, which \
                     this node does not: they are given up"
                );
            } else {
                tracing::warn!(
                    component = "store",
                    "recovery: node {name} answers and is not in the file: it is given up"
                );
            }
        }
        Ok(())
    }

    fn judge_named(&self, seen: &[(&Listed, Sight)]) -> Result<(), String> {
        let mut behind = Vec::new();
        for (member, sight) in seen {
            let Listed { peer, raft_id, .. } = member;
            let (name, address) = (&peer.name, &peer.raft_addr);
            let metadata = match sight {
                Ok(metadata) => metadata,
                Err(reason) => {
                    tracing::warn!(
                        component = "store",
                        "recovery: node {name} could not be asked how far it is ({reason}). If it holds other \
                         entries than this node, it will not be taken back but with an empty data directory"
                    );
                    continue;
                }
            };
            self.refuse_living(metadata)?;
            if metadata.name != *name || metadata.raft_id != *raft_id {
                return Err(format!(
                    "at {address}, where the file has node {name}, answers node {} with other or no data: \
                     leave it out of the file, and let it join afresh",
                    metadata.name
                ));
            }
            let theirs = metadata.cluster.as_deref();
            if theirs == Some(self.target) {
                continue;
            }
            if theirs != Some(self.cluster) {
                return Err(format!(
                    "node {name} belongs to another cluster by now: it was recovered with another file, or held \
                     other entries than this node. Let one of them join the other with an empty data directory"
                ));
            }
            let ((term, index), (_, own_index)) = (metadata.last_log, self.last);
            if metadata.last_log > self.last {
                return Err(format!(
                    "node {name} holds entries up to {index} (term {term}), this node up to {own_index}: \
                     acknowledged writes would be lost. Recover {name} without this node in the file, and let \
                     this node join it with an empty data directory"
                ));
            }
            if metadata.last_log < self.last {
                behind.push((*member, index));
            }
        }
        self.judge_behind(&behind)
    }

    /// Who is behind will not be recovered; the rest must be able to elect a leader without it.
    fn judge_behind(&self, behind: &[(&Listed, u64)]) -> Result<(), String> {
        let voters = self.after.iter().filter(|member| member.voter).count();
        let missing = behind.iter().filter(|(member, _)| member.voter).count();
        for (member, index) in behind {
            let (name, (_, own_index)) = (&member.peer.name, self.last);
            let sentence = format!(
                "node {name} holds entries up to {index} only, this node up to {own_index}: it cannot be recovered \
                 together with this one"
            );
            if (voters - missing) * 2 <= voters {
                return Err(format!(
                    "{sentence}, and without it the voters in the file have no majority. Leave {name} out of the \
                     file, and let it join with an empty data directory"
                ));
            }
            tracing::warn!(
                component = "store",
                "recovery: {sentence}. Let {name} join with an empty data directory"
            );
        }
        Ok(())
    }

    fn refuse_living(&self, metadata: &Metadata) -> Result<(), String> {
        if metadata.leads && metadata.cluster.as_deref() == Some(self.cluster) {
            return Err(format!(
                "node {} leads this cluster: a majority is there, and nothing is to be recovered. Remove the file \
                 and start this node again",
                metadata.name
            ));
        }
        Ok(())
    }
}

async fn ask_until(client: &Client, address: &str, deadline: Instant) -> Sight {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let sight = ask(client, address, left.min(QUESTION_TIMEOUT)).await;
        if sight.is_ok() || deadline <= Instant::now() + QUESTION_INTERVAL {
            return sight;
        }
        sleep(QUESTION_INTERVAL).await;
    }
}

async fn ask(client: &Client, address: &str, timeout: Duration) -> Sight {
    client.metadata(address, timeout).await.map_err(|error| error.to_string())
}

/// Answers who this node is, and nothing else.
pub(super) struct Introduction(pub(super) Metadata);

impl Answerer for Introduction {
    fn answer(&self, lane: Lane, mut request: Bytes) -> BoxFuture<'static, Bytes> {
        let answer =
            if lane == Lane::Bulk || request.is_empty() || request.split_to(1)[0] != SERVICE {
                // Raft does not run, and takes no answer for one.
                Bytes::new()
            } else {
                let answer = match Sealed::decode(request) {
                    Ok(sealed) if sealed.request.ask == Ask::Metadata => {
                        Answer::Metadata(self.0.clone())
                    }
                    _ => Answer::Failed(Error::NotOpen),
                };
                answer.encode()
            };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Peer;

    fn member(raft_id: u64, voter: bool) -> Listed {
        let name = format!("n{raft_id}");
        let raft_addr = format!("{name}:4002");
        let peer = Peer { name, raft_addr, replica: !voter, ..Peer::default() };
        Listed { raft_id, peer, voter }
    }

    fn at(raft_id: u64, cluster: &str, last_log: (u64, u64)) -> Metadata {
        let cluster = Some(cluster.to_owned());
        Metadata { name: format!("n{raft_id}"), raft_id, cluster, last_log, ..Metadata::default() }
    }

    /// What node 1, at (3, 10), decides when the file names three voters and a replica.
    fn decide(named: Vec<(u64, Sight)>, left_out: Option<Metadata>) -> Result<(), String> {
        let after = [member(1, true), member(2, true), member(3, true), member(4, false)];
        let mut before = after.to_vec();
        before.push(member(5, true));
        let survey = Survey {
            own: 1,
            cluster: "old",
            target: "new",
            last: (3, 10),
            before: &before,
            after: &after,
        };
        let of = |id: u64| before.iter().find(|member| member.raft_id == id).expect("it is listed");
        let left_out: Vec<_> = left_out.into_iter().map(|seen| (of(5), Ok(seen))).collect();
        let named: Vec<_> = named.into_iter().map(|(id, sight)| (of(id), sight)).collect();
        survey.judge_left_out(&left_out).and_then(|()| survey.judge_named(&named))
    }

    #[test]
    fn who_must_not_be_recovered_with_whom() {
        let seen = |id: u64, cluster: &str, last: (u64, u64)| (id, Ok(at(id, cluster, last)));
        let leads = |id: u64| (id, Ok(Metadata { leads: true, ..at(id, "old", (3, 10)) }));
        let unseen = |id: u64| (id, Err("no answer".to_owned()));
        let cases: Vec<(Vec<(u64, Sight)>, &str)> = vec![
            (vec![seen(2, "old", (3, 10)), seen(3, "new", (9, 99))], ""),
            (vec![unseen(2), unseen(3), unseen(4)], ""),
            (
                vec![seen(2, "old", (3, 11))],
                "node n2 holds entries up to 11 (term 3), this node up to 10",
            ),
            (vec![seen(4, "old", (4, 9))], "node n4 holds entries up to 9 (term 4)"),
            (vec![seen(2, "old", (3, 9)), seen(4, "old", (1, 1))], ""),
            (
                vec![seen(2, "old", (3, 9)), seen(3, "old", (2, 20))],
                "node n2 holds entries up to 9 only",
            ),
            (vec![seen(2, "other", (3, 9))], "node n2 belongs to another cluster by now"),
            (
                vec![(2, Ok(at(7, "old", (3, 10))))],
                "at n2:4002, where the file has node n2, answers node n7",
            ),
            (vec![leads(3)], "node n3 leads this cluster"),
        ];
        for (named, expected) in cases {
            let verdict = decide(named.clone(), None).err().unwrap_or_default();
            assert_eq!(expected.is_empty(), verdict.is_empty(), "{named:?}: {verdict}");
            assert!(verdict.starts_with(expected), "{named:?}: {verdict}");
        }
        let living = Metadata { leads: true, ..at(5, "old", (3, 10)) };
        assert!(decide(Vec::new(), Some(living)).is_err_and(|text| text.contains("leads")));
        assert_eq!(decide(Vec::new(), Some(at(5, "old", (4, 10)))), Ok(()), "left out on purpose");
    }
}
