//! A certificate authority for one test, and the files of what it issues.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// An authority and the folder its files lie in; its own certificate is `ca.pem`.
#[derive(Debug)]
pub struct Authority {
    place: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, whom nobody trusts yet.
    pub fn create() -> Self {
        let mut params =
            CertificateParams::new(Vec::<String>::new()).expect("no name is no wrong name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "rq test authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let place = TempDir::with_prefix("rq-tls-").expect("a temporary directory");
        write(&place.path().join("ca.pem"), &certificate.pem());
        Self { place, issuer: Issuer::new(params, key) }
    }

    /// A file of this authority.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// As [`Authority::file`], as text.
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Writes `name.pem` and `name.key`, for a server on this machine or a client.
    pub fn issue(&self, name: &str, common_name: &str) {
        let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(hosts).expect("names of this machine");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        write(&self.file(&format!("{name}.pem")), &certificate.pem());
        write(&self.file(&format!("{name}.key")), &key.serialize_pem());
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}
