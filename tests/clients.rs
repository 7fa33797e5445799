//! Client libraries of other languages, unmodified, from their registries, versions pinned: one
//! scenario each in `clients/*`.
//!
//! A library is installed once into the target folder. Without its toolchain or its registry the
//! suite is ignored. A scenario gets `host:port`, and ends with 0 if all it saw was right.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rq_tests::{Node, binaries::tests_root, cluster::Cluster};

use crate::Suite;

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    vec![
        Suite { name: "clients::pyrqlite", need: need_pyrqlite, run: pyrqlite },
        Suite { name: "clients::sqlalchemy_rqlite", need: need_sqlalchemy, run: sqlalchemy },
        Suite { name: "clients::rqlite_js", need: need_rqlite_js, run: rqlite_js },
        Suite { name: "clients::gorqlite", need: need_gorqlite, run: gorqlite },
        Suite {
            name: "clients::pyrqlite_while_the_leader_dies",
            need: need_pyrqlite,
            run: || while_the_leader_dies(&mut python_scenario("pyrqlite")),
        },
        Suite {
            name: "clients::rqlite_js_while_the_leader_dies",
            need: need_rqlite_js,
            run: || while_the_leader_dies(&mut rqlite_js_scenario()),
        },
        Suite {
            name: "clients::gorqlite_while_the_leader_dies",
            need: need_gorqlite,
            run: || while_the_leader_dies(&mut gorqlite_scenario()),
        },
        Suite {
            name: "clients::pyrqlite_under_whose_feet_the_leader_dies",
            need: need_pyrqlite,
            run: || under_whose_feet_the_leader_dies(&mut python_scenario("pyrqlite")),
        },
        Suite {
            name: "clients::rqlite_js_under_whose_feet_the_leader_dies",
            need: need_rqlite_js,
            run: || under_whose_feet_the_leader_dies(&mut rqlite_js_scenario()),
        },
        Suite {
            name: "clients::gorqlite_under_whose_feet_the_leader_dies",
            need: need_gorqlite,
            run: || under_whose_feet_the_leader_dies(&mut gorqlite_scenario()),
        },
    ]
}

fn need_pyrqlite() -> Result<(), String> {
    need_python("pyrqlite")
}

fn need_sqlalchemy() -> Result<(), String> {
    need_python("sqlalchemy")
}

fn need_python(name: &str) -> Result<(), String> {
    install(name, "requirements.txt", |place| {
        let venv = place.join("venv");
        tool(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let requirements = source(name).join("requirements.txt");
        let mut pip = Command::new(venv.join("bin/python"));
        tool(pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))
    })
}

