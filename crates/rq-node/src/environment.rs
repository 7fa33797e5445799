//! The seams between a node and its machine: clock, randomness, files, and how work is driven.
//!
//! A node touches time, chance and the disk only through these. With the real ones it runs on
//! threads and the machine's disk; with simulated ones a whole node runs on one thread from one
//! seed, and a failing run can be repeated.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use rq_storage::{Execution, Files, RealFiles};

use crate::internode::{Network, NoNetwork};

/// The wall clock.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since 1970. May step back, as on any machine.
    fn now_ms(&self) -> i64;
}

/// The source of every random number of a node.
pub trait Entropy: Send + Sync + Debug {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// What a node runs on.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The wall clock, read when an entry is proposed.
    pub clock: Arc<dyn Clock>,
    /// Seeds of entries, identities.
    pub entropy: Arc<dyn Entropy>,
    /// The files of log, vote and identity.
    pub files: Arc<dyn Files>,
    /// The file layer beneath SQLite; `None` is the machine's own.
    pub database_files: Option<Arc<rq_sqlite::FaultDisk>>,
    /// Whether flusher, applier and checkpointer have threads of their own or run inline.
    pub execution: Execution,
    /// The way to the other nodes.
    pub network: Arc<dyn Network>,
    /// The engine epoch that is computed here: [`rq_sqlite::ENGINE_EPOCH`], but for tests.
    pub engine_epoch: i64,
}

impl Environment {
    /// The machine's own clock, randomness and files, with threads; no network.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            files: Arc::new(RealFiles),
            database_files: None,
            execution: Execution::Threads,
            network: Arc::new(NoNetwork),
            engine_epoch: rq_sqlite::ENGINE_EPOCH,
        }
    }
}

/// The machine's wall clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
        let now = std::time::SystemTime::now();
        match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }
}

/// The machine's randomness (`getrandom`).
#[derive(Debug)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the kernel gives random bytes");
    }
}

/// Randomness and time from one seed, for simulations.
#[derive(Debug)]
pub struct Seeded {
    state: Mutex<u64>,
    start_ms: i64,
}

impl Seeded {
    /// Everything follows from `seed`; the clock begins at `start_ms` and advances a little with each look.
    pub fn new(seed: u64, start_ms: i64) -> Self {
        Self { state: Mutex::new(seed), start_ms }
    }

    /// The next number (`SplitMix64`, Steele et al. 2014).
    pub fn next(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Entropy for Seeded {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

impl Clock for Seeded {
    fn now_ms(&self) -> i64 {
        // Steps both ways, as machines do after a correction of their clock.
        let wobble = i64::try_from(self.next() % 7_200_000).unwrap_or_default();
        self.start_ms + wobble
    }
}
