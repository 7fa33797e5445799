//! The permissions a user can hold.
//!
//! Names are those of the credentials file. A name nobody knows is accepted there and has no
//! effect, so that one file can serve programs of different age.

/// One right, as the credentials file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Permission {
    /// Everything: holding it answers yes to every other permission.
    All,
    /// Join the cluster as a voter, and announce oneself to it.
    Join,
    /// Join the cluster as a read-only node.
    JoinReadOnly,
    /// The same as [`Permission::JoinReadOnly`] under its newer name.
    JoinReadReplica,
    /// Remove a node from the cluster.
    Remove,
    /// Change the database.
    Execute,
    /// Read the database.
    Query,
    /// See status, nodes, counters and licences.
    Status,
    /// Ask whether the node is ready.
    Ready,
    /// Take a copy of the database.
    Backup,
    /// Replace the database or load into it.
    Load,
    /// Ask for a snapshot of the Raft log.
    Snapshot,
    /// See who leads, and ask the leader to step down.
    LeaderOps,
    /// See the web console.
    Ui,
}

impl Permission {
    /// Lists every permission, in the order of their declaration.
    pub const EVERY: [Self; 14] = [
        Self::All,
        Self::Join,
        Self::JoinReadOnly,
        Self::JoinReadReplica,
        Self::Remove,
        Self::Execute,
        Self::Query,
        Self::Status,
        Self::Ready,
        Self::Backup,
        Self::Load,
        Self::Snapshot,
        Self::LeaderOps,
        Self::Ui,
    ];

    /// Gives the name used in credentials files.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Join => "join",
            Self::JoinReadOnly => "join-read-only",
            Self::JoinReadReplica => "join-read-replica",
            Self::Remove => "remove",
            Self::Execute => "execute",
            Self::Query => "query",
            Self::Status => "status",
            Self::Ready => "ready",
            Self::Backup => "backup",
            Self::Load => "load",
            Self::Snapshot => "snapshot",
            Self::LeaderOps => "leader-ops",
            Self::Ui => "ui",
        }
    }

    /// Finds the permission of a name; `None` if nobody knows it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|permission| permission.name() == name)
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    /// Adds one permission.
    pub fn insert(&mut self, permission: Permission) {
        self.0 |= 1 << permission as u8;
    }

    /// Says whether the set answers yes: it holds the permission itself, `all`, or the other
    /// name of the right to join as a read-only node.
    pub fn allow(self, permission: Permission) -> bool {
        self.holds(Permission::All)
            || self.holds(permission)
            || match permission {
                Permission::JoinReadOnly => self.holds(Permission::JoinReadReplica),
                Permission::JoinReadReplica => self.holds(Permission::JoinReadOnly),
                _ => false,
            }
    }

    fn holds(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let mut set = Self::default();
        for permission in permissions {
            set.insert(permission);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_permission() {
        for permission in Permission::EVERY {
            assert_eq!(Permission::from_name(permission.name()), Some(permission));
        }
        for unknown in ["", "ALL", "execute ", "join-read", "root"] {
            assert_eq!(Permission::from_name(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_set_allows_exactly_what_it_holds() {
        for held in Permission::EVERY {
            let set = Permissions::from_iter([held]);
            for asked in Permission::EVERY {
                let synonyms = [Permission::JoinReadOnly, Permission::JoinReadReplica];
                let expected = held == Permission::All
                    || held == asked
                    || (synonyms.contains(&held) && synonyms.contains(&asked));
                assert_eq!(set.allow(asked), expected, "{held:?} held, {asked:?} asked");
            }
        }
        assert!(Permission::EVERY.iter().all(|asked| !Permissions::default().allow(*asked)));
    }
}
