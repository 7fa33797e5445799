//! What must hold of a cluster that is whole again.

use std::{fmt::Write as _, time::Duration};

use rq_sql::Value;
use tokio::time::Instant;

use super::{
    clients::{execute, route},
    machine::{Life, Machine},
    story::Story,
};
use crate::{Level, raft::change::RaftMember, testing::write};

/// How long a cluster may take to be whole again, when nothing disturbs it.
const RECOVERY: Duration = Duration::from_secs(120);

impl Story {
    /// Waits until every member is ready and all hold the same, and shows that each takes writes.
    pub(super) async fn whole(&mut self) {
        self.serve_again(true).await;
        for machine in &self.machines {
            let Some(Life { node, host, .. }) = machine.life.as_ref().filter(|_| machine.wanted)
            else {
                continue;
            };
            let nothing = write(&["SELECT 1"]);
            let done = execute(node, host, nothing, 10_000).await;
            assert!(done.is_ok(), "{} does not take writes: {done:?}", machine.name);
        }
        self.serve_again(true).await;
    }

    /// Waits until every member is ready and all agree who is one; if nobody writes (`still`), until they hold the same.
    pub(super) async fn serve_again(&mut self, still: bool) {
        let deadline = Instant::now() + RECOVERY;
        while let Err(missing) = self.is_whole(still).await {
            assert!(Instant::now() < deadline, "not whole again: {missing}\n{}", self.describe());
            self.watch();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn is_whole(&mut self, still: bool) -> Result<(), String> {
        let wanted: Vec<&Machine> = self.machines.iter().filter(|machine| machine.wanted).collect();
        for machine in &wanted {
            let life = machine.running().ok_or_else(|| format!("{} is down", machine.name))?;
            if !life.node.is_ready() {
                return Err(format!("{} is not ready", machine.name));
            }
        }
        for machine in self.machines.iter().filter(|machine| !machine.wanted) {
            let Life { node, host, .. } = wanted[0].life.as_ref().expect("it is ready");
            let removed = host.run(node.remove(&machine.name, &route(10_000))).await;
            if !matches!(removed, Some(Ok(_))) {
                return Err(format!("{} is not removed: {removed:?}", machine.name));
            }
        }
        let mut reached = None;
        for machine in &wanted {
            let inner = machine.running().ok_or("one is down")?.node.inner();
            let mut names: Vec<String> =
                inner.consensus.members().into_iter().map(|member| member.peer.name).collect();
            let mut expected: Vec<String> = wanted.iter().map(|m| m.name.clone()).collect();
            names.sort();
            expected.sort();
            if names != expected {
                return Err(format!("{} knows {names:?}", machine.name));
            }
            if inner.consensus.is_between_voters() {
                return Err(format!("{} knows two sets of voters", machine.name));
            }
            let applied = inner.progress.applied();
            if !still {
                continue;
            }
            if inner.log.state().last.map(|last| last.index) != Some(applied.index)
                || *reached.get_or_insert(applied) != applied
            {
                return Err(format!("{} is at {applied:?}, another at {reached:?}", machine.name));
            }
        }
        Ok(())
    }

    /// Compares members and images; all are at the same index.
    pub(super) async fn compare(&mut self) {
        let mut first: Option<(Vec<String>, u64)> = None;
        for machine in &self.machines {
            let inner = machine.running().expect("all run").node.inner();
            let described: Vec<String> =
                inner.consensus.members().iter().map(describe_member).collect();
            assert!(described.iter().all(|member| member.ends_with("votes")), "{described:?}");
            let image =
                inner.machinery.durability.with_checkpointer(|checkpointer| checkpointer.image());
            let image = image.expect("it is open").unwrap();
            let index = image.applied.expect("something is applied").index;
            let (members, at) = first.get_or_insert_with(|| (described.clone(), index));
            assert_eq!((&described, index), (&*members, *at), "{}", machine.name);
            let expected = self.reference.image_at(&self.history, index);
            let differing = image.differing_pages(&expected);
            assert_eq!(differing, Vec::<usize>::new(), "{} at {index}", machine.name);
        }
    }

    /// SQLite finds nothing wrong.
    pub(super) async fn check_integrity(&self) {
        for machine in &self.machines {
            let node = &machine.running().expect("all run").node;
            let checked = super::super::values(node, "PRAGMA integrity_check", Level::None).await;
            assert_eq!(checked, Ok(vec![Value::Text(b"ok".to_vec())]), "{}", machine.name);
        }
    }

    /// Every node as it sees itself and the others.
    fn describe(&self) -> String {
        let mut text = String::new();
        for machine in &self.machines {
            let wanted = machine.wanted;
            let Some(life) = &machine.life else {
                let _ = writeln!(text, "{} (wanted: {wanted}) is down", machine.name);
                continue;
            };
            let inner = life.node.inner();
            let members: Vec<String> =
                inner.consensus.members().iter().map(describe_member).collect();
            let view = inner.consensus.view();
            let _ = writeln!(
                text,
                "{} ({:x}, wanted: {wanted}, ready: {}): {:?} in term {}, leader {:?}, log {:?}, \
                 committed {}, applied {:?}, members {members:?}, stopped {:?}, paused {}",
                machine.name,
                inner.raft_id,
                life.node.is_ready(),
                view.role,
                view.term,
                view.leader.map(|leader| leader.id),
                inner.log.state().last,
                view.commit_index,
                inner.progress.applied(),
                inner.progress.stopped(),
                life.host.pause.is_set(),
            );
        }
        text
    }
}

fn describe_member(member: &RaftMember) -> String {
    let RaftMember { raft_id, peer, voter, .. } = member;
    format!("{raft_id:x} {peer} {}", if *voter { "votes" } else { "follows" })
}
