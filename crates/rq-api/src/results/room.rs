//! The memory that all answers may take together: those being made, and those on their way to clients.
//!
//! Small answers are not counted; the number of connections bounds them. Nothing here waits: who finds no room
//! is refused, because what holds the room is as likely as not waiting for a slow client.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes up to which an answer is not counted.
const SMALL_ANSWER_BYTES: usize = 64 << 10;

/// The unit in which a share grows, so that rows seldom touch the common counter.
const STEP_BYTES: usize = 64 << 10;

/// The memory of all answers, in bytes.
#[derive(Debug)]
pub struct Room {
    most: usize,
    taken: AtomicUsize,
}

impl Room {
    /// Room for `most` bytes; 0 is without limit.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0) })
    }

    /// Bytes taken now, small answers not counted.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// What one answer takes of the room; given back when dropped.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    bytes: usize,
}

impl Share {
    /// An answer that takes nothing yet.
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self { room, bytes: 0 }
    }

    /// Makes the share large enough for `bytes`, unless there is no room.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes.max(SMALL_ANSWER_BYTES) {
            return true;
        }
        let more = bytes.next_multiple_of(STEP_BYTES) - self.bytes;
        let before = self.room.taken.fetch_add(more, Ordering::Relaxed);
        if self.room.most != 0 && before.saturating_add(more) > self.room.most {
            self.room.taken.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }

    /// Whether it takes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Makes the share exactly so large, whether there is room or not.
    pub(super) fn settle(&mut self, bytes: usize) {
        let bytes = if bytes <= SMALL_ANSWER_BYTES { 0 } else { bytes };
        if bytes == self.bytes {
            return;
        }
        self.room.taken.fetch_add(bytes, Ordering::Relaxed);
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}
