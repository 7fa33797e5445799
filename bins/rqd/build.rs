//! Hands the compiler's version to the version line. The commit comes from `RQ_COMMIT`, which
//! packagers set; asking git here would relink the program at every commit.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RQ_COMMIT");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let commit = env::var("RQ_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=RQ_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=RQ_BUILD_RUSTC={}", compiler().unwrap_or_default());
}

/// The second word of what `rustc --version` says.
fn compiler() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}
