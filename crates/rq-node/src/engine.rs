//! A node whose program computes another engine epoch than its database belongs to.
//!
//! Its results or pages would differ from those of the other members. So it takes part in what needs no engine, and in nothing
//! else:
//!
//! | it | how |
//! |---|---|
//! | votes | as ever |
//! | stores and acknowledges entries | as ever; its log is not purged, and grows until the right program runs or the disk is full; beyond the bytes it should have there are a warning and an impairment |
//! | does not stand for election | `Consensus`; nor does it take leadership over when asked, and others know |
//! | applies nothing | `raft::state_machine` passes entries over: the applied index stands, the file stays as it is |
//! | installs no database | `raft::landing` refuses it before it is sent |
//! | reads nothing | reads of its own are refused, those of the leader and linearizable ones passed on to it |
//! | is not ready, and says which program is needed | status, `/readyz`, the log |
//!
//! Started with the right program it goes on where its database stands. An only voter of another epoch could do nothing at
//! all, so it does not start; nor does one that is to be recovered from a lost quorum.

use std::fmt;

use rq_sqlite::Opened;
use rq_storage::Log;

use crate::{
    OpenError,
    environment::Environment,
    identity::{Cluster, Paths},
    recovery,
};

/// The engine epochs of a database and of the program, which differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherEngine {
    /// The epoch the database belongs to.
    pub database: i64,
    /// The epoch the program computes.
    pub program: i64,
}

impl fmt::Display for OtherEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, program } = self;
        write!(
            f,
            "the database of this node belongs to engine epoch {database}, this program computes epoch {program}: the \
             node votes and stores, but does not apply, read or lead; start the program version whose engine epoch is \
             {database}"
        )
    }
}

/// Finds out whether a database that was opened is of another epoch than the program.
///
/// # Errors
/// It is, and the node could do nothing with it: nobody else votes, or it is to be recovered.
pub(crate) fn compare(
    environment: &Environment,
    opened: &Opened,
    paths: &Paths,
    cluster: &Cluster,
    log: &Log,
) -> Result<Option<OtherEngine>, OpenError> {
    let (database, program) = (opened.epoch, environment.engine_epoch);
    if database == program {
        return Ok(None);
    }
    let refused = || {
        let path = paths.database.clone();
        OpenError::Database(rq_sqlite::OpenError::Epoch { path, found: database, known: program })
    };
    let members = recovery::last_members(log, opened.state.membership.as_ref());
    let members = members.map_err(OpenError::Log)?.unwrap_or_default();
    let others_vote =
        members.iter().any(|member| member.voter && member.raft_id != cluster.raft_id);
    let recovers = recovery::is_asked_for(&*environment.files, paths);
    if others_vote && !recovers.unwrap_or(true) {
        Ok(Some(OtherEngine { database, program }))
    } else {
        Err(refused())
    }
}
