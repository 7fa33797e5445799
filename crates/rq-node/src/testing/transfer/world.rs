//! Databases, and a network that does to each call what a test wants.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rq_sql::Statement;
use rq_sqlite::{
    Arrival, Budget, Database, Entry, EntryId, FaultDisk, Image, Maintenance, Mode, Operation,
    PageSnapshot, Request, Settings, WalSize, WriterOptions,
};
use rq_storage::{Execution, Files, RealFiles};
use tempfile::TempDir;

use crate::{
    applier::{Applier, Core},
    durability::Durability,
    environment::Seeded,
    internode::{Answerer, Call, CallError, Lane, Network},
    metrics::Metrics,
    progress::{Progress, lock},
    testing::crash::scratch_directory,
    transfer::{
        Cargo, Landing, Received, Receiver, Sent, TransferError, TransferOptions, Transfers,
    },
    turns::Turns,
};

/// The address of the receiver.
pub(super) const TO: &str = "receiver:4002";

/// The database of a node, without the node.
pub(super) struct Party {
    pub(super) applier: Arc<Applier>,
    pub(super) durability: Arc<Durability>,
    pub(super) progress: Arc<Progress>,
    pub(super) receiver: Receiver,
    wal: WalSize,
    /// What the database was after each entry.
    images: Mutex<BTreeMap<u64, Image>>,
    pub(super) directory: TempDir,
}

/// Admits all but the header "stranger".
struct Ground {
    applier: Arc<Applier>,
    durability: Arc<Durability>,
}

impl Landing for Ground {
    fn admit(&self, header: &[u8]) -> Result<(), String> {
        if header == b"stranger" { Err("it is a stranger".to_owned()) } else { Ok(()) }
    }

    fn install(
        &self,
        closing: Bytes,
        received: Received,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let (applier, durability) = (Arc::clone(&self.applier), Arc::clone(&self.durability));
        Box::pin(async move {
            let state = applier.install(received.arrival, &durability).await?;
            assert_eq!(state.membership, received.membership);
            Ok([b"installed, ".as_slice(), &closing].concat().into())
        })
    }
}

/// Where a party keeps its files.
pub(super) struct Disk {
    pub(super) files: Arc<dyn Files>,
    pub(super) database: Option<Arc<FaultDisk>>,
}

impl Disk {
    pub(super) fn real() -> Self {
        Self { files: Arc::new(RealFiles), database: None }
    }
}

impl Party {
    pub(super) fn new() -> Self {
        Self::on(Disk::real(), Execution::Inline, scratch_directory())
    }

    pub(super) fn on(disk: Disk, execution: Execution, directory: TempDir) -> Self {
        Self::open(disk, execution, directory).unwrap()
    }

    /// Opens the database in a directory as a node does.
    pub(super) fn open(
        disk: Disk,
        execution: Execution,
        directory: TempDir,
    ) -> Result<Self, rq_sqlite::OpenError> {
        let path = |name: &str| directory.path().join(name);
        let options = rq_sqlite::Options {
            faults: disk.database,
            ..rq_sqlite::Options::new(path("db.sqlite"), path("scratch"))
        };
        let Database { writer, checkpointer, opened, .. } =
            Database::open(&options, WriterOptions::default())?;
        let progress = Arc::new(Progress::new(opened.state.applied, 0));
        let wal = checkpointer.wal_size();
        let durability = Durability::new(checkpointer, Arc::clone(&progress), execution);
        let core = Core {
            writer,
            progress: Arc::clone(&progress),
            clock: Arc::new(Seeded::new(1, 0)),
            metrics: Arc::new(Metrics::default()),
        };
        let applier = Arc::new(Applier::start(core, &Arc::new(Turns::new(2)), execution).unwrap());
        let durability = Arc::new(durability);
        let ground = Ground { applier: Arc::clone(&applier), durability: Arc::clone(&durability) };
        let replacer = applier.replacer().clone();
        let receiver =
            Receiver::new(disk.files, path("scratch"), replacer, execution, Box::new(ground));
        let images = Mutex::default();
        Ok(Self { applier, durability, progress, receiver, wal, images, directory })
    }

    /// Applies statements as the next entry, and remembers what the database is then.
    pub(super) fn apply(&self, sql: &[&str]) {
        self.enter(sql.iter().copied().map(Statement::new).collect(), None);
        self.remember();
    }

