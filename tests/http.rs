//! Runs the scripts in `http/`: requests, and byte by byte what a node answers.
//!
//! One behaviour a file, named after it. The expected answers are written down from the contract,
//! not recorded; `UPDATE_GOLDENFILES=1` records, and what it changes must be justified by the contract.
//!
//! The scripts of a folder share a node with default flags; before each script every table, view,
//! index and trigger is dropped. Commands:
//!
//! - `> METHOD TARGET BODY` sends a request on a connection of its own. `{{N*TEXT}}` in the line
//!   stands for TEXT repeated N times. The answer is printed as status, body and, below, the headers
//!   asked for; a line feed is shown as `↵`, a byte that is not UTF-8 or not printable as `\xHH`.
//! - `bytes METHOD TARGET BODY` is the same with a quoted body whose characters are single bytes.
//! - The tag `[nobody]` before a request leaves the body out of the print.
//! - `header NAME=VALUE…` adds headers to all later requests; without arguments it removes them all.
//! - `show NAME…` prints these headers of all later answers (`-` if absent); without arguments none.
//! - `shape TARGET` prints the paths and types of a JSON answer instead of its values.
//! - `keys TARGET` prints the keys of a JSON object, sorted.
//! - `node FLAG…` goes on with a fresh node with these flags. `restart` starts it again. No node may
//!   log an error: whatever a client sends is its own business.
//! - `file NAME CONTENT` writes a file beside the data directory; `{{dir}}` in a flag is that place.
//!
//! What differs from run to run is masked: addresses, times, log indexes, sequence numbers.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use goldenscript::{Argument, Command, Context};
use rq_tests::{Node, Request, Response, binaries};
use serde_json::Value;
use tempfile::TempDir;

/// A longer body is printed by its beginning and its length.
const BODY_SHOWN_MAX: usize = 1500;

