//! One row per sentence of the validation, their order, and what a plain start means.

use rq_security::{PairFiles, ServerCertificates};

use super::*;
use crate::goflag;

/// Checks words with a data directory behind them.
fn check(words: &[&str]) -> Result<Config, Problem> {
    check_all(&[words, &["data"]].concat())
}

fn check_all(words: &[&str]) -> Result<Config, Problem> {
    let cli = goflag::parse(words.iter().map(OsString::from))
        .unwrap_or_else(|stop| panic!("{words:?}: {stop:?}"));
    Config::check(&cli)
}

fn config(words: &[&str]) -> Config {
    check(words).unwrap_or_else(|problem| panic!("{words:?}: {problem}"))
}

/// Gives what would be shown for words with a data directory behind them.
fn problem(words: &[&str]) -> String {
    match check(words) {
        Ok(_) => panic!("{words:?} was accepted"),
        Err(problem) => problem.to_string(),
    }
}

#[test]
fn without_flags_everything_has_its_default() {
    let config = config(&[]);
    assert_eq!(config.data_directory, std::env::current_dir().unwrap().join("data"));
    assert_eq!(config.node_id, None);
    assert_eq!(config.http.bind.as_str(), "localhost:4001");
    assert_eq!(config.http.advertised.as_str(), "localhost:4001");
    assert_eq!(config.raft_bind.as_str(), "localhost:4002");
    assert_eq!(config.raft_advertised.as_str(), "localhost:4002");
    assert_eq!(config.api_url(), "http://localhost:4001");
    assert!(config.http.tls.is_none() && config.credentials.is_none());
    assert_eq!(config.sqlite.read_connections_max, Some(256));
    assert_eq!(config.sqlite.vacuum_interval, None);
    assert_eq!(config.sqlite.optimize_interval, Some(Duration::from_secs(86_400)));
    assert_eq!((config.raft.snapshot_entries, config.raft.trailing_entries), (8192, 10_240));
    assert_eq!(config.raft.snapshot_wal_bytes, Some(4_194_304));
    assert_eq!(config.raft.snapshot_interval, Duration::from_secs(10));
    assert_eq!(config.raft.apply_timeout, Some(Duration::from_secs(10)));
    assert!(config.cluster.step_down_at_shutdown && !config.cluster.leave_at_shutdown);
    assert_eq!(config.cluster.forming, Forming::Alone);
    assert_eq!(config.cluster.join_as, JoinAs::default());
    assert!(!config.cluster.replica && config.internode.tls.is_none());
    assert_eq!(config.internode.connect_timeout, Duration::from_secs(30));
    assert_eq!(config.raft.timing.heartbeat_timeout, Duration::from_secs(1));
    assert_eq!(config.raft.timing.leader_lease_timeout, Duration::from_millis(500));
    let queue = QueueConfig {
        capacity: 1024,
        batch_size: 128,
        timeout: Some(Duration::from_millis(50)),
        transaction: false,
    };
    assert_eq!(config.queue, queue);
    assert_eq!(config.limits.header_bytes, 1 << 20);
    assert_eq!(config.limits.body_bytes, Some(1 << 30));
    assert_eq!(config.limits.query_time, Some(Duration::from_secs(300)));
    let log =
        LogConfig { format: LogFormat::Text, level: LogLevel::Info, raft_level: LogLevel::Warn };
    assert_eq!(config.log, log);
    assert!(config.warnings.is_empty());
}

#[test]
fn the_data_directory_is_one_word() {
    let problem = |words: &[&str]| check_all(words).unwrap_err().to_string();
    assert_eq!(problem(&["-fk"]), "fatal: data directory path is required");
    assert_eq!(problem(&["  "]), "fatal: data directory path is required");
    assert_eq!(problem(&[""]), "fatal: data directory path is required");
    assert_eq!(
        problem(&["dir", "-fk", "x"]),
        "arguments after data directory (dir) are not accepted ([-fk x])"
    );
    let directory = |word: &str| check_all(&[word]).unwrap().data_directory;
    assert_eq!(directory(" /data "), PathBuf::from("/data"));
    assert!(directory("~/x").ends_with("~/x"), "the shell's business");
}

