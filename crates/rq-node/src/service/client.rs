//! Asking another node something, and what it means when no answer comes.

use std::{sync::Arc, time::Duration};

use rq_security::Credentials;

use super::message::{Answer, Ask, Metadata, Request};
use crate::{
    Error,
    identity::Cluster,
    internode::{Call, CallError, Lane, Network},
};

/// How long resolving the name of another node may take: who asks for it waits a little longer for the answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks other nodes, on behalf of this one or of a client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    network: Arc<dyn Network>,
    cluster: Arc<Cluster>,
}

impl Client {
    pub(crate) fn new(network: Arc<dyn Network>, cluster: Arc<Cluster>) -> Self {
        Self { network, cluster }
    }

    /// Asks once. What changes something is never asked twice from here.
    ///
    /// # Errors
    /// What the other node answered, if that is an error. Nothing sent: [`Error::Unreachable`]. Sent and no answer:
    /// [`Error::OutcomeUnknown`] for what may have an effect, else [`Error::Unreachable`].
    pub(crate) async fn ask(
        &self,
        to: &str,
        ask: Ask,
        credentials: Option<Credentials>,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let has_effect = ask.has_effect();
        let (lane, revocable) = (ask.lane(), ask.is_about_data());
        let (cluster, time_left) = (self.cluster.id(), Some(timeout));
        let request = Request { cluster, credentials, time_left, ask }.encode();
        if request.len() > lane.request_bytes_max() {
            let (bytes, max) = (request.len() as u64, lane.request_bytes_max() as u64);
            return Err(Error::TooLarge { bytes, max });
        }
        let call = Call { to: to.to_owned(), lane, request, timeout, revocable };
        let lost = |reason: String| {
            if has_effect { Error::OutcomeUnknown(reason) } else { Error::Unreachable(reason) }
        };
        match self.network.call(call).await {
            Ok(bytes) => match Answer::decode(bytes) {
                Ok(Answer::Failed(error)) => Err(error),
                Ok(answer) => Ok(answer),
                Err(reason) => Err(lost(format!("{to}: its answer makes no sense: {reason}"))),
            },
            // The network says itself whom it could not reach.
            Err(CallError::NotSent(reason)) => Err(Error::Unreachable(reason)),
            Err(CallError::Unanswered(reason)) => Err(lost(reason)),
        }
    }

    /// Looks whether another node's name can be resolved from here.
    ///
    /// # Errors
    /// It cannot, within some seconds.
    pub(crate) async fn resolve(&self, address: &str) -> Result<(), Error> {
        let resolving = tokio::time::timeout(RESOLVE_TIMEOUT, self.network.resolve(address));
        let reason = match resolving.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(reason)) => reason,
            Err(_) => "no answer in time".to_owned(),
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Err(Error::Membership(format!("failed to resolve {host}: {reason}")))
    }

    /// Asks a node who it is.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(crate) async fn metadata(&self, to: &str, timeout: Duration) -> Result<Metadata, Error> {
        match self.ask(to, Ask::Metadata, None, timeout).await? {
            Answer::Metadata(metadata) => Ok(metadata),
            other => Err(unexpected(to, &other)),
        }
    }
}

/// An answer to something else than was asked.
pub(crate) fn unexpected(to: &str, answer: &Answer) -> Error {
    let kind = match answer {
        Answer::Metadata(_) => "metadata",
        Answer::Results { .. } => "results",
        Answer::Index(_) => "an index",
        Answer::Joined { .. } => "a membership",
        Answer::Done => "that it is done",
        Answer::Excluded(_) => "an exclusion",
        Answer::Failed(_) => "an error",
    };
    Error::OutcomeUnknown(format!("{to} answered with {kind}, which was not asked"))
}

impl Ask {
    /// Whether it may change something: then losing its answer leaves the outcome unknown.
    fn has_effect(&self) -> bool {
        match self {
            Self::Execute(_)
            | Self::Unified(_)
            | Self::Join(_)
            | Self::Found { .. }
            | Self::Remove(_)
            | Self::StepDown(_) => true,
            Self::Metadata | Self::Query(_) | Self::ReadIndex | Self::Notify(_) => false,
        }
    }

    /// Whether it reads or writes data. Nobody works on that for longer than somebody waits for it; what changes the
    /// cluster has time limits of its own.
    pub(super) fn is_about_data(&self) -> bool {
        matches!(self, Self::Execute(_) | Self::Query(_) | Self::Unified(_) | Self::ReadIndex)
    }

    fn lane(&self) -> Lane {
        match self {
            Self::Metadata | Self::ReadIndex => Lane::Control,
            _ => Lane::Service,
        }
    }
}
