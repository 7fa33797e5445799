//! Builds the programs with Cargo and says where they are.
//!
//! `CARGO_BIN_EXE_*` exists only for the package that owns a program, and guessing `target/debug`
//! breaks when Cargo's layout changes; so Cargo is asked, once per process. Environment:
//!
//! - `RQ_TEST_RQD`: the path of an `rqd` to use as it is; nothing is built.
//! - `RQ_TEST_PROFILE`: the Cargo profile to build with; default `dev`.

use std::{
    env,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use escargot::CargoBuild;

/// The root of the workspace.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests package lies in the workspace")
}

/// The folder of the tests package, where the corpora lie.
pub fn tests_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The node program, built with the profile of `RQ_TEST_PROFILE`.
pub fn rqd() -> &'static Path {
    static RQD: LazyLock<PathBuf> = LazyLock::new(|| {
        env::var_os("RQ_TEST_RQD").map_or_else(
            || build("rqd", &env::var("RQ_TEST_PROFILE").unwrap_or_else(|_| "dev".to_owned())),
            PathBuf::from,
        )
    });
    &RQD
}

/// Builds a program of the workspace with the given profile and returns its path.
pub fn build(name: &str, profile: &str) -> PathBuf {
    let run = without_package_variables(CargoBuild::new())
        .manifest_path(workspace_root().join("Cargo.toml"))
        .package(name)
        .bin(name)
        .profile(profile)
        .run()
        .unwrap_or_else(|error| panic!("building {name}: {error}"));
    run.path().to_owned()
}

/// Takes from Cargo what another Cargo told this process about its package. Build scripts look at
/// that, and would make everything behind them be built again each time.
pub fn without_package_variables(build: CargoBuild) -> CargoBuild {
    let names = env::vars_os().map(|(name, _)| name);
    let told = names.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    });
    told.fold(build, CargoBuild::env_remove)
}