fn need_rqlite_js() -> Result<(), String> {
    install("rqlite_js", "package-lock.json", |place| {
        tool(Command::new("node").arg("--version"))?;
        for file in ["package.json", "package-lock.json", "scenario.js"] {
            fs::copy(source("rqlite_js").join(file), place.join(file))
                .map_err(|error| format!("copying {file}: {error}"))?;
        }
        tool(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit"]).current_dir(place))
    })
}

fn need_gorqlite() -> Result<(), String> {
    install("gorqlite", "main.go", |place| {
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(place.join("scenario")).current_dir(source("gorqlite"));
        tool(&mut go)
    })
}

fn pyrqlite() {
    run(&mut python_scenario("pyrqlite"));
}

fn sqlalchemy() {
    run(&mut python_scenario("sqlalchemy"));
}

fn rqlite_js() {
    run(&mut rqlite_js_scenario());
}

fn gorqlite() {
    run(&mut gorqlite_scenario());
}

fn python_scenario(name: &str) -> Command {
    let mut python = Command::new(place(name).join("venv/bin/python"));
    python.arg(source(name).join("scenario.py"));
    python
}

fn rqlite_js_scenario() -> Command {
    let scenario = place("rqlite_js").join("scenario.js");
    fs::copy(source("rqlite_js").join("scenario.js"), &scenario).unwrap();
    let mut node = Command::new("node");
    node.arg(scenario);
    node
}

fn gorqlite_scenario() -> Command {
    Command::new(place("gorqlite").join("scenario"))
}

/// A client writes through a follower without a pause while the leader is killed: what it was told is stored is, once.
fn under_whose_feet_the_leader_dies(scenario: &mut Command) {
    let mut cluster = Cluster::start(3);
    cluster.wait_all_ready();
    let leader = cluster.wait_leader();
    let follower = cluster.a_follower();
    let scenario = scenario.arg(cluster.http_addr(follower)).arg("steadily");
    let mut client = scenario.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut acknowledged: Vec<u64> = Vec::new();
    let mut next = |acknowledged: &mut Vec<u64>| {
        let line = lines.next().map(|line| line.unwrap().parse::<u64>().expect("a number"));
        acknowledged.extend(line);
        line.is_some()
    };
    while acknowledged.len() < 20 {
        assert!(next(&mut acknowledged), "the client ended before the leader was killed");
    }
    cluster.kill(leader);
    let before = acknowledged.len();
    while next(&mut acknowledged) {}
    assert!(client.wait().unwrap().success(), "{}", cluster.logs());
    println!(
        "{before} writes before the leader was killed, {} afterwards",
        acknowledged.len() - before
    );
    assert!(acknowledged.len() > before + 20, "the client does not go on:\n{}", cluster.logs());
    cluster.launch_again(leader);
    cluster.wait_all_ready();
    let read =
        cluster.node(leader).post("/db/query?level=linearizable", r#"["SELECT n FROM steady"]"#);
    let rows = read.json()["results"][0]["values"].as_array().cloned().unwrap();
    let mut stored: Vec<u64> = rows.iter().map(|row| row[0].as_u64().unwrap()).collect();
    stored.sort_unstable();
    let count = stored.len();
    stored.dedup();
    assert_eq!(stored.len(), count, "a write was done twice");
    let lost: Vec<_> = acknowledged.iter().filter(|n| stored.binary_search(n).is_err()).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    cluster.assert_equal_images();
}

/// Runs a scenario against a follower of three nodes. The leader is killed in the moment it begins: the client's
/// first writes find no leader, wait for the next one, and nothing of it reaches the client.
fn while_the_leader_dies(scenario: &mut Command) {
    let mut cluster = Cluster::start(3);
    cluster.wait_all_ready();
    let leader = cluster.wait_leader();
    let follower = cluster.a_follower();
    cluster.kill(leader);
    let output = scenario.arg(cluster.http_addr(follower)).arg("several nodes").output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        cluster.logs()
    );
    cluster.launch_again(leader);
    cluster.wait_all_ready();
    cluster.assert_equal_images();
}

/// Runs a scenario against a node of its own, and stops that node in good order.
fn run(scenario: &mut Command) {
    let mut node = Node::start();
    let output = scenario.arg(node.http_addr()).output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        node.log()
    );
    assert_eq!(node.value("PRAGMA integrity_check"), "ok");
    assert_eq!(node.stop(), 0);
}

/// The folder of a scenario.
fn source(name: &str) -> PathBuf {
    tests_root().join("clients").join(name)
}

/// Where its library is installed.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name)
}

/// Installs a library unless the same version is there already. `pin` is the file of the scenario
/// that names the version; a copy of it marks a complete installation.
fn install(
    name: &str,
    pin: &str,
    steps: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let place = place(name);
    let mark = place.join("installed");
    let wanted = fs::read(source(name).join(pin)).unwrap();
    if fs::read(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    if env::var_os("RQ_TEST_OFFLINE").is_some() {
        return Err("not installed, and RQ_TEST_OFFLINE is set".to_owned());
    }
    drop(fs::remove_dir_all(&place));
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    steps(&place)?;
    fs::write(mark, wanted).map_err(|error| error.to_string())
}

/// Runs a step of an installation.
fn tool(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stderr, .. } =
        command.output().map_err(|error| format!("{program}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&stderr);
    let last = stderr.trim().lines().last().unwrap_or_default();
    Err(format!("{program} ended with {status}: {last}"))
}
