//! Who may connect and what they may do: certificates (load, reload, verify), users, permissions.
//!
//! Two questions are answered here, and nothing else:
//!
//! - *May this peer connect?* [`ServerTls`] turns certificate files into server configurations
//!   of rustls and keeps them fresh while files are replaced under it, [`ClientTls`] does so for
//!   who dials. [`ClusterSecret`] proves
//!   and verifies that both sides know a secret.
//! - *May this caller do that?* [`Users`] holds the users of the credentials file and decides
//!   about one [`Permission`] at a time.
//!
//! The crate opens files and nothing but files: no sockets, no async runtime. It may be called
//! from any thread. It must never hold, log or show a password, and never answer "allowed"
//! because a file could not be read.

mod credentials;
mod permission;
mod secret;
mod users;

mod tls;

mod error;
mod password;
mod watch;

pub use credentials::Credentials;
pub use error::Error;
pub use permission::{Permission, Permissions};
pub use secret::{ClusterSecret, PROOF_BYTES, Proof, SecretKey, SecretKeys};
pub use tls::{
    ClientCertificates, ClientTls, ClientTlsOptions, PairFiles, ServerCertificates, ServerTls,
    ServerTlsOptions, TlsCounts,
};
pub use users::{Decision, StoredPassword, Users};
