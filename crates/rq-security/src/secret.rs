//! The cluster's secret: a file whose content nodes prove to each other that they know.
//!
//! The secret itself is never sent, logged or shown. What is proved is a message that both sides made up
//! together; nothing here decides what it is.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use ring::hmac::{self, HMAC_SHA256};

use crate::{
    error::Error,
    watch::{CHECK_INTERVAL, Refresh, Watch},
};

/// The bytes a secret must have, line ends at its end not counted; fewer could be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// The size up to which a secret's file is read; a larger one is an error.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The bytes of a proof.
pub const PROOF_BYTES: usize = 32;

/// That somebody knows the secret, as HMAC-SHA-256 over a message.
pub type Proof = [u8; PROOF_BYTES];

/// The secret of a file that may be replaced while it is in use.
///
/// - After a replacement both the new secret and the one before it count, until the process ends or the file
///   changes again. So a new one can be brought to one node after the other.
/// - A file that cannot be used never replaces a secret that can.
pub struct ClusterSecret {
    path: PathBuf,
    watch: Watch,
    keys: RwLock<SecretKeys>,
}

/// The secrets that count at one moment, the newest first.
#[derive(Clone)]
pub struct SecretKeys {
    newest: SecretKey,
    previous: Option<SecretKey>,
}

/// One secret, ready to prove with.
#[derive(Clone)]
pub struct SecretKey {
    hmac: hmac::Key,
}

impl ClusterSecret {
    /// Reads the secret.
    ///
    /// # Errors
    /// Fails if the file cannot be read, is larger than 64 KiB, or has fewer than 16 bytes besides line ends at
    /// its end.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let watch = Watch::new(vec![path.to_owned()], CHECK_INTERVAL);
        Self::open_watched(path, watch)
    }

    fn open_watched(path: &Path, watch: Watch) -> Result<Self, Error> {
        let newest = load(path)?;
        let keys = RwLock::new(SecretKeys { newest, previous: None });
        Ok(Self { path: path.to_owned(), watch, keys })
    }

    /// Gives the secrets that count now, after a look at the file if it is time for one (at most every second).
    pub fn keys(&self) -> SecretKeys {
        let path = self.path.display();
        let refresh = self.watch.refresh(|| {
            let newest = load(&self.path)?;
            let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
            if !keys.newest.is_same(&newest) {
                keys.previous = Some(std::mem::replace(&mut keys.newest, newest));
            }
            Ok::<_, Error>(())
        });
        match refresh {
            Refresh::Unchanged => {}
            Refresh::Loaded => tracing::info!(
                component = "mux",
                "reloading cluster secret at {path}, the previous one stays valid"
            ),
            Refresh::Failed(error) => tracing::error!(
                component = "mux",
                "failed to reload cluster secret ({error}), the present one stays in use"
            ),
        }
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SecretKeys {
    /// Proves to know each secret that counts, the newest first.
    pub fn prove(&self, message: &[u8]) -> Vec<Proof> {
        [Some(&self.newest), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|key| key.prove(message))
            .collect()
    }

    /// Finds the secret one of the proofs was made with; `None` if it is none of these. Takes as long for a wrong
    /// proof as for a right one.
    pub fn find(&self, message: &[u8], proofs: &[Proof]) -> Option<SecretKey> {
        let mut found = None;
        for key in [Some(&self.newest), self.previous.as_ref()].into_iter().flatten() {
            for proof in proofs {
                if hmac::verify(&key.hmac, message, proof).is_ok() && found.is_none() {
                    found = Some(key.clone());
                }
            }
        }
        found
    }
}

impl SecretKey {
    /// Proves to know this secret.
    pub fn prove(&self, message: &[u8]) -> Proof {
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(hmac::sign(&self.hmac, message).as_ref());
        proof
    }

    fn is_same(&self, other: &Self) -> bool {
        const QUESTION: &[u8] = b"is this the same secret";
        hmac::verify(&self.hmac, QUESTION, &other.prove(QUESTION)).is_ok()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClusterSecret").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SecretKeys").finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SecretKey").finish_non_exhaustive()
    }
}

fn load(path: &Path) -> Result<SecretKey, Error> {
    let unreadable = |error: std::io::Error| Error::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned(), limit_bytes: FILE_BYTES_MAX });
    }
    let end = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
    let secret = &bytes[..end];
    if secret.len() < SECRET_BYTES_MIN {
        let reason =
            format!("it has {} bytes, at least {SECRET_BYTES_MIN} are needed", secret.len());
        return Err(Error::BadSecret { path: path.to_owned(), reason });
    }
    if mode & 0o007 != 0 {
        let path = path.display();
        tracing::warn!(
            component = "mux",
            "everybody on this machine can read the cluster secret at {path}"
        );
    }
    Ok(SecretKey { hmac: hmac::Key::new(HMAC_SHA256, secret) })
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    fn open(path: &Path) -> Result<ClusterSecret, Error> {
        ClusterSecret::open_watched(path, Watch::new(vec![path.to_owned()], Duration::ZERO))
    }

    #[test]
    fn line_ends_do_not_count_and_short_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let rows: [(&[u8], bool); 6] = [
            (b"0123456789abcdef", true),
            (b"0123456789abcdef\r\n\n", true),
            (b"0123456789abcde", false),
            (b"0123456789abcde\n", false),
            (b"\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n", false),
            (b"", false),
        ];
        for (content, is_good) in rows {
            fs::write(&path, content).unwrap();
            assert_eq!(open(&path).is_ok(), is_good, "{content:?}");
        }
        fs::write(&path, vec![b'x'; 65 * 1024]).unwrap();
        assert!(matches!(open(&path), Err(Error::TooLarge { .. })));
        assert!(matches!(open(&folder.path().join("none")), Err(Error::Unreadable { .. })));
    }

    #[test]
    fn the_same_secret_with_another_line_end_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::write(&one, "0123456789abcdef").unwrap();
        fs::write(&two, "0123456789abcdef\n").unwrap();
        let (one, two) = (open(&one).unwrap().keys(), open(&two).unwrap().keys());
        assert!(one.find(b"message", &two.prove(b"message")).is_some());
        assert!(one.find(b"another message", &two.prove(b"message")).is_none());
    }

    #[test]
    fn after_a_change_the_new_and_the_previous_secret_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secrets = ["the first secret.", "the second secret", "the third secret!"];
        let replace = |content: &str| {
            let new = folder.path().join("new");
            fs::write(&new, content).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        let foreign = |content: &str| {
            let file = folder.path().join("foreign");
            fs::write(&file, content).unwrap();
            open(&file).unwrap().keys().prove(b"m")
        };
        replace(secrets[0]);
        let secret = open(&path).unwrap();
        let known = |secret: &ClusterSecret| {
            secrets.map(|content| secret.keys().find(b"m", &foreign(content)).is_some())
        };
        assert_eq!(known(&secret), [true, false, false]);
        replace(secrets[1]);
        assert_eq!(known(&secret), [true, true, false]);
        assert_eq!(secret.keys().prove(b"m")[0], foreign(secrets[1])[0], "the newest is first");
        replace("short");
        assert_eq!(known(&secret), [true, true, false], "a bad file changes nothing");
        replace(secrets[1]);
        assert_eq!(known(&secret), [true, true, false], "the same again displaces nothing");
        replace(secrets[2]);
        assert_eq!(known(&secret), [false, true, true]);
    }

    #[test]
    fn nothing_shows_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "very secret words").unwrap();
        let secret = open(&path).unwrap();
        let shown = format!("{secret:?} {:?}", secret.keys());
        assert!(!shown.contains("very"), "{shown}");
    }
}