    pub(super) fn vacuum(&self) {
        let vacuum = Maintenance::Vacuum { page_size: None, auto_vacuum: None };
        self.enter(Vec::new(), Some(vacuum));
        self.remember();
    }

    pub(super) fn remember(&self) {
        let image = self.image();
        lock(&self.images).insert(image.applied.unwrap().index, image);
    }

    fn enter(&self, statements: Vec<Statement>, maintenance: Option<Maintenance>) {
        let applied = self.applier.with_writer(move |writer| {
            let index = writer.applied().map_or(1, |applied| applied.index + 1);
            let requests = [Request { mode: Mode::Execute, transaction: false, statements }];
            let operation =
                maintenance.as_ref().map_or(Operation::Batch(&requests), Operation::Maintenance);
            let budget = Budget { steps: 0, pages: 0 };
            let settings = Settings { foreign_keys: false, budget };
            let id = EntryId { term: 1, index };
            let mut seed = [0; 16];
            seed[..8].copy_from_slice(&index.to_le_bytes());
            writer.apply(&Entry { id, clock_ms: 0, seed, settings, operation }, true).unwrap();
            id
        });
        self.progress.set_applied(applied.unwrap(), 0);
    }

    /// Fills a table with rows that cannot be compressed.
    pub(super) fn fill(&self, rows: u64) {
        self.grow(rows);
        self.remember();
    }

    /// The same, without remembering what the database is then.
    pub(super) fn grow(&self, rows: u64) {
        let entry = |sql: &str| self.enter(vec![Statement::new(sql)], None);
        entry("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x)");
        let insert = format!(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows})
             INSERT INTO t (x) SELECT randomblob(1000) FROM c"
        );
        entry(&insert);
    }

    pub(super) fn image(&self) -> Image {
        let image = self.durability.with_checkpointer(|checkpointer| checkpointer.image());
        image.expect("it is open").unwrap()
    }

    /// What the database was at an entry.
    pub(super) fn image_at(&self, applied: EntryId) -> Image {
        lock(&self.images)[&applied.index].clone()
    }

    pub(super) fn wal_size(&self) -> WalSize {
        self.wal.clone()
    }

    pub(super) fn cargo(&self) -> Cargo {
        Cargo {
            readers: self.applier.readers().clone(),
            wal: self.wal.clone(),
            header: Bytes::from_static(b"leader"),
            term: 1,
            closing: Bytes::from_static(b"vote"),
        }
    }

    /// A copy of the database in a file of another party's.
    pub(super) fn copy_to(&self, other: &Self) -> Arrival {
        let path = other.directory.path().join("arrival");
        let file = File::create(&path).unwrap();
        let mut reader = self.applier.readers().page_reader().unwrap();
        let PageSnapshot { state, page_size, page_count } = reader.begin().unwrap();
        let write = |number: u32, page: &[u8]| {
            file.write_all_at(page, u64::from(number - 1) * u64::from(page_size)).unwrap();
        };
        reader.read(1..=page_count, write).unwrap();
        Arrival { path, applied: state.applied.unwrap() }
    }

    /// Names in the scratch directory.
    pub(super) fn scratch(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.directory.path().join("scratch")).unwrap();
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    pub(super) fn close(self) -> TempDir {
        assert!(self.applier.close(Duration::from_secs(10)));
        self.durability.close();
        self.applier.readers().close(Duration::from_secs(10));
        self.directory
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives and is answered.
    Arrives,
    /// It does not arrive.
    Lost,
    /// It arrives; its answer does not.
    Unanswered,
    /// It arrives with the byte at this part of its length (in 256ths) changed.
    Damaged(u8),
    /// It arrives twice; the second time when the next call does.
    Late,
    /// It does not arrive, and is answered as one that has was done.
    Swallowed,
}

type Hook = Box<dyn FnMut(u64, &Call) -> Fate + Send>;

/// Calls answered by receivers in this process.
pub(super) struct Wires {
    receivers: Mutex<HashMap<String, Receiver>>,
    hook: Mutex<Hook>,
    calls: AtomicU64,
    late: Mutex<Vec<Bytes>>,
    /// The shortest answer so far: "done".
    shortest: Arc<Mutex<Option<Bytes>>>,
}

