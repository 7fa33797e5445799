//! TLS and the cluster's secret: who may talk to whom, and what each side is told.

use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rq_security::{
    ClientCertificates, ClientTls, ClientTlsOptions, ClusterSecret, PairFiles, ServerCertificates,
    ServerTls, ServerTlsOptions,
};
use tempfile::TempDir;

use super::*;
use crate::internode::tcp::TcpTls;

/// Longer than files may go unlooked at.
const NOTICED: Duration = Duration::from_millis(1200);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// How a node is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Tls,
    Mutual,
}

/// The files of one node.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path("new"), content).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// Writes a certificate for localhost, its key, and its authority.
    fn issue(&self, authority: &Authority, common_name: &str, expires_in: i32) {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_after = date_time_ymd(expires_in, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        self.write("cert.pem", &certificate.pem());
        self.write("key.pem", &key.serialize_pem());
        self.write("ca.pem", &authority.pem());
    }

    /// Writes an authority's own certificate as that of the node.
    fn issue_authority_itself(&self) {
        let authority = authority();
        self.write("cert.pem", &authority.pem());
        self.write("key.pem", &authority.key().serialize_pem());
        self.write("ca.pem", &authority.pem());
    }

    fn verified(&self) -> ServerCertificates {
        ServerCertificates::Verified { authority: Some(self.path("ca.pem")), name: None }
    }

    fn required(&self, common_name: Option<&str>) -> ClientCertificates {
        let common_name = common_name.map(str::to_owned);
        ClientCertificates::Required { authority: Some(self.path("ca.pem")), common_name }
    }

    fn options_with(
        &self,
        clients: ClientCertificates,
        servers: ServerCertificates,
        shows_certificate: bool,
    ) -> TcpOptions {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        let pair = PairFiles { certificate: certificate.clone(), key: key.clone() };
        let pair = shows_certificate.then_some(pair);
        let server = ServerTlsOptions { certificate, key, clients };
        let tls = TcpTls {
            server: Arc::new(ServerTls::open(server).unwrap()),
            client: Arc::new(ClientTls::open(ClientTlsOptions { pair, servers }).unwrap()),
        };
        TcpOptions { tls: Some(tls), ..TcpOptions::default() }
    }

    fn options(&self, mode: Mode) -> TcpOptions {
        match mode {
            Mode::Plain => TcpOptions::default(),
            Mode::Tls => self.options_with(ClientCertificates::NotAsked, self.verified(), false),
            Mode::Mutual => self.options_with(self.required(None), self.verified(), true),
        }
    }
}

/// Makes one call over a fresh connection; `Err` is what the caller is told.
async fn try_call(to: &TcpNetwork, from: &TcpOptions) -> Result<(), String> {
    let client = network(from.clone()).await;
    match client.call(call(to.local_addr(), Lane::Service, "x", LONG)).await {
        Ok(answer) => {
            assert_eq!(answer, Bytes::from("x"));
            Ok(())
        }
        Err(CallError::NotSent(reason)) => Err(reason),
        Err(CallError::Unanswered(reason)) => panic!("{reason}"),
    }
}

#[tokio::test]
async fn nodes_agree_about_tls_or_do_not_talk_and_both_say_why() {
    let (files, ca) = (Files::new(), authority());
    files.issue(&ca, "node", 2100);
    // Who is dialled, who dials, and what dialler and accepter say if that does not work.
    let rows = [
        (Mode::Plain, Mode::Plain, None),
        (Mode::Tls, Mode::Tls, None),
        (Mode::Mutual, Mode::Mutual, None),
        (Mode::Tls, Mode::Mutual, None),
        (Mode::Mutual, Mode::Tls, Some(("refuses", "TLS: "))),
        (Mode::Tls, Mode::Plain, Some(("it requires TLS", "it does not use TLS"))),
        (Mode::Mutual, Mode::Plain, Some(("it requires TLS", "it does not use TLS"))),
        (Mode::Plain, Mode::Tls, Some(("perhaps it does not use TLS", "it uses TLS"))),
        (Mode::Plain, Mode::Mutual, Some(("perhaps it does not use TLS", "it uses TLS"))),
    ];
    for (accepter, dialler, failure) in rows {
        let (server, recorder) = node(files.options(accepter)).await;
        let outcome = try_call(&server, &files.options(dialler)).await;
        match failure {
            None => assert_eq!(outcome, Ok(()), "{accepter:?} {dialler:?}"),
            Some((told, logged)) => {
                let text = outcome.unwrap_err();
                assert!(text.contains(told), "{accepter:?} {dialler:?}: {text}");
                eventually_says(&server, logged).await;
                assert_eq!(recorder.seen(), 0);
            }
        }
    }
}

