//! What the applier was given, and an engine that is given the same without ever crashing.
//!
//! The applier tells the [`History`] that listens on its thread about each entry before it applies it.
//! Entries that were ever applied are durable in the log of a single node, so the same index must
//! never come with anything else: that alone finds acknowledged writes that were lost.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rq_sqlite::{
    Budget, Database, Entry, EntryId, Image, Operation, Options, Settings, WriterOptions,
};
use tempfile::TempDir;

use crate::{applier::Content, command::Command, progress::lock};

thread_local! {
    static LISTENING: RefCell<Option<History>> = const { RefCell::new(None) };
}

/// Everything that was ever applied, by index. Clones are the same history.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    by_index: BTreeMap<u64, (EntryId, Recorded)>,
    contradiction: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Recorded {
    Blank,
    Membership(Vec<u8>),
    Command(Arc<Command>),
}

/// Called by the applier before it applies an entry.
pub(crate) fn note(id: EntryId, content: &Content) {
    LISTENING.with_borrow(|listening| {
        if let Some(history) = listening {
            history.note(id, content);
        }
    });
}

impl History {
    /// Listens on this thread, until another history does.
    pub(super) fn listen(&self) {
        LISTENING.set(Some(self.clone()));
    }

    fn note(&self, id: EntryId, content: &Content) {
        let recorded = match content {
            Content::Blank => Recorded::Blank,
            Content::Membership(bytes) => Recorded::Membership(bytes.clone()),
            Content::Command(command) => Recorded::Command(Arc::clone(command)),
        };
        let mut entries = lock(&self.entries);
        match entries.by_index.get(&id.index) {
            Some(before) if *before != (id, recorded.clone()) => {
                let told = format!("entry {id:?} was {:?} once, and is {recorded:?} now", before.1);
                entries.contradiction.get_or_insert(told);
            }
            Some(_) => {}
            None => drop(entries.by_index.insert(id.index, (id, recorded))),
        }
    }

    /// Panics if an index ever came with two entries.
    pub(super) fn check(&self) {
        assert_eq!(lock(&self.entries).contradiction, None);
    }
}

/// An engine on the machine's own disk.
pub(super) struct Reference {
    database: Database,
    next: u64,
    _directory: TempDir,
}

impl Reference {
    pub(super) fn new(directory: TempDir) -> Self {
        let path = |name: &str| directory.path().join(name);
        let options = Options::new(path("db.sqlite"), path("scratch"));
        let database = Database::open(&options, WriterOptions::default()).unwrap();
        Self { database, next: 0, _directory: directory }
    }

    /// The image after the entry of this index.
    pub(super) fn image_at(&mut self, history: &History, index: u64) -> Image {
        let entries = lock(&history.entries);
        while self.next <= index {
            let (id, recorded) = entries.by_index.get(&self.next).expect("no entry was skipped");
            apply(&mut self.database, *id, recorded);
            self.next += 1;
        }
        assert_eq!(self.next, index + 1, "the applied index does not go back for good");
        self.database.checkpointer.image().unwrap()
    }
}

fn apply(database: &mut Database, id: EntryId, recorded: &Recorded) {
    let settings = Settings { foreign_keys: false, budget: Budget { steps: 0, pages: 0 } };
    let bare = |operation| Entry { id, clock_ms: 0, seed: [0; 16], settings, operation };
    let entry = match recorded {
        Recorded::Blank => bare(Operation::Blank),
        Recorded::Membership(bytes) => bare(Operation::Membership(bytes)),
        Recorded::Command(command) => command.entry(id),
    };
    database.writer.apply(&entry, false).unwrap();
}
