//! The look at the addresses of `-join` before anything is asked of them: who answers HTTP there is not another
//! node's internode port but its API, or something else altogether.
//!
//! Silence and refusals are no evidence, and what is found is never trusted with anything.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use rq_security::{ClientTls, ClientTlsOptions, ServerCertificates};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::config::HostPort;

/// How long an address may take to answer, over HTTP and over HTTPS each.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// How every answer of HTTP/1 begins, whatever it says.
const ANSWER_BEGINS: &[u8] = b"HTTP/";

/// Finds the first of the addresses at which HTTP or HTTPS is answered; all are looked at at the same time.
pub(crate) async fn find_http(addresses: &[String]) -> Option<&str> {
    let looks = addresses.iter().map(|address| async move {
        (answers_http(address).await || answers_https(address).await).then_some(address.as_str())
    });
    join_all(looks).await.into_iter().flatten().next()
}

async fn answers_http(address: &str) -> bool {
    let look = async { ask(TcpStream::connect(address).await.ok()?, address).await };
    timeout(PROBE_TIME, look).await.ok().flatten().is_some()
}

async fn answers_https(address: &str) -> bool {
    // Whoever it is, nothing is sent that would need a proof of who.
    let options = ClientTlsOptions { pair: None, servers: ServerCertificates::Unverified };
    let Ok(tls) = ClientTls::open(options) else { return false };
    let Some(parts) = HostPort::parse(address) else { return false };
    let Ok((settings, name)) = tls.handshake(parts.host()) else { return false };
    let look = async {
        let connection = TcpStream::connect(address).await.ok()?;
        let connector = TlsConnector::from(Arc::clone(&settings));
        ask(connector.connect(name, connection).await.ok()?, address).await
    };
    timeout(PROBE_TIME, look).await.ok().flatten().is_some()
}

/// Sends a request; something if what comes back is HTTP.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, address: &str) -> Option<()> {
    let request = format!("GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let mut answer = [0; ANSWER_BEGINS.len()];
    stream.read_exact(&mut answer).await.ok()?;
    (answer == ANSWER_BEGINS).then_some(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A listener that answers everything with `answer` and closes.
    async fn answering(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = [0; 16];
                drop(connection.read(&mut request).await);
                drop(connection.write_all(answer).await);
            }
        });
        address
    }

    #[tokio::test]
    async fn only_who_answers_http_is_found() {
        let http = answering(b"HTTP/1.1 401 Unauthorized\r\n\r\n").await;
        let silent = answering(b"").await;
        let other = answering(b"SSH-2.0-x\r\n").await;
        let nobody = "127.0.0.1:1".to_owned();
        let addresses = [nobody.clone(), silent.clone(), other.clone(), http.clone()];
        assert_eq!(find_http(&addresses).await, Some(http.as_str()));
        assert_eq!(find_http(&[nobody, silent, other]).await, None);
    }
}
