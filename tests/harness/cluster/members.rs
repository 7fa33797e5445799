//! The members of a cluster: started, watched, killed, started again.

use std::{
    fmt::Write as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Image, Network};
use crate::{Connection, Node, NodeBuilder, Request, free_addresses};

/// How long anything a cluster does by itself may take before the test fails. Not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a single node may take to tell its state before it counts as not answering.
const STATUS_TIME: Duration = Duration::from_secs(2);

/// How often a waiting helper looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How many of its last log lines a node shows when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// The ports of a member that has an address for itself.
const PORTS: (u16, u16) = (4001, 4002);

/// How the members of a new cluster find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forming {
    /// The first one is given no flags, the others `-join` with its address.
    #[default]
    Join,
    /// All are given `-join` with all addresses, and `-bootstrap-expect`.
    Expect,
}

/// What a cluster that is about to be started is given.
#[derive(Debug, Default)]
pub struct ClusterBuilder {
    size: usize,
    replicas: usize,
    forming: Forming,
    flags: Vec<String>,
    network: Option<Network>,
    directories: Vec<PathBuf>,
    variables: Vec<Vec<(String, String)>>,
    program: Option<PathBuf>,
    errors_expected: bool,
}

impl ClusterBuilder {
    /// Sets how the members find each other.
    #[must_use]
    pub fn forming(mut self, forming: Forming) -> Self {
        self.forming = forming;
        self
    }

    /// Adds read replicas behind the voters.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Adds flags for all members.
    #[must_use]
    pub fn flags<F: Into<String>>(mut self, flags: impl IntoIterator<Item = F>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Puts every member into the namespace of this network with its number.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Gives each member a data directory, instead of fresh temporary ones.
    #[must_use]
    pub fn directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.directories = directories;
        self
    }

    /// Gives each member environment variables.
    #[must_use]
    pub fn variables(mut self, variables: Vec<Vec<(String, String)>>) -> Self {
        self.variables = variables;
        self
    }

    /// Uses this program instead of the one Cargo builds.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Lets error lines on standard error pass.
    #[must_use]
    pub fn errors_expected(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Chooses addresses and directories and starts nobody.
    pub fn prepare(self) -> Cluster {
        let count = self.size + self.replicas;
        let addresses = (0..count)
            .map(|member| match &self.network {
                None => free_addresses(),
                Some(network) => {
                    let address = network.address(member);
                    (format!("{address}:{}", PORTS.0), format!("{address}:{}", PORTS.1))
                }
            })
            .collect();
        let scratch = TempDir::with_prefix("rq-cluster-").expect("a temporary directory");
        Cluster { builder: self, addresses, members: Vec::new(), scratch }
    }

    /// Starts all members and waits until each is ready.
    pub fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        for member in 0..cluster.size() {
            cluster.launch(member);
            if cluster.builder.forming == Forming::Join && member == 0 {
                cluster.wait_ready(0);
            }
        }
        cluster.wait_all_ready();
        cluster
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `Leader`, `Follower`, and so on.
    pub state: String,
    /// Its term.
    pub term: u64,
    /// The index of the last entry in its log.
    pub last_log_index: u64,
    /// The index of the last entry it has applied.
    pub applied_index: u64,
    /// The node id of the leader it knows, empty for none.
    pub leader: String,
    /// The node ids in its configuration, with whether each votes, by name.
    pub members: Vec<(String, bool)>,
}

impl Status {
    fn read(answer: &Value) -> Option<Self> {
        let number = |name: &str| answer["raft"][name].as_u64();
        let mut members: Vec<_> = answer["nodes"]
            .as_array()?
            .iter()
            .map(|node| {
                (node["id"].as_str().unwrap_or_default().to_owned(), node["suffrage"] == "voter")
            })
            .collect();
        members.sort();
        Some(Self {
            state: answer["raft"]["state"].as_str()?.to_owned(),
            term: number("term")?,
            last_log_index: number("last_log_index")?,
            applied_index: number("applied_index")?,
            leader: answer["leader"]["node_id"].as_str()?.to_owned(),
            members,
        })
    }
}

/// A cluster. Dropping it ends all members; if the test failed, it shows the end of their logs first.
#[derive(Debug)]
pub struct Cluster {
    builder: ClusterBuilder,
    addresses: Vec<(String, String)>,
    /// The members started so far.
    members: Vec<(usize, Node)>,
    scratch: TempDir,
}

impl Cluster {
    /// A cluster of this many voters, to be configured first.
    pub fn builder(size: usize) -> ClusterBuilder {
        ClusterBuilder { size, ..ClusterBuilder::default() }
    }

    /// A cluster of this many voters with default flags, ready.
    pub fn start(size: usize) -> Self {
        Self::builder(size).start()
    }

    /// How many members there are, replicas included.
    pub fn size(&self) -> usize {
        self.addresses.len()
    }

    /// The network, if the members have one of their own.
    pub fn network(&self) -> Option<&Network> {
        self.builder.network.as_ref()
    }