#[tokio::test]
async fn strangers_at_a_port_with_tls_are_closed_at_once() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let files = Files::new();
    files.issue(&authority(), "node", 2100);
    let (server, _) = node(files.options(Mode::Tls)).await;
    let rows: [(&[u8], &str); 3] = [
        (b"GET / HTTP/1.1\r\n\r\n", "it sent HTTP"),
        (b"\x02", "it seems to be a node of rqlite"),
        (b"\x16\x03\x01\x00\x05hello", "TLS: "),
    ];
    for (bytes, expected) in rows {
        let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut heard = Vec::new();
        // A reset is a way of closing, and TLS may say goodbye with an alert.
        drop(stream.read_to_end(&mut heard).await);
        assert!(heard.len() < 10, "{heard:?}");
        eventually_says(&server, expected).await;
    }
}

#[tokio::test]
async fn a_new_authority_is_rolled_out_by_replacing_files() {
    for mode in [Mode::Tls, Mode::Mutual] {
        let (old, new) = (authority(), authority());
        let (first, second) = (Files::new(), Files::new());
        for files in [&first, &second] {
            files.issue(&old, "node", 2100);
        }
        let (first_options, second_options) = (first.options(mode), second.options(mode));
        let (first_node, _) = node(first_options.clone()).await;
        let (second_node, _) = node(second_options.clone()).await;
        assert_eq!(try_call(&first_node, &second_options).await, Ok(()));

        first.issue(&new, "node", 2100);
        sleep(NOTICED).await;
        let text = try_call(&first_node, &second_options).await.unwrap_err();
        assert!(text.contains("its certificate is refused"), "{text}");
        let text = try_call(&second_node, &first_options).await.unwrap_err();
        assert!(text.contains("its certificate is refused"), "{text}");

        // Both authorities in the file bridge the change.
        let both = format!("{}{}", old.pem(), new.pem());
        first.write("ca.pem", &both);
        second.write("ca.pem", &both);
        sleep(NOTICED).await;
        assert_eq!(try_call(&first_node, &second_options).await, Ok(()));
        assert_eq!(try_call(&second_node, &first_options).await, Ok(()));

        second.issue(&new, "node", 2100);
        first.write("ca.pem", &new.pem());
        sleep(NOTICED).await;
        assert_eq!(try_call(&first_node, &second_options).await, Ok(()));
        assert_eq!(try_call(&second_node, &first_options).await, Ok(()));
        assert!(first_node.counters()["mux"]["num_tls_cert_fetched"] >= 3);
    }
}

#[tokio::test]
async fn certificates_of_nodes_are_verified_unless_told_otherwise() {
    let ca = authority();
    let (good, expired, itself, other) = (Files::new(), Files::new(), Files::new(), Files::new());
    good.issue(&ca, "node", 2100);
    expired.issue(&ca, "node", 2001);
    itself.issue_authority_itself();
    other.issue(&authority(), "node", 2100);
    let named = |files: &Files, name: &str| ServerCertificates::Verified {
        authority: Some(files.path("ca.pem")),
        name: Some(name.to_owned()),
    };
    // Whose certificate is shown, what the dialler asks of it, and whether that is met.
    let rows = [
        ("verified", &good, good.verified(), true),
        ("another authority", &good, other.verified(), false),
        ("the right name", &good, named(&good, "localhost"), true),
        ("another name", &good, named(&good, "elsewhere"), false),
        ("expired", &expired, expired.verified(), false),
        ("an authority as a node", &itself, itself.verified(), false),
        ("expired, unverified", &expired, ServerCertificates::Unverified, true),
        ("an authority as a node, unverified", &itself, ServerCertificates::Unverified, true),
        ("unknown, unverified", &other, ServerCertificates::Unverified, true),
    ];
    for (name, files, servers, is_met) in rows {
        let (server, _) =
            node(files.options_with(ClientCertificates::NotAsked, good.verified(), false)).await;
        let dialler = good.options_with(ClientCertificates::NotAsked, servers, false);
        let outcome = try_call(&server, &dialler).await;
        assert_eq!(outcome.is_ok(), is_met, "{name}: {outcome:?}");
        if let Err(text) = outcome {
            assert!(text.contains("its certificate is refused"), "{name}: {text}");
        }
    }
}

#[tokio::test]
async fn certificates_of_diallers_are_verified_whatever_they_verify_themselves() {
    let ca = authority();
    let (good, expired, itself, other) = (Files::new(), Files::new(), Files::new(), Files::new());
    good.issue(&ca, "node", 2100);
    expired.issue(&ca, "node", 2001);
    itself.issue_authority_itself();
    other.issue(&authority(), "node", 2100);
    let cn = "client did not provide any valid certificate that matches CN \"other\"";
    // The common name asked for, who dials, and what the log says of whom that keeps out.
    let rows = [
        ("any name", None, &good, None),
        ("the name", Some("node"), &good, None),
        ("another name", Some("other"), &good, Some(cn)),
        ("another authority", None, &other, Some("TLS: ")),
        ("expired", None, &expired, Some("TLS: ")),
        ("an authority as a node", None, &itself, Some("TLS: ")),
    ];
    for (name, common_name, files, refused) in rows {
        let (server, recorder) =
            node(good.options_with(good.required(common_name), good.verified(), true)).await;
        let dialler =
            files.options_with(ClientCertificates::NotAsked, ServerCertificates::Unverified, true);
        let outcome = try_call(&server, &dialler).await;
        assert_eq!(outcome.is_ok(), refused.is_none(), "{name}: {outcome:?}");
        if let Some(logged) = refused {
            assert!(outcome.unwrap_err().contains("refuses this node's certificate"), "{name}");
            eventually_says(&server, logged).await;
            assert_eq!(recorder.seen(), 0, "{name}");
        }
    }
}

