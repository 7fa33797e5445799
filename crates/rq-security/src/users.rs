//! The users of the credentials file, and the decision about one caller and one permission.
//!
//! The file is a JSON array of objects with `username`, `password` and `perms`. A key that is
//! missing is empty; nothing is inherited from the object before it. Of two users of one name
//! the last counts. Keys are recognized in any case; others are ignored with a warning, as a
//! misspelt `password` would otherwise leave a user without one.
//!
//! The file is looked at again when a check comes and a second has passed. A new file that
//! cannot be used leaves the old users in place and is reported once.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::{Map, Value};

use crate::{
    credentials::Credentials,
    error::Error,
    password::{HASH_PREFIX, Secret, Verdict, Verifier},
    permission::{Permission, Permissions},
    watch::{CHECK_INTERVAL, Refresh, Watch},
};

/// The size up to which a credentials file is read; a larger one is an error.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The user whose permissions everybody holds, with or without credentials.
const EVERYBODY: &str = "*";

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The operation may go on.
    Allow,
    /// It may not: the credentials are missing or wrong, or lack the permission.
    Deny,
    /// Too many passwords wait for verification. Nothing was decided; the caller may try again
    /// after a moment.
    Busy,
}

/// Decides who may do what.
///
/// - Without a file everybody may do everything.
/// - A decision never depends on time or on earlier failures, only on the file and the caller.
/// - All methods may be called from many threads at once.
pub struct Users {
    source: Option<Source>,
}

struct Source {
    path: PathBuf,
    watch: Watch,
    verifier: Verifier,
    table: RwLock<Arc<Table>>,
}

#[derive(Default)]
struct Table {
    everybody: Permissions,
    /// What a wrong name or a wrong plaintext password is verified against, if any password of the
    /// file is a hash: the costliest of them.
    decoy: Option<Secret>,
    users: HashMap<String, User>,
}

struct User {
    secret: Secret,
    permissions: Permissions,
}

/// What the credentials file holds of a user's password.
pub enum StoredPassword {
    /// The password itself.
    Plain(Credentials),
    /// A hash, from which nobody gets the password.
    Hashed,
    /// Nothing: there is no file, or no such user.
    NoUser,
}

impl Users {
    /// Makes the decider of a node without a credentials file: it allows everything.
    pub fn unrestricted() -> Self {
        Self { source: None }
    }

    /// Loads a credentials file. Fails if it cannot be read, is not such a file, or holds a
    /// hash that cannot be used.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_watched(path.into(), CHECK_INTERVAL)
    }

    fn open_watched(path: PathBuf, interval: Duration) -> Result<Self, Error> {
        let verifier =
            Verifier::new().map_err(|reason| Error::BadUsers { path: path.clone(), reason })?;
        let watch = Watch::new(vec![path.clone()], interval);
        let table = RwLock::new(Arc::new(load(&path, &verifier)?));
        Ok(Self { source: Some(Source { path, watch, verifier, table }) })
    }

    /// Reads a user's password from the file, for a node that presents it to others as its own.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is no such file.
    pub fn stored_password(&self, username: &str) -> Result<StoredPassword, Error> {
        let Some(source) = &self.source else { return Ok(StoredPassword::NoUser) };
        let objects = objects(&source.path)?;
        for object in objects.iter().rev() {
            let entry = Entry::read(object)
                .map_err(|reason| Error::BadUsers { path: source.path.clone(), reason })?;
            if entry.username == username {
                if entry.password.starts_with(HASH_PREFIX) {
                    return Ok(StoredPassword::Hashed);
                }
                let credentials = Credentials::new(username, entry.password);
                return Ok(credentials.map_or(StoredPassword::NoUser, StoredPassword::Plain));
            }
        }
        Ok(StoredPassword::NoUser)
    }

    /// Says whether there is a credentials file.
    pub fn is_restricted(&self) -> bool {
        self.source.is_some()
    }

    /// Decides about one caller and one permission.
    ///
    /// May block for the time of a password hash (tens of milliseconds, more under many
    /// attempts): on an async thread ask [`Users::check_at_once`] first.
    pub fn check(&self, credentials: Option<&Credentials>, permission: Permission) -> Decision {
        self.decide(credentials, permission, Verifier::verify).unwrap_or(Decision::Deny)
    }

    /// Decides like [`Users::check`], but gives `None` instead of computing a password hash.
    ///
    /// A hash that was verified before needs no computation, so this decides nearly always.
    pub fn check_at_once(
        &self,
        credentials: Option<&Credentials>,
        permission: Permission,
    ) -> Option<Decision> {
        self.decide(credentials, permission, Verifier::verify_at_once)
    }

    fn decide(
        &self,
        credentials: Option<&Credentials>,
        permission: Permission,
        verify: fn(&Verifier, &Secret, &str) -> Verdict,
    ) -> Option<Decision> {
        let Some(source) = &self.source else { return Some(Decision::Allow) };
        let table = source.current();
        // Before looking at any credentials: what everybody may do needs no right password.
        if table.everybody.allow(permission) {
            return Some(Decision::Allow);
        }
        let Some(credentials) = credentials else { return Some(Decision::Deny) };
        let verify = |secret| verify(&source.verifier, secret, credentials.password());
        let user = table.users.get(credentials.username());
        let mut verdict = user.map_or(Verdict::Mismatch, |user| verify(&user.secret));
        // The time of a refusal must not tell whether there is such a user.
        if verdict == Verdict::Mismatch
            && user.is_none_or(|user| matches!(user.secret, Secret::Plain(_)))
            && let Some(decoy) = &table.decoy
        {
            verdict = verify(decoy);
        }
        match verdict {
            Verdict::Match if user.is_some_and(|user| user.permissions.allow(permission)) => {
                Some(Decision::Allow)
            }
            Verdict::Match | Verdict::Mismatch => Some(Decision::Deny),
            Verdict::Busy => Some(Decision::Busy),
            Verdict::NeedsHash => None,
        }
    }
}

