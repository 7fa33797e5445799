//! The node program. Everything it does is in the library of the same name.

use std::process::ExitCode;

/// Threads of the applier, the readers and HTTP free each other's memory all the time, which the
/// system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rqd::run(std::env::args_os())
}
