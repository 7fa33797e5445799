//! Who this node is: the stored identity, or a new one for a new data directory.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rq_storage::{DataDirectory, Identity, NodeIdentity};

use crate::{OpenError, environment::Environment, options::Options, progress::lock};

/// Who this node is, and the directory that says so. The cluster may become known later than the node.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The operator's name for the node.
    pub(crate) name: String,
    /// Its number in Raft, fresh per data directory.
    pub(crate) raft_id: u64,
    id: RwLock<Option<String>>,
    /// Whether the id stays what it is as long as this process runs: written and read under the lock of the id alone.
    settled: AtomicBool,
    directory: Mutex<Option<DataDirectory>>,
    /// Where members are that have moved since this node was started, by their numbers, as was said last: by themselves, because after
    /// all nodes were given new addresses the membership cannot be told before they have found each other; or by the membership.
    moved: RwLock<BTreeMap<u64, String>>,
}

impl Cluster {
    /// Notes where a member is, whatever was said before.
    pub(crate) fn note_address(&self, raft_id: u64, address: &str) {
        let mut moved = self.moved.write().unwrap_or_else(PoisonError::into_inner);
        moved.insert(raft_id, address.to_owned());
    }

    /// Where to dial a member: where it has moved to, or else where it was `known` to be.
    pub(crate) fn address(&self, raft_id: u64, known: &str) -> String {
        let moved = self.moved.read().unwrap_or_else(PoisonError::into_inner);
        moved.get(&raft_id).map_or(known, String::as_str).to_owned()
    }

    /// The cluster this node belongs to; `None` until it has founded or joined one.
    pub(crate) fn id(&self) -> Option<String> {
        self.id.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this node belongs to the cluster of this id.
    pub(crate) fn is(&self, id: &str) -> bool {
        self.id.read().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(id)
    }

    /// Belongs to a cluster from now on, durably. A member never changes it; a `pristine` node, which has no vote
    /// and no log, may have named a cluster that was never founded. What is [settled](Self::settle) stays.
    ///
    /// # Errors
    /// It is a member of another one, or the disk refuses.
    pub(crate) fn adopt(&self, cluster: &str, pristine: bool) -> Result<(), String> {
        self.adopt_into(
            &mut self.id.write().unwrap_or_else(PoisonError::into_inner),
            cluster,
            pristine,
        )
    }

    /// As [`Self::adopt`], and for good: this node founds or has joined that cluster, or is about to do what that
    /// cluster's Raft asks of it. Whether a node is pristine is looked at earlier; what it does in between, it does
    /// for a cluster that is settled.
    ///
    /// # Errors
    /// As [`Self::adopt`].
    pub(crate) fn settle(&self, cluster: &str, pristine: bool) -> Result<(), String> {
        let mut id = self.id.write().unwrap_or_else(PoisonError::into_inner);
        self.adopt_into(&mut id, cluster, pristine)?;
        self.settled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this node belongs to the cluster of this id; if so, for good. Cheap.
    pub(crate) fn settle_if_of(&self, cluster: &str) -> bool {
        let id = self.id.read().unwrap_or_else(PoisonError::into_inner);
        let is_of = id.as_deref() == Some(cluster);
        if is_of {
            self.settled.store(true, Ordering::Relaxed);
        }
        is_of
    }

    fn adopt_into(
        &self,
        id: &mut Option<String>,
        cluster: &str,
        pristine: bool,
    ) -> Result<(), String> {
        match id.as_deref() {
            Some(own) if own == cluster => return Ok(()),
            Some(own) if !pristine || self.settled.load(Ordering::Relaxed) => {
                return Err(format!("it belongs to cluster {cluster}, this node to {own}"));
            }
            _ => {}
        }
        self.store(cluster)?;
        *id = Some(cluster.to_owned());
        Ok(())
    }

    /// Belongs to another cluster from now on, durably: for recovery alone, before Raft runs.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn change(&self, cluster: &str) -> Result<(), String> {
        let mut id = self.id.write().unwrap_or_else(PoisonError::into_inner);
        if id.as_deref() != Some(cluster) {
            self.store(cluster)?;
            *id = Some(cluster.to_owned());
        }
        Ok(())
    }

    fn store(&self, cluster: &str) -> Result<(), String> {
        let mut directory = lock(&self.directory);
        let directory = directory.as_mut().ok_or("the data directory has been closed")?;
        let Identity::Known(identity) = directory.identity() else {
            return Err("the data directory does not know whose it is".to_owned());
        };
        let identity = NodeIdentity { cluster_id: Some(cluster.to_owned()), ..identity.clone() };
        directory.store_identity(identity).map_err(|error| error.to_string())
    }

    /// Gives the lock on the directory back.
    pub(crate) fn close(&self) {
        drop(lock(&self.directory).take());
    }
}

/// Paths within the data directory.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) database: PathBuf,
    pub(crate) raft: PathBuf,
    pub(crate) node_file: PathBuf,
    pub(crate) scratch: PathBuf,
}

/// Locks the data directory and finds out, or decides, who this node is.
///
/// # Errors
/// Another process holds it, it is another node's, its parts do not belong together, it cannot be
/// read or written.
pub(crate) fn open(
    options: &Options,
    environment: &Environment,
) -> Result<(Paths, Arc<Cluster>), OpenError> {
    let files = Arc::clone(&environment.files);
    let mut directory = DataDirectory::open(files, &options.directory, options.node_id.as_deref())?;
    let identity = match directory.identity() {
        Identity::Known(identity) => identity.clone(),
        Identity::New => {
            let identity = NodeIdentity {
                node_id: options.node_id.clone().unwrap_or_else(|| options.raft_addr.clone()),
                cluster_id: None,
                incarnation: random(environment),
                created_ms: environment.clock.now_ms(),
            };
            directory.store_identity(identity.clone())?;
            identity
        }
        Identity::Doubtful { doubt, .. } => {
            return Err(OpenError::Doubtful {
                directory: options.directory.clone(),
                doubt: doubt.to_string(),
            });
        }
    };
    let paths = Paths {
        database: directory.database(),
        raft: directory.raft(),
        node_file: directory.root().join("node.json"),
        scratch: directory.scratch(),
    };
    let cluster = Cluster {
        name: identity.node_id,
        raft_id: identity.incarnation,
        id: RwLock::new(identity.cluster_id),
        settled: AtomicBool::new(false),
        directory: Mutex::new(Some(directory)),
        moved: RwLock::default(),
    };
    Ok((paths, Arc::new(cluster)))
}

/// A new cluster's id.
pub(crate) fn new_cluster_id(environment: &Environment) -> String {
    format!("{:016x}", random(environment))
}

/// Says who is about to be opened.
pub(crate) fn tell(options: &Options, who: &Cluster) {
    tracing::info!(
        component = "store",
        "opening store with node ID {}, listening on {}",
        who.name,
        options.raft_addr
    );
    tracing::info!(
        component = "store",
        "ensuring data directory exists at {}",
        options.directory.display()
    );
}

/// A random number that is not 0 and fits a signed integer, which some tools print.
pub(crate) fn random(environment: &Environment) -> u64 {
    let mut bytes = [0; 8];
    environment.entropy.fill(&mut bytes);
    (u64::from_le_bytes(bytes) >> 1).max(1)
}
