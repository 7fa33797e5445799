//! The programs a measure needs: built, started, sent requests.
//!
//! Everything that is started ends with the value that stands for it, or by itself after the
//! seconds it was given; nothing else is ever signalled.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use escargot::CargoBuild;
use rq_tests::{
    Process,
    binaries::{without_package_variables, workspace_root},
};

use super::load_report::LoadReport;
use crate::{
    cli::{BenchArguments, Measured},
    failure::Failure,
};

/// How long the null server may take to say where it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the programs are, and what sends the requests.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The node.
    pub(crate) rqd: PathBuf,
    /// This program, for its null server and its load generator.
    runner: PathBuf,
    /// Whether wrk is there; otherwise our own generator sends.
    wrk: bool,
    /// Where scripts for wrk are written.
    scratch: PathBuf,
    /// How the programs were built, for the report.
    built: &'static str,
}

/// One request, sent again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic<'a> {
    /// Host and port.
    pub(crate) address: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    /// The body of a POST; `None` for a GET.
    pub(crate) body: Option<&'a str>,
    /// How many connections send.
    pub(crate) connections: u32,
    /// For how long.
    pub(crate) seconds: u64,
}

impl Programs {
    /// Finds or builds what is needed. Scripts will be written to `scratch`.
    pub(crate) fn prepare(arguments: &BenchArguments, scratch: &Path) -> Result<Self, Failure> {
        let profile = if arguments.dist { "dist" } else { "release" };
        let rqd = match &arguments.binary {
            Some(path) if path.is_file() => path.clone(),
            Some(path) => return Err(Failure::NoProgram(path.clone())),
            None => build("rqd", "rqd", profile)?,
        };
        // Over the slow link this process sends the load itself, which is light.
        let runner = if arguments.unoptimized || arguments.measured == Measured::SlowLink {
            env::current_exe().map_err(Failure::system("finding this program"))?
        } else {
            build("rq-tests", "xtask", profile)?
        };
        // It prints its version and ends with 1, so only whether it starts is of interest.
        let wrk = Command::new("wrk").arg("-v").output().is_ok();
        let built = match (&arguments.binary, arguments.unoptimized) {
            (_, true) => "the null server and the load are NOT OPTIMIZED",
            (Some(_), false) => "rqd as given",
            (None, false) => profile,
        };
        Ok(Self { rqd, runner, wrk, scratch: scratch.to_owned(), built })
    }

    /// What the figures were made with, for the report.
    pub(crate) fn describe(&self) -> String {
        let generator = if self.wrk { "wrk" } else { "our own (wrk is not installed)" };
        format!("programs: {}; load generator: {generator}", self.built)
    }

    /// Starts a null server.
    pub(crate) fn null_server(&self) -> Result<NullServer, Failure> {
        NullServer::start(&self.runner)
    }

    /// Sends requests with the best generator there is, and waits for its report.
    pub(crate) fn send(&self, traffic: Traffic<'_>) -> Result<LoadReport, Failure> {
        if !self.wrk {
            return self.send_ourselves(traffic);
        }
        let mut command = Command::new("wrk");
        command
            .args(["-t1", "--latency", &format!("-c{}", traffic.connections)])
            .arg(format!("-d{}s", traffic.seconds));
        if let Some(body) = traffic.body {
            let script = self.scratch.join("post.lua");
            fs::write(&script, post_script(body))
                .map_err(Failure::system("writing a script for wrk"))?;
            command.arg("-s").arg(script);
        }
        command.arg(format!("http://{}{}", traffic.address, traffic.target));
        report(command)
    }

    /// Sends requests with our own generator, which also tells the longest gap.
    pub(crate) fn send_ourselves(&self, traffic: Traffic<'_>) -> Result<LoadReport, Failure> {
        let mut command = Command::new(&self.runner);
        command
            .args(["load", "--address", traffic.address, "--target", traffic.target])
            .args(["--connections", &traffic.connections.to_string()])
            .args(["--seconds", &traffic.seconds.to_string()]);
        if let Some(body) = traffic.body {
            command.args(["--body", body]);
        }
        report(command)
    }
}

/// A server that does nothing but answer. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct NullServer {
    _process: Process,
    address: String,
}

impl NullServer {
    fn start(runner: &Path) -> Result<Self, Failure> {
        let mut process = Process::start(runner, &["null-server"]);
        let begin = Instant::now();
        loop {
            if let Some(address) = process.stdout().first() {
                return Ok(Self { address: address.clone(), _process: process });
            }
            if process.try_wait().is_some() || begin.elapsed() > PATIENCE {
                let said = process.stderr().join("\n");
                return Err(Failure::program("null-server", format!("does not serve: {said}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

fn build(package: &str, program: &'static str, profile: &str) -> Result<PathBuf, Failure> {
    let run = without_package_variables(CargoBuild::new())
        .manifest_path(workspace_root().join("Cargo.toml"))
        .package(package)
        .bin(program)
        .profile(profile)
        .run()
        .map_err(|error| Failure::Build { program, reason: error.to_string() })?;
    Ok(run.path().to_owned())
}

/// The script that makes wrk send a POST. The brackets let the body hold quotes.
fn post_script(body: &str) -> String {
    format!(
        "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n\
         wrk.body = [==[{body}]==]\n"
    )
}

fn report(mut command: Command) -> Result<LoadReport, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(Failure::system(format!("starting {program}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    LoadReport::parse(&text).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        Failure::program(program, format!("{}: {text}{said}", output.status))
    })
}
