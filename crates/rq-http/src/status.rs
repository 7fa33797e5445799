//! `/status`: everything the node and the server know of themselves, in upstream's shape.
//!
//! It never waits for the database, so that it answers when nothing else does. Keys that only upstream's way
//! of working gives a meaning are there with an empty value of the right type.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use rq_api::{duration::GoDuration, status::friendly_bytes as friendly};
use rq_node::{Impairment, Member, Node, Role, Status, TransferStatus};
use rq_security::{ClientCertificates, ServerTls, ServerTlsOptions};
use serde_json::{Map, Value, json};

use crate::{
    options::Cluster,
    process,
    respond::Reply,
    service::{Call, Service},
};

/// `/status`.
pub(crate) fn status(call: &Call<'_>) -> Reply {
    call.service.metrics.status.increment();
    let params = &call.params;
    Reply::json(rq_api::status::encode(&whole(call.service), &params.key, params.pretty))
}

fn whole(service: &Service) -> Value {
    let options = &service.options;
    let mut whole = Map::new();
    whole.insert("build".to_owned(), build(service));
    whole.insert("node".to_owned(), node(service));
    whole.insert("os".to_owned(), process::os());
    whole.insert("runtime".to_owned(), process::runtime(&options.build.toolchain));
    let status = service.slot.get().map(Node::status);
    whole.insert("http".to_owned(), http(service, status.as_ref()));
    match status {
        None => {
            whole.insert("store".to_owned(), json!({ "open": false }));
        }
        Some(status) => {
            whole.insert("cluster".to_owned(), cluster(service, &status));
            whole.insert("extensions".to_owned(), json!({ "dir": "", "names": [] }));
            whole.insert("mux".to_owned(), mux(service, &status));
            whole.insert("network".to_owned(), process::network());
            whole.insert("store".to_owned(), store(service, &status));
        }
    }
    Value::Object(whole)
}

fn build(service: &Service) -> Value {
    let build = &service.options.build;
    json!({
        "version": build.api_version,
        "rq": build.version,
        "commit": build.commit,
        "build_time": build.build_time,
        "compiler_toolchain": build.toolchain,
        "compiler_command": build.command,
    })
}

fn node(service: &Service) -> Value {
    json!({
        "start_time": service.started_at.to_string(),
        "current_time": Timestamp::now().to_string(),
        "uptime": duration(service.started.elapsed()),
    })
}

fn http(service: &Service, status: Option<&Status>) -> Value {
    let options = &service.options;
    let queue = &options.queue;
    let mut http = json!({
        "bind_addr": service.local_addr.to_string(),
        "auth": if options.users.is_restricted() { "enabled" } else { "disabled" },
        "cluster": {
            "local_node_addr": status.map_or("", |status| status.member.raft_addr.as_str()),
            "timeout": duration(options.cluster.connect_timeout),
        },
        "queue": { "_default": {
            "max_size": queue.capacity,
            "batch_size": queue.batch_size,
            "timeout": duration(queue.timeout),
            "sequence_number": service.queue.processed(),
        } },
        "tls": tls(service),
        "load": {
            "connections": service.watch.count(),
            "requests": service.requests.load(Ordering::Relaxed),
            "body_bytes": service.body_bytes.load(Ordering::Relaxed),
            "answer_bytes": service.answers.taken(),
        },
        "warnings": warnings(service),
    });
    if let Some(origin) = &options.allow_origin {
        http["allow_origin"] = json!(origin);
    }
    http
}

/// What an operator should know and may have overlooked.
fn warnings(service: &Service) -> Vec<&'static str> {
    let is_open = !service.local_addr.ip().is_loopback();
    if is_open && !service.options.users.is_restricted() {
        vec![
            "anybody who can reach this address can read and change the database: no -auth file is set",
        ]
    } else {
        Vec::new()
    }
}

fn tls(service: &Service) -> Value {
    match &service.options.tls {
        None => json!({ "enabled": "false" }),
        Some(tls) => {
            let mut tls = files(tls.options());
            tls["next_protos"] = json!(["h2", "http/1.1"]);
            tls
        }
    }
}

