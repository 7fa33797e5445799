//! The paths of the API, as clients type them. How they are matched is the server's business.

/// Writes; also queued.
pub const EXECUTE: &str = "/db/execute";
/// Reads.
pub const QUERY: &str = "/db/query";
/// Reads and writes mixed.
pub const REQUEST: &str = "/db/request";
/// A copy of the database.
pub const BACKUP: &str = "/db/backup";
/// Replaces the database by a file, or runs a text of SQL.
pub const LOAD: &str = "/db/load";
/// Shows what would be executed for a statement.
pub const SQL: &str = "/db/sql";
/// Starts a single node from a SQLite file.
pub const BOOT: &str = "/boot";
/// Makes the state durable and purges the log.
pub const SNAPSHOT: &str = "/snapshot";
/// Removes old snapshots.
pub const REAP: &str = "/reap";
/// Removes a node from the cluster.
pub const REMOVE: &str = "/remove";
/// Everything about this node.
pub const STATUS: &str = "/status";
/// The members of the cluster.
pub const NODES: &str = "/nodes";
/// The leader, and handing over leadership.
pub const LEADER: &str = "/leader";
/// Whether this node is ready to serve.
pub const READYZ: &str = "/readyz";
/// The licences of what the program is made of.
pub const LICENSES: &str = "/licenses";
/// The web console.
pub const CONSOLE: &str = "/console";
/// Counters.
pub const DEBUG_VARS: &str = "/debug/vars";
/// Profiles, which this server does not offer here.
pub const DEBUG_PPROF: &str = "/debug/pprof";
