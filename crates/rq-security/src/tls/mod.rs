//! TLS that can be operated: certificates, keys and authorities are replaced as files, without
//! a restart and without a connection that fails.
//!
//! [`ServerTls`] hands out a configuration per accepted connection, [`ClientTls`] one per
//! connection that is dialled. Whoever accepts or dials asks for it each time; that question is
//! what notices new files.
//!
//! - TLS 1.2 and 1.3 only, through rustls with its ring provider; no process-wide default is
//!   used or installed.
//! - A pair that cannot serve (unreadable, broken, not matching, expired) never replaces one
//!   that can; neither does a broken authority file. Each such failure is logged once.
//! - With client certificates required, every handshake verifies one: sessions are not resumed,
//!   so a certificate refused from now on does not live on in a ticket.

mod client;

mod reload;
mod verify;

mod leaf;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
};

pub use self::client::{ClientTls, ClientTlsOptions, PairFiles, ServerCertificates};
use self::reload::Reloads;
use crate::{
    error::Error,
    watch::{CHECK_INTERVAL, Watch},
};

/// The protocols offered after the handshake, best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the files of a TLS server are, and what it asks of its clients.
#[derive(Clone, Debug)]
pub struct ServerTlsOptions {
    /// The PEM file of the certificate, followed by its chain.
    pub certificate: PathBuf,
    /// The PEM file of the certificate's private key.
    pub key: PathBuf,
    /// What clients must present.
    pub clients: ClientCertificates,
}

/// What a TLS server asks of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nothing.
    NotAsked,
    /// A certificate that verifies; a client without one does not get through the handshake.
    Required {
        /// The PEM file of the authorities that may vouch for clients; without it those the
        /// operating system trusts.
        authority: Option<PathBuf>,
        /// The common name the client's own certificate must carry, to the letter.
        common_name: Option<String>,
    },
}

/// What happened to the files of a [`ServerTls`] or [`ClientTls`] since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsCounts {
    /// How often a certificate was fetched for a handshake.
    pub fetched: u64,
    /// How often new files were taken into use.
    pub reloaded: u64,
    /// How often new files could not be used, counting each distinct failure once.
    pub failed: u64,
}

/// The TLS side of one listener.
///
/// - What is handed out is always complete: certificate and key match, the authorities were
///   read whole.
/// - A part that fails to load does not hold back another: a new pair is used although the
///   authority file is broken, and the reverse.
pub struct ServerTls {
    options: ServerTlsOptions,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    pair_watch: Watch,
    authority_watch: Watch,
    current: RwLock<Current>,
    fetched: AtomicU64,
    reloads: Reloads,
}

/// What is in use now.
struct Current {
    pair: Pair,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    config: Arc<ServerConfig>,
}

/// A certificate chain with its key, and the end of the leaf's life.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certified_key: Arc<CertifiedKey>,
    /// In seconds since 1970; `None` if the leaf cannot be read that far.
    pub(crate) expires_at: Option<u64>,
}

impl ServerTls {
    /// Loads the files. Fails if any is missing, broken, or does not fit the others; an expired
    /// certificate is used with a warning, as there is no other.
    pub fn open(options: ServerTlsOptions) -> Result<Self, Error> {
        Self::open_watched(options, CHECK_INTERVAL, Arc::new(DefaultTimeProvider))
    }

    fn open_watched(
        options: ServerTlsOptions,
        interval: Duration,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let pair_watch =
            Watch::new(vec![options.certificate.clone(), options.key.clone()], interval);
        let authority_files = options.authority().map(Path::to_path_buf).into_iter().collect();
        let authority_watch = Watch::new(authority_files, interval);
        let pair = reload::load_pair(&options.certificate, &options.key, &provider)?;
        if pair.has_expired(&*time) {
            let path = options.certificate.display();
            tracing::warn!(component = "cert-reloader", "certificate {path} has expired");
        }
        let verifier = reload::load_verifier(&options.clients, &provider)?;
        let config = build(&pair, verifier.clone(), &provider, &time);
        Ok(Self {
            options,
            provider,
            time,
            pair_watch,
            authority_watch,
            current: RwLock::new(Current { pair, verifier, config }),
            fetched: AtomicU64::new(0),
            reloads: Reloads::default(),
        })
    }

    /// Gives the configuration for one handshake, after a look at the files if it is time for
    /// one. To be asked for each accepted connection; touches the disk at most every second.
    pub fn handshake_config(&self) -> Arc<ServerConfig> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        self.refresh_pair();
        self.refresh_authority();
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config)
    }

    /// Gives the end of the current certificate's life in seconds since 1970; `None` if the
    /// certificate does not say it in a way that can be read.
    pub fn certificate_expires_at(&self) -> Option<u64> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).pair.expires_at
    }

    /// Gives what happened to the files so far.
    pub fn counts(&self) -> TlsCounts {
        TlsCounts {
            fetched: self.fetched.load(Ordering::Relaxed),
            reloaded: self.reloads.reloaded(),
            failed: self.reloads.failed(),
        }
    }

    /// Gives the files and demands it was opened with.
    pub fn options(&self) -> &ServerTlsOptions {
        &self.options
    }

    fn refresh_pair(&self) {
        let (certificate, key) = (&self.options.certificate, &self.options.key);
        let refresh = self.pair_watch.refresh(|| {
            let pair = reload::load_living_pair(certificate, key, &self.provider, &*self.time)?;
            self.replace(|current| current.pair = pair);
            Ok(())
        });
        self.reloads.note_pair(refresh, certificate, key);
    }

    fn refresh_authority(&self) {
        let Some(authority) = self.options.authority() else { return };
        let refresh = self.authority_watch.refresh(|| {
            let verifier = reload::load_verifier(&self.options.clients, &self.provider)?;
            self.replace(|current| current.verifier = verifier);
            Ok(())
        });
        self.reloads.note_authority(refresh, authority);
    }

    fn replace(&self, change: impl FnOnce(&mut Current)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut current);
        current.config = build(&current.pair, current.verifier.clone(), &self.provider, &self.time);
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerTls").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ServerTlsOptions {
    /// Gives the authority file, if clients are verified against one.
    fn authority(&self) -> Option<&Path> {
        match &self.clients {
            ClientCertificates::NotAsked => None,
            ClientCertificates::Required { authority, .. } => authority.as_deref(),
        }
    }
}

impl Pair {
    /// Says whether the leaf's life is over. Without a clock, or without a readable end, no.
    fn has_expired(&self, time: &dyn TimeProvider) -> bool {
        match (self.expires_at, time.current_time()) {
            (Some(expires_at), Some(now)) => expires_at < now.as_secs(),
            _ => false,
        }
    }
}

fn build(
    pair: &Pair,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    provider: &Arc<CryptoProvider>,
    time: &Arc<dyn TimeProvider>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(time))
        .with_safe_default_protocol_versions()
        .expect("the ring provider serves TLS 1.2 and 1.3");
    let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&pair.certified_key)));
    let mut config = match verifier {
        None => builder.with_no_client_auth().with_cert_resolver(resolver),
        Some(verifier) => {
            let mut config =
                builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod tests;