    /// The node id of a member.
    pub fn id(member: usize) -> String {
        format!("n{}", member + 1)
    }

    /// `host:port` of a member's HTTP API.
    pub fn http_addr(&self, member: usize) -> &str {
        &self.addresses[member].0
    }

    /// `host:port` of a member's internode port.
    pub fn raft_addr(&self, member: usize) -> &str {
        &self.addresses[member].1
    }

    /// The addresses of the HTTP APIs of all members.
    pub fn http_addrs(&self) -> Vec<String> {
        self.addresses.iter().map(|(http, _)| http.clone()).collect()
    }

    /// A member that was started.
    pub fn node(&self, member: usize) -> &Node {
        let found = self.members.iter().find(|(number, _)| *number == member);
        &found.unwrap_or_else(|| panic!("member {member} was never started")).1
    }

    /// A member that was started.
    pub fn node_mut(&mut self, member: usize) -> &mut Node {
        let found = self.members.iter_mut().find(|(number, _)| *number == member);
        &mut found.unwrap_or_else(|| panic!("member {member} was never started")).1
    }

    /// Where a member's data lie.
    pub fn directory(&self, member: usize) -> PathBuf {
        let given = self.builder.directories.get(member).cloned();
        given.unwrap_or_else(|| self.scratch.path().join(Self::id(member)))
    }

    /// The flags a member is started with.
    pub fn flags(&self, member: usize) -> Vec<String> {
        let mut flags = self.builder.flags.clone();
        flags.push(format!("-node-id={}", Self::id(member)));
        if member >= self.builder.size {
            flags.push("-raft-non-voter".to_owned());
        }
        match self.builder.forming {
            Forming::Expect if member < self.builder.size => {
                let all: Vec<_> =
                    (0..self.builder.size).map(|other| self.raft_addr(other)).collect();
                flags.push(format!("-join={}", all.join(",")));
                flags.push(format!("-bootstrap-expect={}", self.builder.size));
            }
            _ if member > 0 => flags.push(format!("-join={}", self.raft_addr(0))),
            _ => {}
        }
        flags
    }

    /// Starts a member for the first time and returns at once.
    pub fn launch(&mut self, member: usize) {
        let flags = self.flags(member);
        self.launch_with(member, &flags);
    }

    /// As [`Cluster::launch`], with these flags and no others.
    pub fn launch_with(&mut self, member: usize, flags: &[String]) {
        let (http, raft) = &self.addresses[member];
        let mut builder: NodeBuilder = Node::builder()
            .addresses(http, raft)
            .flags(flags.iter().map(String::as_str))
            .directory(&self.directory(member));
        if let Some(network) = &self.builder.network {
            builder = builder.namespace(&network.namespace(member));
        }
        for (name, value) in self.builder.variables.get(member).into_iter().flatten() {
            builder = builder.variable(name, value);
        }
        if let Some(program) = &self.builder.program {
            builder = builder.program(program);
        }
        if self.builder.errors_expected {
            builder = builder.errors_expected();
        }
        self.members.retain(|(number, _)| *number != member);
        self.members.push((member, builder.spawn()));
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self, member: usize) {
        self.node_mut(member).kill();
    }

    /// Sends SIGTERM and waits for the end, which must be a success.
    pub fn stop(&mut self, member: usize) {
        let code = self.node_mut(member).stop();
        assert_eq!(code, 0, "{}:\n{}", Self::id(member), self.node(member).log());
    }

    /// Starts a member again with the flags and addresses it had, and returns at once.
    pub fn launch_again(&mut self, member: usize) {
        self.node_mut(member).launch_again();
    }

    /// Restarts every member, one after the other, each when the one before is ready; leaves them in peace this long before,
    /// between and after that. Returns how many of them led when they were asked to end.
    pub fn restart_in_turn(&mut self, peace: Duration) -> usize {
        thread::sleep(peace);
        let mut leaders = 0;
        for member in 0..self.size() {
            leaders += usize::from(self.leader() == Some(member));
            self.stop(member);
            self.launch_again(member);
            self.wait_ready(member);
            thread::sleep(peace);
        }
        leaders
    }

    /// Starts a member that is not running with new ports, and returns at once.
    pub fn launch_at_new_addresses(&mut self, member: usize) {
        assert!(self.builder.network.is_none(), "namespaces have one address");
        self.addresses[member] = free_addresses();
        let flags = self.flags(member);
        let addresses = self.addresses[member].clone();
        let node = self.node_mut(member);
        node.reconfigure(Some(addresses), &flags);
        node.launch_again();
    }

    /// Chooses new ports for a member that is not running, for its next start and for the flags of
    /// those that are started later.
    pub fn move_member(&mut self, member: usize) {
        assert!(self.builder.network.is_none(), "namespaces have one address");
        self.addresses[member] = free_addresses();
    }

