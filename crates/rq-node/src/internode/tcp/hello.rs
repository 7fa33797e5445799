//! The handshake: who speaks which version, about what, and whether both know the cluster's secret.
//!
//! ```text
//! dialler   magic [8] | version u16 | least version u16 | lane u8 | has secret u8 | 0 u16 | nonce [32]
//! accepter  magic [8] | version u16 | least version u16 | verdict u8 | has secret u8 | 0 u16 | nonce [32]
//! with a secret, on both sides:
//! dialler   count u8 | 0 [7] | proof [32] | proof [32]
//! accepter  verdict u8 | 0 [7] | proof [32]
//! ```
//! Numbers are little-endian. The version spoken is the lower one of the two `version`s. A proof covers both hellos,
//! who proves, and with TLS a value only the two ends of this very session know. The dialler proves first, so
//! that whoever knocks learns nothing that could be guessed at. With two secrets in use it proves both.
//!
//! Whoever does not begin with the magic is a stranger and hears nothing.

use std::{fmt, io};

use rq_security::{PROOF_BYTES, Proof, SecretKeys};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::tls;
use crate::internode::Lane;

/// How every connection begins. Its first byte begins neither TLS nor a text protocol.
pub(crate) const MAGIC: [u8; 8] = *b"\xf1rq-node";
/// The version of the protocol spoken here, and the least that is understood.
const VERSION: u16 = 1;
const VERSION_LEAST: u16 = 1;
const HELLO_BYTES: usize = 48;
const PROOFS_BYTES: usize = 8 + 2 * PROOF_BYTES;
const VERDICT_BYTES: usize = 8 + PROOF_BYTES;
/// The first byte of a TLS record that carries a handshake, and of one that carries an alert.
const TLS_HANDSHAKE: u8 = 0x16;
const TLS_ALERT: u8 = 0x15;

/// What the accepting side says to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Calls may come.
    Welcome,
    /// There is no version both speak.
    Version,
    /// The lane is unknown.
    Lane,
    /// Too many connections are open.
    Busy,
    /// TLS is required here.
    TlsRequired,
    /// The cluster's secret is required here, and the dialler has none.
    SecretRequired,
    /// The dialler has a secret, this node has none.
    SecretUnexpected,
    /// The dialler's secret is another one.
    SecretWrong,
}

/// Why the dialling side does not get through.
#[derive(Debug, Error)]
pub(crate) enum GreetError {
    /// The other side said why.
    #[error("it refuses this node: {}", refusal(*.0))]
    Refused(Verdict),
    /// The other side did not say why.
    #[error("it closed the connection during the handshake")]
    Closed,
    /// The connection broke.
    #[error("the connection broke during the handshake: {0}")]
    Broken(io::Error),
    /// The other side did not agree with what TLS told it about this node.
    #[error("it refuses this node's certificate, or that it has none: {0}")]
    Certificate(String),
    /// The other side answered with TLS.
    #[error("it speaks TLS, this node does not (-node-cert)")]
    Tls,
    /// The other side answered with HTTP.
    #[error("it serves HTTP: this is not an internode address")]
    Http,
    /// The other side answered with something else.
    #[error("it does not speak the internode protocol")]
    Stranger,
    /// The other side claims to know the secret and does not.
    #[error("it does not know this cluster's secret")]
    Impostor,
}

/// Why the accepting side closes a connection.
#[derive(Debug, Error)]
pub(crate) enum Rejection {
    /// The first bytes were none of ours.
    #[error("{0}")]
    Stranger(Stranger),
    /// It was told why.
    #[error("{}", reason(*.0))]
    Refused(Verdict),
    /// TLS could not be agreed on.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// It went away in the middle of its handshake.
    #[error("it went away during its handshake")]
    Gone,
}

/// Who speaks something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// A browser, a probe, or a node that was given the wrong port.
    Http,
    /// A node that uses TLS, most likely.
    Tls,
    /// A program that speaks rqlite's own protocol.
    Rqlite,
    /// Anything else.
    Unknown,
}