fn files(files: &ServerTlsOptions) -> Value {
    let (client_auth, ca_file) = match &files.clients {
        ClientCertificates::NotAsked => ("NoClientCert", String::new()),
        ClientCertificates::Required { authority, .. } => (
            "RequireAndVerifyClientCert",
            authority.as_ref().map_or_else(String::new, |path| path.display().to_string()),
        ),
    };
    json!({
        "enabled": "true",
        "client_auth": client_auth,
        "cert_file": files.certificate.display().to_string(),
        "key_file": files.key.display().to_string(),
        "ca_file": ca_file,
    })
}

fn cluster(service: &Service, status: &Status) -> Value {
    json!({
        "addr": status.member.raft_addr,
        "api_addr": service.options.advertised,
        "https": if service.options.tls.is_some() { "true" } else { "false" },
    })
}

fn mux(service: &Service, status: &Status) -> Value {
    let cluster = &service.options.cluster;
    json!({
        "addr": status.member.raft_addr,
        "bind_addr": cluster.network.as_ref().map(|network| network.local_addr().to_string()),
        "timeout": duration(cluster.connect_timeout),
        "handlers": {},
        "tls": match &cluster.tls {
            None => json!("disabled"),
            Some(tls) => files(tls.options()),
        },
        "secret": cluster.secret,
        "warnings": internode_warnings(cluster),
    })
}

/// What an operator should know of the internode port and may have overlooked.
fn internode_warnings(cluster: &Cluster) -> Vec<&'static str> {
    let is_open =
        cluster.network.as_ref().is_some_and(|network| !network.local_addr().ip().is_loopback());
    let is_proved =
        |tls: &Arc<ServerTls>| matches!(tls.options().clients, ClientCertificates::Required { .. });
    if is_open && !cluster.secret && !cluster.tls.as_ref().is_some_and(is_proved) {
        vec![
            "anybody who can reach this address can pass for a node of the cluster: neither -node-verify-client nor -cluster-secret-file is set",
        ]
    } else {
        Vec::new()
    }
}

fn store(service: &Service, status: &Status) -> Value {
    let cluster = &service.options.cluster;
    let (raft, database, settings) = (&status.raft, &status.database, &status.settings);
    let bytes = database.file_bytes + database.wal_bytes + raft.log_bytes;
    json!({
        "open": {},
        "ready": status.ready,
        "transfers": status.transfers.iter().map(transfer).collect::<Vec<_>>(),
        "impairments": status.impairments.iter().map(impairment).collect::<Vec<_>>(),
        "node_id": status.node_id,
        "addr": status.member.raft_addr,
        "dir": status.directory.display().to_string(),
        "dir_size": bytes,
        "dir_size_friendly": friendly(bytes),
        "leader": {
            "node_id": status.leader.as_ref().map_or("", |leader| leader.id.as_str()),
            "addr": status.leader.as_ref().map_or("", |leader| leader.raft_addr.as_str()),
        },
        "nodes": status.members.iter().map(server).collect::<Vec<_>>(),
        "quorum": quorum(service),
        "raft": self::raft(status, cluster.compress),
        "sqlite3": sqlite(status),
        "db_conf": { "fk_constraints": database.foreign_keys },
        "fsm_index": raft.applied_index,
        "fsm_term": raft.applied_term,
        "fsm_update_time": time(raft.applied_at_ms),
        "db_applied_index": raft.applied_index,
        "strong_read_term": raft.term,
        "leader_appended_at_time": time(raft.applied_at_ms),
        "apply_timeout": duration(settings.apply_timeout),
        "heartbeat_timeout": duration(settings.heartbeat_timeout),
        "election_timeout": duration(settings.election_timeout),
        "commit_timeout": duration(settings.commit_timeout),
        "snapshot_threshold": settings.snapshot_threshold,
        "snapshot_interval": duration(settings.snapshot_interval),
        "snapshot_cas": {},
        "snapshot_store": {
            "dir": status.directory.display().to_string(),
            "dir_size": database.file_bytes,
            "snapshots": snapshots(status),
        },
        "reap_timeout": duration(cluster.reap_voters_after),
        "reap_read_only_timeout": duration(cluster.reap_replicas_after),
        "no_freelist_sync": false,
        "trailing_logs": settings.trailing_logs,
        "request_marshaler": {
            "compression_size": 0,
            "compression_batch": 0,
            "force_compression": false,
        },
        "observer": { "observed": 0, "dropped": 0 },
        "cdc": { "enabled": false, "registered": false },
        "auto_vacuum": auto_vacuum(settings.auto_vacuum_interval),
        "auto_optimize": auto_vacuum(settings.auto_optimize_interval),
    })
}

