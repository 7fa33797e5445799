//! The signals that stop the node, and the promise that it does stop.
//!
//! They are caught on a thread of their own: reads run on the threads of the runtime, and a read that SQLite
//! cannot be interrupted in may occupy all of them. Nothing on this thread may wait for the node, for a
//! request, or without limit for the log.

use std::{io, sync::mpsc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::timeout,
};

/// How long a node may usually take to stop once it is told to. Beyond: the process ends as it is. What was
/// acknowledged is on the disk by then, as it is at any moment.
pub(crate) const STOP_TIME: Duration = Duration::from_millis(4800);
/// How long a log line may take whose reader has stopped reading. Beyond: it goes unheard.
const LINE_TIME: Duration = Duration::from_millis(100);

/// Exit code of a process that was told to end, and did.
const STOPPED_CODE: i32 = 0;
/// Exit code of a process that was told twice.
const ABANDONED_CODE: i32 = 1;

/// What the node learns of signals: that the first one came. The deadline for stopping, and the end at the
/// second one, need nobody's help.
pub(crate) struct Signals {
    is_told: watch::Receiver<bool>,
}

impl Signals {
    /// Catches the two signals from now on; after the first one the process has `stop_time` to end.
    ///
    /// # Errors
    /// The operating system gives no thread, or does not let the signals be caught.
    pub(crate) fn catch(stop_time: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let caught = {
            let _entered = runtime.enter();
            Caught {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            }
        };
        let (told, is_told) = watch::channel(false);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || end_when_told(&runtime, caught, &told, stop_time))?;
        Ok(Self { is_told })
    }

    /// Whether the first one has come.
    pub(crate) fn is_told(&self) -> bool {
        *self.is_told.borrow()
    }

    /// Waits for the first one; returns at once if it has come.
    pub(crate) async fn first(&mut self) {
        if self.is_told.wait_for(|is_told| *is_told).await.is_err() {
            // The thread ends only with the process.
            std::future::pending::<()>().await;
        }
    }
}

/// Waits for the signals, and ends the process at the second one or when the deadline has passed.
fn end_when_told(
    runtime: &Runtime,
    mut caught: Caught,
    told: &watch::Sender<bool>,
    stop_time: Duration,
) -> ! {
    let first = runtime.block_on(caught.next());
    // Said before the node is told, because what the node says follows from it.
    within_line_time(move || tracing::info!("received signal {first:?}"));
    told.send_replace(true);
    let second = runtime.block_on(async { timeout(stop_time, caught.next()).await });
    let code = match second {
        Ok(name) => {
            within_line_time(move || {
                tracing::warn!("received signal {name:?} while stopping, ending at once");
                tracing::error!("stopped before everything was finished");
            });
            ABANDONED_CODE
        }
        Err(_elapsed) => {
            within_line_time(|| {
                tracing::warn!("requests that cannot be cancelled are still running, ending now");
            });
            STOPPED_CODE
        }
    };
    #[expect(clippy::exit, reason = "the thread that would return from main may be held up")]
    std::process::exit(code);
}

/// Says something, but waits no longer than [`LINE_TIME`] until it is said.
fn within_line_time(say: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let speaker = thread::Builder::new().name("last-words".to_owned()).spawn(move || {
        say();
        // Whoever waited may have given up.
        let _nobody = done.send(());
    });
    if speaker.is_ok() {
        let _unheard = is_done.recv_timeout(LINE_TIME);
    }
}

/// The two signals that stop a node.
struct Caught {
    terminate: Signal,
    interrupt: Signal,
}

impl Caught {
    /// Waits for the next one and gives its name as Go has it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "terminated",
            _ = self.interrupt.recv() => "interrupt",
        }
    }
}
