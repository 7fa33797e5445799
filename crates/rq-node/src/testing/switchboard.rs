//! A network of nodes in one process: calls go straight to the answerer of the address, unless the line is cut.
//! Every name can be resolved but those under `.invalid`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    internode::{Answerer, Call, CallError, Lane, Network},
    progress::lock,
};

/// Connects nodes by their addresses.
#[derive(Clone, Default)]
pub(super) struct Switchboard(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    answerers: BTreeMap<String, Arc<dyn Answerer>>,
    cut: BTreeSet<(String, String)>,
    /// Addresses without a machine, and how long it takes to find that out.
    dead: BTreeMap<String, Duration>,
    /// Addresses whose entries wait, while everything else arrives.
    held: BTreeSet<String>,
}

/// One node's side of a switchboard.
#[derive(Clone)]
pub(super) struct Line {
    board: Switchboard,
    own: String,
}

impl Switchboard {
    /// The line of the node at this address.
    pub(super) fn line(&self, own: &str) -> Arc<dyn Network> {
        Arc::new(Line { board: self.clone(), own: own.to_owned() })
    }

    /// Who answers at this address.
    pub(super) fn answerer(&self, address: &str) -> Option<Arc<dyn Answerer>> {
        lock(&self.0).answerers.get(address).cloned()
    }

    /// Cuts a node off, or connects it again; calls from and to it are lost without a word.
    pub(super) fn isolate(&self, address: &str, others: &[String], cut: bool) {
        let mut lines = lock(&self.0);
        for other in others.iter().filter(|other| *other != address) {
            for pair in [(address.to_owned(), other.clone()), (other.clone(), address.to_owned())] {
                if cut {
                    lines.cut.insert(pair);
                } else {
                    lines.cut.remove(&pair);
                }
            }
        }
    }

    /// Loses calls from the first to the second of each pair; answers to calls in the other direction arrive.
    pub(super) fn cut_lines(&self, pairs: &[(String, String)]) {
        lock(&self.0).cut.extend(pairs.iter().cloned());
    }

    /// Holds the entries that are sent to this address, or lets them go: its node answers everything else.
    pub(super) fn hold_entries(&self, address: &str, held: bool) {
        let mut lines = lock(&self.0);
        if held {
            lines.held.insert(address.to_owned());
        } else {
            lines.held.remove(address);
        }
    }

    /// From now on nobody can connect to this address; who tries knows after a while.
    pub(super) fn bury(&self, address: &str, found_out_after: Duration) {
        lock(&self.0).dead.insert(address.to_owned(), found_out_after);
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({})", self.own)
    }
}

impl Network for Line {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let Self { board, own } = self.clone();
        Box::pin(async move {
            let Call { to, lane, request, timeout, revocable: _ } = call;
            let dead = lock(&board.0).dead.get(&to).copied();
            if let Some(after) = dead {
                tokio::time::sleep(after.min(timeout)).await;
                return Err(CallError::NotSent(format!("{to}: nobody answers the call")));
            }
            let holds = || lane == Lane::Append && lock(&board.0).held.contains(&to);
            let began = tokio::time::Instant::now();
            while holds() {
                if began.elapsed() >= timeout {
                    return Err(CallError::Unanswered(format!("{to}: no answer in time")));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let answerer = {
                let lines = lock(&board.0);
                let cut = lines.cut.contains(&(own, to.clone()));
                (!cut).then(|| lines.answerers.get(&to).cloned())
            };
            match answerer {
                None => {
                    tokio::time::sleep(timeout.min(Duration::from_secs(60))).await;
                    Err(CallError::Unanswered(format!("{to}: no answer in time")))
                }
                Some(None) => Err(CallError::NotSent(format!("{to}: connection refused"))),
                Some(Some(answerer)) => {
                    match tokio::time::timeout(timeout, answerer.answer(lane, request)).await {
                        Ok(answer) => Ok(answer),
                        Err(_) => Err(CallError::Unanswered(format!("{to}: no answer in time"))),
                    }
                }
            }
        })
    }

    fn resolve(&self, address: &str) -> BoxFuture<'static, Result<(), String>> {
        let known = !address.contains(".invalid:");
        let resolved = if known { Ok(()) } else { Err("nobody has this name".to_owned()) };
        Box::pin(std::future::ready(resolved))
    }

    fn listen(&self, answerer: Option<Arc<dyn Answerer>>) {
        let mut lines = lock(&self.board.0);
        match answerer {
            Some(answerer) => drop(lines.answerers.insert(self.own.clone(), answerer)),
            None => drop(lines.answerers.remove(&self.own)),
        }
    }
}
