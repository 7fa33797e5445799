//! A network of our own: every member in a namespace of its own, and every packet through our hands.
//!
//! Each namespace has one TUN interface. What a member sends comes out of it here, in this process,
//! and is delivered to another member's interface, later, or never, as the rule of that direction
//! says. So partitions are real ones (packets vanish, connections stay), may concern one direction
//! only, and delay, loss and rate need nothing from the kernel but `/dev/net/tun`. This process has
//! an interface too, whose packets no rule touches unless told: the clients' side.
//!
//! Needs root and the commands `ip` and `nsenter`. Namespaces carry the process id in their name;
//! those of processes that are gone are removed by the next one, and what still runs in them.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{self, Command},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tun_rs::{DeviceBuilder, InterruptEvent, SyncDevice};

use crate::Random;

/// The beginning of the names of our namespaces.
const PREFIX: &str = "rqt-";

/// The largest packet. Larger than on most networks, so that bulk costs fewer of them.
const MTU: u16 = 9000;

/// How much may wait on a link with a rate, in time; what comes when more waits is dropped.
const QUEUE_TIME_MAX: Duration = Duration::from_millis(200);

/// What happens to packets in one direction between two members.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// All vanish.
    pub cut: bool,
    /// Of a thousand, this many vanish by chance.
    pub loss_permille: u32,
    /// How long each is on its way at least.
    pub delay: Duration,
    /// How much longer by chance, at most; packets may overtake each other then.
    pub jitter: Duration,
    /// How many bytes pass in a second at most; 0 for no limit.
    pub bytes_per_second: u64,
}

impl Link {
    /// A link on which nothing passes.
    pub const CUT: Self = Self {
        cut: true,
        loss_permille: 0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        bytes_per_second: 0,
    };
}

/// A network of members numbered from 0, and this process. Dropping it removes it.
#[derive(Debug)]
pub struct Network {
    name: String,
    prefix: [u8; 3],
    switch: Arc<Switch>,
    threads: Vec<JoinHandle<()>>,
}

impl Network {
    /// Creates the namespaces of this many members, all links open.
    ///
    /// # Errors
    /// This machine or this user lacks something; the sentence says what.
    pub fn create(members: usize, seed: u64) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static TURN: Mutex<()> = Mutex::new(());
        assert!(members < 200, "the last addresses are for others");
        // An address is seen to be taken once its interface has it: two networks made at the same time would be one.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        remove_leftovers()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", process::id());
        let prefix = free_prefix()?;
        let mut devices = Vec::new();
        for member in 0..=members {
            devices.push(create_device(&name, prefix, member, members)?);
        }
        drop(turn);
        let switch = Arc::new(Switch {
            prefix,
            host: members,
            devices,
            interrupt: InterruptEvent::new().map_err(|error| format!("a pipe: {error}"))?,
            state: Mutex::new(State::new(members, seed)),
            later: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut threads: Vec<_> = (0..=members)
            .map(|member| {
                let switch = Arc::clone(&switch);
                thread::spawn(move || switch.forward_from(member))
            })
            .collect();
        threads.push({
            let switch = Arc::clone(&switch);
            thread::spawn(move || switch.deliver_later())
        });
        Ok(Self { name, prefix, switch, threads })
    }

    /// The name of a member's namespace.
    pub fn namespace(&self, member: usize) -> String {
        namespace(&self.name, member)
    }

    /// The address of a member, which this process can reach.
    pub fn address(&self, member: usize) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, last_byte(member, self.switch.host))
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.switch.host
    }

    /// Sets the rule of one direction.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.switch.state().links[from][to] = link;
    }

    /// Sets the rule of both directions.
    pub fn set_both(&self, one: usize, other: usize, link: Link) {
        self.set(one, other, link);
        self.set(other, one, link);
    }

    /// Sets the rule between all members, both directions.
    pub fn set_all(&self, link: Link) {
        for one in 0..self.members() {
            for other in 0..one {
                self.set_both(one, other, link);
            }
        }
    }

    /// Cuts these members off from all others; among themselves the links stay as they are.
    pub fn isolate(&self, members: &[usize]) {
        for &one in members {
            for other in (0..self.members()).filter(|other| !members.contains(other)) {
                self.set_both(one, other, Link::CUT);
            }
        }
    }

    /// Sets the rule between a member and this process, both directions.
    pub fn set_client_side(&self, member: usize, link: Link) {
        self.set_both(member, self.switch.host, link);
    }

    /// Opens all links.
    pub fn heal(&self) {
        for links in &mut self.switch.state().links {
            links.fill(Link::default());
        }
    }

    /// How many packets have vanished so far.
    pub fn lost_packets(&self) -> u64 {
        self.switch.state().lost
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.switch.state().ended = true;
        self.switch.changed.notify_all();
        // It fails only if the pipe is gone, and with it the threads.
        let _gone = self.switch.interrupt.trigger();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the network broke");
        }
        for member in 0..self.members() {
            remove_namespace(&self.namespace(member));
        }
    }
}

