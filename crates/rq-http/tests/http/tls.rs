//! HTTPS and HTTP/2.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rq_security::{ClientCertificates, ServerTls, ServerTlsOptions};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore, StreamOwned,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    },
};

use crate::harness::{ENDLESS, Fixture, eventually};

/// An authority, and the files of a server certificate it signed.
struct Pki {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Self { directory: tempfile::tempdir().unwrap(), authority };
        let (certificate, key) = pki.leaf("localhost");
        fs::write(pki.path("cert.pem"), certificate.pem()).unwrap();
        fs::write(pki.path("key.pem"), key.serialize_pem()).unwrap();
        fs::write(pki.path("ca.pem"), pki.authority.pem()).unwrap();
        pki
    }

    fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.authority).unwrap(), key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn server(&self, clients: ClientCertificates) -> Arc<ServerTls> {
        let options = ServerTlsOptions {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
            clients,
        };
        Arc::new(ServerTls::open(options).unwrap())
    }

    /// A client's configuration, with a certificate of this name if there is one.
    fn client(&self, name: Option<&str>, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let (certificate, key) = self.leaf(name);
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// One HTTP/1.1 request over TLS; the whole answer as text, or the failure.
fn https(
    fixture: &Fixture,
    config: Arc<ClientConfig>,
    request: &str,
) -> Result<String, std::io::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let socket = std::net::TcpStream::connect(fixture.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

const READY: &str = "GET /readyz?noleader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn https_is_spoken() {
    let pki = Pki::new();
    let fixture = Fixture::start_without_node(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
    });
    for protocols in [&[][..], &["http/1.1"]] {
        let answer = https(&fixture, pki.client(None, protocols), READY).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n[+]node ok"), "{answer}");
    }
    let status = READY.replace("/readyz?noleader", "/status?key=http.tls");
    let answer = https(&fixture, pki.client(None, &[]), &status).unwrap();
    assert!(answer.contains(r#""enabled":"true""#), "{answer}");
    let vars = READY.replace("/readyz?noleader", "/debug/vars?key=http");
    let answer = https(&fixture, pki.client(None, &[]), &vars).unwrap();
    assert!(answer.contains(r#""tls_cert_fetched":4"#), "{answer}");
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let pki = Pki::new();
    let fixture = Fixture::start_without_node(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
    });
    let mut client = fixture.connect();
    client.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = client.receive();
    response.expect(400, "Client sent an HTTP request to an HTTPS server.\n");
    assert!(client.is_closed());
    eventually("nothing is left of it", || fixture.connections() == 0);
}

#[test]
fn a_handshake_that_does_not_go_on_ends_the_connection() {
    let pki = Pki::new();
    let fixture = Fixture::start_without_node(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
        options.limits.head_time_max = Duration::from_millis(300);
    });
    let mut silent = fixture.connect();
    let mut half = fixture.connect();
    half.send([0x16, 3, 1]);
    assert!(silent.is_closed() && half.is_closed());
    eventually("nothing is left of them", || fixture.connections() == 0);
}

#[test]
fn clients_must_show_the_right_certificate() {
    let pki = Pki::new();
    let stranger = Pki::new();
    let fixture = Fixture::start_without_node(|options| {
        options.tls = Some(pki.server(ClientCertificates::Required {
            authority: Some(pki.path("ca.pem")),
            common_name: Some("alice".to_owned()),
        }));
    });
    let answer = https(&fixture, pki.client(Some("alice"), &[]), READY).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(https(&fixture, pki.client(Some("bob"), &[]), READY).is_err());
    assert!(https(&fixture, pki.client(None, &[]), READY).is_err());
    let mut forged = (*pki.client(None, &[])).clone();
    forged.client_auth_cert_resolver =
        Arc::clone(&stranger.client(Some("alice"), &[]).client_auth_cert_resolver);
    assert!(https(&fixture, Arc::new(forged), READY).is_err());
}

#[test]
fn a_replaced_certificate_is_taken_into_use() {
    let pki = Pki::new();
    let fixture = Fixture::start_without_node(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
    });
    assert!(https(&fixture, pki.client(None, &[]), READY).is_ok());
    let successor = Pki::new();
    fs::copy(successor.path("cert.pem"), pki.path("cert.pem")).unwrap();
    fs::copy(successor.path("key.pem"), pki.path("key.pem")).unwrap();
    eventually("the new certificate is shown", || {
        https(&fixture, successor.client(None, &[]), READY).is_ok()
    });
    assert!(https(&fixture, pki.client(None, &[]), READY).is_err());
}

/// An HTTP/2 connection over TLS.
async fn http2(fixture: &Fixture, config: Arc<ClientConfig>) -> http2::SendRequest<Full<Bytes>> {
    let socket = TcpStream::connect(fixture.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(config).connect(name, socket).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    drop(tokio::spawn(connection));
    sender
}

fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://localhost{target}")).body(Full::default()).unwrap()
}

#[test]
fn http2_is_spoken() {
    let pki = Pki::new();
    let fixture = Fixture::start(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
    });
    fixture.runtime.block_on(async {
        let mut sender = http2(&fixture, pki.client(None, &["h2", "http/1.1"])).await;
        let many = (0..50).map(|number| {
            let response = sender.send_request(get(&format!("/db/query?q=SELECT+{number}")));
            async move {
                let response = response.await.unwrap();
                assert_eq!(
                    (response.status(), response.version()),
                    (StatusCode::OK, Version::HTTP_2)
                );
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert!(String::from_utf8_lossy(&body).contains(&format!("[[{number}]]")));
            }
        });
        for exchange in many.collect::<Vec<_>>() {
            exchange.await;
        }
        let body = Full::new(Bytes::from_static(b"[\"SELECT 7\"]"));
        let request = Request::post("https://localhost/db/query").body(body).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn a_cancelled_stream_cancels_its_read() {
    let pki = Pki::new();
    let fixture = Fixture::start(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
    });
    let busy = || fixture.slot.get().unwrap().status().database.readers_busy;
    let mut sender = fixture.runtime.block_on(http2(&fixture, pki.client(None, &["h2"])));
    let response = {
        let _inside = fixture.runtime.enter();
        fixture.runtime.spawn(sender.send_request(get(ENDLESS)))
    };
    eventually("the read runs", || busy() == 1);
    response.abort();
    eventually("the read is cancelled", || busy() == 0);
    let response = fixture.runtime.block_on(sender.send_request(get("/readyz"))).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[test]
fn a_stream_has_its_time_limit() {
    let pki = Pki::new();
    let fixture = Fixture::start(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
        options.limits.request_time_max = Duration::from_millis(500);
    });
    let mut sender = fixture.runtime.block_on(http2(&fixture, pki.client(None, &["h2"])));
    let response = fixture.runtime.block_on(sender.send_request(get(ENDLESS))).unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-rq-error"], "query_timeout; outcome=not-done");
}

#[test]
fn stopping_ends_http2_connections() {
    let pki = Pki::new();
    let mut fixture = Fixture::start_without_node(|options| {
        options.tls = Some(pki.server(ClientCertificates::NotAsked));
    });
    let mut sender = fixture.runtime.block_on(http2(&fixture, pki.client(None, &["h2"])));
    let response = fixture.runtime.block_on(sender.send_request(get("/status"))).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(fixture.stop(Duration::from_secs(10)));
}
