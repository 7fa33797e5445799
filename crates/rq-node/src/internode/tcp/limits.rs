//! Every limit of the internode port: bytes, connections, calls and times.
//!
//! Both sides of a connection know them, and an honest dialler stays within them, so that the accepting
//! side stops reading only for somebody who does not keep to the protocol.

use std::time::Duration;

use crate::internode::Lane;

/// How long a stranger may take for its whole handshake. Beyond it the connection is closed.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Connections in their handshake at a time. Beyond it the one that has been at it longest is closed.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// How long closing may take to say goodbye.
pub(crate) const FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);
/// The bytes of somebody who was refused that are read away, so that the refusal arrives.
pub(crate) const FAREWELL_BYTES_MAX: u64 = 64 * 1024;
/// How long accepting pauses when the process is out of file descriptors or memory.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a connection is looked at for signs of life.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// After this long without a byte from the other side the dialler asks for one.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(1);
/// After this long without a byte the dialler gives the connection up, unless it is still getting rid of
/// bytes itself.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// After this long without a byte, a ping included, the accepting side closes the connection.
pub(crate) const ACCEPTED_SILENCE_MAX: Duration = Duration::from_secs(30);
/// After this long without getting rid of a single byte either side closes the connection.
pub(crate) const WRITE_STALL_MAX: Duration = Duration::from_secs(20);
/// Data that the other machine does not acknowledge for this long breaks the connection, where the
/// operating system can be asked for that.
pub(crate) const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a frame may take to arrive, besides one second for each [`FRAME_PACE_BYTES`].
pub(crate) const FRAME_TIME_MAX: Duration = Duration::from_secs(60);
/// The pace in bytes per second below which a frame is taken for an attempt to occupy a connection.
pub(crate) const FRAME_PACE_BYTES: u32 = 64 * 1024;
/// A connection without a call for this long is closed by the dialler.
pub(crate) const IDLE_TIME_MAX: Duration = Duration::from_secs(120);

/// How long a connection may take to be made for anything but bulk. A new attempt finds a peer that came back
/// sooner than an old one whose packets are repeated at growing intervals; and a request that was not sent may still
/// be answered by the next leader.
pub(crate) const URGENT_CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// The head start each address of a name has before the next is tried beside it.
pub(crate) const ADDRESS_HEAD_START: Duration = Duration::from_millis(250);
/// The addresses of one name that are tried; further ones are not.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// The pause after a failed attempt to connect; doubled with each further one.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest such pause.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(320);

/// The calls that may wait for one peer on one lane. Beyond it a call fails at once, unsent.
pub(crate) const WAITING_CALLS_MAX: usize = 4096;
/// The bytes of requests that may wait for one peer on one lane, a single request of any size
/// excepted. Beyond it a call fails at once, unsent.
pub(crate) const WAITING_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// The bytes of unanswered requests on one connection, a single request of any size excepted. Beyond it
/// further calls wait, and the accepting side stops reading.
pub(crate) const UNANSWERED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The bytes of frames that are gathered for one write.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;
/// A payload of up to this many bytes is copied behind its header instead of being a piece of its own.
pub(crate) const COPIED_BYTES_MAX: usize = 16 * 1024;
/// The least room in bytes for one read.
pub(crate) const READ_BYTES: usize = 16 * 1024;
/// The bytes of a frame that memory is taken for at once, if its connection has brought so many in one before. Beyond
/// it memory follows what comes.
pub(crate) const TRUSTED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The bytes of a reason given with a refusal; the rest is cut off.
pub(crate) const REASON_BYTES_MAX: usize = 1024;
/// Links to peers that are remembered before those nobody uses are forgotten.
pub(crate) const LINKS_REMEMBERED: usize = 1024;

/// The connections of a lane, from all peers together, that are served. Further ones are refused and
/// counted.
pub(crate) const fn accepted_max(lane: Lane) -> usize {
    match lane {
        Lane::Control | Lane::Append | Lane::Bulk => 256,
        Lane::Service => 512,
    }
}

/// The connections to one peer for a lane. Heartbeats need no second, entries have an order.
pub(crate) const fn connections_max(lane: Lane) -> usize {
    match lane {
        Lane::Control | Lane::Append => 1,
        Lane::Service => 4,
        Lane::Bulk => 2,
    }
}

/// The unanswered calls of one connection. Beyond it further calls wait, and the accepting side stops
/// reading.
pub(crate) const fn unanswered_max(lane: Lane) -> usize {
    match lane {
        Lane::Control | Lane::Append | Lane::Service => 256,
        Lane::Bulk => 16,
    }
}