/// What the threads of a network share.
struct Switch {
    prefix: [u8; 3],
    /// The number of this process among the devices: one behind the last member.
    host: usize,
    devices: Vec<SyncDevice>,
    interrupt: InterruptEvent,
    state: Mutex<State>,
    later: Mutex<BinaryHeap<Reverse<Delayed>>>,
    changed: Condvar,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Switch").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What changes while a network lives.
struct State {
    links: Vec<Vec<Link>>,
    /// When each link with a rate has sent what waits for it.
    free_at: Vec<Vec<Instant>>,
    random: Random,
    lost: u64,
    ended: bool,
}

impl State {
    fn new(members: usize, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            links: vec![vec![Link::default(); members + 1]; members + 1],
            free_at: vec![vec![now; members + 1]; members + 1],
            random: Random::new(seed),
            lost: 0,
            ended: false,
        }
    }

    /// When a packet arrives: `Some(None)` for at once, `None` for never.
    #[expect(clippy::option_option, reason = "never, at once, and later are three things")]
    fn arrival(&mut self, from: usize, to: usize, bytes: usize) -> Option<Option<Instant>> {
        let link = self.links[from][to];
        if link == Link::default() {
            return Some(None);
        }
        if link.cut || self.random.below(1000) < u64::from(link.loss_permille) {
            self.lost += 1;
            return None;
        }
        let now = Instant::now();
        let mut sent = now;
        if link.bytes_per_second > 0 {
            let begin = self.free_at[from][to].max(now);
            if begin - now > QUEUE_TIME_MAX {
                self.lost += 1;
                return None;
            }
            sent = begin + Duration::from_secs_f64(bytes as f64 / link.bytes_per_second as f64);
            self.free_at[from][to] = sent;
        }
        let jitter = u64::try_from(link.jitter.as_nanos()).expect("a jitter of seconds at most");
        let chance = if jitter == 0 { 0 } else { self.random.below(jitter) };
        Some(Some(sent + link.delay + Duration::from_nanos(chance)))
    }
}

/// A packet on its way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    due: Instant,
    /// The order of sending, for those due at the same time.
    number: u64,
    to: usize,
    packet: Vec<u8>,
}

impl Switch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of a network panics")
    }

    /// Takes what one device sends until the end.
    fn forward_from(&self, from: usize) {
        let mut packet = vec![0; usize::from(MTU) + 64];
        let mut number = 0;
        loop {
            let received = self.devices[from].recv_intr(&mut packet, &self.interrupt);
            if self.state().ended {
                return;
            }
            // A device without its namespace receives nothing more; the others go on.
            let Ok(length) = received else { return };
            let Some(to) = self.receiver(&packet[..length]) else { continue };
            let Some(arrival) = self.state().arrival(from, to, length) else { continue };
            number += 1;
            match arrival {
                None => self.deliver(to, &packet[..length]),
                Some(due) => {
                    let packet = packet[..length].to_vec();
                    let mut later = self.later.lock().expect("no thread of a network panics");
                    later.push(Reverse(Delayed { due, number, to, packet }));
                    self.changed.notify_all();
                }
            }
        }
    }

    /// Whose address a packet bears, or `None` for what is not for anybody here.
    fn receiver(&self, packet: &[u8]) -> Option<usize> {
        let [a, b, c, last] = packet.get(16..20)?.try_into().ok()?;
        let version = packet[0] >> 4;
        if version != 4 || [a, b, c] != self.prefix {
            return None;
        }
        (0..=self.host).find(|member| last_byte(*member, self.host) == last)
    }

    fn deliver(&self, to: usize, packet: &[u8]) {
        // A full queue or a device that is being removed drops it, as a network may.
        let _dropped = self.devices[to].send(packet);
    }

    /// Delivers what was delayed until the end.
    fn deliver_later(&self) {
        let mut later = self.later.lock().expect("no thread of a network panics");
        loop {
            if self.state().ended {
                return;
            }
            let wait = later.peek().map_or(Duration::from_millis(100), |Reverse(next)| {
                next.due.saturating_duration_since(Instant::now())
            });
            if wait > Duration::ZERO {
                later = self
                    .changed
                    .wait_timeout(later, wait)
                    .expect("no thread of a network panics")
                    .0;
                continue;
            }
            if let Some(Reverse(next)) = later.pop() {
                drop(later);
                self.deliver(next.to, &next.packet);
                later = self.later.lock().expect("no thread of a network panics");
            }
        }
    }
}