#[test]
fn certificates_need_keys_and_names_need_certificates() {
    for (words, expected) in [
        (
            &["-http-cert=c"][..],
            "fatal: either both -http-cert and -http-key must be set, or neither",
        ),
        (&["-http-key=k"], "fatal: either both -http-cert and -http-key must be set, or neither"),
        (&["-node-cert=c"], "fatal: either both -node-cert and -node-key must be set, or neither"),
        (&["-node-key=k"], "fatal: either both -node-cert and -node-key must be set, or neither"),
        (
            &["-http-verify-common-name=n"],
            "fatal: -http-verify-common-name requires -http-verify-client",
        ),
        (
            &["-node-verify-common-name=n"],
            "fatal: -node-verify-common-name requires -node-verify-client",
        ),
    ] {
        assert_eq!(problem(words), expected, "{words:?}");
    }
}

#[test]
fn addresses_must_be_addresses_that_others_can_dial() {
    for (words, expected) in [
        (&["-http-addr=localhost:4002"][..], "HTTP and Raft addresses must differ"),
        (
            &["-http-addr=http://localhost:4001"],
            "HTTP options should not include protocol (http:// or https://)",
        ),
        (
            &["-http-addr=HTTPD:4001"],
            "HTTP options should not include protocol (http:// or https://)",
        ),
        (
            &["-http-adv-addr=https://x:1"],
            "HTTP options should not include protocol (http:// or https://)",
        ),
        (&["-http-addr=localhost"], "HTTP bind address not valid"),
        (&["-http-addr=::1:4001"], "HTTP bind address not valid"),
        (&["-http-adv-addr=localhost"], "HTTP advertised HTTP address not valid"),
        (
            &["-http-addr=0.0.0.0:4001"],
            "advertised HTTP address is not routable (0.0.0.0), specify it via -http-addr or \
             -http-adv-addr",
        ),
        (
            &["-http-adv-addr=[::]:4001"],
            "advertised HTTP address is not routable (::), specify it via -http-addr or \
             -http-adv-addr",
        ),
        (&["-raft-addr=localhost"], "raft bind address not valid"),
        (&["-raft-addr=localhost:raft"], "raft bind port not valid"),
        (&["-raft-addr=localhost:"], "raft bind port not valid"),
        (&["-raft-adv-addr=localhost"], "raft advertised address not valid"),
        (&["-raft-adv-addr=localhost:raft"], "raft advertised port is not valid"),
        (
            &["-raft-addr=0.0.0.0:4002"],
            "advertised Raft address is not routable (0.0.0.0), specify it via -raft-addr or \
             -raft-adv-addr",
        ),
        (&["-raft-adv-addr=localhost:4001"], "advertised HTTP and Raft addresses must differ"),
    ] {
        assert_eq!(problem(words), format!("fatal: {expected}"), "{words:?}");
    }
    let config = config(&[
        "-http-addr=0.0.0.0:1",
        "-http-adv-addr=h:1",
        "-raft-addr=[::]:2",
        "-raft-adv-addr=h:2",
    ]);
    assert_eq!(config.api_url(), "http://h:1");
    assert_eq!(config.raft_bind.to_bind(), ["[::]:2"]);
}

#[test]
fn cluster_flags_must_not_contradict_each_other() {
    for (words, expected) in [
        (
            &["-bootstrap-expect=3", "-raft-non-voter"][..],
            "bootstrapping only applicable to voting nodes",
        ),
        (&["-join=a:1,b"], "b is an invalid join address"),
        (&["-join=a:1, b:c:d"], " b:c:d is an invalid join address"),
        (&["-join=localhost:4002"], "node cannot join with itself unless bootstrapping"),
        (
            &["-join=a:1,h:9", "-raft-adv-addr=h:9"],
            "node cannot join with itself unless bootstrapping",
        ),
        (&["-join=a:1", "-auto-restore=f"], "auto-restoring cannot be used when joining a cluster"),
        (
            &["-join=a:1", "-disco-mode=dns"],
            "disco mode cannot be used when also explicitly joining a cluster",
        ),
        (&["-cdc-config=f", "-raft-non-voter"], "CDC cannot be enabled on non-voting nodes"),
        (
            &["-disco-mode=consul-kv", "-bootstrap-expect=3"],
            "bootstrapping not applicable when using consul-kv",
        ),
        (
            &["-disco-mode=dns-srv"],
            "bootstrap-expect value required when using dns-srv with a voting node",
        ),
        (
            &["-disco-mode=zookeeper"],
            "disco mode must be one of consul-kv, etcd-kv, dns, or dns-srv",
        ),
        (&["-raft-reap-node-timeout=0h"], "-raft-reap-node-timeout must be greater than 0"),
        (
            &["-raft-reap-read-only-node-timeout=-1s"],
            "-raft-reap-read-only-node-timeout must be greater than 0",
        ),
        (&["-extensions-path=/nonexistent/x"], "extension path does not exist: /nonexistent/x"),
    ] {
        assert_eq!(problem(words), format!("fatal: {expected}"), "{words:?}");
    }
}

