//! A bound on the bytes a second that transfers send together.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::progress::lock;

/// What was not used for so long is lost.
const BURST: Duration = Duration::from_millis(100);

/// Who may send when.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    /// When everything admitted so far is sent at the rate.
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A bound; 0 is none.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::default() }
    }

    /// Waits until so many bytes may be sent.
    pub(super) async fn admit(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let nanoseconds = (bytes as u128 * 1_000_000_000) / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let begin = {
            let mut free_at = lock(&self.free_at);
            let now = Instant::now();
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let begin = free_at.map_or(earliest, |at| at.max(earliest));
            *free_at = Some(begin + takes);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time_together() {
        let throttle = Throttle::new(1_000_000);
        let began = Instant::now();
        for _ in 0..10 {
            tokio::join!(throttle.admit(500_000), throttle.admit(500_000));
        }
        let took = began.elapsed();
        assert!((9.0..10.1).contains(&took.as_secs_f64()), "{took:?}");
        let unlimited = Throttle::new(0);
        unlimited.admit(usize::MAX).await;
        assert_eq!(began.elapsed(), took);
    }
}