impl Stranger {
    /// Tells from the first bytes who speaks; `None` as long as it may be one of us.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.iter().zip(MAGIC).all(|(byte, expected)| *byte == expected) {
            return None;
        }
        Some(match bytes {
            [TLS_HANDSHAKE, ..] => Self::Tls,
            [1 | 2, ..] => Self::Rqlite,
            [first, ..] if first.is_ascii_uppercase() => Self::Http,
            _ => Self::Unknown,
        })
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Http => "it sent HTTP, which the internode port does not serve",
            Self::Tls => "it uses TLS, this node does not (-node-cert)",
            Self::Rqlite => {
                "it seems to be a node of rqlite, which cannot be in one cluster with this one"
            }
            Self::Unknown => "it does not speak the internode protocol",
        })
    }
}

impl Verdict {
    fn code(self) -> u8 {
        match self {
            Self::Welcome => 0,
            Self::Version => 1,
            Self::Lane => 2,
            Self::Busy => 3,
            Self::TlsRequired => 4,
            Self::SecretRequired => 5,
            Self::SecretUnexpected => 6,
            Self::SecretWrong => 7,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Welcome,
            1 => Self::Version,
            2 => Self::Lane,
            3 => Self::Busy,
            4 => Self::TlsRequired,
            5 => Self::SecretRequired,
            6 => Self::SecretUnexpected,
            7 => Self::SecretWrong,
            _ => return None,
        })
    }
}

/// What the dialler reads about a refusal.
fn refusal(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Welcome => "for no reason",
        Verdict::Version => "it speaks other versions of the internode protocol",
        Verdict::Lane => "it does not know this kind of connection",
        Verdict::Busy => "it has too many connections",
        Verdict::TlsRequired => "it requires TLS (-node-cert)",
        Verdict::SecretRequired => "it requires a cluster secret (-cluster-secret-file)",
        Verdict::SecretUnexpected => {
            "it has no cluster secret, this node has (-cluster-secret-file)"
        }
        Verdict::SecretWrong => "its cluster secret is another one (-cluster-secret-file)",
    }
}

/// What the accepting side's log says about a refusal.
fn reason(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Welcome => "for no reason",
        Verdict::Version => "it speaks other versions of the internode protocol",
        Verdict::Lane => "its kind of connection is unknown",
        Verdict::Busy => "too many connections are open",
        Verdict::TlsRequired => "it does not use TLS, which this node requires",
        Verdict::SecretRequired => "it has no cluster secret (-cluster-secret-file)",
        Verdict::SecretUnexpected => {
            "it has a cluster secret, this node has none (-cluster-secret-file)"
        }
        Verdict::SecretWrong => "its cluster secret is another one (-cluster-secret-file)",
    }
}

/// A hello of either side. `what` is the lane, or the verdict.
#[derive(Clone, Copy, Debug)]
struct Hello {
    version: u16,
    version_least: u16,
    what: u8,
    has_secret: bool,
    nonce: [u8; 32],
}

impl Hello {
    fn new(what: u8, has_secret: bool) -> io::Result<Self> {
        let mut nonce = [0; 32];
        random(&mut nonce)?;
        Ok(Self { version: VERSION, version_least: VERSION_LEAST, what, has_secret, nonce })
    }

    fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.version_least.to_le_bytes());
        bytes[12] = self.what;
        bytes[13] = u8::from(self.has_secret);
        bytes[16..].copy_from_slice(&self.nonce);
        bytes
    }

    /// Takes a hello apart whose magic was checked.
    fn decode(bytes: &[u8; HELLO_BYTES]) -> Self {
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&bytes[16..]);
        Self {
            version: u16::from_le_bytes([bytes[8], bytes[9]]),
            version_least: u16::from_le_bytes([bytes[10], bytes[11]]),
            what: bytes[12],
            has_secret: bytes[13] & 1 == 1,
            nonce,
        }
    }

    fn is_spoken(&self) -> bool {
        self.version >= VERSION_LEAST && self.version_least <= VERSION
    }
}

fn random(buffer: &mut [u8]) -> io::Result<()> {
    getrandom::fill(buffer).map_err(io::Error::other)
}

