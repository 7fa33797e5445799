//! A door for generated input: everything that decodes what came in at the internode port, and good messages to
//! begin with. For tests outside of this crate; nothing here is part of what a node does.

use bytes::Bytes;

use crate::{internode, raft, service, transfer};

/// One decoder, and its encoder behind it.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// What it decodes.
    pub name: &'static str,
    /// How many times its bytes a message may take in memory. Little is allowed before a stranger is known for one.
    /// Where much is, an empty element of two bytes becomes some structure, which is copied when its list grows and
    /// once more when it is encoded again.
    pub memory_factor: u64,
    /// Decodes bytes and gives what was understood as its own encoding, or why nothing was.
    pub again: fn(&Bytes) -> Result<Bytes, String>,
    /// Good messages, each its own encoding.
    pub samples: fn() -> Vec<Bytes>,
}

/// All of them.
pub fn decoders() -> Vec<Decoder> {
    [
        internode::fuzzing::DECODERS.as_slice(),
        &raft::fuzzing::DECODERS,
        &service::fuzzing::DECODERS,
        &transfer::fuzzing::DECODERS,
    ]
    .concat()
}
