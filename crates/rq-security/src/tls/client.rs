//! Client-side TLS that can be operated, for dialling other nodes: the mirror image of [`ServerTls`].
//!
//! [`ServerTls`]: super::ServerTls

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    sign::SingleCertAndKey,
    time_provider::{DefaultTimeProvider, TimeProvider},
};

use super::{
    Pair, TlsCounts,
    reload::{self, Reloads},
    verify::{AcceptAny, RefuseAll},
};
use crate::{
    error::Error,
    watch::{CHECK_INTERVAL, Watch},
};

/// What is shown to servers, and what is asked of them.
#[derive(Clone, Debug)]
pub struct ClientTlsOptions {
    /// The certificate to show to servers that ask for one.
    pub pair: Option<PairFiles>,
    /// Which servers are believed.
    pub servers: ServerCertificates,
}

/// The two files of a certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// The PEM file of the certificate, followed by its chain.
    pub certificate: PathBuf,
    /// The PEM file of the certificate's private key.
    pub key: PathBuf,
}

/// Which servers a TLS client believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerCertificates {
    /// Any that has the key of the certificate it shows, whatever that is. Who sits between the two can read and
    /// change everything.
    Unverified,
    /// Those whose certificate verifies and names them.
    Verified {
        /// The PEM file of the authorities that may vouch for servers; without it those the operating
        /// system trusts.
        authority: Option<PathBuf>,
        /// The name the certificate must be for; without it the host that is dialled.
        name: Option<String>,
    },
}

/// The TLS side of whoever dials.
///
/// - Sessions are not resumed: each handshake verifies with what is valid then.
/// - What is handed out is complete, as with [`ServerTls`](super::ServerTls).
pub struct ClientTls {
    options: ClientTlsOptions,
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
    pair: Option<Pair>,
    verifier: Arc<dyn ServerCertVerifier>,
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// Loads the files. Where the operating system's authorities are to be used and it has none, each
    /// handshake fails later.
    ///
    /// # Errors
    /// Fails if a file is missing, broken, or does not fit the others.
    pub fn open(options: ClientTlsOptions) -> Result<Self, Error> {
        Self::open_watched(options, CHECK_INTERVAL, Arc::new(DefaultTimeProvider))
    }

    pub(crate) fn open_watched(
        options: ClientTlsOptions,
        interval: Duration,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let pair_files =
            options.pair.iter().flat_map(|files| [files.certificate.clone(), files.key.clone()]);
        let pair_watch = Watch::new(pair_files.collect(), interval);
        let authority_files = options.servers.authority().map(Path::to_path_buf);
        let authority_watch = Watch::new(authority_files.into_iter().collect(), interval);
        let load = |files: &PairFiles| reload::load_pair(&files.certificate, &files.key, &provider);
        let pair = options.pair.as_ref().map(load).transpose()?;
        let verifier = load_verifier(&options.servers, &provider)?;
        let config = build(pair.as_ref(), Arc::clone(&verifier), &provider, &time);
        let current = RwLock::new(Current { pair, verifier, config });
        Ok(Self {
            options,
            provider,
            time,
            pair_watch,
            authority_watch,
            current,
            fetched: AtomicU64::new(0),
            reloads: Reloads::default(),
        })
    }

    /// Gives the configuration for one handshake with a host (a name or an address), and the name the server
    /// must have, after a look at the files if it is time for one. To be asked for each connection; touches
    /// the disk at most every second.
    ///
    /// # Errors
    /// Fails if the host cannot be the name of a server.
    pub fn handshake(&self, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), Error> {
        let name = self.options.servers.name_of(host)?;
        self.fetched.fetch_add(1, Ordering::Relaxed);
        self.refresh_pair();
        self.refresh_authority();
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Ok((Arc::clone(&current.config), name))
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
    pub fn options(&self) -> &ClientTlsOptions {
        &self.options
    }

    fn refresh_pair(&self) {
        let Some(PairFiles { certificate, key }) = &self.options.pair else { return };
        let refresh = self.pair_watch.refresh(|| {
            let pair = reload::load_living_pair(certificate, key, &self.provider, &*self.time)?;
            self.replace(|current| current.pair = Some(pair));
            Ok(())
        });
        self.reloads.note_pair(refresh, certificate, key);
    }

    fn refresh_authority(&self) {
        let Some(authority) = self.options.servers.authority() else { return };
        let refresh = self.authority_watch.refresh(|| {
            let verifier = load_verifier(&self.options.servers, &self.provider)?;
            self.replace(|current| current.verifier = verifier);
            Ok(())
        });
        self.reloads.note_authority(refresh, authority);
    }

    fn replace(&self, change: impl FnOnce(&mut Current)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut current);
        let verifier = Arc::clone(&current.verifier);
        current.config = build(current.pair.as_ref(), verifier, &self.provider, &self.time);
    }
}

impl ServerCertificates {
    /// Gives the authority file, if servers are verified against one.
    fn authority(&self) -> Option<&Path> {
        match self {
            Self::Unverified => None,
            Self::Verified { authority, .. } => authority.as_deref(),
        }
    }

    fn name_of(&self, host: &str) -> Result<ServerName<'static>, Error> {
        let name = match self {
            Self::Verified { name: Some(name), .. } => name,
            Self::Verified { name: None, .. } | Self::Unverified => host,
        };
        match (ServerName::try_from(name), self) {
            (Ok(name), _) => Ok(name.to_owned()),
            // Nobody looks at it, and an address is not sent along.
            (Err(_), Self::Unverified) => {
                Ok(ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()))
            }
            (Err(error), Self::Verified { .. }) => {
                Err(Error::BadServerName { name: name.to_owned(), reason: error.to_string() })
            }
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientTls").field("options", &self.options).finish_non_exhaustive()
    }
}

fn load_verifier(
    servers: &ServerCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let algorithms = provider.signature_verification_algorithms;
    match servers {
        ServerCertificates::Unverified => Ok(Arc::new(AcceptAny::new(algorithms))),
        ServerCertificates::Verified { authority: Some(path), .. } => {
            Ok(reload::load_server_verifier(path, provider)?)
        }
        ServerCertificates::Verified { authority: None, .. } => {
            Ok(reload::system_server_verifier(provider).unwrap_or_else(|error| {
                // Whoever never dials is not kept from starting.
                tracing::warn!(component = "tls", "no other node can be dialled: {error}");
                Arc::new(RefuseAll::new(error.to_string(), algorithms))
            }))
        }
    }
}

fn build(
    pair: Option<&Pair>,
    verifier: Arc<dyn ServerCertVerifier>,
    provider: &Arc<CryptoProvider>,
    time: &Arc<dyn TimeProvider>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_details(Arc::clone(provider), Arc::clone(time))
        .with_safe_default_protocol_versions()
        .expect("the ring provider speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let certified_key = Arc::clone(&pair.certified_key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key)))
        }
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