/// What a proof is about.
fn message(prover: &[u8], dialler: &[u8], accepter: &[u8], binding: &[u8]) -> Vec<u8> {
    // Hellos have a fixed length, neither prover's name begins the other's, and the binding is last.
    [b"rq internode proof 1 ", prover, dialler, accepter, binding].concat()
}

/// Plays the dialler. `binding` is what only this TLS session knows; empty without TLS.
pub(crate) async fn greet<S>(
    stream: &mut S,
    lane: Lane,
    secrets: Option<&SecretKeys>,
    binding: &[u8],
) -> Result<(), GreetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mine = Hello::new(lane_code(lane), secrets.is_some()).map_err(GreetError::Broken)?;
    let mine = mine.encode();
    send(stream, &mine).await.map_err(GreetError::Broken)?;
    let theirs = read_answer(stream).await?;
    let hello = Hello::decode(&theirs);
    let verdict = Verdict::from_code(hello.what).ok_or(GreetError::Stranger)?;
    if verdict != Verdict::Welcome {
        return Err(GreetError::Refused(verdict));
    }
    if !hello.is_spoken() {
        return Err(GreetError::Refused(Verdict::Version));
    }
    match (secrets, hello.has_secret) {
        (None, false) => return Ok(()),
        (None, true) => return Err(GreetError::Refused(Verdict::SecretRequired)),
        (Some(_), false) => return Err(GreetError::Refused(Verdict::SecretUnexpected)),
        (Some(_), true) => {}
    }
    let Some(secrets) = secrets else { return Ok(()) };
    let proofs = secrets.prove(&message(b"dialler", &mine, &theirs, binding));
    send(stream, &encode_proofs(&proofs).map_err(GreetError::Broken)?)
        .await
        .map_err(GreetError::Broken)?;
    let mut answer = [0; VERDICT_BYTES];
    stream.read_exact(&mut answer).await.map_err(gone)?;
    match Verdict::from_code(answer[0]) {
        Some(Verdict::Welcome) => {}
        Some(verdict) => return Err(GreetError::Refused(verdict)),
        None => return Err(GreetError::Stranger),
    }
    let mut proof = [0; PROOF_BYTES];
    proof.copy_from_slice(&answer[8..]);
    match secrets.find(&message(b"accepter", &mine, &theirs, binding), &[proof]) {
        Some(_) => Ok(()),
        None => Err(GreetError::Impostor),
    }
}

/// Reads the answer to a hello, and gives up at the first byte that cannot be one.
async fn read_answer<S>(stream: &mut S) -> Result<[u8; HELLO_BYTES], GreetError>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = [0; HELLO_BYTES];
    let mut length = 0;
    while length < HELLO_BYTES {
        let count = stream.read(&mut bytes[length..]).await.map_err(gone)?;
        if count == 0 {
            return Err(GreetError::Closed);
        }
        length += count;
        if Stranger::of(&bytes[..length.min(MAGIC.len())]).is_some() {
            return Err(match bytes[0] {
                TLS_ALERT => GreetError::Tls,
                b'H' => GreetError::Http,
                _ => GreetError::Stranger,
            });
        }
    }
    Ok(bytes)
}

fn gone(error: io::Error) -> GreetError {
    if let Some(alert) = tls::alert(&error) {
        return GreetError::Certificate(format!("{alert:?}"));
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => GreetError::Closed,
        _ => GreetError::Broken(error),
    }
}

fn encode_proofs(proofs: &[Proof]) -> io::Result<[u8; PROOFS_BYTES]> {
    let mut bytes = [0; PROOFS_BYTES];
    // What is not a proof looks like one, so that nobody can count secrets.
    random(&mut bytes[8..])?;
    for (place, proof) in bytes[8..].chunks_exact_mut(PROOF_BYTES).zip(proofs) {
        place.copy_from_slice(proof);
    }
    Ok(bytes)
}

