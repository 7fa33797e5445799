//! From PEM files to what rustls serves and verifies with.
//!
//! Everything is read and checked before anything is returned; a half-written file is an error.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use crate::{
    error::Error,
    tls::{ClientCertificates, Pair, leaf, verify::Verifier},
    watch::Refresh,
};

/// The size up to which a PEM file is read; a larger one is an error.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Counts what came of looking for new files, and tells the log.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    reloaded: AtomicU64,
    failed: AtomicU64,
}

impl Reloads {
    pub(crate) fn reloaded(&self) -> u64 {
        self.reloaded.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn note_pair(&self, refresh: Refresh<Error>, certificate: &Path, key: &Path) {
        match refresh {
            Refresh::Unchanged => {}
            Refresh::Loaded => {
                self.reloaded.fetch_add(1, Ordering::Relaxed);
                let (certificate, key) = (certificate.display(), key.display());
                tracing::info!(
                    component = "cert-reloader",
                    "reloading certificate at {certificate} and key at {key}"
                );
            }
            Refresh::Failed(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    component = "cert-reloader",
                    "failed to reload certificate ({error}), the previous one stays in use"
                );
            }
        }
    }

    pub(crate) fn note_authority(&self, refresh: Refresh<Error>, authority: &Path) {
        match refresh {
            Refresh::Unchanged => {}
            Refresh::Loaded => {
                self.reloaded.fetch_add(1, Ordering::Relaxed);
                let authority = authority.display();
                tracing::info!(
                    component = "cert-reloader",
                    "reloading CA certificates at {authority}"
                );
            }
            Refresh::Failed(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    component = "cert-reloader",
                    "failed to reload CA certificates ({error}), the previous ones stay in use"
                );
            }
        }
    }
}

/// The same as [`load_pair`] for a pair that replaces another: an expired one is an error.
pub(crate) fn load_living_pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
    time: &dyn TimeProvider,
) -> Result<Pair, Error> {
    let pair = load_pair(certificate, key, provider)?;
    if pair.has_expired(time) {
        let reason = "it has expired".to_owned();
        return Err(Error::BadCertificate { path: certificate.to_owned(), reason });
    }
    Ok(pair)
}

/// Builds the verifier of servers a file of authorities vouches for.
pub(crate) fn load_server_verifier(
    authority: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    server_verifier(load_authority(authority)?, provider)
}

/// Builds the verifier of servers the operating system trusts.
pub(crate) fn system_server_verifier(
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    server_verifier(system_roots()?, provider)
}

fn server_verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| Error::NoAuthority { reason: error.to_string() })?;
    Ok(verifier)
}

/// Loads a certificate chain and its key, and checks that they belong together.
pub(crate) fn load_pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Pair, Error> {
    let chain = load_certificates(certificate)?;
    let private_key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| {
        Error::BadKey { path: key.to_owned(), reason: format!("no private key in PEM: {error}") }
    })?;
    let expires_at = leaf::expires_at(&chain[0]);
    let certified_key =
        CertifiedKey::from_der(chain, private_key, provider).map_err(|error| Error::BadPair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            reason: error.to_string(),
        })?;
    Ok(Pair { certified_key: Arc::new(certified_key), expires_at })
}

/// Builds the verifier of client certificates; `None` if there is none to be asked for.
pub(crate) fn load_verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
    let (authority, common_name) = match clients {
        ClientCertificates::NotAsked => return Ok(None),
        ClientCertificates::Required { authority, common_name } => (authority, common_name),
    };
    let roots = match authority {
        Some(path) => load_authority(path)?,
        None => system_roots()?,
    };
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if authority.is_none() {
        // A hundred names of public authorities would only make the handshake larger.
        builder = builder.clear_root_hint_subjects();
    }
    let inner =
        builder.build().map_err(|error| Error::NoAuthority { reason: error.to_string() })?;
    Ok(Some(Arc::new(Verifier::new(inner, common_name.clone()))))
}

fn load_authority(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        roots.add(certificate).map_err(|error| Error::BadCertificate {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// Reads what the operating system trusts, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _unusable) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reason = match found.errors.first() {
            Some(error) => error.to_string(),
            None => "the operating system trusts none".to_owned(),
        };
        return Err(Error::NoAuthority { reason });
    }
    Ok(roots)
}

/// Reads every certificate of a PEM file; at least one.
fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = |reason: String| Error::BadCertificate { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned(), limit_bytes: FILE_BYTES_MAX });
    }
    Ok(bytes)
}
