//! Generated input for everything that decodes what others wrote: request bodies, query strings,
//! SQL texts, what other nodes send, the files of the log.
//!
//! Each target runs for `RQ_FUZZ_SECONDS` (a short while by default) from `RQ_FUZZ_SEED`. A failure
//! is shrunk to a small input and printed with the seed that finds it again at once. "Nothing
//! panics" is never all that is asked: what was accepted must come back from its own encoding, and
//! what can be compared with something independent of the decoder is.

use std::{
    env,
    fmt::Debug,
    time::{Duration, Instant},
};

use proptest::{
    prelude::{Strategy, any, prop_oneof},
    sample::{Index, select},
    test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner},
};
use rq_tests::Random;

/// Bodies of requests.
mod bodies;

/// What other nodes send.
mod internode;

/// The files of the log.
mod log;

/// Query strings.
mod queries;

/// SQL texts: tokens, pieces, kinds.
mod sql;

/// How long a target runs if nobody says otherwise.
const DEFAULT_SECONDS: u64 = 3;

/// Cases of one round. Each round has a seed of its own, so that a failure is found again within it.
const ROUND: u32 = 32;

/// Tries until the time is up, at least one round.
fn fuzz<S>(strategy: &S, property: impl Fn(S::Value) -> TestCaseResult)
where
    S: Strategy,
    S::Value: Debug,
{
    let seconds = env::var("RQ_FUZZ_SECONDS").map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
    let (mut seeds, mut seed) = Random::from_environment("RQ_FUZZ_SEED", 1);
    eprintln!("RQ_FUZZ_SEED={seed} RQ_FUZZ_SECONDS={seconds}");
    let start = Instant::now();
    let mut rounds = 0_u64;
    while rounds == 0 || start.elapsed() < Duration::from_secs(seconds) {
        let config = Config {
            cases: ROUND,
            failure_persistence: None,
            max_shrink_iters: 20_000,
            ..Config::default()
        };
        let generator = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes(seed));
        match TestRunner::new_with_rng(config, generator).run(strategy, &property) {
            Ok(()) => {}
            Err(TestError::Fail(reason, input)) => {
                panic!("{reason}\nthe smallest input: {input:#?}\nrepeat with RQ_FUZZ_SEED={seed}")
            }
            Err(TestError::Abort(reason)) => panic!("{reason}, with RQ_FUZZ_SEED={seed}"),
        }
        seed = seeds.number();
        rounds += 1;
    }
    eprintln!("{} cases", rounds * u64::from(ROUND));
}

/// The generator's seed, from a number that can be typed.
fn seed_bytes(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// A small damage to bytes. Places are relative, so that they fit whatever came before.
#[derive(Clone, Debug)]
enum Mutation {
    /// Changes one bit.
    Flip(Index, u8),
    /// Cuts off all that follows.
    Cut(Index),
    /// Takes a byte out.
    Remove(Index),
    /// Puts bytes in.
    Insert(Index, Vec<u8>),
    /// Puts a part in once more, elsewhere.
    Copy { from: Index, length: Index, to: Index },
    /// Overwrites a part with zeros.
    Zero(Index, Index),
}

impl Mutation {
    /// Does it to the bytes up to `within`, so that most of a large file is left out.
    fn apply(&self, bytes: &mut Vec<u8>, within: usize) {
        let size = bytes.len().min(within);
        if size == 0 {
            return;
        }
        match self {
            Self::Flip(place, bit) => bytes[place.index(size)] ^= 1 << bit,
            Self::Cut(place) => bytes.truncate(place.index(size)),
            Self::Remove(place) => drop(bytes.remove(place.index(size))),
            Self::Insert(place, new) => {
                let place = place.index(size);
                bytes.splice(place..place, new.iter().copied()).for_each(drop);
            }
            Self::Copy { from, length, to } => {
                let (from, to) = (from.index(size), to.index(size));
                let part = bytes[from..from + length.index(size - from + 1)].to_vec();
                bytes.splice(to..to, part).for_each(drop);
            }
            Self::Zero(place, length) => {
                let place = place.index(size);
                let length = length.index(size - place + 1);
                bytes[place..place + length].fill(0);
            }
        }
    }
}

/// A few damages, and preferably bytes that mean something where they are put in.
fn mutations(meaningful: &'static [u8]) -> impl Strategy<Value = Vec<Mutation>> {
    let place = any::<Index>;
    let new = prop_oneof![
        3 => select(meaningful).prop_map(|byte| vec![byte]),
        1 => proptest::collection::vec(any::<u8>(), 0..9),
    ];
    let mutation = prop_oneof![
        2 => (place(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => place().prop_map(Mutation::Cut),
        2 => place().prop_map(Mutation::Remove),
        4 => (place(), new).prop_map(|(at, new)| Mutation::Insert(at, new)),
        1 => (place(), place(), place())
            .prop_map(|(from, length, to)| Mutation::Copy { from, length, to }),
        1 => (place(), place()).prop_map(|(at, length)| Mutation::Zero(at, length)),
    ];
    proptest::collection::vec(mutation, 0..5)
}

/// Parts of texts that lexers stumble over, and any character now and then.
fn text(parts_max: usize) -> impl Strategy<Value = String> {
    const PARTS: &[&str] = &[
        "SELECT",
        " ",
        "'",
        "\"",
        "x'00'",
        "é",
        "😀",
        "\u{2028}",
        "\0",
        "\\",
        "\n",
        "a",
        "?",
        ":n",
        ";",
        "--",
        "/*",
        "*/",
        "<&>",
        "BEGIN",
        "END",
        "CREATE TRIGGER",
        "TEMP",
        "EXPLAIN",
        "PRAGMA",
        "journal_mode",
        "=",
        "(",
        ")",
        "[",
        "]",
        "`",
        "1e9",
        "VACUUM",
        "INTO",
    ];
    let part = prop_oneof![
        12 => select(PARTS).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..parts_max).prop_map(|parts| parts.concat())
}