impl Source {
    /// Gives the users as of now, after a look at the file if it is time for one.
    fn current(&self) -> Arc<Table> {
        let refresh = self.watch.refresh(|| {
            let table = Arc::new(load(&self.path, &self.verifier)?);
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
            Ok::<(), Error>(())
        });
        match refresh {
            Refresh::Unchanged => {}
            Refresh::Loaded => {
                tracing::info!(
                    component = "auth",
                    "credentials reloaded from {}",
                    self.path.display()
                );
            }
            Refresh::Failed(error) => {
                tracing::error!(
                    component = "auth",
                    "failed to reload credentials, the previous ones stay in use: {error}"
                );
            }
        }
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load(path: &Path, verifier: &Verifier) -> Result<Table, Error> {
    let bad = |reason: String| Error::BadUsers { path: path.to_owned(), reason };
    let objects = objects(path)?;
    let mut table = Table::default();
    for (position, object) in objects.iter().enumerate() {
        let entry = Entry::read(object)
            .map_err(|reason| bad(format!("user number {}: {reason}", position + 1)))?;
        entry.warn(path);
        let secret = verifier.store(entry.password).map_err(|reason| Error::BadPasswordHash {
            path: path.to_owned(),
            username: entry.username.to_owned(),
            reason,
        })?;
        if entry.username == EVERYBODY {
            table.everybody = entry.permissions;
        }
        let user = User { secret, permissions: entry.permissions };
        table.users.insert(entry.username.to_owned(), user);
    }
    let costliest = table.users.values().map(|user| &user.secret).max_by_key(|one| one.cost());
    table.decoy = costliest.and_then(Secret::decoy);
    Ok(table)
}

/// Reads the entries of a credentials file.
fn objects(path: &Path) -> Result<Vec<Map<String, Value>>, Error> {
    let bytes = read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::BadUsers { path: path.to_owned(), reason: error.to_string() })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |error: std::io::Error| Error::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned(), limit_bytes: FILE_BYTES_MAX });
    }
    Ok(bytes)
}

/// One object of the file.
#[derive(Default)]
struct Entry<'a> {
    username: &'a str,
    password: &'a str,
    permissions: Permissions,
    unknown_keys: Vec<&'a str>,
}

impl<'a> Entry<'a> {
    fn read(object: &'a Map<String, Value>) -> Result<Self, String> {
        let mut entry = Self::default();
        for (key, value) in object {
            match key.to_ascii_lowercase().as_str() {
                "username" => entry.username = text(key, value)?,
                "password" => entry.password = text(key, value)?,
                "perms" => entry.permissions = permissions(key, value)?,
                _ => entry.unknown_keys.push(key),
            }
        }
        Ok(entry)
    }

    /// Says what is legal and probably not meant.
    fn warn(&self, path: &Path) {
        let (file, username) = (path.display(), self.username);
        for key in &self.unknown_keys {
            tracing::warn!(
                component = "auth",
                "{file}: unknown key {key:?} of user {username:?} is ignored"
            );
        }
        if self.password.is_empty() && username != EVERYBODY {
            tracing::warn!(component = "auth", "{file}: user {username:?} has an empty password");
        }
        if ["$2a$", "$2b$", "$2y$", "$argon2i$", "$argon2d$", "$scrypt$"]
            .iter()
            .any(|prefix| self.password.starts_with(prefix))
        {
            tracing::warn!(
                component = "auth",
                "{file}: the password of user {username:?} looks like a hash of a kind that is \
                 not supported; it is taken as the password itself"
            );
        }
    }
}

/// Reads text; `null` is as good as a missing key.
fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    match value {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(format!("{key} must be a string"))
        }
    }
}

fn permissions(key: &str, value: &Value) -> Result<Permissions, String> {
    let names = match value {
        Value::Null => return Ok(Permissions::default()),
        Value::Array(names) => names,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            return Err(format!("{key} must be an array of strings"));
        }
    };
    let mut permissions = Permissions::default();
    for name in names {
        let name = name.as_str().ok_or_else(|| format!("{key} must be an array of strings"))?;
        if let Some(permission) = Permission::from_name(name) {
            permissions.insert(permission);
        }
    }
    Ok(permissions)
}

#[cfg(test)]
mod tests;
