//! The HTTP API as types: paths, parameters, request and response bodies, error codes, both directions.
//!
//! What travels over the wire is defined here and nowhere else, compatible to the byte where other
//! implementations exist. No I/O, no clock, no HTTP library; the server and the client both use it.
//!
//! A request, from the wire and back:
//!
//! 1. [`params::Params::parse`] decodes and checks the query string;
//! 2. [`statement::decode`] turns the body into [`rq_sql::Statement`]s;
//! 3. [`results::Results`] receives what they give and encodes it;
//! 4. [`results::Results::finish`] closes the envelope and names the first [`error::Code`].

mod json;

pub mod paths;

pub mod params;
pub mod statement;

pub mod results;

pub mod nodes;
pub mod ready;
pub mod status;

pub mod duration;
pub mod error;
