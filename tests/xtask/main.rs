//! The project's task runner, `cargo xtask`: measurements and long runs of the randomized suites.
//!
//! It starts programs of this workspace and ends only what it started. It asserts nothing: a
//! measure that misses its floor is reported as missed, and the exit code stays 0.

mod cli;

mod bench;
mod soak;

mod load;
mod null_server;

mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

/// The allocator of `rqd`, so that the null server differs from it in nothing but what it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(failure) => {
            output::note(&format!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}