/// The last byte of an address: members count from 1, this process has the last one.
fn last_byte(member: usize, host: usize) -> u8 {
    if member == host { 254 } else { u8::try_from(member + 1).expect("fewer than 200 members") }
}

fn namespace(network: &str, member: usize) -> String {
    format!("{network}-{member}")
}

/// The first three bytes of a network that no interface of this machine has.
fn free_prefix() -> Result<[u8; 3], String> {
    let used = run("ip", &["-o", "-4", "address", "show"])?;
    let start = process::id();
    (0..10_000)
        .map(|offset| {
            let [low, high, ..] = (start + offset).to_le_bytes();
            [10, 128 | (high & 0x7f), low]
        })
        .find(|[a, b, c]| !used.contains(&format!(" {a}.{b}.{c}.")))
        .ok_or_else(|| "no network address is free".to_owned())
}

/// Creates a device, and moves it into its member's namespace unless it is that of this process.
fn create_device(
    network: &str,
    prefix: [u8; 3],
    member: usize,
    host: usize,
) -> Result<SyncDevice, String> {
    let interface = format!("{}{member}", network.trim_start_matches(PREFIX).replace('-', "n"));
    let interface = format!("rq{interface}");
    let device = DeviceBuilder::new()
        .name(&interface)
        .mtu(MTU)
        .enable(false)
        .build_sync()
        .map_err(|error| format!("a TUN interface (root is needed): {error}"))?;
    device.set_nonblocking(true).map_err(|error| format!("a TUN interface: {error}"))?;
    let [a, b, c] = prefix;
    let address = format!("{a}.{b}.{c}.{}/24", last_byte(member, host));
    let mut within = Vec::new();
    if member != host {
        let name = namespace(network, member);
        run("ip", &["netns", "add", &name])?;
        run("ip", &["link", "set", &interface, "netns", &name])?;
        run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        within = vec!["-n".to_owned(), name];
    }
    let ip = |words: &[&str]| {
        let arguments: Vec<&str> =
            within.iter().map(String::as_str).chain(words.to_vec()).collect();
        run("ip", &arguments)
    };
    ip(&["address", "add", &address, "dev", &interface])?;
    ip(&["link", "set", &interface, "mtu", &MTU.to_string(), "up"])?;
    Ok(device)
}

/// Removes the namespaces of processes that are gone, and ends what still runs in them.
fn remove_leftovers() -> Result<(), String> {
    for line in run("ip", &["netns", "list"])?.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(owner) = owner
            && !Path::new("/proc").join(owner).exists()
        {
            let processes = run("ip", &["netns", "pids", name]).unwrap_or_default();
            for process in processes.split_whitespace() {
                // It may have ended by itself meanwhile.
                let _ended = run("kill", &["-KILL", process]);
            }
            remove_namespace(name);
        }
    }
    Ok(())
}

fn remove_namespace(name: &str) {
    if let Err(error) = run("ip", &["netns", "delete", name])
        && fs::exists(format!("/run/netns/{name}")).unwrap_or(true)
        && !thread::panicking()
    {
        panic!("{error}");
    }
}

/// Runs a command and returns what it prints.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), said.trim()))
}
