//! A disk of one member: small, to be filled, and one that can stop answering.
//!
//! It is a file system of its own in a file, mounted through a loop device; needs root. Dropping it
//! makes it answer again and removes it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tempfile::TempDir;

/// A mounted file system.
#[derive(Debug)]
pub struct Disk {
    place: TempDir,
    frozen: AtomicBool,
}

impl Disk {
    /// Creates and mounts a file system of this many bytes.
    ///
    /// # Errors
    /// A command is missing, or the user may not mount.
    pub fn create(bytes: u64) -> Result<Self, String> {
        let place = TempDir::with_prefix("rq-disk-").map_err(|error| error.to_string())?;
        let image = place.path().join("image");
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        let mount = place.path().join("mount");
        fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let disk = Self { place, frozen: AtomicBool::new(false) };
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)])?;
        run("mount", &["-o", "loop,noatime", &text(&image), &text(&mount)])?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.place.path().join("mount")
    }

    /// Takes space until only this much is left.
    pub fn fill(&self, left: u64) {
        let filler = self.filler();
        let mut file =
            File::options().create(true).append(true).open(filler).expect("a file on the disk");
        let chunk = vec![0; 64 << 10];
        while let Some(wanted) = self.free().checked_sub(left).filter(|wanted| *wanted > 0) {
            let wanted = usize::try_from(wanted.min(chunk.len() as u64)).expect("a chunk");
            if file.write(&chunk[..wanted]).is_err() {
                break;
            }
        }
    }

    /// Gives back the space that was taken.
    pub fn release(&self) {
        // There is nothing to give back unless it was filled.
        let _absent = fs::remove_file(self.filler());
    }

    /// Makes everything that writes to it wait.
    pub fn freeze(&self) {
        if !self.frozen.swap(true, Ordering::Relaxed) {
            run("fsfreeze", &["--freeze", &text(&self.path())]).expect("a mounted file system");
        }
    }

    /// Lets everything that waits go on.
    pub fn thaw(&self) {
        if self.frozen.swap(false, Ordering::Relaxed) {
            run("fsfreeze", &["--unfreeze", &text(&self.path())]).expect("a frozen file system");
        }
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(self.path()).expect("a mounted file system");
        space.f_bavail * space.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        // Lazily, because a process that was just killed may still be letting go of it.
        let unmounted = run("umount", &["--lazy", &text(&self.path())]);
        if let (Err(error), false) = (unmounted, thread::panicking()) {
            panic!("{error}");
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {} (root is needed): {}", arguments.join(" "), said.trim()))
}
