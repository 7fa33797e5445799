//! Histograms that remember nothing, in the place of the library of this name.
//!
//! openraft counts the sizes of its batches with that library, and shows them only under its feature
//! `runtime-stats`, which is off here. The library makes tables for all widths of buckets when the first histogram is
//! made: 26 MB in every process, of which a few hundred bytes would ever be read. So the manifest of the workspace
//! patches it away.
//!
//! It has what openraft names, and nothing else. Whoever turns `runtime-stats` on must remove the patch, or
//! is shown zeros.

use std::{fmt, marker::PhantomData};

/// A histogram without samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    kind: PhantomData<T>,
}

/// What a histogram says of its samples: nothing but zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// The number of samples.
    pub samples: u64,
    /// The value that 0.1 % are below.
    pub p0_1: u64,
    /// The value that 1 % are below.
    pub p1: u64,
    /// The value that 5 % are below.
    pub p5: u64,
    /// The value that 10 % are below.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// The value that 90 % are below.
    pub p90: u64,
    /// The value that 99 % are below.
    pub p99: u64,
    /// The value that 99.9 % are below.
    pub p99_9: u64,
}

/// A chart of histograms: it is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsciiChart;

impl<T> Histogram<T> {
    /// Makes one.
    pub fn new() -> Self {
        Self { kind: PhantomData }
    }

    /// Forgets a sample.
    pub fn record(&mut self, _value: u64) {}

    /// Forgets so many samples of one value.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// Says what there is to say.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

impl AsciiChart {
    /// Makes one.
    pub fn new() -> Self {
        Self
    }

    /// Leaves a histogram out.
    #[must_use]
    pub fn add(self, _name: &str, _histogram: Histogram) -> Self {
        self
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[no samples]")
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
