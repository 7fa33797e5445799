//! The rules of rqlited about what may be said together, with its sentences.
//!
//! [`super::Config::check`] calls them in rqlited's order. They judge what was typed, also for
//! features that do not exist here yet: whoever tests a command line for its mistakes finds the
//! same ones.

use std::{fs, path::Path};

use crate::{
    cli::Cli,
    config::{HostPort, Problem, given},
    goflag::GoDuration,
};

/// The four addresses, defaults filled in.
pub(crate) struct Addresses {
    pub(crate) http_bind: HostPort,
    pub(crate) http_advertised: HostPort,
    pub(crate) raft_bind: HostPort,
    pub(crate) raft_advertised: HostPort,
}

/// A reap timeout may be left out, but not be zero.
pub(crate) fn reap_timeouts(cli: &Cli) -> Result<(), Problem> {
    let timeouts = [
        ("raft-reap-node-timeout", cli.raft.raft_reap_node_timeout),
        ("raft-reap-read-only-node-timeout", cli.raft.raft_reap_read_only_node_timeout),
    ];
    for (name, timeout) in timeouts {
        if timeout.is_some_and(|timeout| timeout <= GoDuration::default()) {
            return Err(Problem::fatal(format!("-{name} must be greater than 0")));
        }
    }
    Ok(())
}

/// Each path of extensions must exist.
pub(crate) fn extensions_exist(cli: &Cli) -> Result<(), Problem> {
    let Some(list) = given(&cli.sqlite.extensions_path) else { return Ok(()) };
    match list.split(',').find(|path| fs::metadata(Path::new(path)).is_err()) {
        Some(path) => Err(Problem::fatal(format!("extension path does not exist: {path}"))),
        None => Ok(()),
    }
}

/// Certificates need their keys, and common names a certificate to look at.
pub(crate) fn certificates(cli: &Cli) -> Result<(), Problem> {
    let (http, node) = (&cli.http, &cli.internode);
    pair("http-cert", &http.http_cert, "http-key", &http.http_key)?;
    pair("node-cert", &node.node_cert, "node-key", &node.node_key)?;
    let names = [
        ("http", &http.http_verify_common_name, http.http_verify_client),
        ("node", &node.node_verify_common_name, node.node_verify_client),
    ];
    for (prefix, common_name, verify_client) in names {
        if !common_name.is_empty() && !verify_client.0 {
            return Err(Problem::fatal(format!(
                "-{prefix}-verify-common-name requires -{prefix}-verify-client"
            )));
        }
    }
    Ok(())
}

/// Addresses must be addresses, differ, and be such that others can dial them.
pub(crate) fn addresses(cli: &Cli) -> Result<Addresses, Problem> {
    let (http, raft) = (&cli.http.http_addr, &cli.internode.raft_addr);
    if http == raft {
        return Err(Problem::fatal("HTTP and Raft addresses must differ"));
    }
    let or = |text: &String, default: &String| {
        if text.is_empty() { default.clone() } else { text.clone() }
    };
    let http_advertised = or(&cli.http.http_adv_addr, http);
    let raft_advertised = or(&cli.internode.raft_adv_addr, raft);

    let has_protocol =
        |text: &str| text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"));
    if has_protocol(http) || has_protocol(&http_advertised) {
        return Err(Problem::fatal(
            "HTTP options should not include protocol (http:// or https://)",
        ));
    }
    let parse = |text: &str, complaint: &str| {
        HostPort::parse(text).ok_or_else(|| Problem::fatal(complaint))
    };
    let http_bind = parse(http, "HTTP bind address not valid")?;
    let http_advertised = parse(&http_advertised, "HTTP advertised HTTP address not valid")?;
    routable(&http_advertised, "HTTP", "http")?;
    let raft_bind = parse(raft, "raft bind address not valid")?;
    numeric_port(&raft_bind, "raft bind port not valid")?;
    let raft_advertised = parse(&raft_advertised, "raft advertised address not valid")?;
    routable(&raft_advertised, "Raft", "raft")?;
    numeric_port(&raft_advertised, "raft advertised port is not valid")?;
    if raft_advertised.as_str() == http_advertised.as_str() {
        return Err(Problem::fatal("advertised HTTP and Raft addresses must differ"));
    }
    Ok(Addresses { http_bind, http_advertised, raft_bind, raft_advertised })
}

