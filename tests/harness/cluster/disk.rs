//! A disk of one member: small, to be filled, and one that can stop answering.
//!
//! It is a file system of its own in a file, mounted through a loop device; needs root. Dropping it removes it. A process
//! of its own sees to that, and to its answering again: one that hangs, or stays mounted, would be left behind by a program
//! that is interrupted or killed.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use tempfile::TempDir;

/// Waits for the end of whoever started it. Unmounts lazily, because a process that was just killed may still be letting go.
const KEEPER_SCRIPT: &str =
    r#"read -r _; fsfreeze --unfreeze "$1" 2>/dev/null; umount --lazy "$1""#;

/// A mounted file system.
#[derive(Debug)]
pub struct Disk {
    place: TempDir,
    keeper: Child,
}

/// A file system that does not answer. Dropping this makes it answer again.
#[derive(Debug)]
#[must_use = "it answers again as soon as this is dropped"]
pub struct Frozen<'a> {
    disk: &'a Disk,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = run("fsfreeze", &["--unfreeze", &text(&self.disk.path())]);
        if let (Err(error), false) = (thawed, thread::panicking()) {
            panic!("{error}");
        }
    }
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
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)])?;
        run("mount", &["-o", "loop,noatime", &text(&image), &text(&mount)])?;
        let keeper = keep(&mount).map_err(|error| {
            // Which of the two failed does not matter to who wanted a disk.
            let _unmounted = run("umount", &[&text(&mount)]);
            format!("the keeper of a disk: {error}")
        })?;
        Ok(Self { place, keeper })
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
    ///
    /// # Errors
    /// The command is missing, or it is frozen.
    pub fn freeze(&self) -> Result<Frozen<'_>, String> {
        run("fsfreeze", &["--freeze", &text(&self.path())])?;
        Ok(Frozen { disk: self })
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
        drop(self.keeper.stdin.take());
        let ended = self.keeper.wait();
        if !thread::panicking() {
            let status = ended.expect("a child can be waited for");
            assert!(status.success(), "unmounting {}: {status}", self.path().display());
        }
    }
}

/// Starts the process that makes a disk answer and unmounts it when this one drops it or ends, however it ends.
fn keep(mount: &Path) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", KEEPER_SCRIPT, "keeper", &text(mount)])
        .stdin(Stdio::piped())
        // What interrupts this program from a terminal must not reach it.
        .process_group(0)
        .spawn()
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
