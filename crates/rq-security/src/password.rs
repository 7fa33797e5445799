//! Passwords as the credentials file stores them, and their verification.
//!
//! - A plaintext password is kept only as a keyed digest; comparing digests takes the same time
//!   wherever two passwords differ and however long they are.
//! - An Argon2id hash costs tens of milliseconds and some megabytes per attempt. So attempts
//!   run a few at a time, a bounded number waits, and a success is remembered under a keyed
//!   digest of hash and password. Failures are never remembered.
//! - Who presents a name nobody has must wait as long as who presents a wrong password, or the time
//!   of an answer would tell which names exist: a decoy costs what the costliest hash costs.
//!
//! The key is drawn at start and never leaves the process. Nothing here holds a password longer
//! than the call that presents it.

use std::{
    collections::HashSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use argon2::{Argon2, Params, PasswordHash, PasswordVerifier as _};
use ring::{hmac, rand::SystemRandom};

/// How many hashes are computed at the same time; further ones wait.
const HASHES_RUNNING_MAX: usize = 2;
/// How many attempts may wait for their hash; beyond it the answer is [`Verdict::Busy`].
const HASHES_WAITING_MAX: usize = 64;
/// How many successes are remembered; beyond it an arbitrary one is forgotten and costs a hash
/// again when it comes back.
const REMEMBERED_MAX: usize = 1024;
/// The memory, in KiB, a hash in the file may ask for; a file with more is refused.
const HASH_MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// The passes over the memory a hash in the file may ask for; a file with more is refused.
const HASH_PASSES_MAX: u32 = 64;

/// The prefix that makes a stored password a hash.
pub(crate) const HASH_PREFIX: &str = "$argon2id$";

/// A stored password.
pub(crate) enum Secret {
    /// The keyed digest of a plaintext password.
    Plain(hmac::Tag),
    /// The text of an Argon2id hash, checked when it was read.
    Hash(String),
    /// The same, as something to fail on: it costs a hash and never matches.
    Decoy(String),
}

impl Secret {
    /// What verifying it costs, to compare with others: memory times passes; 0 without a hash.
    pub(crate) fn cost(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Hash(text) | Self::Decoy(text) => PasswordHash::new(text)
                .ok()
                .and_then(|hash| Params::try_from(&hash).ok())
                .map_or(0, |params| u64::from(params.m_cost()) * u64::from(params.t_cost())),
        }
    }

    /// A decoy that costs what this one costs; none if that is nothing.
    pub(crate) fn decoy(&self) -> Option<Self> {
        match self {
            Self::Plain(_) => None,
            Self::Hash(text) | Self::Decoy(text) => Some(Self::Decoy(text.clone())),
        }
    }
}

/// What verifying a presented password led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the stored one.
    Match,
    /// It is not.
    Mismatch,
    /// Only a hash computation can tell, and the caller asked not to wait for one.
    NeedsHash,
    /// Too many attempts wait for their hash already.
    Busy,
}

/// Verifies presented passwords against stored ones.
pub(crate) struct Verifier {
    key: hmac::Key,
    remembered: Mutex<HashSet<[u8; 32]>>,
    gate: Gate,
}

