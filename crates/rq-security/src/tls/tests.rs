//! Real handshakes in memory, against files that are replaced between them.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, Error as TlsError, PeerIncompatible, ProtocolVersion,
    RootCertStore, ServerConnection, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;

use super::*;

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

/// 1 January 2030, when the tests take place.
#[derive(Debug)]
pub(super) struct In2030;

impl TimeProvider for In2030 {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_893_456_000)))
    }
}

/// A certificate and its key, in PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

pub(super) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Issues a certificate with up to two common names; the second kind is the same attribute,
/// given by number because the library keeps one name of a kind.
pub(super) fn issue(authority: &Authority, common_names: &[&str], expires_in: i32) -> Issued {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    let kinds = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
    for (kind, name) in kinds.into_iter().zip(common_names) {
        params.distinguished_name.push(kind, *name);
    }
    params.not_after = date_time_ymd(expires_in, 1, 1);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Issued { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// The files of a server in a folder of their own.
pub(super) struct Files(TempDir);

impl Files {
    pub(super) fn new(issued: &Issued) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("cert.pem", &issued.certificate);
        files.write("key.pem", &issued.key);
        files
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces a file as operators and orchestrators do, by renaming.
    pub(super) fn write(&self, name: &str, content: &str) {
        fs::write(self.path("new"), content).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    pub(super) fn open(&self, clients: ClientCertificates) -> Result<ServerTls, Error> {
        let options = ServerTlsOptions {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
            clients,
        };
        ServerTls::open_watched(options, Duration::ZERO, Arc::new(In2030))
    }

    /// Opens a server that requires certificates vouched for by `ca.pem`.
    pub(super) fn open_mutual(&self, common_name: Option<&str>) -> ServerTls {
        self.open(ClientCertificates::Required {
            authority: Some(self.path("ca.pem")),
            common_name: common_name.map(str::to_owned),
        })
        .unwrap()
    }
}

/// What a client saw and agreed on.
#[derive(Debug)]
struct Agreed {
    certificate: CertificateDer<'static>,
    version: ProtocolVersion,
    protocol: Option<Vec<u8>>,
}

/// What a client brings to the handshake.
struct Client<'a> {
    trusts: &'a Authority,
    presents: Option<&'a Issued>,
    versions: Vec<&'static SupportedProtocolVersion>,
    protocols: &'static [&'static [u8]],
}

impl<'a> Client<'a> {
    fn new(trusts: &'a Authority) -> Self {
        Self { trusts, presents: None, versions: vec![&TLS12, &TLS13], protocols: &[] }
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusts.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_details(
            Arc::new(ring::default_provider()),
            Arc::new(In2030),
        )
        .with_protocol_versions(&self.versions)
        .unwrap()
        .with_root_certificates(roots);
        let mut config = match self.presents {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let certificate =
                    CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|name| name.to_vec()).collect();
        config
    }

    fn connect(&self, tls: &ServerTls) -> Result<Agreed, TlsError> {
        let mut server = ServerConnection::new(tls.handshake_config()).unwrap();
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(Agreed {
            certificate: client.peer_certificates().unwrap()[0].clone().into_owned(),
            version: client.protocol_version().unwrap(),
            protocol: client.alpn_protocol().map(<[u8]>::to_vec),
        })
    }
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()
}

#[test]
fn a_new_pair_is_served_from_the_next_handshake_on() {
    let ca = authority("ca");
    let (old, new) = (issue(&ca, &["old"], 2031), issue(&ca, &["new"], 2040));
    let files = Files::new(&old);
    let tls = files.open(ClientCertificates::NotAsked).unwrap();
    let client = Client::new(&ca);
    assert_eq!(client.connect(&tls).unwrap().certificate, der(&old));
    assert_eq!(tls.certificate_expires_at(), Some(1_924_992_000));
    files.write("cert.pem", &new.certificate);
    files.write("key.pem", &new.key);
    assert_eq!(client.connect(&tls).unwrap().certificate, der(&new));
    assert_eq!(tls.certificate_expires_at(), Some(2_208_988_800));
    assert_eq!(client.connect(&tls).unwrap().certificate, der(&new));
    assert_eq!(tls.counts(), TlsCounts { fetched: 3, reloaded: 1, failed: 0 });
}

#[test]
fn while_a_pair_does_not_match_the_old_one_is_served() {
    let ca = authority("ca");
    let (old, new) = (issue(&ca, &["old"], 2031), issue(&ca, &["new"], 2031));
    let files = Files::new(&old);
    let tls = files.open(ClientCertificates::NotAsked).unwrap();
    let client = Client::new(&ca);
    files.write("cert.pem", &new.certificate);
    for _ in 0..3 {
        assert_eq!(client.connect(&tls).unwrap().certificate, der(&old));
    }
    assert_eq!(tls.counts().failed, 1, "reported once");
    files.write("key.pem", &new.key);
    assert_eq!(client.connect(&tls).unwrap().certificate, der(&new));
    assert_eq!(tls.counts(), TlsCounts { fetched: 4, reloaded: 1, failed: 1 });
}

#[test]
fn broken_missing_and_expired_files_leave_the_old_pair() {
    let ca = authority("ca");
    let (old, new) = (issue(&ca, &["old"], 2031), issue(&ca, &["new"], 2031));
    let expired = issue(&ca, &["expired"], 2029);
    let files = Files::new(&old);
    let tls = files.open(ClientCertificates::NotAsked).unwrap();
    let client = Client::new(&ca);
    let serves_old = |step: &str| {
        assert_eq!(client.connect(&tls).unwrap().certificate, der(&old), "{step}");
    };
    files.write("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA");
    serves_old("half a file");
    files.write("cert.pem", "");
    serves_old("an empty file");
    fs::remove_file(files.path("cert.pem")).unwrap();
    serves_old("no file");
    files.write("cert.pem", &expired.certificate);
    files.write("key.pem", &expired.key);
    serves_old("an expired pair");
    files.write("cert.pem", &new.certificate);
    files.write("key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    serves_old("a broken key");
    assert_eq!(tls.counts(), TlsCounts { fetched: 5, reloaded: 0, failed: 5 });
    files.write("key.pem", &new.key);
    assert_eq!(client.connect(&tls).unwrap().certificate, der(&new));
}

#[test]
fn files_that_cannot_serve_are_errors_at_start() {
    let ca = authority("ca");
    let (one, two) = (issue(&ca, &["one"], 2031), issue(&ca, &["two"], 2031));
    let files = Files::new(&one);
    let refuses = |expected: &str| {
        let error = files.open(ClientCertificates::NotAsked).err().unwrap().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    };
    files.write("key.pem", &two.key);
    refuses("key.pem: ");
    files.write("key.pem", &two.certificate);
    refuses("no private key in PEM");
    files.write("cert.pem", "hello");
    refuses("no certificate in PEM");
    fs::remove_file(files.path("cert.pem")).unwrap();
    refuses("open ");
    let files = Files::new(&issue(&ca, &["expired"], 2029));
    assert!(files.open(ClientCertificates::NotAsked).is_ok(), "there is no better one");
}

#[test]
fn clients_without_a_valid_certificate_are_refused() {
    let (ca, stranger) = (authority("ca"), authority("stranger"));
    let files = Files::new(&issue(&ca, &["server"], 2031));
    files.write("ca.pem", &ca.pem());
    let tls = files.open_mutual(None);
    let good = issue(&ca, &["client"], 2031);
    let bad = [issue(&stranger, &["client"], 2031), issue(&ca, &["client"], 2029)];
    for version in [&TLS12, &TLS13] {
        let connect = |presents| {
            let versions = vec![version];
            Client { presents, versions, ..Client::new(&ca) }.connect(&tls)
        };
        connect(Some(&good)).unwrap();
        assert_eq!(connect(None).unwrap_err(), TlsError::NoCertificatesPresented);
        for bad in &bad {
            let error = connect(Some(bad)).unwrap_err();
            assert!(matches!(error, TlsError::InvalidCertificate(_)), "{error:?}");
        }
    }
}

#[test]
fn the_common_name_must_be_equal_to_the_letter() {
    let ca = authority("ca");
    let files = Files::new(&issue(&ca, &["server"], 2031));
    files.write("ca.pem", &ca.pem());
    let tls = files.open_mutual(Some("node one"));
    let connect = |names: &[&str]| {
        let issued = issue(&ca, names, 2031);
        Client { presents: Some(&issued), ..Client::new(&ca) }.connect(&tls)
    };
    connect(&["node one"]).unwrap();
    let wrong: [&[&str]; 5] =
        [&["node two"], &["Node one"], &["node one "], &[], &["node one", "node two"]];
    for names in wrong {
        let error = connect(names).unwrap_err().to_string();
        let expected = "client did not provide any valid certificate that matches CN \"node one\"";
        assert!(error.contains(expected), "{names:?}: {error}");
    }
}

#[test]
fn authorities_rotate_without_a_restart() {
    let (old, new) = (authority("old"), authority("new"));
    let files = Files::new(&issue(&old, &["server"], 2031));
    files.write("ca.pem", &old.pem());
    let tls = files.open_mutual(None);
    let (old_client, new_client) = (issue(&old, &["c"], 2031), issue(&new, &["c"], 2031));
    let accepted =
        |issued| Client { presents: Some(issued), ..Client::new(&old) }.connect(&tls).is_ok();
    assert!(accepted(&old_client) && !accepted(&new_client));
    files.write("ca.pem", &format!("{}{}", old.pem(), new.pem()));
    assert!(accepted(&old_client) && accepted(&new_client), "both, while they overlap");
    files.write("ca.pem", "garbage");
    assert!(accepted(&old_client) && accepted(&new_client), "a broken file changes nothing");
    files.write("ca.pem", &new.pem());
    assert!(!accepted(&old_client) && accepted(&new_client));
    let counts = tls.counts();
    assert_eq!((counts.reloaded, counts.failed), (2, 1));
}

#[test]
fn a_broken_authority_does_not_hold_back_a_new_pair() {
    let ca = authority("ca");
    let (old, new) = (issue(&ca, &["old"], 2031), issue(&ca, &["new"], 2031));
    let files = Files::new(&old);
    files.write("ca.pem", &ca.pem());
    let tls = files.open_mutual(None);
    files.write("ca.pem", "");
    files.write("cert.pem", &new.certificate);
    files.write("key.pem", &new.key);
    let client = Client { presents: Some(&old), ..Client::new(&ca) };
    assert_eq!(client.connect(&tls).unwrap().certificate, der(&new));
}

#[test]
fn both_protocols_are_offered() {
    let ca = authority("ca");
    let files = Files::new(&issue(&ca, &["server"], 2031));
    let tls = files.open(ClientCertificates::NotAsked).unwrap();
    let agreed = |protocols: &'static [&'static [u8]]| {
        let agreed = Client { protocols, ..Client::new(&ca) }.connect(&tls).unwrap();
        assert_eq!(agreed.version, ProtocolVersion::TLSv1_3);
        agreed.protocol
    };
    assert_eq!(agreed(&[b"http/1.1", b"h2"]).as_deref(), Some(&b"h2"[..]));
    assert_eq!(agreed(&[b"http/1.1"]).as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(agreed(&[]), None);
}

#[test]
fn nothing_below_tls_1_2_is_spoken() {
    let ca = authority("ca");
    let files = Files::new(&issue(&ca, &["server"], 2031));
    let tls = files.open(ClientCertificates::NotAsked).unwrap();
    let agreed = Client { versions: vec![&TLS12], ..Client::new(&ca) }.connect(&tls).unwrap();
    assert_eq!(agreed.version, ProtocolVersion::TLSv1_2);

    for version in [0x0300_u16, 0x0301, 0x0302] {
        let mut server = ServerConnection::new(tls.handshake_config()).unwrap();
        server.read_tls(&mut client_hello(version).as_slice()).unwrap();
        let error = server.process_new_packets().unwrap_err();
        assert_eq!(
            error,
            TlsError::PeerIncompatible(PeerIncompatible::Tls12NotOffered),
            "{version:#x}"
        );
    }
}

/// A hello of a client that knows nothing newer than `version`: a record around a handshake
/// message with version, random, no session, one cipher suite, no compression, and RSA with
/// SHA-256 as the only extension.
fn client_hello(version: u16) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    body.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 1]);
    let length = u8::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