/// The one "snapshot" there is: the point up to which the state machine is durable.
fn snapshots(status: &Status) -> Vec<String> {
    let raft = &status.raft;
    if raft.snapshot_index == 0 {
        return Vec::new();
    }
    vec![format!("{}-{}", raft.snapshot_term, raft.snapshot_index)]
}

fn auto_vacuum(interval: Duration) -> Value {
    if interval.is_zero() { json!({}) } else { json!({ "interval": duration(interval) }) }
}

fn server(member: &Member) -> Value {
    json!({
        "id": member.id,
        "addr": member.raft_addr,
        "suffrage": if member.voter { "voter" } else { "nonvoter" },
    })
}

/// A database on its way to or from another node.
fn transfer(transfer: &TransferStatus) -> Value {
    json!({
        "to": transfer.to,
        "index": transfer.index,
        "round": transfer.round,
        "page_count": transfer.page_count,
        "pages_compared": transfer.pages_compared,
        "pages_sent": transfer.pages_sent,
        "bytes_sent": transfer.bytes_sent,
        "installing": transfer.installing,
    })
}

fn impairment(impairment: &Impairment) -> String {
    match impairment {
        Impairment::DiskFull { free, floor } => {
            format!("writes are refused: {free} bytes free on disk, {floor} needed")
        }
        Impairment::LogWaitsForSpace => "the log waits for free space on disk".to_owned(),
        Impairment::ApplyStalled { index, reason } => {
            format!("entry {index} could not be applied and is tried again: {reason}")
        }
        Impairment::SlowEntry { index, seconds } => {
            format!("entry {index} has been applied for {seconds} s, and later writes wait for it")
        }
        Impairment::OtherEngine(other) => other.to_string(),
        Impairment::LogGrows { bytes, max } => format!(
            "the log has {bytes} bytes, {max} are allowed, and it cannot be purged while nothing is applied: it grows until \
             the disk is full"
        ),
        Impairment::Excluded { reason } => {
            format!("the node takes no part in its cluster any more: {reason}")
        }
        Impairment::Stopped { reason } => {
            format!("the node has stopped and must be restarted: {reason}")
        }
    }
}

/// Who elects the leader, and who of them was there when last asked; nobody is asked while there is one.
fn quorum(service: &Service) -> Value {
    let Some(node) = service.slot.get() else { return Value::Null };
    let outlook = service.quorum.outlook(node, node.leader().is_none());
    json!({
        "voters": outlook.voters,
        "reachable": outlook.reachable,
        "needed": outlook.needed,
        "last_contact": outlook.last_contact.map_or_else(|| "never".to_owned(), duration),
    })
}