    /// Starts a member that is not running with the addresses and flags it has now.
    pub fn launch_moved(&mut self, member: usize) {
        let flags = self.flags(member);
        let addresses = self.addresses[member].clone();
        let node = self.node_mut(member);
        node.reconfigure(Some(addresses), &flags);
        node.launch_again();
    }

    /// Sends SIGSTOP.
    pub fn pause(&mut self, member: usize) {
        self.node_mut(member).process().signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&mut self, member: usize) {
        self.node_mut(member).process().signal(Signal::CONT);
    }

    /// Whether a member's process runs, or is paused.
    pub fn is_running(&mut self, member: usize) -> bool {
        self.members
            .iter_mut()
            .find(|(number, _)| *number == member)
            .is_some_and(|(_, node)| node.process().try_wait().is_none())
    }

    /// Waits until `/readyz` of a member answers 200.
    pub fn wait_ready(&mut self, member: usize) {
        self.node_mut(member).wait_ready();
    }

    /// Waits until all members are ready.
    pub fn wait_all_ready(&mut self) {
        for member in 0..self.size() {
            self.wait_ready(member);
        }
    }

    /// What a member says of itself, or `None` if it does not answer.
    pub fn status(&self, member: usize) -> Option<Status> {
        let mut connection = Connection::open_within(self.http_addr(member), STATUS_TIME).ok()?;
        let answer = connection.request(&Request::get("/status?key=store")).ok()?;
        Status::read(&serde_json::from_slice(&answer.body).ok()?)
    }

    /// The member that says it leads in the highest term.
    pub fn leader(&self) -> Option<usize> {
        self.leader_among(&(0..self.size()).collect::<Vec<_>>())
    }

    /// As [`Cluster::leader`], asking these alone.
    pub fn leader_among(&self, members: &[usize]) -> Option<usize> {
        members
            .iter()
            .filter_map(|member| Some((*member, self.status(*member)?)))
            .filter(|(_, status)| status.state == "Leader")
            .max_by_key(|(_, status)| status.term)
            .map(|(member, _)| member)
    }

    /// Waits for a leader.
    pub fn wait_leader(&self) -> usize {
        self.wait_leader_among(&(0..self.size()).collect::<Vec<_>>())
    }

    /// Waits for a leader among these.
    pub fn wait_leader_among(&self, members: &[usize]) -> usize {
        self.wait("there is no leader", || self.leader_among(members))
    }

    /// A voter that does not lead.
    pub fn a_follower(&self) -> usize {
        let leader = self.wait_leader();
        (0..self.builder.size).find(|member| *member != leader).expect("more than one voter")
    }

    /// Waits until every member that runs has applied the last entry of the leader's log, and knows
    /// the leader; returns that index.
    pub fn wait_settled(&mut self) -> u64 {
        let running: Vec<_> = (0..self.size()).filter(|member| self.is_running(*member)).collect();
        self.wait("the members do not agree", || {
            let all: Option<Vec<_>> = running.iter().map(|member| self.status(*member)).collect();
            let all = all?;
            let leader = all.iter().find(|status| status.state == "Leader")?;
            let settled = all.iter().all(|status| {
                status.applied_index == leader.last_log_index
                    && status.term == leader.term
                    && status.leader == leader.leader
            });
            settled.then_some(leader.last_log_index)
        })
    }

    /// Waits until a look succeeds.
    pub fn wait<T>(&self, complaint: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let states: Vec<_> =
                (0..self.size()).map(|member| (Self::id(member), self.status(member))).collect();
            assert!(begin.elapsed() < PATIENCE, "{complaint}: {states:#?}");
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Lets all members apply the same entries, kills them all, and compares their images, which
    /// must be equal. The members can be started again.
    pub fn assert_equal_images(&mut self) {
        let index = self.wait_settled();
        let running: Vec<_> = (0..self.size()).filter(|member| self.is_running(*member)).collect();
        // Nobody gets to propose anything between the first and the last of them.
        for member in &running {
            self.pause(*member);
        }
        let mut images = Vec::new();
        for member in running {
            self.kill(member);
            let path = self.directory(member).join("db.sqlite");
            images.push((
                member,
                Image::read(&path)
                    .unwrap_or_else(|error| panic!("the image of {}: {error}", Self::id(member))),
            ));
        }
        let Some(((first, expected), others)) = images.split_first() else { return };
        for (member, image) in others {
            let different = expected.differing_pages(image);
            assert!(
                different.is_empty(),
                "at index {index} {} and {} differ in pages {different:?}",
                Self::id(*first),
                Self::id(*member),
            );
        }
    }

    /// The ends of the logs of all members.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (member, node) in &self.members {
            let log = node.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            write!(text, "--- {} ---\n{}\n", Self::id(*member), shown.join("\n"))
                .expect("a string takes everything");
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, node) in &mut self.members {
            node.process().signal(Signal::CONT);
        }
        if thread::panicking() {
            println!("{}", self.logs());
        }
    }
}
