//! Real handshakes in memory between the two sides of TLS here, against files that are replaced between them.

use rustls::{
    ClientConnection, Error as TlsError, ServerConnection, pki_types::pem::PemObject as _,
};

use super::{
    tests::{Authority, Files, In2030, authority, issue},
    *,
};

/// A dialling side whose files are those of a node.
fn client(files: &Files, servers: ServerCertificates, shows_certificate: bool) -> ClientTls {
    let pair = PairFiles { certificate: files.path("cert.pem"), key: files.path("key.pem") };
    let options = ClientTlsOptions { pair: shows_certificate.then_some(pair), servers };
    ClientTls::open_watched(options, Duration::ZERO, Arc::new(In2030)).unwrap()
}

fn verified(files: &Files, name: Option<&str>) -> ServerCertificates {
    let name = name.map(str::to_owned);
    ServerCertificates::Verified { authority: Some(files.path("ca.pem")), name }
}

/// Files of a node with a certificate for localhost of that name.
fn files(authority: &Authority, name: &str) -> Files {
    let files = Files::new(&issue(authority, &[name], 2100));
    files.write("ca.pem", &authority.pem());
    files
}

/// Shakes hands with a host in memory; gives the first failure of either side.
fn connect(client: &ClientTls, host: &str, server: &ServerTls) -> Result<(), TlsError> {
    let (config, name) = client.handshake(host).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(server.handshake_config()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

fn is_refused(outcome: &Result<(), TlsError>) -> bool {
    matches!(outcome, Err(TlsError::InvalidCertificate(_)))
}

#[test]
fn the_name_dialled_or_demanded_must_be_in_the_certificate() {
    let ca = authority("ca");
    let node = files(&ca, "node");
    let server = node.open(ClientCertificates::NotAsked).unwrap();
    let rows = [
        (None, "localhost", true),
        (None, "LOCALHOST", true),
        (None, "elsewhere", false),
        (None, "127.0.0.1", false),
        (Some("localhost"), "10.0.0.1", true),
        (Some("localhost"), "not a name!", true),
        (Some("node"), "localhost", false),
    ];
    for (name, host, is_met) in rows {
        let outcome = connect(&client(&node, verified(&node, name), false), host, &server);
        assert_eq!(outcome.is_ok(), is_met, "{name:?} {host:?}: {outcome:?}");
        assert!(is_met || is_refused(&outcome), "{outcome:?}");
    }
    let verifying = client(&node, verified(&node, None), false);
    let error = verifying.handshake("not a name!").unwrap_err().to_string();
    assert!(error.contains("\"not a name!\""), "{error}");
    let trusting = client(&node, ServerCertificates::Unverified, false);
    assert_eq!(connect(&trusting, "not a name!", &server), Ok(()));
}

#[test]
fn unverified_still_means_that_the_server_has_the_key() {
    let ca = authority("ca");
    let node = files(&ca, "node");
    let server = node.open(ClientCertificates::NotAsked).unwrap();
    let trusting = client(&node, ServerCertificates::Unverified, false);
    assert_eq!(connect(&trusting, "elsewhere", &server), Ok(()));
    // Somebody who shows this node's certificate with a key of their own.
    let stranger = issue(&authority("other"), &["node"], 2100);
    let current = server.current.read().unwrap();
    let shown = current.pair.certified_key.cert.clone();
    drop(current);
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(stranger.key.as_bytes()).unwrap();
    let key = server.provider.key_provider.load_private_key(key).unwrap();
    let pair = Pair { certified_key: Arc::new(CertifiedKey::new(shown, key)), expires_at: None };
    server.replace(|current| current.pair = pair);
    let outcome = connect(&trusting, "elsewhere", &server);
    assert!(is_refused(&outcome), "{outcome:?}");
}

#[test]
fn a_new_authority_and_a_new_pair_are_used_from_the_next_handshake_on() {
    let (old, new) = (authority("old"), authority("new"));
    let (dialler, accepter) = (files(&old, "dialler"), files(&old, "accepter"));
    let server = accepter.open_mutual(Some("dialler"));
    let client = client(&dialler, verified(&dialler, None), true);
    assert_eq!(connect(&client, "localhost", &server), Ok(()));

    let renamed = issue(&old, &["renamed"], 2100);
    dialler.write("cert.pem", &renamed.certificate);
    dialler.write("key.pem", &renamed.key);
    let outcome = connect(&client, "localhost", &server);
    assert!(matches!(outcome, Err(TlsError::Other(_))), "{outcome:?}");

    let issued = issue(&new, &["dialler"], 2100);
    dialler.write("cert.pem", &issued.certificate);
    dialler.write("key.pem", &issued.key);
    accepter.write("ca.pem", &new.pem());
    assert_eq!(connect(&client, "localhost", &server), Ok(()));
    dialler.write("ca.pem", &new.pem());
    let outcome = connect(&client, "localhost", &server);
    assert!(is_refused(&outcome), "the accepter's certificate is of the old one: {outcome:?}");
    assert_eq!((client.counts().reloaded, client.counts().failed), (3, 0));
}

#[test]
fn files_that_cannot_be_used_leave_the_previous_ones_in_use() {
    let ca = authority("ca");
    let (dialler, accepter) = (files(&ca, "dialler"), files(&ca, "accepter"));
    let server = accepter.open_mutual(Some("dialler"));
    let client = client(&dialler, verified(&dialler, None), true);
    dialler.write("cert.pem", &issue(&ca, &["dialler"], 2001).certificate);
    dialler.write("ca.pem", "nothing");
    assert_eq!(connect(&client, "localhost", &server), Ok(()));
    assert_eq!((client.counts().reloaded, client.counts().failed), (0, 2));
}

#[test]
fn files_that_cannot_be_used_at_the_start_are_errors_that_name_them() {
    let ca = authority("ca");
    let node = files(&ca, "node");
    let open = |servers| {
        let pair = PairFiles { certificate: node.path("cert.pem"), key: node.path("key.pem") };
        ClientTls::open(ClientTlsOptions { pair: Some(pair), servers })
    };
    assert!(open(verified(&node, None)).is_ok());
    let none = ServerCertificates::Verified { authority: Some(node.path("none")), name: None };
    assert!(open(none).unwrap_err().to_string().contains("none"));
    node.write("ca.pem", "nothing");
    assert!(open(verified(&node, None)).unwrap_err().to_string().contains("ca.pem"));
    node.write("key.pem", &issue(&ca, &["node"], 2100).key);
    let error = open(ServerCertificates::Unverified).unwrap_err();
    assert!(matches!(error, Error::BadPair { .. }), "{error}");
}

#[test]
fn without_authorities_of_the_system_a_client_refuses_every_server_but_opens() {
    let ca = authority("ca");
    let node = files(&ca, "node");
    let server = node.open(ClientCertificates::NotAsked).unwrap();
    // Whether or not this machine has some, they did not sign this one.
    let client = client(&node, ServerCertificates::Verified { authority: None, name: None }, false);
    assert!(connect(&client, "localhost", &server).is_err());
}