/// Plays the accepting side. `admit` says whether one more connection of the lane is served; what it gives
/// is given back with the lane.
pub(crate) async fn receive<S, P>(
    stream: &mut S,
    secrets: Option<&SecretKeys>,
    binding: &[u8],
    admit: impl FnOnce(Lane) -> Option<P>,
) -> Result<(Lane, P), Rejection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = read_hello(stream).await?;
    let hello = Hello::decode(&theirs);
    let lane = match (hello.is_spoken(), lane_from_code(hello.what)) {
        (false, _) => return refuse(stream, Verdict::Version, secrets).await,
        (true, None) => return refuse(stream, Verdict::Lane, secrets).await,
        (true, Some(lane)) => lane,
    };
    let Some(keys) = secrets else {
        if hello.has_secret {
            return refuse(stream, Verdict::SecretUnexpected, secrets).await;
        }
        let Some(permit) = admit(lane) else {
            return refuse(stream, Verdict::Busy, secrets).await;
        };
        answer(stream, Verdict::Welcome, secrets).await?;
        return Ok((lane, permit));
    };
    if !hello.has_secret {
        return refuse(stream, Verdict::SecretRequired, secrets).await;
    }
    let mine = answer(stream, Verdict::Welcome, secrets).await?;
    let mut bytes = [0; PROOFS_BYTES];
    stream.read_exact(&mut bytes).await.map_err(|_| Rejection::Gone)?;
    let (proofs, _) = bytes[8..].as_chunks::<PROOF_BYTES>();
    let key = keys.find(&message(b"dialler", &theirs, &mine, binding), proofs);
    let outcome = match key {
        None => Err(Verdict::SecretWrong),
        Some(key) => match admit(lane) {
            None => Err(Verdict::Busy),
            Some(permit) => Ok((key, permit)),
        },
    };
    let mut last = [0; VERDICT_BYTES];
    match outcome {
        Err(verdict) => {
            last[0] = verdict.code();
            // It is refused whether or not it hears so.
            drop(send(stream, &last).await);
            Err(Rejection::Refused(verdict))
        }
        Ok((key, permit)) => {
            last[8..].copy_from_slice(&key.prove(&message(b"accepter", &theirs, &mine, binding)));
            send(stream, &last).await.map_err(|_| Rejection::Gone)?;
            Ok((lane, permit))
        }
    }
}

/// Reads a hello, and gives up at the first byte that cannot be one.
async fn read_hello<S>(stream: &mut S) -> Result<[u8; HELLO_BYTES], Rejection>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = [0; HELLO_BYTES];
    let mut length = 0;
    while length < HELLO_BYTES {
        match stream.read(&mut bytes[length..]).await {
            Ok(count) if count > 0 => length += count,
            _ => return Err(Rejection::Gone),
        }
        if let Some(stranger) = Stranger::of(&bytes[..length.min(MAGIC.len())]) {
            return Err(Rejection::Stranger(stranger));
        }
    }
    Ok(bytes)
}

/// Refuses one of us.
pub(crate) async fn refuse<S, T>(
    stream: &mut S,
    verdict: Verdict,
    secrets: Option<&SecretKeys>,
) -> Result<T, Rejection>
where
    S: AsyncWrite + Unpin,
{
    // It is refused whether or not it hears so.
    drop(answer(stream, verdict, secrets).await);
    Err(Rejection::Refused(verdict))
}

/// Refuses whoever comes without TLS although it is required; one of us is told so.
pub(crate) async fn refuse_plain<S, T>(stream: &mut S) -> Result<T, Rejection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    read_hello(stream).await?;
    refuse(stream, Verdict::TlsRequired, None).await
}

async fn answer<S>(
    stream: &mut S,
    verdict: Verdict,
    secrets: Option<&SecretKeys>,
) -> Result<[u8; HELLO_BYTES], Rejection>
where
    S: AsyncWrite + Unpin,
{
    let hello = Hello::new(verdict.code(), secrets.is_some()).map_err(|_| Rejection::Gone)?;
    let hello = hello.encode();
    send(stream, &hello).await.map_err(|_| Rejection::Gone)?;
    Ok(hello)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn lane_code(lane: Lane) -> u8 {
    match lane {
        Lane::Control => 1,
        Lane::Append => 2,
        Lane::Service => 3,
        Lane::Bulk => 4,
    }
}

fn lane_from_code(code: u8) -> Option<Lane> {
    Lane::ALL.into_iter().find(|lane| lane_code(*lane) == code)
}