#[test]
fn otlp_flags_must_not_contradict_each_other() {
    for (words, expected) in [
        (&["-otlp-endpoint=http://c:1"][..], "-otlp-endpoint must not include a protocol scheme"),
        (&["-otlp-endpoint=c"], "-otlp-endpoint is not a valid address"),
        (&["-otlp-endpoint=c:1", "-otlp-interval=0"], "-otlp-interval must be greater than zero"),
        (
            &["-otlp-endpoint=c:1", "-otlp-cert=c"],
            "either both -otlp-cert and -otlp-key must be set, or neither",
        ),
        (
            &["-otlp-endpoint=c:1", "-otlp-insecure", "-otlp-no-verify"],
            "-otlp-insecure cannot be used with other OTLP TLS options",
        ),
        (&["-otlp-insecure"], "OTLP options require -otlp-endpoint"),
        (&["-otlp-ca-cert=f"], "OTLP options require -otlp-endpoint"),
    ] {
        assert_eq!(problem(words), format!("fatal: {expected}"), "{words:?}");
    }
}

#[test]
fn rafts_timeouts_keep_their_relations() {
    for (words, expected) in [
        (&["-raft-heartbeat-timeout=1ms"][..], "HeartbeatTimeout is too low"),
        (&["-raft-election-timeout=-1s"], "ElectionTimeout is too low"),
        (&["-raft-commit-timeout=1us"], "CommitTimeout is too low"),
        (&["-raft-leader-lease-timeout=4ms"], "LeaderLeaseTimeout is too low"),
        (&["-raft-snap-int=1ms"], "SnapshotInterval is too low"),
        (
            &["-raft-heartbeat-timeout=400ms"],
            "LeaderLeaseTimeout (500ms) cannot be larger than heartbeat timeout (400ms)",
        ),
        (
            &["-raft-heartbeat-timeout=2s"],
            "ElectionTimeout (1s) must be equal or greater than Heartbeat Timeout (2s)",
        ),
    ] {
        let text = format!("failed to open store: creating the raft system failed: {expected}");
        assert_eq!(check(words).unwrap_err(), Problem::Logged(text), "{words:?}");
    }
    let config = config(&["-raft-heartbeat-timeout=0", "-raft-snap=0", "-raft-snap-int=0"]);
    assert_eq!(config.raft.timing.heartbeat_timeout, Duration::from_secs(1));
    assert_eq!((config.raft.snapshot_entries, config.raft.trailing_entries), (8192, 10_240));
    assert_eq!(config.raft.snapshot_interval, Duration::from_secs(120));
    assert_eq!(config.raft.snapshot_wal_bytes, None);
}

#[test]
fn of_several_problems_the_first_in_rqliteds_order_is_told() {
    // Each row adds a problem that is looked for earlier than those before it.
    let steps: [(&str, &str); 12] = [
        ("-disco-key=x", "-disco-key is refused"),
        ("-disco-mode=zookeeper", "disco mode must be one of"),
        ("-otlp-insecure", "OTLP options require"),
        ("-cdc-config=f", "CDC cannot be enabled"),
        ("-bootstrap-expect=3", "bootstrapping only applicable"),
        ("-raft-adv-addr=localhost:4001", "advertised HTTP and Raft addresses must differ"),
        ("-http-adv-addr=x", "HTTP advertised HTTP address not valid"),
        ("-raft-addr=localhost:4001", "HTTP and Raft addresses must differ"),
        ("-http-verify-common-name=n", "-http-verify-common-name requires"),
        ("-http-cert=c", "either both -http-cert"),
        ("-extensions-path=/nonexistent", "extension path does not exist"),
        ("-raft-reap-node-timeout=0", "-raft-reap-node-timeout must be"),
    ];
    let mut words = Vec::new();
    for (word, expected) in steps {
        if word.starts_with("-cdc") {
            words.push("-raft-non-voter");
        }
        words.push(word);
        let shown = problem(&words);
        assert!(shown.starts_with(&format!("fatal: {expected}")), "{words:?}: {shown}");
    }
}

