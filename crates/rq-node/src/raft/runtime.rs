//! What openraft runs on: tokio, with chance of our own.
//!
//! openraft draws its election timeouts from the generator of its runtime. Here each is seeded by the machine's
//! randomness, or in a simulation by `seed_this_thread`, so that a run can be repeated. Everything else is
//! tokio's. In tests a task belongs to the node that spawned it and stands still while that is paused, and who
//! watches a value is woken in order.

use std::{fmt, time::Duration};

use futures_util::FutureExt as _;
use openraft::{
    AsyncRuntime, OptionalSend, impls::TokioRuntime, rt::deterministic_rng::DeterministicRng,
};

use crate::environment::{Entropy as _, SystemEntropy};

/// A generator that is seeded with what it is given, and nothing else.
type Seeded = DeterministicRng<TokioRuntime>;

/// See the module's documentation.
pub(crate) struct Runtime(TokioRuntime);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    #[cfg(not(test))]
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    #[cfg(test)]
    type Watch = crate::testing::watch::Orderly;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        #[cfg(test)]
        let future = crate::testing::pause::inherited(future);
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let drawn = Seeded::scope(seed(), async { Seeded::thread_rng() });
        drawn.now_or_never().expect("a generator waits for nothing")
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
thread_local! {
    static SIMULATED: std::cell::RefCell<Option<crate::environment::Seeded>> =
        const { std::cell::RefCell::new(None) };
}

/// From now on everything openraft draws on this thread follows from `seed`.
#[cfg(test)]
pub(crate) fn seed_this_thread(seed: u64) {
    SIMULATED.set(Some(crate::environment::Seeded::new(seed, 0)));
}

/// The seed of the next generator.
fn seed() -> u64 {
    #[cfg(test)]
    if let Some(seed) = SIMULATED.with_borrow(|seeded| seeded.as_ref().map(|seeded| seeded.next()))
    {
        return seed;
    }
    let mut bytes = [0; 8];
    SystemEntropy.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
