//! The version line, and the names Go gives to systems and processors.

use std::env::consts;

/// The version of this program.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
/// The commit it was built from, or `unknown` if the builder did not say.
pub const COMMIT: &str = env!("RQ_BUILD_COMMIT");
/// The compiler it was built with, for example `rustc1.95.0`.
pub const COMPILER: &str = concat!("rustc", env!("RQ_BUILD_RUSTC"));

/// Gives the line of `-version`, under the name the program was called by.
pub fn line(program: &str, sqlite_version: &str) -> String {
    let (system, processor) = (operating_system(), architecture());
    format!(
        "{program} {VERSION} {system} {processor} {COMPILER} sqlite{sqlite_version} \
         (commit {COMMIT}, compiler rustc)\n"
    )
}

/// Gives the operating system as Go calls it.
pub fn operating_system() -> &'static str {
    match consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// Gives the processor's architecture as Go calls it.
pub fn architecture() -> &'static str {
    match consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
