//! Several nodes as one cluster: forming it, looking at it, doing it harm, comparing what is left.
//!
//! Nodes are real processes, on ports of this machine or, with a [`Network`], in namespaces of their
//! own. Member `i` has the node id `n{i+1}`. Nothing here retries a request or repairs a cluster.

mod caller;
mod clock;
mod disk;
mod image;
mod members;
mod naive;
mod nemesis;
mod network;
mod workload;

pub use caller::{Caller, Fate};
pub use clock::FakeClock;
pub use disk::{Disk, Frozen};
pub use image::Image;
pub use members::{Cluster, ClusterBuilder, Forming, Status};
pub use naive::{NaiveLoad, Seen};
pub use nemesis::{Environment, Fault, Nemesis};
pub use network::{Link, Network};
pub use workload::{
    Accounts, Counter, Done, EndsClients, Lists, Registers, Workload, assert_busy, run,
};
