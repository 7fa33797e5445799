//! What the disk itself does: overwrites of a file that is full of zeros, each made durable.
//!
//! This is the least any durable write costs, because the file neither grows nor gets new blocks.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use super::samples::Samples;

/// Length of the file.
const FILE_BYTES: u64 = 64 << 20;

/// Length of one overwrite.
const BLOCK_BYTES: usize = 4096;

/// What one measure found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskReport {
    /// Overwrites made durable in a second.
    pub(crate) rate: f64,
    /// The median time of one, in microseconds.
    pub(crate) median_us: f64,
}

/// A file to be overwritten.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
}

impl Disk {
    /// Writes the file full of zeros, and makes that durable.
    pub(crate) fn prepare(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let zeros = vec![0; 1 << 20];
        let mut written = 0;
        while written < FILE_BYTES {
            file.write_all(&zeros)?;
            written += zeros.len() as u64;
        }
        file.sync_all()?;
        Ok(Self { file })
    }

    /// Overwrites block after block for so long, at least one.
    pub(crate) fn measure(&self, duration: Duration) -> io::Result<DiskReport> {
        let block = [0x5a; BLOCK_BYTES];
        let mut times = Vec::new();
        let mut offset = 0;
        let begin = Instant::now();
        loop {
            let start = Instant::now();
            self.file.write_all_at(&block, offset)?;
            self.file.sync_data()?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            offset = (offset + BLOCK_BYTES as u64) % FILE_BYTES;
            if begin.elapsed() >= duration {
                break;
            }
        }
        let times: Samples = times.into_iter().collect();
        Ok(DiskReport {
            rate: times.len() as f64 / begin.elapsed().as_secs_f64(),
            median_us: times.median().expect("at least one overwrite was made"),
        })
    }
}