#[test]
fn the_systems_authorities_serve_when_no_file_is_named() {
    let ca = authority("ca");
    let files = Files::new(&issue(&ca, &["server"], 2031));
    let clients = ClientCertificates::Required { authority: None, common_name: None };
    // Whether the machine has any is its business; a private authority is never among them.
    match files.open(clients) {
        Ok(tls) => {
            let presents = issue(&ca, &["client"], 2031);
            let client = Client { presents: Some(&presents), ..Client::new(&ca) };
            assert!(matches!(client.connect(&tls), Err(TlsError::InvalidCertificate(_))));
        }
        Err(error) => assert!(matches!(error, Error::NoAuthority { .. }), "{error}"),
    }
}

#[test]
fn what_a_leaf_does_not_say_is_absent() {
    let ca = authority("ca");
    let read = |names: &[&str]| leaf::common_name(&der(&issue(&ca, names, 2031)));
    assert_eq!(read(&["one"]).as_deref(), Some("one"));
    assert_eq!(read(&[]), None);
    assert_eq!(read(&["one", "two"]), None, "nobody knows which counts");
    let forged = der(&issue(&ca, &["a\nb\u{1b}[31m"], 2031));
    let shown = leaf::subject(&forged);
    assert!(shown.starts_with("\"CN=a") && !shown.contains(char::is_control), "{shown}");
    for garbage in [Vec::new(), vec![0x30, 0x00], vec![0xff; 64]] {
        let garbage = CertificateDer::from(garbage);
        assert_eq!(leaf::common_name(&garbage), None);
        assert_eq!(leaf::expires_at(&garbage), None);
        assert_eq!(leaf::subject(&garbage), "unreadable");
    }
}