/// Makes a test of each folder of scripts, and one that no folder is missing here.
macro_rules! folders {
    ($($(#[$comment:meta])* $folder:ident),* $(,)?) => {
        $($(#[$comment])* #[test]
        fn $folder() {
            run_folder(stringify!($folder));
        })*

        #[test]
        fn no_folder_is_forgotten() {
            let known = [$(stringify!($folder)),*];
            for folder in entries(&scripts_root()) {
                let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
                assert!(known.contains(&name.as_str()), "http/{name} has no test");
            }
        }
    };
}

folders! {
    /// Order of checks, methods, paths, headers.
    routing,
    /// Query parameters: syntax, validation, effects.
    parameters,
    /// Bodies: which are statements, and what is said of the others.
    bodies,
    /// How JSON values become SQL values, and how they are bound.
    binding,
    /// Shapes of results, values, types, dates.
    results,
    /// Several statements in a string, comments, empty strings.
    strings,
    /// What `/db/request` does with reads and writes.
    request,
    /// Transactions: the flag, and BEGIN typed by the client.
    transactions,
    /// Statements a node refuses.
    refused,
    /// Read levels and freshness.
    levels,
    /// Time limits and budgets.
    limits,
    /// The codes of failures, in the header and in strict results.
    errors,
    /// Permissions and CORS.
    auth,
    /// Queued writes.
    queue,
    /// What a node says of itself.
    status,
    /// What other nodes and later versions will do, and is refused for now.
    later,
    /// `/db/sql`, `/snapshot`, `/reap`, `/licenses`, the console.
    tools,
}

fn scripts_root() -> PathBuf {
    binaries::tests_root().join("http")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn run_folder(folder: &str) {
    let filter = env::var("RQ_HTTP_SCRIPT").unwrap_or_default();
    let scripts: Vec<_> = entries(&scripts_root().join(folder))
        .into_iter()
        .filter(|path| path.to_str().unwrap().contains(&filter))
        .collect();
    assert!(!scripts.is_empty() || !filter.is_empty(), "no scripts in {folder}");
    let mut shared = None;
    let mut failed = Vec::new();
    for script in &scripts {
        let mut runner = Runner::new(shared.take());
        // Each script is judged, whatever became of the ones before it.
        let result =
            panic::catch_unwind(AssertUnwindSafe(|| goldenscript::run(&mut runner, script)));
        if !matches!(result, Ok(Ok(()))) {
            let name = script.strip_prefix(scripts_root()).unwrap().display();
            eprintln!("FAILED {name}");
            if let Ok(Err(error)) = result {
                eprintln!("{error}");
            }
            failed.push(name.to_string());
        }
        shared = runner.into_shared();
    }
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), scripts.len());
}

/// Executes the commands of one script.
struct Runner {
    shared: Option<Node>,
    own: Option<Node>,
    files: TempDir,
    headers: Vec<(String, String)>,
    shown: Vec<String>,
}

impl Runner {
    fn new(shared: Option<Node>) -> Self {
        Self {
            shared,
            own: None,
            files: TempDir::with_prefix("rq-http-").unwrap(),
            headers: Vec::new(),
            shown: Vec::new(),
        }
    }

    fn into_shared(self) -> Option<Node> {
        self.shared
    }

    /// The node the script talks to: its own, or the one it shares with others, emptied.
    fn node(&mut self) -> &mut Node {
        match &mut self.own {
            Some(own) => own,
            None => self.shared.get_or_insert_with(Node::start),
        }
    }

    fn request(
        &mut self,
        mut request: Request,
        context: &Context,
    ) -> Result<String, Box<dyn Error>> {
        request.headers.extend(self.headers.iter().cloned());
        let mut answer = self.node().connect().request(&request)?;
        if context.tags.contains("nobody") {
            answer.body.clear();
        }
        Ok(self.describe(&answer))
    }

    fn describe(&mut self, answer: &Response) -> String {
        let mut text = format!("{} {}", answer.status, self.mask(&printable(&answer.body)));
        while text.ends_with(' ') {
            text.pop();
        }
        for name in self.shown.clone() {
            let value = self.mask(answer.header(&name).unwrap_or("-"));
            write!(text, "\n  {}: {value}", name.to_lowercase()).unwrap();
        }
        text.push('\n');
        text
    }

    fn mask(&mut self, text: &str) -> String {
        let node = self.node();
        let mut text = text
            .replace(node.http_addr(), "<http-addr>")
            .replace(node.raft_addr(), "<raft-addr>")
            .replace(node.directory().to_str().unwrap(), "<data>")
            .replace(concat!("rqd/", env!("CARGO_PKG_VERSION")), "rqd/<version>");
        for key in ["time", "raft_index", "sequence_number"] {
            text = mask_number(&text, key);
        }
        text
    }

    fn json(&mut self, target: &str) -> Result<Value, Box<dyn Error>> {
        let mut request = Request::get(target);
        request.headers.extend(self.headers.iter().cloned());
        let answer = self.node().connect().request(&request)?;
        if answer.status != 200 {
            return Err(format!("{} {}", answer.status, answer.text()).into());
        }
        Ok(answer.json())
    }

    fn start_own(&mut self, flags: &[String]) {
        let place = self.files.path().to_str().unwrap().to_owned();
        let flags = flags.iter().map(|flag| flag.replace("{{dir}}", &place));
        self.own = Some(Node::builder().flags(flags).start());
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn start_script(&mut self) -> Result<(), Box<dyn Error>> {
        if let Some(node) = &self.shared {
            empty(node);
        }
        Ok(())
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        // A node of its own ends here, so that a bad log line is this script's failure.
        drop(self.own.take());
        Ok(())
    }

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let arguments = positional(command);
        match command.name.as_str() {
            "header" => {
                if command.args.is_empty() {
                    self.headers.clear();
                }
                for argument in &command.args {
                    let Argument::KeyValue(name, value) = argument else {
                        return Err("header takes NAME=VALUE".into());
                    };
                    self.headers.push((name.clone(), value.clone()));
                }
                Ok(String::new())
            }
            "show" => {
                self.shown = arguments;
                Ok(String::new())
            }
            "shape" => {
                let json = self.json(&arguments[0])?;
                let mut lines = Vec::new();
                shape(&json, "", &mut lines);
                Ok(lines.join("\n"))
            }
            "keys" => {
                let json = self.json(&arguments[0])?;
                let object = json.as_object().ok_or("not an object")?;
                let mut keys: Vec<_> = object.keys().cloned().collect();
                keys.sort();
                Ok(keys.join(" "))
            }
            "node" => {
                self.start_own(&arguments);
                Ok(String::new())
            }
            "restart" => {
                let node = self.own.as_mut().ok_or("only a node of its own is restarted")?;
                assert_eq!(node.stop(), 0, "a stopped node exits with 0");
                node.restart();
                Ok(String::new())
            }
            "file" => {
                fs::write(self.files.path().join(&arguments[0]), &arguments[1])?;
                Ok(String::new())
            }
            "bytes" => {
                let body = single_bytes(&arguments[2])?;
                self.request(Request::new(&arguments[0], &arguments[1], body), context)
            }
            line => {
                let line = expand(line)?;
                let mut parts = line.splitn(3, ' ');
                let method = parts.next().unwrap_or_default();
                let target = parts.next().ok_or_else(|| format!("not a request: {line}"))?;
                let body = parts.next().unwrap_or_default();
                self.request(Request::new(method, target, body), context)
            }
        }
    }
}

/// Drops everything a script left behind.
fn empty(node: &Node) {
    let rows = node.rows(
        "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view') \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type DESC",
    );
    for row in rows {
        let (kind, name) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
        let sql = format!("DROP {kind} IF EXISTS \"{}\"", name.replace('"', "\"\""));
        // The shadow tables of a virtual table go with it; dropping them is an error that may pass.
        node.post("/db/execute", Value::from(vec![sql]).to_string());
    }
}

fn positional(command: &Command) -> Vec<String> {
    command
        .args
        .iter()
        .map(|argument| match argument {
            Argument::Positional(value) => value.clone(),
            Argument::KeyValue(key, value) => format!("{key}={value}"),
            other => other.to_string(),
        })
        .collect()
}

/// The characters of a quoted string as single bytes.
fn single_bytes(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes: Result<_, _> = expand(text)?.chars().map(u8::try_from).collect();
    bytes.map_err(|_| "a character above \\xff is not one byte".into())
}

/// Replaces each `{{N*TEXT}}` by N times TEXT.
fn expand(text: &str) -> Result<String, Box<dyn Error>> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let length = rest[start..].find("}}").ok_or("{{ without }}")?;
        let (count, repeated) =
            rest[start + 2..start + length].split_once('*').ok_or("{{ }} holds N*TEXT")?;
        expanded.push_str(&rest[..start]);
        expanded.push_str(&repeated.repeat(count.parse()?));
        rest = &rest[start + length + 2..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Bytes as text in which nothing is invisible.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("↵\n"),
                control if control.is_ascii_control() => {
                    write!(text, "\\x{:02x}", u32::from(control)).unwrap();
                }
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").unwrap();
        }
    }
    if text.ends_with("↵\n") {
        text.pop();
    }
    if text.len() > BODY_SHOWN_MAX {
        let shown = text.floor_char_boundary(BODY_SHOWN_MAX / 5);
        text.truncate(shown);
        write!(text, "… ({} bytes)", bytes.len()).unwrap();
    }
    text
}