impl Verifier {
    /// Draws the key of this process. Fails if the system has no randomness to give.
    pub(crate) fn new() -> Result<Self, String> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| "the system gives no random bytes".to_owned())?;
        let gate = Gate { state: Mutex::default(), left: Condvar::new() };
        Ok(Self { key, remembered: Mutex::default(), gate })
    }

    /// Turns the text of the file into a stored password; the error says why a hash is none.
    pub(crate) fn store(&self, text: &str) -> Result<Secret, String> {
        if !text.starts_with(HASH_PREFIX) {
            return Ok(Secret::Plain(hmac::sign(&self.key, text.as_bytes())));
        }
        let hash = PasswordHash::new(text).map_err(|error| error.to_string())?;
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err("salt or hash is missing".to_owned());
        }
        let parameters = Params::try_from(&hash).map_err(|error| error.to_string())?;
        if parameters.m_cost() > HASH_MEMORY_KIB_MAX || parameters.t_cost() > HASH_PASSES_MAX {
            return Err(format!(
                "it asks for more than {HASH_MEMORY_KIB_MAX} KiB or {HASH_PASSES_MAX} passes"
            ));
        }
        Ok(Secret::Hash(text.to_owned()))
    }

    /// Verifies without computing a hash.
    pub(crate) fn verify_at_once(&self, secret: &Secret, presented: &str) -> Verdict {
        match secret {
            Secret::Plain(tag) => {
                match hmac::verify(&self.key, presented.as_bytes(), tag.as_ref()) {
                    Ok(()) => Verdict::Match,
                    Err(_) => Verdict::Mismatch,
                }
            }
            Secret::Hash(text) => {
                if lock(&self.remembered).contains(&self.digest(text, presented)) {
                    Verdict::Match
                } else {
                    Verdict::NeedsHash
                }
            }
            Secret::Decoy(_) => Verdict::NeedsHash,
        }
    }

    /// Verifies, computing a hash if it takes one. Blocks for as long as that and the attempts
    /// before it take.
    pub(crate) fn verify(&self, secret: &Secret, presented: &str) -> Verdict {
        let verdict = self.verify_at_once(secret, presented);
        let (Verdict::NeedsHash, Secret::Hash(text) | Secret::Decoy(text)) = (verdict, secret)
        else {
            return verdict;
        };
        let Some(_turn) = self.gate.enter() else { return Verdict::Busy };
        // Clients often open many connections with the same password at once; whoever waited
        // may find the work done.
        let digest = self.digest(text, presented);
        let is_decoy = matches!(secret, Secret::Decoy(_));
        if !is_decoy && lock(&self.remembered).contains(&digest) {
            return Verdict::Match;
        }
        let verified = Argon2::default().verify_password(presented.as_bytes(), text.as_str());
        if verified.is_err() || is_decoy {
            return Verdict::Mismatch;
        }
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED_MAX
            && let Some(forgotten) = remembered.iter().next().copied()
        {
            remembered.remove(&forgotten);
        }
        remembered.insert(digest);
        Verdict::Match
    }

    fn digest(&self, hash: &str, presented: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // The separator cannot occur in a hash, so no two pairs give the same bytes.
        context.update(hash.as_bytes());
        context.update(b"\0");
        context.update(presented.as_bytes());
        context.sign().as_ref().try_into().expect("a SHA-256 tag has 32 bytes")
    }
}

/// Lets a few in at a time and keeps a short queue.
struct Gate {
    state: Mutex<Occupancy>,
    left: Condvar,
}

#[derive(Default)]
struct Occupancy {
    running: usize,
    waiting: usize,
}

/// Leaves the gate when dropped.
struct Turn<'a>(&'a Gate);

impl Gate {
    fn enter(&self) -> Option<Turn<'_>> {
        let mut state = lock(&self.state);
        if state.running >= HASHES_RUNNING_MAX {
            if state.waiting >= HASHES_WAITING_MAX {
                return None;
            }
            state.waiting += 1;
            while state.running >= HASHES_RUNNING_MAX {
                state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.waiting -= 1;
        }
        state.running += 1;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
        self.0.left.notify_one();
    }
}

