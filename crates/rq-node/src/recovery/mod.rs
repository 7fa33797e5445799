//! Recovery from a lost quorum: a file `raft/peers.json`, written by the operator, names the nodes that go on without the
//! others. It is looked for when a node opens, before Raft runs.
//!
//! # What happens
//! 1. The file is read (`peers_file`), its names are found in the last membership this node knows.
//! 2. The other nodes are asked how far they are (`survey`). A node that is behind another one named in the file refuses.
//! 3. The small files are copied to `raft/before-recovery-<index>/`, and a plan is noted (`plan`).
//! 4. An entry with the new membership is *appended* to the log, the vote is raised to its term, the node gets the id of the
//!    new cluster, and the file becomes `peers.info`.
//!
//! Then Raft starts as ever: the voters of the new membership elect a leader, and what stands in its log is committed by
//! them. Nothing is applied here and nothing is taken from the log.
//!
//! # Invariants
//! - Until the plan is durable nothing has changed; from then on every start finishes it, each step once. A
//!   file that was changed or taken away in between undoes it.
//! - The new cluster's id depends on the old one, the file and the last entry ([`plan::Plan::new`]). So a former member that
//!   was not recovered, or from other entries, is refused by the others and refuses them (`raft::answer`): it cannot
//!   disturb the cluster that goes on. It comes back with an empty data directory.
//! - Former members are of the old cluster still, and nobody can tell them otherwise while those that were recovered do
//!   not answer. A minority of the old voters can do nothing by itself. A *majority* of them, all started again
//!   with their old data, elects a leader of the old cluster: two clusters take writes then. That is for the
//!   operator to prevent, who has declared them lost for good.
//! - Raft never runs while a plan stands.

mod peers_file;
mod plan;
mod survey;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rq_sqlite::EntryId;
use rq_storage::{Files, Log, Position, read_small, replace_small};

use self::{
    peers_file::PeersFile,
    plan::Plan,
    survey::{Introduction, Survey},
};
use crate::{
    OpenError,
    disk_watch::DiskState,
    durability::Durability,
    environment::Environment,
    identity::{Cluster, Paths},
    options::Options,
    raft::{
        self, Peer,
        log::{membership_in, membership_record},
        membership::{Listed, encode_list, list},
    },
    service::{client::Client, message::Metadata},
};

/// The operator's file.
const PEERS_FILE: &str = "peers.json";
/// What it is called once its recovery is done.
const PEERS_FILE_DONE: &str = "peers.info";
/// The plan of a recovery that is not finished.
const PLAN: &str = "recovery.plan";
/// How long the log may take to store the entry or the vote. Beyond it opening fails, and the next start goes on.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);
/// What is read of the log at once.
const READ_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The small files that are copied are at most this long.
const COPY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A node that is being opened: everything but Raft is there.
pub(crate) struct Site<'a> {
    pub(crate) options: &'a Options,
    pub(crate) environment: &'a Environment,
    pub(crate) paths: &'a Paths,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) log: &'a Log,
    pub(crate) durability: &'a Durability,
    /// What the database has applied.
    pub(crate) applied: Option<EntryId>,
    /// The membership in the database, and the entry it came from.
    pub(crate) membership: Option<&'a (EntryId, Vec<u8>)>,
}

/// The causes of an error in one sentence.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Recovers the node if it was asked for, or finishes a recovery that was interrupted; tells whether it did.
///
/// # Errors
/// The file is wrong, this node must not be recovered with it, or the disk refuses. The file is kept.
pub(crate) async fn run(site: &Site<'_>) -> Result<bool, OpenError> {
    let file = PeersFile::read(site.files(), &site.raft(PEERS_FILE))?;
    if let Some(plan) = Plan::read(site.files(), &site.raft(PLAN))? {
        let asked_for = match &file {
            Some(file) => file.canonical() == plan.file,
            // Renamed already; or taken away by somebody who did not want it any more.
            None => PeersFile::read(site.files(), &site.raft(PEERS_FILE_DONE))
                .is_ok_and(|done| done.is_some_and(|done| done.canonical() == plan.file)),
        };
        if asked_for {
            tracing::info!(component = "store", "an interrupted recovery is finished");
            site.carry_out(&plan).await?;
            return Ok(true);
        }
        tracing::warn!(
            component = "store",
            "an interrupted recovery is undone: {PEERS_FILE} was changed or removed"
        );
        site.undo(&plan).await?;
    }
    let Some(file) = file else { return Ok(false) };
    let path = site.raft(PEERS_FILE);
    tracing::info!(component = "store", "attempting node recovery using {}", path.display());
    let plan = site.decide(&file).await.map_err(OpenError::Recovery)?;
    site.keep_old_files(&plan)?;
    plan.store(site.files(), &site.raft(PLAN))?;
    site.carry_out(&plan).await?;
    tracing::info!(
        component = "store",
        "node recovered successfully using {}, it belongs to cluster {} now",
        path.display(),
        plan.target
    );
    Ok(true)
}

