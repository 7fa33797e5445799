//! One member of the cluster: Raft, state machine, snapshots, read levels.