/// Locks; a panic elsewhere leaves these structures consistent, so poison is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use argon2::{Algorithm, CustomizedPasswordHasher as _, Version};

    use super::*;

    fn hash(password: &str, salt: &[u8; 16]) -> String {
        let parameters = Params::new(64, 1, 1, None).unwrap();
        Argon2::default()
            .hash_password_customized(
                password.as_bytes(),
                salt,
                Some(Algorithm::Argon2id.as_str()),
                Some(Version::V0x13.into()),
                parameters,
            )
            .unwrap()
            .to_string()
    }

    #[test]
    fn plaintext_matches_only_itself() {
        let verifier = Verifier::new().unwrap();
        let secret = verifier.store("secret").unwrap();
        assert_eq!(verifier.verify_at_once(&secret, "secret"), Verdict::Match);
        for wrong in ["", "secre", "secret ", "Secret", "secret\0", &"x".repeat(100_000)] {
            assert_eq!(verifier.verify_at_once(&secret, wrong), Verdict::Mismatch);
        }
    }

    #[test]
    fn a_hash_matches_its_password_and_not_itself() {
        let verifier = Verifier::new().unwrap();
        let text = hash("secret", b"0123456789abcdef");
        let secret = verifier.store(&text).unwrap();
        assert_eq!(verifier.verify(&secret, &text), Verdict::Mismatch);
        assert_eq!(verifier.verify(&secret, "wrong"), Verdict::Mismatch);
        assert_eq!(verifier.verify_at_once(&secret, "secret"), Verdict::NeedsHash);
        assert_eq!(verifier.verify(&secret, "secret"), Verdict::Match);
        assert_eq!(verifier.verify_at_once(&secret, "secret"), Verdict::Match, "remembered");
        assert_eq!(verifier.verify_at_once(&secret, &text), Verdict::NeedsHash);
        let other = verifier.store(&hash("other", b"0123456789abcdef")).unwrap();
        assert_eq!(
            verifier.verify_at_once(&other, "secret"),
            Verdict::NeedsHash,
            "what one user proved proves nothing for another"
        );
    }

    #[test]
    fn a_decoy_costs_what_its_hash_costs_and_never_matches() {
        let verifier = Verifier::new().unwrap();
        let secret = verifier.store(&hash("secret", b"0123456789abcdef")).unwrap();
        let decoy = secret.decoy().expect("a hash has a decoy");
        assert_eq!((secret.cost(), decoy.cost()), (64, 64));
        assert_eq!(verifier.verify(&secret, "secret"), Verdict::Match);
        for presented in ["secret", "wrong"] {
            assert_eq!(verifier.verify_at_once(&decoy, presented), Verdict::NeedsHash);
            assert_eq!(verifier.verify(&decoy, presented), Verdict::Mismatch);
        }
        // It stands in the same queue, so it is computed.
        *lock(&verifier.gate.state) =
            Occupancy { running: HASHES_RUNNING_MAX, waiting: HASHES_WAITING_MAX };
        assert_eq!(verifier.verify(&decoy, "wrong"), Verdict::Busy);
        let plain = verifier.store("plain").unwrap();
        assert_eq!(plain.cost(), 0);
        assert!(plain.decoy().is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let verifier = Verifier::new().unwrap();
        let full: HashSet<[u8; 32]> = (0..REMEMBERED_MAX)
            .map(|number| {
                let mut digest = [0; 32];
                digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
                digest
            })
            .collect();
        *lock(&verifier.remembered) = full;
        let secret = verifier.store(&hash("secret", b"0123456789abcdef")).unwrap();
        assert_eq!(verifier.verify(&secret, "secret"), Verdict::Match);
        assert_eq!(lock(&verifier.remembered).len(), REMEMBERED_MAX);
        assert_eq!(verifier.verify_at_once(&secret, "secret"), Verdict::Match);
    }

    #[test]
    fn hashes_that_cannot_be_computed_are_refused_when_read() {
        let verifier = Verifier::new().unwrap();
        let good = hash("secret", b"0123456789abcdef");
        for bad in [
            "$argon2id$".to_owned(),
            "$argon2id$v=19$m=64,t=1,p=1".to_owned(),
            "$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg".to_owned(),
            good.replace("m=64", "m=2097152"),
            good.replace("t=1", "t=1000"),
            good.replace("m=64", "m=x"),
        ] {
            assert!(verifier.store(&bad).is_err(), "{bad}");
        }
        assert!(verifier.store(&good).is_ok());
    }

    #[test]
    fn beyond_the_queue_attempts_are_turned_away() {
        let gate = Gate { state: Mutex::default(), left: Condvar::new() };
        let turns: Vec<_> = (0..HASHES_RUNNING_MAX).map(|_| gate.enter().unwrap()).collect();
        lock(&gate.state).waiting = HASHES_WAITING_MAX;
        assert!(gate.enter().is_none());
        lock(&gate.state).waiting = 0;
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| gate.enter().is_some());
            drop(turns);
            assert!(waiter.join().unwrap(), "whoever waits gets its turn");
        });
        assert_eq!(lock(&gate.state).running, 0);
    }
}
