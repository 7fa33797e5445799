//! Keeps the processors from sleeping for as long as a value lives.
//!
//! Someone who waits for a disk leaves the processors idle, and an idle one sleeps. To wake it takes tens of
//! microseconds, longest in a virtual machine, whose host takes a sleeping processor away. A lone write waits several
//! times; how much of its time is that, and no work of the node's, shows a measure without such sleep. Latency is
//! commonly measured so (cyclictest does), and servers where it matters are tuned so.
//!
//! Linux has `/dev/cpu_dma_latency` for it: while it is held open, no processor goes to a state that takes longer to
//! leave than the microseconds written to it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
};

/// Where Linux takes such wishes; most often only from root.
const DEVICE: &str = "/dev/cpu_dma_latency";

/// As long as it lives, idle processors do not sleep.
#[derive(Debug)]
pub(crate) struct Awake(#[expect(dead_code, reason = "holding it open is what it is for")] File);

impl Awake {
    /// Keeps them awake.
    ///
    /// # Errors
    /// The system has no such thing, or not for this user.
    pub(crate) fn keep() -> io::Result<Self> {
        let mut device = OpenOptions::new().write(true).open(DEVICE)?;
        device.write_all(&0_i32.to_ne_bytes())?;
        Ok(Self(device))
    }
}