/// Options with a secret, on top of others.
fn with_secret(options: TcpOptions, files: &Files, name: &str) -> TcpOptions {
    let secret = ClusterSecret::open(&files.path(name)).unwrap();
    TcpOptions { secret: Some(Arc::new(secret)), ..options }
}

#[tokio::test]
async fn nodes_that_do_not_share_a_secret_do_not_talk_and_both_say_why() {
    let (files, ca) = (Files::new(), authority());
    files.issue(&ca, "node", 2100);
    files.write("right", "the secret of this cluster\n");
    files.write("wrong", "the secret of another one\n");
    for mode in [Mode::Plain, Mode::Tls, Mode::Mutual] {
        let options = files.options(mode);
        let (server, recorder) = node(with_secret(options.clone(), &files, "right")).await;
        assert_eq!(try_call(&server, &with_secret(options.clone(), &files, "right")).await, Ok(()));
        assert_eq!(recorder.seen(), 1);
        let text = try_call(&server, &with_secret(options.clone(), &files, "wrong")).await;
        assert!(
            text.as_ref().is_err_and(|text| text.contains("its cluster secret is another")),
            "{text:?}"
        );
        eventually_says(&server, "its cluster secret is another one").await;
        let text = try_call(&server, &options).await;
        assert!(
            text.as_ref().is_err_and(|text| text.contains("it requires a cluster secret")),
            "{text:?}"
        );
        eventually_says(&server, "it has no cluster secret").await;
        assert_eq!(recorder.seen(), 1);

        let (server, recorder) = node(options.clone()).await;
        let text = try_call(&server, &with_secret(options, &files, "right")).await;
        assert!(
            text.as_ref().is_err_and(|text| text.contains("it has no cluster secret")),
            "{text:?}"
        );
        eventually_says(&server, "it has a cluster secret, this node has none").await;
        assert_eq!(recorder.seen(), 0);
    }
}

#[tokio::test]
async fn a_new_secret_is_rolled_out_node_by_node_without_a_gap() {
    let (first, second) = (Files::new(), Files::new());
    for files in [&first, &second] {
        files.write("secret", "the old secret of all");
    }
    let first_options = with_secret(TcpOptions::default(), &first, "secret");
    let second_options = with_secret(TcpOptions::default(), &second, "secret");
    let (first_node, _) = node(first_options.clone()).await;
    let (second_node, _) = node(second_options.clone()).await;
    for files in [&first, &second] {
        files.write("secret", "the new secret of all");
        sleep(NOTICED).await;
        assert_eq!(try_call(&first_node, &second_options).await, Ok(()));
        assert_eq!(try_call(&second_node, &first_options).await, Ok(()));
    }
    first.write("old", "the old secret of all");
    first.write("secret", "the third secret of all");
    let late = with_secret(TcpOptions::default(), &first, "old");
    sleep(NOTICED).await;
    assert!(try_call(&first_node, &late).await.is_err(), "two changes ago");
    assert_eq!(try_call(&second_node, &late).await, Ok(()), "one change ago");
}

#[tokio::test]
async fn proofs_are_worth_nothing_in_another_session_or_to_who_asks_for_them() {
    use crate::internode::tcp::hello::{self, GreetError, Rejection, Verdict};
    let files = Files::new();
    files.write("secret", "the secret of this cluster");
    let secret = ClusterSecret::open(&files.path("secret")).unwrap();
    let keys = secret.keys();
    // Two TLS sessions, one on each side of somebody in between who passes everything on.
    let (mut near, mut far) = tokio::io::duplex(1000);
    let (greeted, received) = tokio::join!(
        hello::greet(&mut near, Lane::Control, Some(&keys), b"one session"),
        hello::receive(&mut far, Some(&keys), b"another session", |_| Some(())),
    );
    assert!(matches!(greeted, Err(GreetError::Refused(Verdict::SecretWrong))), "{greeted:?}");
    assert!(matches!(received, Err(Rejection::Refused(Verdict::SecretWrong))), "{received:?}");
    // Somebody without the secret who says yes to everything.
    let (mut near, mut far) = tokio::io::duplex(1000);
    let impostor = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut hello = [0; 48];
        far.read_exact(&mut hello).await.unwrap();
        hello[12] = 0;
        far.write_all(&hello).await.unwrap();
        let mut proofs = [0; 72];
        far.read_exact(&mut proofs).await.unwrap();
        // The dialler's own proof, sent back.
        proofs[..8].fill(0);
        far.write_all(&proofs[..40]).await.unwrap();
    };
    let (greeted, ()) =
        tokio::join!(hello::greet(&mut near, Lane::Control, Some(&keys), b""), impostor);
    assert!(matches!(greeted, Err(GreetError::Impostor)), "{greeted:?}");
}
