//! Data directories: new, known, doubtful, locked, unusable, and crashes in the first start.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::{
    FaultFiles, OperationKind, RealFiles, Verdict,
    testing::{Countdown, Hook, Random, inline_options, open_with, quiet_files},
};

/// Something done to a data directory.
type Change = fn(&Path);

/// Whether an error is the right one.
type IsExpected = fn(&Error) -> bool;

fn identity(incarnation: u64) -> NodeIdentity {
    NodeIdentity {
        node_id: "one".to_owned(),
        cluster_id: Some("c".to_owned()),
        incarnation,
        created_ms: 5,
    }
}

fn open(root: &Path, node_id: Option<&str>) -> Result<DataDirectory, Error> {
    DataDirectory::open(Arc::new(RealFiles), root, node_id)
}

/// A directory that was started once: identity stored, log created.
fn started() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut directory = open(root.path(), Some("one")).unwrap();
    assert_eq!(directory.identity(), &Identity::New);
    directory.store_identity(identity(u64::MAX - 1)).unwrap();
    open_with(&quiet_files(), &directory.raft(), inline_options(1)).unwrap();
    root
}

#[test]
fn a_stored_identity_is_known_again() {
    let root = started();
    for node_id in [None, Some("one")] {
        let directory = open(root.path(), node_id).unwrap();
        assert_eq!(directory.identity(), &Identity::Known(identity(u64::MAX - 1)));
    }
}

#[test]
fn another_node_id_is_refused_with_the_stored_one() {
    let root = started();
    let error = open(root.path(), Some("two")).unwrap_err();
    assert!(matches!(error, Error::NodeIdDiffers { .. }), "{error}");
    assert!(error.to_string().contains("\"one\""), "{error}");
}

#[test]
fn half_a_directory_is_a_new_member() {
    let known = identity(u64::MAX - 1);
    let other = identity(3);
    let cases: [(Change, Doubt); 5] = [
        (|root| fs::remove_file(root.join("node.json")).unwrap(), Doubt::NodeFileMissing),
        (|root| fs::remove_dir_all(root.join("raft")).unwrap(), Doubt::RaftMissing),
        (|root| fs::remove_file(root.join("raft/incarnation")).unwrap(), Doubt::RaftMissing),
        (|root| fs::write(root.join("raft/incarnation"), "x").unwrap(), Doubt::RaftDamaged),
        (
            |root| fs::write(root.join("raft/incarnation"), encode_incarnation(3)).unwrap(),
            Doubt::Differ { node: u64::MAX - 1, raft: 3 },
        ),
    ];
    for (change, expected) in cases {
        let root = started();
        change(root.path());
        let mut directory = open(root.path(), None).unwrap();
        let Identity::Doubtful { doubt, stored } = directory.identity() else {
            panic!("{expected}: {:?}", directory.identity())
        };
        assert_eq!(*doubt, expected);
        assert_eq!(stored.is_some(), expected != Doubt::NodeFileMissing);
        assert!(stored.as_ref().is_none_or(|stored| *stored == known));
        directory.store_identity(other.clone()).unwrap();
        drop(directory);
        let directory = open(root.path(), None).unwrap();
        assert_eq!(directory.identity(), &Identity::Known(other.clone()));
    }
}

#[test]
fn a_changed_byte_of_the_incarnation_is_never_another_incarnation() {
    let root = started();
    let path = root.path().join("raft/incarnation");
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let directory = open(root.path(), None).unwrap();
        assert!(
            matches!(directory.identity(), Identity::Doubtful { doubt: Doubt::RaftDamaged, .. }),
            "bit {bit}"
        );
    }
}

