//! Rounds: one confirmation serves all reads that wait for it.
//!
//! A linearizable read needs to know that this node still leads, a strong one needs an entry of its
//! own in the log. Both take a while, and both serve any number of reads that were waiting when they
//! began. So reads queue, and a task runs one round after the other: a read that comes while a round is
//! running waits for the next, because the running one may have begun before something it must see.

use tokio::sync::{mpsc, oneshot};

use crate::Error;

/// Rounds of one kind, each giving a `T` (an index).
#[derive(Debug)]
pub(crate) struct Rounds<T> {
    queue: mpsc::UnboundedSender<oneshot::Sender<Result<T, Error>>>,
}

impl<T: Clone + Send + 'static> Rounds<T> {
    /// Starts the task; `round` runs one round.
    pub(crate) fn start<F, R>(round: F) -> Self
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Result<T, Error>> + Send,
    {
        let (queue, mut waiting) = mpsc::unbounded_channel::<oneshot::Sender<Result<T, Error>>>();
        tokio::spawn(async move {
            let mut served = Vec::new();
            while let Some(first) = waiting.recv().await {
                served.push(first);
                while let Ok(more) = waiting.try_recv() {
                    served.push(more);
                }
                let result = round().await;
                for reader in served.drain(..) {
                    // A reader that has gone does not need it.
                    drop(reader.send(result.clone()));
                }
            }
        });
        Self { queue }
    }

    /// Waits for a round that begins after this call.
    ///
    /// # Errors
    /// The round's error, or the node is stopping.
    pub(crate) async fn join(&self) -> Result<T, Error> {
        let (reader, result) = oneshot::channel();
        self.queue.send(reader).map_err(|_| Error::ShuttingDown)?;
        result.await.map_err(|_| Error::ShuttingDown)?
    }
}
