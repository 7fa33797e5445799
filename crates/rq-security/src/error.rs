//! The errors of this crate, by meaning.
//!
//! Each is a complete sentence part for an operator: it names the file and the reason, so that
//! it can follow `failed to get credential store: ` and similar words of the caller.

use std::path::PathBuf;

/// Why a file that decides about access cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("open {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// The file is larger than any sensible file of its kind.
    #[error("{} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The size in bytes up to which it would have been read.
        limit_bytes: u64,
    },
    /// The credentials file is not a JSON array of users.
    #[error("{}: {reason}", path.display())]
    BadUsers {
        /// The credentials file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A password that says it is a hash cannot be used as one.
    #[error("{}: password hash of user {username:?}: {reason}", path.display())]
    BadPasswordHash {
        /// The credentials file.
        path: PathBuf,
        /// The user it belongs to.
        username: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file holds no usable certificate.
    #[error("certificate {}: {reason}", path.display())]
    BadCertificate {
        /// The certificate file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file holds no usable private key.
    #[error("key {}: {reason}", path.display())]
    BadKey {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key are both readable but cannot serve together.
    #[error("certificate {} and key {}: {reason}", certificate.display(), key.display())]
    BadPair {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What is wrong, for example that they do not match.
        reason: String,
    },
    /// No certificate authority is known that could vouch for the other side.
    #[error("no certificate authority to verify others with: {reason}")]
    NoAuthority {
        /// Where it was looked for and what happened.
        reason: String,
    },
    /// A host cannot be the name of a TLS server.
    #[error("certificates cannot be for {name:?}: {reason}")]
    BadServerName {
        /// The host.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster's secret cannot be used as one.
    #[error("cluster secret {}: {reason}", path.display())]
    BadSecret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