/// The members of the last membership that a node knows, from its log and from its database.
///
/// # Errors
/// The log cannot be read, or what stands in it is no membership.
pub(crate) fn last_members(
    log: &Log,
    stored: Option<&(EntryId, Vec<u8>)>,
) -> Result<Option<Vec<Listed>>, String> {
    let state = log.state();
    let mut newest = stored.map(|(_, bytes)| bytes.clone());
    let mut next = state.first.max(stored.map_or(0, |(at, _)| at.index + 1));
    while next < state.next {
        let records = log.read_limited(next..state.next, READ_BYTES_MAX);
        let records = records.map_err(|error| sentence(&error))?;
        let Some(last) = records.last() else { break };
        next = last.index + 1;
        if let Some(bytes) = records.iter().rev().find_map(membership_in) {
            newest = Some(bytes.to_vec());
        }
    }
    newest.map(|bytes| list(&bytes)).transpose()
}

/// Whether a node is to be recovered, or was being recovered when it ended.
///
/// # Errors
/// The directory cannot be looked at.
pub(crate) fn is_asked_for(files: &dyn Files, paths: &Paths) -> std::io::Result<bool> {
    Ok(files.exists(&paths.raft.join(PEERS_FILE))? || files.exists(&paths.raft.join(PLAN))?)
}

