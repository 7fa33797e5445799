//! The HTTP server: routes, authorisation, queueing, status. Thin over rq-node.
