//! The figures: what is measured, what each is compared with, and the floors.
//!
//! One table, [`LINES`], says everything; a floor that is missed is reported and nothing more.

use std::collections::HashMap;

use super::{samples::Samples, table::Table};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Figure {
    /// POSTs of the null server, by connections.
    NullPost(u32),
    /// GETs of the null server at 64 connections.
    NullGet,
    /// Durable overwrites of the disk.
    DiskRate,
    /// The median time of one.
    DiskMedian,
    /// Inserts of one row, by connections.
    Insert(u32),
    /// The median time of an insert at one connection.
    InsertMedian,
    /// The median time of an overwrite while the processors are kept awake.
    AwakeDiskMedian,
    /// The median time of an insert at one connection, the same way.
    AwakeInsertMedian,
    /// Reads of one row at 64 connections, level `none`.
    ReadNone,
    /// The same, level `linearizable`.
    ReadLinearizable,
    /// Resident memory some seconds after the start.
    IdleMemory,
    /// The most resident memory there was through all loads.
    PeakMemory,
    /// Resident memory after all loads.
    MemoryAfterLoad,
    /// From the start of the process to readiness, on a directory that does not exist.
    StartFirst,
    /// The same after `kill -9`, the database empty.
    StartEmpty,
    /// The same after `kill -9` under load, the database large.
    StartLarge,
    /// The longest time between two answers to one writer while others write and checkpoints run.
    Pause,
    /// The median time that writer waited.
    PauseMedian,
    /// Checkpoints begun meanwhile.
    PauseCheckpoints,
    /// The longest time a checkpoint kept the applier waiting, as the node itself tells.
    CheckpointPause,
    /// Inserts of one row on the leader of three nodes, by connections.
    ClusterInsert(u32),
    /// Reads of one row, level `linearizable`, on the leader of three, 64 connections.
    ClusterReadLeader,
    /// The same on a follower.
    ClusterReadFollower,
    /// The most resident memory any of three nodes ever had through all loads.
    ClusterPeakMemory,
    /// From `kill -9` of the leader to the next acknowledged write.
    Failover,
    /// The longest time without an acknowledged write while each of three nodes is restarted in turn.
    RestartGap,
    /// The longest time without an acknowledged write when the leader's disk hangs.
    HangGap,
    /// Copying the large database and making the copy durable.
    CopyRate,
    /// A new node's joining the node that has the large database, until it is ready.
    JoinRate,
    /// The most resident memory of that new node, and of the one it joined.
    JoinMemory,
    /// A new node's joining over a slow link, until it is ready.
    SlowJoin,
    /// Writes of the leader meanwhile.
    SlowJoinWrites,
    /// The 99th percentile of their times.
    SlowJoinLatency,
    /// The same before the join.
    BeforeJoinLatency,
    /// The largest WAL of the leader meanwhile.
    SlowJoinWal,
    /// The largest log of the leader meanwhile.
    SlowJoinLog,
    /// The resident memory of the leader before the join, under the same load.
    BeforeJoinMemory,
    /// The most resident memory of the leader meanwhile.
    SlowJoinLeaderMemory,
    /// The most resident memory of the new node meanwhile.
    SlowJoinMemory,
}

/// What a value counts.
#[derive(Clone, Copy, Debug)]
enum Unit {
    PerSecond,
    BytesPerSecond,
    Microseconds,
    Seconds,
    Bytes,
    Count,
}

/// What a figure must reach: its median, or each of its values.
#[derive(Clone, Copy, Debug)]
enum Floor {
    /// This share of what it is compared with.
    AtLeastShare(f64),
    /// Not more than what it is compared with and this much.
    AtMostAbove(f64),
    /// Not more than this.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// Not one value more than this.
    EachAtMost(f64),
    /// Every value less than this.
    EachBelow(f64),
}

/// A line of the table.
struct Line {
    figure: Figure,
    name: &'static str,
    unit: Unit,
    compared_with: Option<(Figure, &'static str)>,
    floor: Option<Floor>,
}

const fn line(figure: Figure, name: &'static str, unit: Unit) -> Line {
    Line { figure, name, unit, compared_with: None, floor: None }
}

impl Line {
    const fn to(mut self, figure: Figure, name: &'static str) -> Self {
        self.compared_with = Some((figure, name));
        self
    }

