//! A clock that jumps, for one process: libfaketime, which the system's packages bring.
//!
//! The process sees a wall clock that is off by what stands in a file, read at each look at it. Its
//! monotonic clock stays true, as on a machine whose clock was set.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the library is found, below these directories.
const LIBRARIES: [&str; 2] = ["/usr/lib", "/usr/lib64"];

/// Its file, the variant for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// A clock of one process.
#[derive(Clone, Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// A clock, true as yet, whose file lies in this directory.
    ///
    /// # Errors
    /// The library is not there.
    pub fn create(directory: &Path, name: &str) -> Result<Self, String> {
        let clock = Self { library: library()?, file: directory.join(name) };
        clock.set(0);
        Ok(clock)
    }

    /// The environment variables that make a process use it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
        vec![
            pair("LD_PRELOAD", &self.library),
            pair("FAKETIME_TIMESTAMP_FILE", &self.file),
            pair("FAKETIME_NO_CACHE", Path::new("1")),
            pair("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
        ]
    }

    /// Makes the clock differ from the true one by this many seconds from now on.
    pub fn set(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("a file in a directory of ours");
        // Whoever reads it at this moment reads the old one or the new one.
        fs::rename(&new, &self.file).expect("a file in a directory of ours");
    }
}

fn library() -> Result<PathBuf, String> {
    for root in LIBRARIES {
        let direct = Path::new(root).join(LIBRARY);
        let below = fs::read_dir(root).into_iter().flatten().flatten();
        let candidates = below.map(|entry| entry.path().join(LIBRARY)).chain([direct]);
        if let Some(found) = candidates.into_iter().find(|path| path.is_file()) {
            return Ok(found);
        }
    }
    Err("libfaketime is not installed (the package libfaketime)".to_owned())
}
