//! What SQL on the writer may see of the world: the entry's clock and the entry's randomness.
//!
//! One [`Ambient`] belongs to one writer connection. Its VFS answers "now" from it, its functions
//! `random()` and `randomblob()` draw from it, `total_changes()` counts from it. Everything in it
//! derives from the entry being applied and the number of the request, never from this node; so two
//! nodes that apply the same entry see the same world. It must never read a real clock.
//!
//! The generator is `ChaCha` with 20 rounds (RFC 8439's block function), which is also what SQLite
//! itself uses: `random()` stays as hard to predict as the entry's seed, and only integer arithmetic
//! on 32-bit words is used, so it is equal on every CPU.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use crate::prng;

/// Bytes of one block of the generator.
const BLOCK: usize = 64;

/// Where the key stands in the state.
const KEY_WORDS: std::ops::Range<usize> = 4..12;

/// Fills the key behind seed and request number, so that the stream is ours alone.
const DOMAIN: [u32; 2] = [u32::from_le_bytes(*b"rq:r"), u32::from_le_bytes(*b"and1")];

/// The world of one writer connection.
pub(crate) struct Ambient {
    /// Milliseconds since 1970. Relaxed ordering is enough: SQLite reads it on the thread that runs
    /// the statement, which is the one that set it.
    clock_ms: AtomicI64,
    /// The connection's `sqlite3_total_changes64` when the request began.
    total_changes_before: AtomicI64,
    generator: Mutex<Generator>,
}

impl Ambient {
    /// A world at 1970 with a zero seed, until the first entry begins.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock_ms: AtomicI64::new(0),
            total_changes_before: AtomicI64::new(0),
            generator: Mutex::new(Generator::new([0; 16], 0)),
        })
    }

    /// Sets the clock and the seed of an entry. Its requests then begin with
    /// [`RequestStart::begin_request`](crate::functions::RequestStart::begin_request).
    pub(crate) fn begin_entry(&self, clock_ms: i64, seed: [u8; 16]) {
        self.clock_ms.store(clock_ms, Ordering::Relaxed);
        *self.generator() = Generator::new(seed, 0);
    }

    /// Starts the randomness of request `number` of the entry from its beginning. Running a request
    /// again after this draws the same numbers.
    pub(crate) fn begin_request(&self, number: u64, total_changes: i64) {
        self.total_changes_before.store(total_changes, Ordering::Relaxed);
        let mut generator = self.generator();
        let seed = generator.seed;
        *generator = Generator::new(seed, number);
    }

    /// The entry's clock in milliseconds since 1970.
    pub(crate) fn clock_ms(&self) -> i64 {
        self.clock_ms.load(Ordering::Relaxed)
    }

    /// The connection's total of changes when the request began.
    pub(crate) fn total_changes_before(&self) -> i64 {
        self.total_changes_before.load(Ordering::Relaxed)
    }

    /// What the numbers SQLite draws for itself follow from. Costs nothing, and draws nothing from the
    /// request's generator.
    pub(crate) fn engine_key(&self) -> u64 {
        let generator = self.generator();
        let words = generator.state[KEY_WORDS].iter();
        words.fold(0, |sum, word| prng::mix(sum ^ u64::from(*word)))
    }

    /// Fills `bytes` from the request's generator.
    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        self.generator().fill(bytes);
    }

    /// A poisoned lock only says that some statement panicked; the generator has no invariant to lose.
    fn generator(&self) -> std::sync::MutexGuard<'_, Generator> {
        self.generator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ambient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ambient").field("clock_ms", &self.clock_ms()).finish_non_exhaustive()
    }
}

/// The `ChaCha20` key stream of one request.
struct Generator {
    seed: [u8; 16],
    state: [u32; 16],
    block: [u8; BLOCK],
    used: usize,
}