#[test]
fn a_locked_directory_is_refused_with_the_pid() {
    let root = started();
    let held = open(root.path(), None).unwrap();
    fs::write(held.scratch().join("in use"), "").unwrap();
    let error = open(root.path(), None).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, Error::Locked { pid: Some(found), .. } if found == pid), "{error}");
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
    assert!(held.scratch().join("in use").exists(), "nothing was changed");
    drop(held);
    open(root.path(), None).unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named_and_left() {
    let newer = r#"{"format": 2, "anything": []}"#;
    let cases: [(&str, IsExpected); 3] = [
        (newer, |error| matches!(error, Error::NewerFormat { found: 2, .. })),
        ("", |error| matches!(error, Error::Corrupt { .. })),
        ("{\"format\": 1}", |error| matches!(error, Error::Corrupt { .. })),
    ];
    for (text, expected) in cases {
        let root = started();
        let path = root.path().join("node.json");
        fs::write(&path, text).unwrap();
        fs::write(root.path().join("scratch/left"), "").unwrap();
        let error = open(root.path(), None).unwrap_err();
        assert!(expected(&error), "{text}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert!(root.path().join("scratch/left").exists());
    }
    let root = started();
    let path = root.path().join("node.json");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = open(root.path(), None).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_full_disk_and_missing_rights_are_told_in_words() {
    let cases = [
        (io::ErrorKind::StorageFull, "the disk is full"),
        (io::ErrorKind::PermissionDenied, "no permission"),
        (io::ErrorKind::ReadOnlyFilesystem, "no permission"),
    ];
    for (kind, words) in cases {
        let root = tempfile::tempdir().unwrap();
        let hook = Hook(move |operation: &crate::Operation<'_>| {
            if operation.kind == OperationKind::CreateDirectory {
                Verdict::Fail(kind)
            } else {
                Verdict::Proceed
            }
        });
        let files = Arc::new(FaultFiles::new(Arc::new(hook)));
        let path = root.path().join("data");
        let error = DataDirectory::open(files, &path, None).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn scratch_is_emptied_and_everything_else_left() {
    let root = started();
    let scratch = root.path().join("scratch");
    fs::create_dir_all(scratch.join("deep/er")).unwrap();
    fs::write(scratch.join("deep/er/file"), "x").unwrap();
    fs::write(scratch.join("file"), "x").unwrap();
    fs::write(root.path().join("foreign"), "x").unwrap();
    let directory = open(root.path(), None).unwrap();
    assert_eq!(fs::read_dir(directory.scratch()).unwrap().count(), 0);
    assert!(root.path().join("foreign").exists());
    assert!(directory.free_space().unwrap() > 0);
}

#[test]
fn what_we_create_is_for_our_user_only() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("a/b");
    let mut directory = open(&root, None).unwrap();
    directory.store_identity(identity(1)).unwrap();
    for (name, mode) in [
        ("", 0o700),
        ("..", 0o700),
        ("raft", 0o700),
        ("scratch", 0o700),
        ("node.json", 0o600),
        ("node.lock", 0o600),
        ("raft/incarnation", 0o600),
    ] {
        let found = fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

/// Whatever the moment of the crash, the next start sees a new directory or the stored node.
#[test]
fn the_first_start_survives_a_crash_at_any_operation() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("data");
        let hook = Countdown::never();
        let files = Arc::new(FaultFiles::new(Arc::clone(&hook) as _));
        let mut stored = false;
        for attempt in 0..4 {
            hook.arm(if attempt < 3 { random.below(30) } else { 1 << 40 }, Verdict::Crash);
            let opened = DataDirectory::open(Arc::clone(&files) as _, &root, Some("one"));
            if let Ok(mut directory) = opened {
                match directory.identity() {
                    Identity::New => {
                        assert!(!stored, "seed {seed}: a stored identity is gone");
                        stored = directory.store_identity(identity(attempt)).is_ok();
                    }
                    Identity::Known(_) => stored = true,
                    Identity::Doubtful { doubt, .. } => panic!("seed {seed}: {doubt}"),
                }
                if stored {
                    // The log comes after the identity, and may be cut short as well.
                    let _ = open_with(&files, &directory.raft(), inline_options(1)).is_ok();
                }
            }
            files.crash();
            if random.below(2) == 0 {
                files.restart();
            } else {
                files.lose_unsynced(&mut || random.next()).unwrap();
            }
        }
        assert!(stored, "seed {seed}: the last attempt was not disturbed");
    }
}
