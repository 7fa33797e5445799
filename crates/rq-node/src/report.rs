//! Gathers a node's status from Raft's metrics, the log, and what the database last said of itself.

use std::{os::unix::fs::MetadataExt as _, time::Duration};

use rq_sql::{Statement, Value};
use rq_sqlite::{Query, QueryEnd};

use crate::{
    CounterMaps, DatabaseStatus, Impairment, Member, RaftStatus, SettingsStatus, Status,
    TransferStatus,
    node::{Inner, Node},
    raft::consensus::View,
    read::Collected,
};

/// VM steps a question about the file may take.
const FACTS_STEPS: u64 = 20_000;

/// What the file says of its pages.
struct PageFacts {
    page_size: u64,
    page_count: u64,
    freelist_count: u64,
    max_page_count: u64,
    cache_pages: i64,
    compile_options: Vec<String>,
}

impl Node {
    /// What the node knows of itself; never waits for a write or for another node.
    pub fn status(&self) -> Status {
        let inner = self.inner();
        let view = inner.consensus.view();
        let own = view.members.iter().find(|member| member.id == inner.node_id);
        Status {
            node_id: inner.node_id.clone(),
            member: own.cloned().unwrap_or_else(|| inner.own_member()),
            role: view.role,
            ready: inner.is_ready(),
            impairments: inner.impairments(),
            transfers: inner.transfer_status(),
            raft: inner.raft_status(&view),
            database: inner.database_status(),
            directory: inner.options.directory.clone(),
            settings: inner.settings_status(),
            leader: view.leader,
            members: view.members,
        }
    }

    /// Everything the node counts, under the names of `/debug/vars`.
    pub fn counters(&self) -> CounterMaps {
        let mut maps = self.inner().metrics.maps();
        let sent = self.inner().transfers.counters();
        let counted = [
            ("num_sent_begun", sent.begun),
            ("num_sent", sent.done),
            ("pages_sent", sent.pages),
            ("bytes_sent", sent.bytes),
        ];
        let counted = counted.map(|(name, count)| (name, i64::try_from(count).unwrap_or(i64::MAX)));
        maps.entry("snapshot").or_default().extend(counted);
        maps
    }
}

impl Inner {
    /// Everything that is wrong at the moment.
    fn impairments(&self) -> Vec<Impairment> {
        let mut found = self.progress.impairments();
        found.extend(self.endless_log_bytes().map(|bytes| Impairment::LogGrows {
            bytes,
            max: self.options.snapshots.log_bytes_max,
        }));
        found
    }

    fn own_member(&self) -> Member {
        Member {
            id: self.node_id.clone(),
            raft_addr: self.options.raft_addr.clone(),
            api_url: self.options.api_url.clone(),
            voter: false,
        }
    }

    fn transfer_status(&self) -> Vec<TransferStatus> {
        let sent = self.transfers.status().into_iter().map(|sending| TransferStatus {
            to: Some(sending.to),
            index: sending.index,
            round: sending.round,
            page_count: sending.page_count,
            pages_compared: sending.pages_seen,
            pages_sent: sending.pages_sent,
            bytes_sent: sending.bytes_sent,
            installing: false,
        });
        let received = self.receiver.status().map(|receiving| TransferStatus {
            to: None,
            index: receiving.index,
            round: receiving.round.into(),
            page_count: receiving.page_count.into(),
            pages_compared: receiving.pages_kept,
            pages_sent: receiving.pages_received,
            bytes_sent: 0,
            installing: receiving.installing,
        });
        sent.chain(received).collect()
    }

    fn raft_status(&self, view: &View) -> RaftStatus {
        let log = self.log.state();
        let applied = self.progress.applied();
        RaftStatus {
            term: view.term,
            last_log_index: log.last.map_or(0, |last| last.index),
            last_log_term: log.last.map_or(0, |last| last.term),
            commit_index: view.commit_index,
            applied_index: applied.index,
            applied_term: applied.term,
            applied_at_ms: self.progress.applied_at_ms(),
            snapshot_index: view.snapshot.index,
            snapshot_term: view.snapshot.term,
            first_log_index: log.first,
            log_bytes: log.bytes_on_disk,
            log_segments: log.segments as u64,
            peers: view.peers,
            membership_index: view.membership_index,
            voter: view.voter,
            last_contact: if view.leads {
                Some(Duration::ZERO)
            } else {
                self.progress.leader_silent_for()
            },
            raft_id: self.raft_id,
        }
    }

    fn database_status(&self) -> DatabaseStatus {
        let path = self.options.directory.join("db.sqlite");
        let file = std::fs::metadata(&path).ok();
        let readers = self.readers.status();
        let pages = self.page_facts();
        DatabaseStatus {
            file_bytes: file.as_ref().map_or(0, std::fs::Metadata::len),
            modified_at_ms: file
                .as_ref()
                .map_or(0, |file| file.mtime() * 1000 + file.mtime_nsec() / 1_000_000),
            path,
            wal_bytes: self.machinery.wal_file_bytes(),
            sqlite_version: rq_sqlite::sqlite_version().to_owned(),
            compile_options: pages.compile_options,
            page_size: pages.page_size,
            page_count: pages.page_count,
            freelist_count: pages.freelist_count,
            max_page_count: pages.max_page_count,
            cache_pages: pages.cache_pages,
            readers_open: readers.open as u64,
            readers_busy: readers.busy as u64,
            readers_max: self.options.readers_max.map_or(0, |max| max as u64),
            foreign_keys: self.options.foreign_keys,
        }
    }

    /// Asks a free reader; with none free, or a database that is closing, the facts stay zero.
    fn page_facts(&self) -> PageFacts {
        let ask = |sql: &str| {
            let statements = [Statement::new(sql)];
            let query = Query {
                statements: &statements,
                step_allowance: Some(FACTS_STEPS),
                ..Query::default()
            };
            let mut sink = Collected::default();
            match self.readers.query(&query, &mut sink) {
                Ok(QueryEnd::Done) => sink.values,
                Ok(QueryEnd::Yielded) | Err(_) => Vec::new(),
            }
        };
        let number = |sql: &str| match ask(sql).first() {
            Some(Value::Integer(integer)) => *integer,
            _ => 0,
        };
        let count = |sql: &str| u64::try_from(number(sql)).unwrap_or(0);
        let texts = |sql: &str| -> Vec<String> {
            let texts = ask(sql).into_iter().filter_map(|value| match value {
                Value::Text(text) => String::from_utf8(text).ok(),
                _ => None,
            });
            texts.collect()
        };
        PageFacts {
            page_size: count("PRAGMA page_size"),
            page_count: count("PRAGMA page_count"),
            freelist_count: count("PRAGMA freelist_count"),
            max_page_count: count("PRAGMA max_page_count"),
            cache_pages: number("PRAGMA cache_size"),
            compile_options: texts("PRAGMA compile_options"),
        }
    }

    fn settings_status(&self) -> SettingsStatus {
        let options = &self.options;
        SettingsStatus {
            apply_timeout: options.limits.enqueue_timeout,
            heartbeat_timeout: options.timing.heartbeat_timeout,
            election_timeout: options.timing.election_timeout,
            commit_timeout: options.timing.commit_timeout,
            lease_timeout: options.timing.lease_timeout,
            snapshot_threshold: options.snapshots.entries,
            snapshot_interval: options.snapshots.interval,
            snapshot_wal_bytes: options.snapshots.wal_bytes,
            trailing_logs: options.snapshots.trailing_entries,
            auto_vacuum_interval: options.auto_vacuum_interval,
            auto_optimize_interval: options.auto_optimize_interval,
        }
    }
}