impl Generator {
    /// Computes nothing yet: most requests never ask.
    fn new(seed: [u8; 16], request: u64) -> Self {
        let mut key = [0; 8];
        for (word, bytes) in key.iter_mut().zip(seed.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let [a, b, c, d, e, f, g, h] = request.to_le_bytes();
        key[4] = u32::from_le_bytes([a, b, c, d]);
        key[5] = u32::from_le_bytes([e, f, g, h]);
        key[6] = DOMAIN[0];
        key[7] = DOMAIN[1];
        Self { seed, state: initial_state(key), block: [0; BLOCK], used: BLOCK }
    }

    fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.used == BLOCK {
                self.block = block(&self.state);
                // Two words of counter: a request would have to draw 2^70 bytes to wrap around.
                let (low, carried) = self.state[12].overflowing_add(1);
                self.state[12] = low;
                self.state[13] = self.state[13].wrapping_add(u32::from(carried));
                self.used = 0;
            }
            let count = bytes.len().min(BLOCK - self.used);
            let (now, rest) = bytes.split_at_mut(count);
            now.copy_from_slice(&self.block[self.used..self.used + count]);
            self.used += count;
            bytes = rest;
        }
    }
}

/// The constants of `ChaCha`, the key, a zero counter and a zero nonce.
fn initial_state(key: [u32; 8]) -> [u32; 16] {
    let mut state = [0; 16];
    state[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    state[KEY_WORDS].copy_from_slice(&key);
    state
}

/// One block of the key stream.
fn block(state: &[u32; 16]) -> [u8; BLOCK] {
    let mut mixed = *state;
    for _ in 0..10 {
        quarter_round(&mut mixed, 0, 4, 8, 12);
        quarter_round(&mut mixed, 1, 5, 9, 13);
        quarter_round(&mut mixed, 2, 6, 10, 14);
        quarter_round(&mut mixed, 3, 7, 11, 15);
        quarter_round(&mut mixed, 0, 5, 10, 15);
        quarter_round(&mut mixed, 1, 6, 11, 12);
        quarter_round(&mut mixed, 2, 7, 8, 13);
        quarter_round(&mut mixed, 3, 4, 9, 14);
    }
    let mut bytes = [0; BLOCK];
    for ((chunk, mixed), before) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(mixed).zip(state) {
        *chunk = mixed.wrapping_add(*before).to_le_bytes();
    }
    bytes
}

fn quarter_round(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (left, right) in [(16, 12), (8, 7)] {
        state[a] = state[a].wrapping_add(state[b]);
        state[d] = (state[d] ^ state[a]).rotate_left(left);
        state[c] = state[c].wrapping_add(state[d]);
        state[b] = (state[b] ^ state[c]).rotate_left(right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_function_equals_the_published_vector() {
        let first = block(&initial_state([0; 8]));
        let expected = [
            0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86,
            0xbd, 0x28, 0xbd, 0xd2, 0x19, 0xb8, 0xa0, 0x8d, 0xed, 0x1a, 0xa8, 0x36, 0xef, 0xcc,
            0x8b, 0x77, 0x0d, 0xc7, 0xda, 0x41, 0x59, 0x7c, 0x51, 0x57, 0x48, 0x8d, 0x77, 0x24,
            0xe0, 0x3f, 0xb8, 0xd8, 0x4a, 0x37, 0x6a, 0x43, 0xb8, 0xf4, 0x15, 0x18, 0xa1, 0x1c,
            0xc3, 0x87, 0xb6, 0x69, 0xb2, 0xee, 0x65, 0x86,
        ];
        assert_eq!(first, expected);
    }

    fn draw(ambient: &Ambient, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        ambient.fill(&mut bytes);
        bytes
    }

    #[test]
    fn equal_seed_and_request_draw_equal_bytes_however_they_are_cut() {
        let (left, right) = (Ambient::new(), Ambient::new());
        for ambient in [&left, &right] {
            ambient.begin_entry(7, [9; 16]);
            ambient.begin_request(3, 0);
        }
        let whole = draw(&left, 300);
        let pieces: Vec<u8> = [1, 62, 2, 64, 171].iter().flat_map(|n| draw(&right, *n)).collect();
        assert_eq!(whole, pieces);
    }

    #[test]
    fn another_request_or_seed_draws_other_bytes_and_a_repeated_one_the_same() {
        let ambient = Ambient::new();
        ambient.begin_entry(0, [1; 16]);
        ambient.begin_request(0, 0);
        let first = draw(&ambient, 32);
        ambient.begin_request(1, 0);
        assert_ne!(first, draw(&ambient, 32));
        ambient.begin_request(0, 0);
        assert_eq!(first, draw(&ambient, 32));
        ambient.begin_entry(0, [2; 16]);
        ambient.begin_request(0, 0);
        assert_ne!(first, draw(&ambient, 32));
    }
}