impl Site<'_> {
    fn files(&self) -> &dyn Files {
        &*self.environment.files
    }

    fn raft(&self, name: &str) -> PathBuf {
        self.paths.raft.join(name)
    }

    /// The last entry that this node has. A database may be further on than the log: others had the entries
    /// durably before this node had.
    fn last(&self) -> Option<EntryId> {
        let logged = self.log.state().last;
        let logged = logged.map(|Position { term, index }| EntryId { term, index });
        logged.into_iter().chain(self.applied).max_by_key(|last| last.index)
    }

    /// What is to be done, if it may be.
    async fn decide(&self, file: &PeersFile) -> Result<Plan, String> {
        let no_past = "this node belongs to no cluster yet: remove the file and let it join one";
        let before = last_members(self.log, self.membership)?.ok_or(no_past)?;
        let (last, cluster) = (self.last().ok_or(no_past)?, self.cluster.id().ok_or(no_past)?);
        let after = self.resolve(file, &before)?;
        let membership = encode_list(&after)?;
        let plan = Plan::new(file.canonical(), cluster, last, self.log.vote(), membership);
        self.tell(last, &before, &after);
        let survey = Survey {
            own: self.cluster.raft_id,
            cluster: &plan.cluster,
            target: &plan.target,
            last: (last.term, last.index),
            before: &before,
            after: &after,
        };
        let network = &self.environment.network;
        network.listen(Some(Arc::new(Introduction(self.introduction(last)))));
        let client = Client::new(Arc::clone(network), Arc::clone(self.cluster));
        let verdict = survey.carry_out(&client).await;
        if verdict.is_err() {
            network.listen(None);
        }
        verdict.map(|()| plan)
    }

    /// The members that the file names, with the numbers and API addresses they are known by.
    fn resolve(&self, file: &PeersFile, before: &[Listed]) -> Result<Vec<Listed>, String> {
        let (own, own_id) = (&self.cluster.name, self.cluster.raft_id);
        let mut after = Vec::with_capacity(file.peers.len());
        for listed in &file.peers {
            let same_name = before.iter().filter(|member| member.peer.name == listed.id);
            // In the midst of a replacement there may be two; the one to come votes last.
            let Some(known) = same_name.max_by_key(|member| (member.voter, member.raft_id)) else {
                return Err(format!(
                    "node {} is not known here, the members are {}: recover with known nodes, then join others afresh",
                    listed.id,
                    names(before)
                ));
            };
            let peer = Peer {
                name: listed.id.clone(),
                raft_addr: listed.address.clone(),
                api_url: known.peer.api_url.clone(),
                replica: listed.non_voter,
            };
            after.push(Listed { raft_id: known.raft_id, peer, voter: !listed.non_voter });
        }
        match after.iter().find(|member| member.peer.name == *own) {
            None => Err(format!("this node, {own}, is not in the file")),
            Some(member) if member.raft_id != own_id => Err(format!(
                "node {own} is a member with other data than these: remove the file and let this node join with an \
                 empty data directory"
            )),
            Some(member) => {
                if member.peer.raft_addr != self.options.raft_addr {
                    tracing::warn!(
                        component = "store",
                        "recovery: the file has this node at {}, it advertises {}",
                        member.peer.raft_addr,
                        self.options.raft_addr
                    );
                }
                Ok(after)
            }
        }
    }

    fn tell(&self, last: EntryId, before: &[Listed], after: &[Listed]) {
        let applied = self.applied.map_or(0, |applied| applied.index);
        tracing::info!(
            component = "store",
            "recovery: the last entry is {} of term {}, {applied} is applied; all entries are kept, and those behind \
             {applied} take effect once the nodes in the file have elected a leader",
            last.index,
            last.term
        );
        tracing::info!(
            component = "store",
            "recovery: the members were {}, and will be {}",
            names(before),
            names(after)
        );
    }

    fn introduction(&self, last: EntryId) -> Metadata {
        Metadata {
            name: self.cluster.name.clone(),
            raft_id: self.cluster.raft_id,
            cluster: self.cluster.id(),
            api_url: self.options.api_url.clone(),
            version: self.options.api_version.clone(),
            commit_index: self.applied.map_or(0, |applied| applied.index),
            leads: false,
            last_log: (last.term, last.index),
            disk: DiskState::default(),
            other_engine: None,
            process: None,
        }
    }

    /// Copies what recovery replaces. The log is only appended to.
    fn keep_old_files(&self, plan: &Plan) -> Result<(), OpenError> {
        let files = self.files();
        let kept = self.raft(&format!("before-recovery-{}", plan.base().index));
        let failed = |what: &str, path: &Path, error: &std::io::Error| {
            OpenError::Recovery(format!("cannot {what} {}: {error}", path.display()))
        };
        let exists = files.exists(&kept).map_err(|error| failed("look for", &kept, &error))?;
        if !exists {
            files.create_directory(&kept).map_err(|error| failed("create", &kept, &error))?;
        }
        let in_raft = ["state", "incarnation", PEERS_FILE].map(|name| self.raft(name));
        for path in in_raft.iter().chain([&self.paths.node_file]) {
            let name = path.file_name().expect("it was made by joining a name");
            if let Some(bytes) = read_small(files, path, COPY_BYTES_MAX)? {
                replace_small(files, &kept.join(name), &bytes)?;
            }
        }
        tracing::info!(
            component = "store",
            "recovery: vote, identity and file as they were are in {}",
            kept.display()
        );
        Ok(())
    }

    /// Does what is planned, as far as it is not done.
    async fn carry_out(&self, plan: &Plan) -> Result<(), OpenError> {
        self.append(plan).await.map_err(OpenError::Recovery)?;
        let vote = plan.vote(self.cluster.raft_id);
        if self.log.vote() != Some(vote) {
            let saved = self.stored(|done| self.log.save_vote(vote, done)).await;
            saved.map_err(OpenError::Recovery)?;
        }
        self.cluster.change(&plan.target).map_err(OpenError::Recovery)?;
        let path = self.raft(PEERS_FILE);
        let failed = |error: std::io::Error| {
            OpenError::Recovery(format!(
                "cannot rename {} to {PEERS_FILE_DONE}: {error}",
                path.display()
            ))
        };
        if self.files().exists(&path).map_err(failed)? {
            self.files().rename(&path, &self.raft(PEERS_FILE_DONE)).map_err(failed)?;
        }
        self.files().sync_directory(&self.paths.raft).map_err(failed)?;
        self.end_plan()
    }

    /// The plan stands no longer.
    fn end_plan(&self) -> Result<(), OpenError> {
        let path = self.raft(PLAN);
        let removed = self.files().remove(&path);
        let durable = removed.and_then(|()| self.files().sync_directory(&self.paths.raft));
        durable.map_err(|error| {
            OpenError::Recovery(format!("cannot remove {}: {error}", path.display()))
        })
    }

    async fn append(&self, plan: &Plan) -> Result<(), String> {
        let (base, entry) = (plan.base(), plan.entry());
        if self.log.state().last == Some(position(entry)) {
            return Ok(());
        }
        if self.last() != Some(base) {
            return Err("the log is not the one for which the recovery was planned".to_owned());
        }
        if self.log.state().last != Some(position(base)) {
            // What the log does not hold is in the database, and must be durable there.
            self.durability.ensure(base).await?;
            self.stored(|done| self.log.purge(position(base), done)).await?;
        }
        let record = membership_record(entry, plan.membership.clone());
        self.stored(|done| self.log.append(vec![record], done)).await
    }

    async fn undo(&self, plan: &Plan) -> Result<(), OpenError> {
        if self.log.state().last == Some(position(plan.entry())) {
            let base = Some(plan.base().index);
            let removed = self.stored(|done| self.log.truncate_after(base, done)).await;
            removed.map_err(OpenError::Recovery)?;
        }
        self.cluster.change(&plan.cluster).map_err(OpenError::Recovery)?;
        self.end_plan()
    }

    /// Waits until an operation of the log is durable.
    async fn stored(
        &self,
        start: impl FnOnce(rq_storage::Completion) -> Result<(), rq_storage::Error>,
    ) -> Result<(), String> {
        match tokio::time::timeout(STORE_TIMEOUT, raft::log::wait(start)).await {
            Ok(stored) => stored.map_err(|error| sentence(&error)),
            Err(_) => Err("the disk is full or does not answer; the next start goes on".to_owned()),
        }
    }
}

/// The position of an entry in the words of the log.
fn position(id: EntryId) -> Position {
    Position { term: id.term, index: id.index }
}

/// Members as a person reads them.
fn names(members: &[Listed]) -> String {
    let name = |Listed { peer, voter, .. }: &Listed| {
        let role = if *voter { "" } else { ", without a vote" };
        format!("{} ({}{role})", peer.name, peer.raft_addr)
    };
    members.iter().map(name).collect::<Vec<_>>().join(", ")
}
