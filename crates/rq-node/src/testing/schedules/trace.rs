//! What happened in a run, to compare it with another run of the same seed and to tell of a failed one.

use std::{
    hash::{DefaultHasher, Hasher as _},
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

use crate::progress::lock;

/// Events of a run; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(Arc<Mutex<Events>>);

#[derive(Debug, Default)]
struct Events {
    begin: Option<Instant>,
    count: u64,
    hash: DefaultHasher,
    /// All of them, if they are kept.
    kept: Option<Vec<String>>,
    /// What was done to the cluster.
    steps: Vec<String>,
}

impl Trace {
    /// A trace that keeps its events.
    pub(super) fn keeping() -> Self {
        let trace = Self::default();
        lock(&trace.0).kept = Some(Vec::new());
        trace
    }

    /// Whether it keeps its events.
    pub(super) fn is_keeping(&self) -> bool {
        lock(&self.0).kept.is_some()
    }

    /// Notes an event.
    pub(super) fn note(&self, event: impl FnOnce() -> String) {
        let mut events = lock(&self.0);
        let line = format!("{:>7} {}", events.milliseconds(), event());
        events.count += 1;
        events.hash.write(line.as_bytes());
        if let Some(kept) = &mut events.kept {
            kept.push(line);
        }
    }

    /// Notes something that is done to the cluster.
    pub(super) fn step(&self, step: &str) {
        self.note(|| step.to_owned());
        let mut events = lock(&self.0);
        let line = format!("{:>7} ms  {step}", events.milliseconds());
        tracing::info!("STEP {line}");
        events.steps.push(line);
    }

    /// What was done to the cluster, a line each.
    pub(super) fn steps(&self) -> String {
        lock(&self.0).steps.join("\n")
    }

    /// The number of events and a hash of all.
    pub(super) fn digest(&self) -> (u64, u64) {
        let events = lock(&self.0);
        (events.count, events.hash.finish())
    }

    /// The events kept.
    pub(super) fn kept(&self) -> Vec<String> {
        lock(&self.0).kept.take().unwrap_or_default()
    }
}

impl Events {
    /// Simulated milliseconds since the first event.
    fn milliseconds(&mut self) -> u128 {
        self.begin.get_or_insert_with(Instant::now).elapsed().as_millis()
    }
}