impl Wires {
    /// A network on which everything arrives at the receiver.
    pub(super) fn to(receiver: &Party) -> Arc<Self> {
        let receivers = HashMap::from([(TO.to_owned(), receiver.receiver.clone())]);
        Arc::new(Self {
            receivers: Mutex::new(receivers),
            hook: Mutex::new(Box::new(|_, _| Fate::Arrives)),
            calls: AtomicU64::new(0),
            late: Mutex::default(),
            shortest: Arc::default(),
        })
    }

    /// Decides from now on what becomes of the calls, which are counted from 0.
    pub(super) fn decide(&self, hook: impl FnMut(u64, &Call) -> Fate + Send + 'static) {
        self.calls.store(0, Ordering::Relaxed);
        *lock(&self.hook) = Box::new(hook);
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Network for Wires {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        assert_eq!(call.lane, Lane::Bulk);
        assert!(call.request.len() <= Lane::Bulk.request_bytes_max());
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let fate = (lock(&self.hook))(number, &call);
        let late = std::mem::take(&mut *lock(&self.late));
        let receiver = lock(&self.receivers)[&call.to].clone();
        let request = match fate {
            Fate::Damaged(part) => {
                let mut bytes = call.request.to_vec();
                let at = bytes.len() * usize::from(part) / 256;
                bytes[at] ^= 0x10;
                bytes.into()
            }
            _ => call.request,
        };
        if fate == Fate::Late {
            lock(&self.late).push(request.clone());
        }
        let shortest = Arc::clone(&self.shortest);
        Box::pin(async move {
            for request in late {
                drop(receiver.answer(request).await);
            }
            match fate {
                Fate::Lost => Err(CallError::NotSent("the wire is cut".to_owned())),
                Fate::Unanswered => {
                    drop(receiver.answer(request).await);
                    Err(CallError::Unanswered("the answer is lost".to_owned()))
                }
                Fate::Swallowed => Ok(lock(&shortest).clone().expect("a call was answered before")),
                Fate::Arrives | Fate::Damaged(_) | Fate::Late => {
                    let answer = receiver.answer(request).await;
                    let mut shortest = lock(&shortest);
                    if shortest.as_ref().is_none_or(|before| answer.len() < before.len()) {
                        *shortest = Some(answer.clone());
                    }
                    Ok(answer)
                }
            }
        })
    }

    fn listen(&self, _answerer: Option<Arc<dyn Answerer>>) {}
}

impl fmt::Debug for Wires {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wires").finish_non_exhaustive()
    }
}

/// Options with messages so small that small databases need many.
pub(super) fn small() -> TransferOptions {
    TransferOptions { chunk_bytes: 5 * 4096, ..TransferOptions::default() }
}

pub(super) fn transfers(options: TransferOptions) -> Transfers {
    // Two senders must not draw the same name for their transfers.
    static SENDERS: AtomicU64 = AtomicU64::new(0);
    let seed = SENDERS.fetch_add(1, Ordering::Relaxed);
    Transfers::new(options, Execution::Inline, Arc::new(Seeded::new(seed, 0)))
}

/// Sends a database with small messages.
pub(super) async fn send(source: &Party, wires: &Arc<Wires>) -> Result<Sent, TransferError> {
    send_with(source, wires, small()).await
}

pub(super) async fn send_with(
    source: &Party,
    wires: &Arc<Wires>,
    options: TransferOptions,
) -> Result<Sent, TransferError> {
    let network = Arc::clone(wires) as Arc<dyn Network>;
    let never = std::future::pending::<()>();
    transfers(options).send(&network, TO, source.cargo(), never).await
}

/// Asserts that the receiver has what the sender had at the entry sent, and nothing else is left.
pub(super) fn check(source: &Party, target: &Party, sent: &Sent) {
    assert_eq!(sent.response, Bytes::from_static(b"installed, vote"));
    assert_eq!(target.progress.applied(), sent.applied);
    assert_eq!(target.progress.durable(), Some(sent.applied));
    let (image, expected) = (target.image(), source.image_at(sent.applied));
    assert_eq!(image.differing_pages(&expected), Vec::<usize>::new());
    assert_eq!(image, expected);
    assert!(!target.scratch().iter().any(|name| name.starts_with("incoming")));
    assert_eq!(target.receiver.status(), None);
    let length = std::fs::metadata(database(target.directory.path())).unwrap().len();
    assert!(length >= sent.page_count * 512);
}

fn database(directory: &Path) -> std::path::PathBuf {
    directory.join("db.sqlite")
}
