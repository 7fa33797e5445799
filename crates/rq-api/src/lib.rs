//! The HTTP API as types: paths, parameters, request and response bodies, error codes, both directions.