    const fn floor(mut self, floor: Floor) -> Self {
        self.floor = Some(floor);
        self
    }
}

/// Every figure, in the order of the table.
const LINES: &[Line] = &[
    line(Figure::NullPost(1), "null server: POST, 1 connection", Unit::PerSecond),
    line(Figure::NullPost(16), "null server: POST, 16 connections", Unit::PerSecond),
    line(Figure::NullPost(64), "null server: POST, 64 connections", Unit::PerSecond),
    line(Figure::NullGet, "null server: GET, 64 connections", Unit::PerSecond),
    line(Figure::DiskRate, "disk: fdatasync of 4 KiB", Unit::PerSecond),
    line(Figure::DiskMedian, "disk: fdatasync, median", Unit::Microseconds),
    line(Figure::Insert(1), "inserts, 1 connection", Unit::PerSecond)
        .to(Figure::NullPost(1), "null POST"),
    line(Figure::InsertMedian, "inserts, 1 connection, median", Unit::Microseconds)
        .to(Figure::DiskMedian, "fdatasync")
        .floor(Floor::AtMostAbove(200.0)),
    line(
        Figure::AwakeDiskMedian,
        "disk: fdatasync, median, processors kept awake",
        Unit::Microseconds,
    ),
    line(
        Figure::AwakeInsertMedian,
        "inserts, 1 connection, median, kept awake",
        Unit::Microseconds,
    )
    .to(Figure::AwakeDiskMedian, "fdatasync")
    .floor(Floor::AtMostAbove(200.0)),
    line(Figure::Insert(16), "inserts, 16 connections", Unit::PerSecond)
        .to(Figure::NullPost(16), "null POST"),
    line(Figure::Insert(64), "inserts, 64 connections", Unit::PerSecond)
        .to(Figure::NullPost(64), "null POST")
        .floor(Floor::AtLeastShare(0.33)),
    line(Figure::ReadNone, "point reads (none), 64 connections", Unit::PerSecond)
        .to(Figure::NullGet, "null GET")
        .floor(Floor::AtLeastShare(0.50)),
    line(Figure::ReadLinearizable, "point reads (linearizable), 64 connections", Unit::PerSecond)
        .to(Figure::NullGet, "null GET")
        .floor(Floor::AtLeastShare(0.50)),
    line(Figure::IdleMemory, "memory, idle", Unit::Bytes).floor(Floor::AtMost(60e6)),
    line(Figure::PeakMemory, "memory, peak under load", Unit::Bytes).floor(Floor::AtMost(150e6)),
    line(Figure::MemoryAfterLoad, "memory, after load", Unit::Bytes),
    line(Figure::StartFirst, "start, no directory", Unit::Microseconds).floor(Floor::Below(1e6)),
    line(Figure::StartEmpty, "start after kill -9, empty", Unit::Microseconds)
        .floor(Floor::Below(1e6)),
    line(Figure::StartLarge, "start after kill -9, large", Unit::Microseconds)
        .floor(Floor::Below(1e6)),
    line(Figure::Pause, "longest pause of a writer", Unit::Microseconds)
        .to(Figure::PauseMedian, "its median")
        .floor(Floor::AtMost(50e3)),
    line(Figure::PauseMedian, "median of that writer", Unit::Microseconds),
    line(Figure::PauseCheckpoints, "checkpoints meanwhile", Unit::Count),
    line(Figure::CheckpointPause, "longest checkpoint pause (own count)", Unit::Microseconds),
    line(Figure::ClusterInsert(1), "inserts, 3 nodes, 1 connection", Unit::PerSecond)
        .to(Figure::NullPost(1), "null POST"),
    line(Figure::ClusterInsert(16), "inserts, 3 nodes, 16 connections", Unit::PerSecond)
        .to(Figure::NullPost(16), "null POST"),
    line(Figure::ClusterInsert(64), "inserts, 3 nodes, 64 connections", Unit::PerSecond)
        .to(Figure::NullPost(64), "null POST")
        .floor(Floor::AtLeastShare(0.13)),
    line(Figure::ClusterReadLeader, "reads (linearizable), leader of 3", Unit::PerSecond)
        .to(Figure::NullGet, "null GET"),
    line(Figure::ClusterReadFollower, "reads (linearizable), follower of 3", Unit::PerSecond)
        .to(Figure::NullGet, "null GET"),
    line(Figure::ClusterPeakMemory, "memory, peak under load, any of 3", Unit::Bytes)
        .floor(Floor::AtMost(80e6)),
    line(Figure::Failover, "leader killed to next write", Unit::Microseconds)
        .floor(Floor::Below(2e6)),
    line(Figure::RestartGap, "no write in a rolling restart, longest", Unit::Microseconds)
        .floor(Floor::EachBelow(1e6)),
    line(Figure::HangGap, "leader's disk hung to next write", Unit::Microseconds)
        .floor(Floor::EachAtMost(2e6)),
    line(Figure::CopyRate, "copy of the large database", Unit::BytesPerSecond),
    line(Figure::JoinRate, "join to the large database", Unit::BytesPerSecond)
        .to(Figure::CopyRate, "copy")
        .floor(Floor::AtLeastShare(0.50)),
    line(Figure::JoinMemory, "memory, peak while joining", Unit::Bytes).floor(Floor::AtMost(80e6)),
    line(Figure::SlowJoin, "join over 10 MB/s", Unit::Seconds),
    line(Figure::SlowJoinWrites, "writes meanwhile", Unit::PerSecond),
    line(Figure::SlowJoinLatency, "their 99th percentile", Unit::Microseconds)
        .to(Figure::BeforeJoinLatency, "before"),
    line(Figure::BeforeJoinLatency, "the same before the join", Unit::Microseconds),
    line(Figure::SlowJoinWal, "largest WAL of the leader", Unit::Bytes),
    line(Figure::SlowJoinLog, "largest log of the leader", Unit::Bytes),
    line(Figure::BeforeJoinMemory, "memory of the leader before", Unit::Bytes)
        .floor(Floor::AtMost(80e6)),
    line(Figure::SlowJoinLeaderMemory, "memory of the leader meanwhile, peak", Unit::Bytes)
        .to(Figure::BeforeJoinMemory, "before")
        .floor(Floor::AtMost(80e6)),
    line(Figure::SlowJoinMemory, "memory of the new node meanwhile, peak", Unit::Bytes)
        .floor(Floor::AtMost(80e6)),
];

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    values: HashMap<Figure, Vec<f64>>,
}