fn raft(status: &Status, compress: bool) -> Value {
    let (raft, settings) = (&status.raft, &status.settings);
    let configuration: Vec<String> = status.members.iter().map(configured).collect();
    json!({
        "state": match status.role {
            Role::Leader => "Leader",
            Role::Follower => "Follower",
            Role::Candidate => "Candidate",
            Role::Shutdown => "Shutdown",
        },
        "term": raft.term,
        "last_log_index": raft.last_log_index,
        "last_log_term": raft.last_log_term,
        "first_log_index": raft.first_log_index,
        "commit_index": raft.commit_index,
        "applied_index": raft.applied_index,
        "fsm_pending": raft.commit_index.saturating_sub(raft.applied_index),
        "last_snapshot_index": raft.snapshot_index,
        "last_snapshot_term": raft.snapshot_term,
        "last_contact": match raft.last_contact {
            None => json!("never"),
            Some(Duration::ZERO) => json!(0),
            Some(elapsed) => json!(duration(elapsed)),
        },
        "num_peers": raft.peers,
        "latest_configuration": format!("[{}]", configuration.join(" ")),
        "latest_configuration_index": raft.membership_index,
        "protocol_version": 3,
        "protocol_version_min": 0,
        "protocol_version_max": 3,
        "snapshot_version_min": 0,
        "snapshot_version_max": 1,
        "voter": raft.voter,
        "raft_id": raft.raft_id,
        "log_size": raft.log_bytes,
        "log_size_friendly": friendly(raft.log_bytes),
        "log_segments": raft.log_segments,
        "bolt": {},
        "transport": {
            "command_commit_index": raft.commit_index,
            "leader_commit_index": raft.commit_index,
            "compress_snap": compress,
        },
        "config": {
            "LocalID": status.node_id,
            "HeartbeatTimeout": nanoseconds(settings.heartbeat_timeout),
            "ElectionTimeout": nanoseconds(settings.election_timeout),
            "CommitTimeout": nanoseconds(settings.commit_timeout),
            "LeaderLeaseTimeout": nanoseconds(settings.lease_timeout),
            "SnapshotInterval": nanoseconds(settings.snapshot_interval),
            "SnapshotThreshold": settings.snapshot_threshold,
            "TrailingLogs": settings.trailing_logs,
        },
    })
}

fn configured(member: &Member) -> String {
    let suffrage = if member.voter { "Voter" } else { "Nonvoter" };
    format!("{{Suffrage:{suffrage} ID:{} Address:{}}}", member.id, member.raft_addr)
}

fn sqlite(status: &Status) -> Value {
    let database = &status.database;
    let pages = database.page_count.saturating_mul(database.page_size);
    let path = database.path.display().to_string();
    json!({
        "version": database.sqlite_version,
        "rw_dsn": format!("file:{path}?mode=rwc"),
        "ro_dsn": format!("file:{path}?mode=ro"),
        "path": path,
        "size": database.file_bytes,
        "wal_size": database.wal_bytes,
        "db_size": pages,
        "db_size_friendly": friendly(pages),
        "last_modified": time(database.modified_at_ms),
        "compile_options": database.compile_options,
        "extensions": [],
        "mem_stats": {
            "page_count": database.page_count,
            "page_size": database.page_size,
            "max_page_count": database.max_page_count,
            "freelist_count": database.freelist_count,
            "cache_size": database.cache_pages,
            "hard_heap_limit": 0,
            "soft_heap_limit": 0,
        },
        "pragmas": { "rw": pragmas(status), "ro": pragmas(status) },
        "conn_pool_stats": { "rw": pool(1, 1, 0), "ro": pool(
            database.readers_max,
            database.readers_open,
            database.readers_busy,
        ) },
        "transaction": { "rw": false, "ro": false },
    })
}

fn pragmas(status: &Status) -> Value {
    json!({
        "synchronous": "1",
        "journal_mode": "wal",
        "foreign_keys": if status.database.foreign_keys { "1" } else { "0" },
        "wal_autocheckpoint": "0",
        "busy_timeout": "0",
    })
}

fn pool(max: u64, open: u64, busy: u64) -> Value {
    json!({
        "max_open_connections": max,
        "open_connections": open,
        "in_use": busy,
        "idle": open.saturating_sub(busy),
        "wait_count": 0,
        "wait_duration": 0,
        "max_idle_closed": 0,
        "max_idle_time_closed": 0,
        "max_lifetime_closed": 0,
    })
}

fn duration(duration: Duration) -> String {
    GoDuration::from(duration).to_string()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A time in milliseconds since 1970, by RFC 3339; Go's zero time for none.
fn time(milliseconds: i64) -> String {
    match Timestamp::from_millisecond(milliseconds) {
        Ok(time) if milliseconds != 0 => time.to_string(),
        Ok(_) | Err(_) => "0001-01-01T00:00:00Z".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_first_entry_are_zero() {
        assert_eq!(time(0), "0001-01-01T00:00:00Z");
        assert_eq!(time(1_577_934_245_123), "2020-01-02T03:04:05.123Z");
    }
}