#[test]
fn what_does_not_exist_yet_is_refused_unless_at_its_default() {
    for words in [
        &["-disco-key=x"][..],
        &["-disco-mode=dns", "-bootstrap-expect=3"],
        &["-auto-backup=f"],
        &["-cdc-config=stdout"],
        &["-otlp-endpoint=c:1"],
        &["-otlp-interval=1s"],
        &["-extensions-path=/"],
    ] {
        let name = words[0].split('=').next().unwrap();
        let shown = problem(words);
        assert!(shown.starts_with(&format!("fatal: {name} is refused: ")), "{words:?}: {shown}");
    }
    config(&["-disco-key=rqlite", "-otlp-interval=30s"]);
}

#[test]
fn what_works_on_one_node_is_accepted() {
    let config = config(&[
        "-node-id=n1",
        "-http-cert=c",
        "-http-key=k",
        "-http-ca-cert=ca",
        "-http-verify-client",
        "-http-verify-common-name=cn",
        "-http-allow-origin=*",
        "-auth=users.json",
        "-fk",
        "-db-max-ro-conns=0",
        "-auto-vacuum-int=1h",
        "-auto-optimize-int=0",
        "-raft-log-level=nonsense",
        "-raft-snap=400",
        "-raft-snap-wal-size=0",
        "-raft-apply-timeout=0",
        "-raft-shutdown-stepdown=false",
        "-write-queue-timeout=0",
        "-write-queue-tx",
        "-cluster-connect-timeout=1s",
        "-cpu-profile=p",
        "-log-format=json",
        "-log-level=debug",
        "-limit-query-time=0",
        "-compat-strict-infinity",
    ]);
    assert_eq!(config.node_id.as_deref(), Some("n1"));
    assert_eq!(config.api_url(), "https://localhost:4001");
    let tls = config.http.tls.unwrap();
    assert_eq!((tls.certificate, tls.key), (PathBuf::from("c"), PathBuf::from("k")));
    assert_eq!(
        tls.clients,
        ClientCertificates::Required {
            authority: Some("ca".into()),
            common_name: Some("cn".to_owned())
        }
    );
    assert_eq!(config.credentials, Some("users.json".into()));
    assert!(config.sqlite.foreign_keys);
    assert_eq!(config.sqlite.read_connections_max, None);
    assert_eq!(config.sqlite.vacuum_interval, Some(Duration::from_secs(3600)));
    assert_eq!(config.sqlite.optimize_interval, None);
    assert_eq!((config.raft.snapshot_entries, config.raft.trailing_entries), (400, 500));
    assert_eq!(config.raft.snapshot_wal_bytes, None);
    assert_eq!(config.raft.apply_timeout, None);
    assert!(!config.cluster.step_down_at_shutdown);
    assert_eq!(config.internode.connect_timeout, Duration::from_secs(1));
    assert!(config.queue.timeout.is_none() && config.queue.transaction);
    assert_eq!(config.log.raft_level, LogLevel::Info, "what nobody knows is INFO");
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.limits.query_time, None);
    assert!(config.strict_infinity);
    assert_eq!(config.warnings, ["-cpu-profile has no effect: this program writes no profiles"]);
}

#[test]
fn how_a_node_comes_to_its_cluster() {
    let forming = |words: &[&str]| config(words).cluster.forming;
    let joined = |attempts| Forming::Join {
        addresses: vec!["a:1".to_owned(), "b:2".to_owned()],
        attempts,
        interval: Duration::from_millis(100),
    };
    let join = ["-join=a:1,b:2", "-join-interval=100ms"];
    assert_eq!(forming(&join), joined(5));
    assert_eq!(forming(&[&join[..], &["-join-attempts=0x10"]].concat()), joined(16));
    assert_eq!(forming(&[&join[..], &["-join-attempts=-1"]].concat()), joined(0));
    assert_eq!(
        forming(&[
            "-join=localhost:4002,b:2",
            "-bootstrap-expect=3",
            "-bootstrap-expect-timeout=5s"
        ]),
        Forming::Together {
            addresses: vec!["localhost:4002".to_owned(), "b:2".to_owned()],
            expect: 3,
            timeout: Duration::from_secs(5),
        },
        "its own address is among those of founders"
    );
    let alone = config(&["-bootstrap-expect=3"]);
    assert_eq!(alone.cluster.forming, Forming::Alone);
    assert!(alone.warnings[0].starts_with("-bootstrap-expect has no effect"));
    let config = config(&[
        "-join=a:1",
        "-raft-non-voter",
        "-join-as=bob",
        "-join-as-password-file=p",
        "-raft-reap-node-timeout=1h",
        "-raft-reap-read-only-node-timeout=2h",
        "-raft-cluster-remove-shutdown",
        "-raft-remove-shutdown",
    ]);
    let cluster = config.cluster;
    assert!(cluster.replica && cluster.leave_at_shutdown && cluster.stop_when_removed);
    assert_eq!(cluster.reap_voters_after, Some(Duration::from_secs(3600)));
    assert_eq!(cluster.reap_replicas_after, Some(Duration::from_secs(7200)));
    let join_as =
        JoinAs { username: Some("bob".to_owned()), password_file: Some(PathBuf::from("p")) };
    assert_eq!(cluster.join_as, join_as);
    let orphan = problem(&["-join-as-password-file=p"]);
    assert_eq!(orphan, "fatal: -join-as-password-file requires -join-as");
}

