//! What is read from a leaf certificate beyond what rustls tells: names and the end of its life.
//!
//! The certificate may come from a stranger. What cannot be read is absent, never an error.

use rustls::pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::{Decode as _, oid::db::rfc4519::COMMON_NAME},
    ext::pkix::name::DirectoryString,
};

/// The characters up to which a subject is shown in messages; the rest is left out.
const SUBJECT_CHARS_MAX: usize = 256;

/// Gives the end of a certificate's life in seconds since 1970.
pub(crate) fn expires_at(leaf: &CertificateDer<'_>) -> Option<u64> {
    let certificate = Certificate::from_der(leaf).ok()?;
    Some(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}

/// Gives the common name of a certificate's subject; `None` if it has none or several.
pub(crate) fn common_name(leaf: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(leaf).ok()?;
    let subject = certificate.tbs_certificate().subject();
    let mut names = subject.iter().filter(|attribute| attribute.oid == COMMON_NAME);
    let only = names.next()?;
    if names.next().is_some() {
        return None;
    }
    let name = DirectoryString::try_from(&only.value).ok()?;
    Some(name.value().into_owned())
}

/// Gives the subject for a message: quoted, escaped and cut to a bearable length.
pub(crate) fn subject(leaf: &CertificateDer<'_>) -> String {
    let Ok(certificate) = Certificate::from_der(leaf) else {
        return "unreadable".to_owned();
    };
    let text = certificate.tbs_certificate().subject().to_string();
    format!("{:?}", text.chars().take(SUBJECT_CHARS_MAX).collect::<String>())
}
