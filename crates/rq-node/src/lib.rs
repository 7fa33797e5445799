//! One member of the cluster: Raft, state machine, snapshots, read levels.

mod error;
mod request;
mod status;

pub use error::{EffectKnown, Error, OpenError};
pub use request::{Level, Read, Served, Write, Written};
pub use rq_sqlite::TimedOutcome;
pub use status::{
    CounterMaps, DatabaseStatus, Impairment, Member, RaftStatus, Role, SettingsStatus, Status,
};