#[test]
fn tls_among_nodes_is_all_or_nothing() {
    let all = config(&[
        "-node-cert=c",
        "-node-key=k",
        "-node-ca-cert=ca",
        "-node-verify-client",
        "-node-verify-common-name=cn",
        "-node-verify-server-name=sn",
        "-cluster-secret-file=s",
        "-compress-snap-transport",
    ])
    .internode;
    assert!(all.compress);
    assert_eq!(all.secret, Some(PathBuf::from("s")));
    let tls = all.tls.unwrap();
    assert_eq!((tls.server.certificate, tls.server.key), ("c".into(), "k".into()));
    assert_eq!(
        tls.server.clients,
        ClientCertificates::Required {
            authority: Some("ca".into()),
            common_name: Some("cn".to_owned())
        }
    );
    let pair = PairFiles { certificate: "c".into(), key: "k".into() };
    assert_eq!(tls.client.pair, Some(pair), "the same pair for dialling");
    assert_eq!(
        tls.client.servers,
        ServerCertificates::Verified { authority: Some("ca".into()), name: Some("sn".to_owned()) }
    );
    let lax = config(&["-node-cert=c", "-node-key=k", "-node-no-verify"]).internode.tls.unwrap();
    assert_eq!(lax.server.clients, ClientCertificates::NotAsked);
    assert_eq!(lax.client.servers, ServerCertificates::Unverified);
    let alone = check(&["-node-ca-cert=ca"]).unwrap_err();
    assert_eq!(
        alone,
        Problem::Logged(
            "failed to create cluster client: -node-ca-cert requires -node-cert and -node-key"
                .to_owned()
        )
    );
    let without = config(&["-node-verify-client"]);
    assert!(without.internode.tls.is_none());
    assert!(without.warnings[0].starts_with("-node-verify-client has no effect"));
}

#[test]
fn without_https_demands_on_clients_have_no_effect() {
    assert!(config(&["-http-verify-client", "-http-ca-cert=ca"]).http.tls.is_none());
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    for (words, expected) in [
        (&["-write-queue-capacity=0"][..], "-write-queue-capacity must be greater than 0"),
        (&["-write-queue-batch-size=-1"], "-write-queue-batch-size must be greater than 0"),
        (&["-write-queue-timeout=-1s"], "-write-queue-timeout must not be negative"),
        (&["-raft-apply-timeout=-1s"], "-raft-apply-timeout must not be negative"),
        (&["-auto-vacuum-int=-1s"], "-auto-vacuum-int must not be negative"),
        (&["-cluster-connect-timeout=-1s"], "-cluster-connect-timeout must not be negative"),
        (
            &["-join=a:1", "-bootstrap-expect=3", "-bootstrap-expect-timeout=-1s"],
            "-bootstrap-expect-timeout must not be negative",
        ),
        (&["-join=a:1", "-join-interval=-1s"], "-join-interval must not be negative"),
        (&["-limit-header-bytes=100"], "-limit-header-bytes must be at least 8192"),
        (&["-limit-header-bytes=0"], "-limit-header-bytes must be at least 8192"),
        (&["-limit-idle-time=-1s"], "-limit-idle-time must not be negative"),
    ] {
        assert_eq!(problem(words), format!("fatal: {expected}"), "{words:?}");
    }
}
