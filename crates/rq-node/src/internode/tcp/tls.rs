//! TLS on both sides of an internode connection, and what binds a proof to its session.

use std::io;

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{self, AlertDescription, ConnectionCommon},
};

use super::{
    Stream,
    hello::{self, Rejection, Stranger},
    limits::{FAREWELL_BYTES_MAX, FAREWELL_TIME_MAX},
    options::TcpTls,
};

/// The bytes of a value only the two ends of a session know.
const BINDING_BYTES: usize = 32;
/// What that value is for.
const BINDING_LABEL: &[u8] = b"EXPORTER-rq-internode";

/// Why TLS could not be agreed on with the node that was dialled.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// The host is nothing a certificate can be for.
    #[error("TLS: {0}")]
    Name(rq_security::Error),
    /// The other side went away, as one without TLS does.
    #[error("it closed the connection during the TLS handshake: perhaps it does not use TLS")]
    Closed,
    /// The other side sent something that is not TLS.
    #[error("it does not use TLS, this node does (-node-cert)")]
    Plain,
    /// The certificate of the other side does not verify.
    #[error("its certificate is refused: {0}")]
    Certificate(rustls::CertificateError),
    /// The other side refused.
    #[error("it refuses the TLS handshake: {0:?}")]
    Alert(AlertDescription),
    /// Anything else.
    #[error("TLS: {0}")]
    Failed(io::Error),
}

/// Dresses a dialled connection. With TLS the second part is a value only the two ends of the session know.
pub(crate) async fn connect(
    tls: Option<&TcpTls>,
    socket: TcpStream,
    host: &str,
) -> Result<(Box<dyn Stream>, Vec<u8>), TlsError> {
    let Some(tls) = tls else { return Ok((Box::new(socket), Vec::new())) };
    let (config, name) = tls.client.handshake(host).map_err(TlsError::Name)?;
    let stream = TlsConnector::from(config).connect(name, socket).await.map_err(TlsError::of)?;
    let binding = binding(stream.get_ref().1).map_err(TlsError::Failed)?;
    Ok((Box::new(stream), binding))
}

/// Undresses an accepted connection, likewise. With TLS, whoever does not begin with it is refused.
pub(crate) async fn accept(
    tls: Option<&TcpTls>,
    mut socket: TcpStream,
) -> Result<(Box<dyn Stream>, Vec<u8>), Rejection> {
    let Some(tls) = tls else { return Ok((Box::new(socket), Vec::new())) };
    let mut first = [0];
    match socket.peek(&mut first).await {
        Ok(1) => {}
        _ => return Err(Rejection::Gone),
    }
    match Stranger::of(&first) {
        Some(Stranger::Tls) => {}
        Some(stranger) => return Err(Rejection::Stranger(stranger)),
        None => return hello::refuse_plain(&mut socket).await,
    }
    let handshake = TlsAcceptor::from(tls.server.handshake_config()).accept(socket);
    let stream = match handshake.into_fallible().await {
        Ok(stream) => stream,
        Err((error, socket)) => {
            say_goodbye(socket).await;
            return Err(match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Rejection::Gone,
                _ => Rejection::Tls(error),
            });
        }
    };
    let binding = binding(stream.get_ref().1).map_err(Rejection::Tls)?;
    Ok((Box::new(stream), binding))
}

/// Lets the other side read the alert: closing with unread bytes would take it away again.
async fn say_goodbye(mut socket: TcpStream) {
    drop(socket.shutdown().await);
    let (mut rest, mut nowhere) = (socket.take(FAREWELL_BYTES_MAX), tokio::io::sink());
    drop(timeout(FAREWELL_TIME_MAX, tokio::io::copy(&mut rest, &mut nowhere)).await);
}

fn binding<Data>(session: &ConnectionCommon<Data>) -> io::Result<Vec<u8>> {
    session
        .export_keying_material(vec![0; BINDING_BYTES], BINDING_LABEL, None)
        .map_err(io::Error::other)
}

impl TlsError {
    fn of(error: io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
            return Self::Closed;
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(reason)) => Self::Certificate(reason.clone()),
            Some(rustls::Error::InvalidMessage(_)) => Self::Plain,
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            _ => Self::Failed(error),
        }
    }
}

/// Gives the alert a connection was ended with, if it was.
pub(crate) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