/// What contradicts itself about bootstrapping and joining.
pub(crate) fn cluster_formation(cli: &Cli, addresses: &Addresses) -> Result<(), Problem> {
    let flags = &cli.cluster;
    if flags.bootstrap_expect > 0 && flags.raft_non_voter.0 {
        return Err(Problem::fatal("bootstrapping only applicable to voting nodes"));
    }
    let Some(list) = given(&flags.join) else { return Ok(()) };
    let own = [addresses.raft_advertised.as_str(), addresses.raft_bind.as_str()];
    for address in list.split(',') {
        if HostPort::parse(address).is_none() {
            return Err(Problem::fatal(format!("{address} is an invalid join address")));
        }
        if flags.bootstrap_expect == 0 {
            if own.contains(&address) {
                return Err(Problem::fatal("node cannot join with itself unless bootstrapping"));
            }
            if !cli.services.auto_restore.is_empty() {
                return Err(Problem::fatal("auto-restoring cannot be used when joining a cluster"));
            }
        }
    }
    if !flags.disco_mode.is_empty() {
        return Err(Problem::fatal(
            "disco mode cannot be used when also explicitly joining a cluster",
        ));
    }
    Ok(())
}

/// Changes are captured where votes are cast.
pub(crate) fn change_capture(cli: &Cli) -> Result<(), Problem> {
    if !cli.services.cdc_config.is_empty() && cli.cluster.raft_non_voter.0 {
        return Err(Problem::fatal("CDC cannot be enabled on non-voting nodes"));
    }
    Ok(())
}

/// What contradicts itself about the collector of metrics.
pub(crate) fn otlp(cli: &Cli) -> Result<(), Problem> {
    let flags = &cli.otlp;
    let tls_options = flags.otlp_no_verify.0
        || ![&flags.otlp_ca_cert, &flags.otlp_cert, &flags.otlp_key]
            .iter()
            .all(|text| text.is_empty());
    let Some(endpoint) = given(&flags.otlp_endpoint) else {
        if flags.otlp_insecure.0 || tls_options {
            return Err(Problem::fatal("OTLP options require -otlp-endpoint"));
        }
        return Ok(());
    };
    if endpoint.contains("://") {
        return Err(Problem::fatal("-otlp-endpoint must not include a protocol scheme"));
    }
    if HostPort::parse(&endpoint).is_none() {
        return Err(Problem::fatal("-otlp-endpoint is not a valid address"));
    }
    if flags.otlp_interval <= GoDuration::default() {
        return Err(Problem::fatal("-otlp-interval must be greater than zero"));
    }
    pair("otlp-cert", &flags.otlp_cert, "otlp-key", &flags.otlp_key)?;
    if flags.otlp_insecure.0 && tls_options {
        return Err(Problem::fatal("-otlp-insecure cannot be used with other OTLP TLS options"));
    }
    Ok(())
}

/// The discovery mode must be one, and fit how the cluster is formed.
pub(crate) fn discovery(cli: &Cli) -> Result<(), Problem> {
    let flags = &cli.cluster;
    let mode = flags.disco_mode.as_str();
    match mode {
        "" => Ok(()),
        "consul-kv" | "etcd-kv" if flags.bootstrap_expect > 0 => {
            Err(Problem::fatal(format!("bootstrapping not applicable when using {mode}")))
        }
        "dns" | "dns-srv" if flags.bootstrap_expect == 0 && !flags.raft_non_voter.0 => {
            Err(Problem::fatal(format!(
                "bootstrap-expect value required when using {mode} with a voting node"
            )))
        }
        "consul-kv" | "etcd-kv" | "dns" | "dns-srv" => Ok(()),
        _ => Err(Problem::fatal("disco mode must be one of consul-kv, etcd-kv, dns, or dns-srv")),
    }
}

fn pair(
    certificate_flag: &str,
    certificate: &str,
    key_flag: &str,
    key: &str,
) -> Result<(), Problem> {
    if certificate.is_empty() == key.is_empty() {
        return Ok(());
    }
    Err(Problem::fatal(format!(
        "either both -{certificate_flag} and -{key_flag} must be set, or neither"
    )))
}

fn routable(address: &HostPort, name: &str, flag: &str) -> Result<(), Problem> {
    if !address.is_unspecified() {
        return Ok(());
    }
    Err(Problem::fatal(format!(
        "advertised {name} address is not routable ({}), specify it via -{flag}-addr or \
         -{flag}-adv-addr",
        address.host()
    )))
}

fn numeric_port(address: &HostPort, complaint: &str) -> Result<(), Problem> {
    match address.port().parse::<i64>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Problem::fatal(complaint)),
    }
}
