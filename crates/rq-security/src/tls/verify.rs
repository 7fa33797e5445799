//! Verification of certificates beyond the usual rules: of clients by common name, of servers not at all.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::tls::leaf;

/// Verifies by the rules of web PKI and, if one is demanded, by common name.
///
/// - The common name is looked at only after the chain verified.
/// - Every refusal of a certificate is logged with its subject, which nobody above can know.
#[derive(Debug)]
pub(crate) struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    common_name: Option<String>,
}

impl Verifier {
    /// Adds the demand for a common name to the rules of `inner`.
    pub(crate) fn new(inner: Arc<dyn ClientCertVerifier>, common_name: Option<String>) -> Self {
        Self { inner, common_name }
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified =
            self.inner.verify_client_cert(end_entity, intermediates, now).and_then(|verified| {
                match &self.common_name {
                    Some(demanded) if leaf::common_name(end_entity).as_ref() != Some(demanded) => {
                        Err(wrong_name(demanded))
                    }
                    _ => Ok(verified),
                }
            });
        if let Err(error) = &verified {
            let subject = leaf::subject(end_entity);
            tracing::warn!(
                component = "tls",
                "refused the certificate of a client, subject {subject}: {error}"
            );
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The certificate verified but names somebody else.
#[derive(Debug)]
struct WrongCommonName(String);

impl fmt::Display for WrongCommonName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(demanded) = self;
        write!(
            formatter,
            "client did not provide any valid certificate that matches CN \"{demanded}\""
        )
    }
}

impl std::error::Error for WrongCommonName {}

fn wrong_name(demanded: &str) -> Error {
    Error::Other(OtherError(Arc::new(WrongCommonName(demanded.to_owned()))))
}

/// Takes any certificate of a server, also one that only an authority should have, as long as the server has its
/// key.
#[derive(Debug)]
pub(crate) struct AcceptAny {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AcceptAny {
    pub(crate) fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { algorithms }
    }
}

/// Takes no certificate of a server, for lack of anything to verify it with.
#[derive(Debug)]
pub(crate) struct RefuseAll {
    reason: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl RefuseAll {
    pub(crate) fn new(reason: String, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { reason, algorithms }
    }
}

/// The signatures of a handshake are verified in the same way by both.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures!();
}

impl ServerCertVerifier for RefuseAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::General(self.reason.clone()))
    }

    verify_signatures!();
}