impl Figures {
    /// Notes a value. Values of figures that are compared must be noted equally often, so that the
    /// nth of one was measured beside the nth of the other.
    pub(crate) fn note(&mut self, figure: Figure, value: f64) {
        self.values.entry(figure).or_default().push(value);
    }

    /// The values of a figure, in the order they were noted.
    fn values(&self, figure: Figure) -> &[f64] {
        self.values.get(&figure).map_or(&[], Vec::as_slice)
    }

    /// The table of everything that was measured.
    pub(crate) fn table(&self) -> String {
        let heading = ["measure", "median", "min – max", "compared", "floor", "verdict"];
        let mut table = Table::new(&heading);
        for line in LINES {
            if let Some(row) = self.row(line) {
                table.push(row);
            }
        }
        table.render()
    }

    fn row(&self, line: &Line) -> Option<Vec<String>> {
        let values = self.values(line.figure);
        let samples: Samples = values.iter().copied().collect();
        let median = samples.median()?;
        let show = |value| line.unit.show(value);
        let worst = samples.largest()?;
        let range = format!("{} – {}", show(samples.smallest()?), show(worst));
        let compare = |combine: fn(f64, f64) -> f64| {
            let (yardstick, name) = line.compared_with?;
            let pairs = values.iter().zip(self.values(yardstick));
            let samples: Samples = pairs.map(|(value, other)| combine(*value, *other)).collect();
            Some((samples.median()?, name))
        };
        let share = compare(|value, other| value / other);
        let above = compare(|value, other| value - other);
        let compared = match (line.floor, line.unit) {
            (Some(Floor::AtMostAbove(_)), _) => {
                above.map(|(above, name)| format!("{name} {}", signed(above, line.unit)))
            }
            (_, Unit::PerSecond | Unit::BytesPerSecond) => {
                share.map(|(share, name)| format!("{:.1} % of {name}", share * 100.0))
            }
            (_, _) => share.map(|(share, name)| format!("{share:.1} × {name}")),
        };
        let (floor, met) = match line.floor {
            None => (String::new(), None),
            Some(Floor::AtLeastShare(least)) => {
                (format!("≥ {:.0} %", least * 100.0), share.map(|(share, _)| share >= least))
            }
            Some(Floor::AtMostAbove(most)) => {
                (format!("≤ {}", signed(most, line.unit)), above.map(|(above, _)| above <= most))
            }
            Some(Floor::AtMost(most)) => (format!("≤ {}", show(most)), Some(median <= most)),
            Some(Floor::Below(bound)) => (format!("< {}", show(bound)), Some(median < bound)),
            Some(Floor::EachAtMost(most)) => {
                (format!("each ≤ {}", show(most)), Some(worst <= most))
            }
            Some(Floor::EachBelow(bound)) => {
                (format!("each < {}", show(bound)), Some(worst < bound))
            }
        };
        let verdict = met.map(|met| if met { "met" } else { "MISSED" }).unwrap_or_default();
        Some(vec![
            line.name.to_owned(),
            show(median),
            range,
            compared.unwrap_or_default(),
            floor,
            verdict.to_owned(),
        ])
    }
}

