//! Noticing that files were replaced.
//!
//! Nothing runs in the background: whoever uses the files asks, and at most once per interval
//! the question reaches the file system. What changed is told by identity, size and
//! modification time, following symbolic links, so that a renamed-over file, a rewritten file
//! and a swapped link all count.

use std::{
    fmt::Display,
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Mutex, TryLockError},
    time::{Duration, Instant},
};

/// How often files are looked at, at most. A change is noticed by the first use after it.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A group of files that are loaded together.
pub(crate) struct Watch {
    paths: Vec<PathBuf>,
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    checked_at: Instant,
    seen: Vec<Option<Signature>>,
    /// The text of the last failure, so that it is reported once and not at every look.
    failure: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// What a look at the files led to.
pub(crate) enum Refresh<E> {
    /// Nothing to do: not time yet, nothing changed, or somebody else is looking right now.
    Unchanged,
    /// The files changed and were loaded.
    Loaded,
    /// The files changed and loading them failed for a reason not reported before.
    Failed(E),
}

impl Watch {
    /// Notes the present state of the files. To be called before they are read for the first
    /// time, so that a change during that reading is noticed later.
    pub(crate) fn new(paths: Vec<PathBuf>, interval: Duration) -> Self {
        let seen = signatures(&paths);
        let state = Mutex::new(State { checked_at: Instant::now(), seen, failure: None });
        Self { paths, interval, state }
    }

    /// Looks at the files if it is time, and calls `load` if they changed or if the last load
    /// failed. Loads never overlap; a caller that comes during one goes on with what is there.
    pub(crate) fn refresh<E: Display>(&self, load: impl FnOnce() -> Result<(), E>) -> Refresh<E> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::WouldBlock) => return Refresh::Unchanged,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        if state.checked_at.elapsed() < self.interval {
            return Refresh::Unchanged;
        }
        let now = signatures(&self.paths);
        state.checked_at = Instant::now();
        if now == state.seen && state.failure.is_none() {
            return Refresh::Unchanged;
        }
        state.seen = now;
        match load() {
            Ok(()) => {
                state.failure = None;
                Refresh::Loaded
            }
            Err(error) => {
                let text = error.to_string();
                if state.failure.as_ref() == Some(&text) {
                    return Refresh::Unchanged;
                }
                state.failure = Some(text);
                Refresh::Failed(error)
            }
        }
    }
}

fn signatures(paths: &[PathBuf]) -> Vec<Option<Signature>> {
    paths
        .iter()
        .map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some(Signature {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::symlink, time::SystemTime};

    use super::*;

    fn loads(watch: &Watch) -> bool {
        matches!(watch.refresh(|| Ok::<_, String>(())), Refresh::Loaded)
    }

    #[test]
    fn each_kind_of_change_is_noticed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let watch = Watch::new(vec![path.clone()], Duration::ZERO);
        assert!(!loads(&watch), "nothing changed");

        fs::write(&path, "longer").unwrap();
        assert!(loads(&watch), "size");
        assert!(!loads(&watch));

        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
            .unwrap();
        assert!(loads(&watch), "an older modification time is a change too");

        let other = folder.path().join("other");
        fs::write(&other, "longer").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(loads(&watch), "renamed over");

        fs::remove_file(&path).unwrap();
        assert!(loads(&watch), "gone");
        assert!(!loads(&watch), "still gone");
    }

    #[test]
    fn swapped_symbolic_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "same").unwrap();
        fs::write(path("b"), "same").unwrap();
        symlink(path("a"), path("link")).unwrap();
        let watch = Watch::new(vec![path("link")], Duration::ZERO);
        symlink(path("b"), path("new")).unwrap();
        fs::rename(path("new"), path("link")).unwrap();
        assert!(loads(&watch));
    }

    #[test]
    fn a_failure_is_reported_once_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let watch = Watch::new(vec![path.clone()], Duration::ZERO);
        fs::write(&path, "x").unwrap();
        let fail =
            |text: &str| matches!(watch.refresh(|| Err(text.to_owned())), Refresh::Failed(_));
        assert!(fail("first"));
        assert!(!fail("first"));
        assert!(fail("second"), "another reason is news");
        assert!(loads(&watch), "tried again although the file did not change");
        assert!(!loads(&watch));
    }

    #[test]
    fn within_the_interval_nobody_looks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let watch = Watch::new(vec![path.clone()], Duration::from_secs(3600));
        fs::write(&path, "x").unwrap();
        assert!(!loads(&watch));
    }
}