/// Replaces the positive number after each `"key":` by `<key>`; a wrong kind of value stays visible.
fn mask_number(text: &str, key: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    let mark = format!("\"{key}\":");
    while let Some(start) = rest.find(&mark) {
        let value = start + mark.len();
        masked.push_str(&rest[..value]);
        rest = &rest[value..];
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let number = &rest[blanks..];
        let length = number
            .find(|character: char| !character.is_ascii_digit() && !".e-".contains(character))
            .unwrap_or(number.len());
        if number[..length].parse::<f64>().is_ok_and(|number| number > 0.0) {
            write!(masked, "{}<{key}>", &rest[..blanks]).unwrap();
            rest = &number[length..];
        }
    }
    masked.push_str(rest);
    masked
}

/// One line for each value of a JSON text: its path and its type.
fn shape(value: &Value, path: &str, lines: &mut Vec<String>) {
    let kind = match value {
        Value::Object(object) if !object.is_empty() => {
            let mut keys: Vec<_> = object.keys().collect();
            keys.sort();
            for key in keys {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                shape(&object[key], &inner, lines);
            }
            return;
        }
        Value::Array(array) if !array.is_empty() => {
            return shape(&array[0], &format!("{path}[]"), lines);
        }
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    lines.push(format!("{path}: {kind}"));
}
