//! The one table of paths: what is where, who may use it, by which methods.
//!
//! Paths are compared raw and case-sensitively, in the order of the table, without any cleaning.

use http::Method;
use rq_api::paths;
use rq_security::Permission;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/`: to the console.
    Root,
    /// `/console` alone: to `/console/`.
    ConsoleRoot,
    /// The console.
    Console,
    /// Writes.
    Execute,
    /// Reads.
    Query,
    /// Reads and writes.
    Request,
    /// A copy of the database.
    Backup,
    /// Replacing the database.
    Load,
    /// What would be run.
    Sql,
    /// Starting from a database file.
    Boot,
    /// Making the state machine durable.
    Snapshot,
    /// Tidying snapshots up.
    Reap,
    /// Removing a node.
    Remove,
    /// What the node says of itself.
    Status,
    /// The members.
    Nodes,
    /// The leader.
    Leader,
    /// Whether the node is ready.
    Ready,
    /// The licence.
    Licenses,
    /// Counters.
    DebugVars,
    /// Go's profiler.
    Pprof,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Exact,
    Prefix,
}

/// Which methods an endpoint knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Methods {
    /// All there are.
    Any,
    /// GET.
    Get,
    /// GET and HEAD.
    GetHead,
    /// POST.
    Post,
    /// GET and POST.
    GetPost,
    /// DELETE.
    Delete,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Route {
    path: &'static str,
    rule: Rule,
    /// What is there.
    pub(crate) endpoint: Endpoint,
    /// What a caller needs, all of it.
    pub(crate) permissions: &'static [Permission],
    /// The methods.
    pub(crate) methods: Methods,
    /// The content type that even an empty refusal carries.
    pub(crate) content_type: Option<&'static str>,
}

/// The content type of JSON answers.
pub(crate) const JSON: &str = "application/json; charset=utf-8";
/// The content type of text answers.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

const fn row(
    path: &'static str,
    rule: Rule,
    endpoint: Endpoint,
    permissions: &'static [Permission],
    methods: Methods,
    content_type: Option<&'static str>,
) -> Route {
    Route { path, rule, endpoint, permissions, methods, content_type }
}

/// The table.
static ROUTES: [Route; 20] = {
    use Endpoint as E;
    use Methods as M;
    use Permission as P;
    use Rule::{Exact, Prefix};
    [
        row("/", Exact, E::Root, &[], M::Any, None),
        row(paths::CONSOLE, Exact, E::ConsoleRoot, &[], M::Any, None),
        row(paths::CONSOLE, Prefix, E::Console, &[P::Ui], M::GetHead, None),
        row(paths::EXECUTE, Prefix, E::Execute, &[P::Execute], M::Post, Some(JSON)),
        row(paths::QUERY, Prefix, E::Query, &[P::Query], M::GetPost, Some(JSON)),
        row(paths::REQUEST, Prefix, E::Request, &[P::Query, P::Execute], M::Post, Some(JSON)),
        row(paths::BACKUP, Prefix, E::Backup, &[P::Backup], M::Get, None),
        row(paths::LOAD, Prefix, E::Load, &[P::Load], M::Post, None),
        row(paths::SQL, Prefix, E::Sql, &[P::Query], M::GetPost, Some(JSON)),
        row(paths::BOOT, Exact, E::Boot, &[P::Load], M::Post, None),
        row(paths::SNAPSHOT, Exact, E::Snapshot, &[P::Snapshot], M::Post, None),
        row(paths::REAP, Exact, E::Reap, &[P::Snapshot], M::Post, None),
        row(paths::REMOVE, Prefix, E::Remove, &[P::Remove], M::Delete, None),
        row(paths::STATUS, Prefix, E::Status, &[P::Status], M::Get, Some(JSON)),
        row(paths::NODES, Prefix, E::Nodes, &[P::Status], M::Get, Some(JSON)),
        row(paths::LEADER, Exact, E::Leader, &[P::LeaderOps], M::GetPost, Some(JSON)),
        row(paths::READYZ, Prefix, E::Ready, &[P::Ready], M::Get, None),
        row(paths::LICENSES, Exact, E::Licenses, &[P::Status], M::Get, Some(TEXT)),
        row(paths::DEBUG_VARS, Exact, E::DebugVars, &[P::Status], M::Any, Some(JSON)),
        row(paths::DEBUG_PPROF, Prefix, E::Pprof, &[P::Status], M::Any, None),
    ]
};

/// Finds what is at a path.
pub(crate) fn find(path: &str) -> Option<&'static Route> {
    if path.is_empty() {
        return Some(&ROUTES[0]);
    }
    ROUTES.iter().find(|route| match route.rule {
        Rule::Exact => path == route.path,
        Rule::Prefix => path.starts_with(route.path),
    })
}

impl Methods {
    /// Whether a method is among them.
    pub(crate) fn allow(self, method: &Method) -> bool {
        match self {
            Self::Any => true,
            Self::Get => method == Method::GET,
            Self::GetHead => method == Method::GET || method == Method::HEAD,
            Self::Post => method == Method::POST,
            Self::GetPost => method == Method::GET || method == Method::POST,
            Self::Delete => method == Method::DELETE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_the_contract_says() {
        let cases: &[(&str, Option<Endpoint>)] = &[
            ("", Some(Endpoint::Root)),
            ("/", Some(Endpoint::Root)),
            ("/console", Some(Endpoint::ConsoleRoot)),
            ("/console/", Some(Endpoint::Console)),
            ("/consoleX", Some(Endpoint::Console)),
            ("/db/execute", Some(Endpoint::Execute)),
            ("/db/execute/foo", Some(Endpoint::Execute)),
            ("/db/query", Some(Endpoint::Query)),
            ("/db/queryX", Some(Endpoint::Query)),
            ("/db/request", Some(Endpoint::Request)),
            ("/db/backup", Some(Endpoint::Backup)),
            ("/db/load", Some(Endpoint::Load)),
            ("/db/sql", Some(Endpoint::Sql)),
            ("/boot", Some(Endpoint::Boot)),
            ("/snapshot", Some(Endpoint::Snapshot)),
            ("/reap", Some(Endpoint::Reap)),
            ("/remove/x", Some(Endpoint::Remove)),
            ("/statusfoo", Some(Endpoint::Status)),
            ("/nodes", Some(Endpoint::Nodes)),
            ("/leader", Some(Endpoint::Leader)),
            ("/readyzz", Some(Endpoint::Ready)),
            ("/licenses", Some(Endpoint::Licenses)),
            ("/debug/vars", Some(Endpoint::DebugVars)),
            ("/debug/pprof/heap", Some(Endpoint::Pprof)),
            ("/boot/", None),
            ("/snapshot/", None),
            ("/reap/", None),
            ("/leader/", None),
            ("/licenses/", None),
            ("/debug/vars/", None),
            ("/debug", None),
            ("/db", None),
            ("/db/", None),
            ("/ui", None),
            ("/DB/query", None),
            ("//db/query", None),
            ("/db/../db/query", None),
            ("/db%2Fquery", None),
            ("*", None),
            ("/join", None),
            ("/notify", None),
            ("/livez", None),
            ("/metrics", None),
        ];
        for (path, expected) in cases {
            assert_eq!(find(path).map(|route| route.endpoint), *expected, "{path:?}");
        }
    }

    #[test]
    fn methods_are_exact() {
        let every = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "BREW"];
        let allowed = |methods: Methods| -> Vec<&str> {
            every
                .into_iter()
                .filter(|name| methods.allow(&Method::from_bytes(name.as_bytes()).unwrap()))
                .collect()
        };
        assert_eq!(allowed(Methods::Any), every);
        assert_eq!(allowed(Methods::Get), ["GET"]);
        assert_eq!(allowed(Methods::GetHead), ["GET", "HEAD"]);
        assert_eq!(allowed(Methods::Post), ["POST"]);
        assert_eq!(allowed(Methods::GetPost), ["GET", "POST"]);
        assert_eq!(allowed(Methods::Delete), ["DELETE"]);
    }
}