impl Unit {
    /// A value as people read it.
    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", thousands(value)),
            Self::BytesPerSecond => format!("{:.0} MB/s", value / 1e6),
            Self::Microseconds if value >= 10_000.0 => format!("{:.1} ms", value / 1000.0),
            Self::Microseconds => format!("{value:.0} µs"),
            Self::Seconds => format!("{value:.1} s"),
            Self::Bytes => format!("{:.1} MB", value / 1e6),
            Self::Count => format!("{value:.0}"),
        }
    }
}

fn signed(value: f64, unit: Unit) -> String {
    let sign = if value < 0.0 { '−' } else { '+' };
    format!("{sign} {}", unit.show(value.abs()))
}

/// A whole number with its digits in groups of three.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figures: &Figures, name: &str) -> String {
        let table = figures.table();
        let row = table.lines().find(|line| line.contains(name)).unwrap_or_default();
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut figures = Figures::default();
        // The machine became three times as fast in between; the share did not change.
        for (null, insert) in [(10_000.0, 4_000.0), (30_000.0, 12_000.0), (30_000.0, 9_000.0)] {
            figures.note(Figure::NullPost(64), null);
            figures.note(Figure::Insert(64), insert);
        }
        assert_eq!(
            row(&figures, "inserts, 64"),
            "| inserts, 64 connections | 9,000/s | 4,000/s – 12,000/s | 40.0 % of null POST | ≥ 33 % | met |"
        );
    }

    #[test]
    fn floors_are_met_or_missed() {
        /// Values noted, a part of the name of a line, its verdict.
        type Case = (&'static [(Figure, f64)], &'static str, &'static str);
        let cases: [Case; 12] = [
            (&[(Figure::NullPost(64), 100.0), (Figure::Insert(64), 32.0)], "inserts, 64", "MISSED"),
            (
                &[(Figure::DiskMedian, 100.0), (Figure::InsertMedian, 300.0)],
                "1 connection, m",
                "met",
            ),
            (
                &[(Figure::DiskMedian, 100.0), (Figure::InsertMedian, 301.0)],
                "1 connection, m",
                "MISSED",
            ),
            (&[(Figure::StartEmpty, 999_000.0)], "-9, empty", "met"),
            (&[(Figure::StartEmpty, 1e6)], "-9, empty", "MISSED"),
            (&[(Figure::IdleMemory, 60e6)], "memory, idle", "met"),
            (&[(Figure::IdleMemory, 60.1e6)], "memory, idle", "MISSED"),
            (&[(Figure::Pause, 51e3), (Figure::PauseMedian, 1e3)], "longest pause of", "MISSED"),
            (&[(Figure::RestartGap, 0.0), (Figure::RestartGap, 999e3)], "rolling", "met"),
            // The median is small, and does not count.
            (
                &[(Figure::RestartGap, 0.0), (Figure::RestartGap, 1e6), (Figure::RestartGap, 0.0)],
                "rolling",
                "MISSED",
            ),
            (&[(Figure::HangGap, 2e6), (Figure::HangGap, 0.0)], "disk hung", "met"),
            (
                &[(Figure::HangGap, 0.0), (Figure::HangGap, 0.0), (Figure::HangGap, 2.1e6)],
                "disk hung",
                "MISSED",
            ),
        ];
        for (values, name, verdict) in cases {
            let mut figures = Figures::default();
            for (figure, value) in values {
                figures.note(*figure, *value);
            }
            let row = row(&figures, name);
            assert!(row.ends_with(&format!(" {verdict} |")), "{row}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_shown() {
        assert_eq!(Figures::default().table().lines().count(), 2);
    }

    #[test]
    fn a_floor_without_its_yardstick_has_no_verdict() {
        let mut figures = Figures::default();
        figures.note(Figure::Insert(64), 5.0);
        assert_eq!(
            row(&figures, "inserts, 64"),
            "| inserts, 64 connections | 5/s | 5/s – 5/s | | ≥ 33 % | |"
        );
    }

    #[test]
    fn values_have_units_people_read() {
        let cases = [
            (Unit::PerSecond, 999.4, "999/s"),
            (Unit::PerSecond, 1_234_567.0, "1,234,567/s"),
            (Unit::Microseconds, 812.4, "812 µs"),
            (Unit::Microseconds, 12_345.0, "12.3 ms"),
            (Unit::Bytes, 60e6, "60.0 MB"),
            (Unit::Count, 3.0, "3"),
        ];
        for (unit, value, text) in cases {
            assert_eq!(unit.show(value), text);
        }
        assert_eq!(signed(-150.0, Unit::Microseconds), "− 150 µs");
    }
}
