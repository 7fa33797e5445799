//! Scripts: entry by entry, with what each request gives.
//!
//! Every entry is fed to three engines: one that lives through the whole script, one that is closed
//! and opened before each entry, and one that wants no results. All must agree, in results and in
//! image, so each script is a proof of determinism besides.
//!
//! ```text
//! execute "INSERT INTO t VALUES (?)" p=1       one entry with one request; p= binds in order
//! request "SELECT 1" "DELETE FROM t"           the same in the mode of /db/request
//! execute transaction "…" "…"                  all statements are one unit
//! add execute "…"                              keeps the request for the next `apply`
//! apply                                        one entry with the requests kept
//! set fk=true steps=100000 pages=10 clock=0 seed=3     for the entries that follow
//! maintenance vacuum page_size=8192 auto_vacuum=1      also: analyze, reindex, optimize
//! ```

use std::{error::Error, fmt::Write as _, path::Path};

use goldenscript::{Argument, Command, Context, Runner};
use rq_sql::{Outcome, Parameter, Statement, Value};
use rq_sqlite::{Applied, Maintenance, Mode, Request, RequestOutcome};

use crate::harness::{Engine, Item, Work};

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let known = [$(stringify!($name)),*];
            for entry in std::fs::read_dir("scripts/apply").unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(known.contains(&name.as_str()), "scripts/apply/{name} is not in the list");
            }
        }
    };
}

scripts! {
    authorizer
    begin_and_savepoint
    budgets
    clock_and_random
    counters
    culprits
    drawn_by_sqlite
    foreign_keys
    maintenance
    modes_and_results
    multiple_statements
    parameters
    pragmas
    transaction_units
    virtual_tables
}

fn run(name: &str) {
    goldenscript::run(&mut Script::new(), Path::new("scripts/apply").join(name)).unwrap();
}

struct Script {
    lasting: Engine,
    reopened: Engine,
    silent: Engine,
    pending: Vec<Request>,
    settings: Item,
}

impl Script {
    fn new() -> Self {
        Self {
            lasting: Engine::new(),
            reopened: Engine::new(),
            silent: Engine::new(),
            pending: Vec::new(),
            settings: Item::new(Work::Blank),
        }
    }

    fn apply(&mut self, work: Work) -> Result<String, Box<dyn Error>> {
        let item = Item { work, ..self.settings.clone() };
        self.reopened.reopen();
        let applied = self.lasting.try_apply(&item, true)?;
        let again = self.reopened.try_apply(&item, true)?;
        let silent = self.silent.try_apply(&item, false)?;
        assert!(silent.requests.is_empty());
        let shown = show(&applied);
        assert_eq!(shown, show(&again), "a reopened engine gives other results");
        let image = self.lasting.image();
        for other in [&mut self.reopened, &mut self.silent] {
            let differing = image.differing_pages(&other.image());
            assert!(differing.is_empty(), "pages {differing:?} differ");
        }
        Ok(shown)
    }

    fn set(&mut self, arguments: &[(Option<String>, String)]) -> Result<String, Box<dyn Error>> {
        for (key, value) in arguments {
            match key.as_deref() {
                Some("fk") => self.settings.settings.foreign_keys = value.parse()?,
                Some("steps") => self.settings.settings.budget.steps = value.parse()?,
                Some("pages") => self.settings.settings.budget.pages = value.parse()?,
                Some("clock") => self.settings.clock_ms = value.parse()?,
                Some("seed") => self.settings.seed = [value.parse()?; 16],
                _ => return Err(format!("no such setting: {value}").into()),
            }
        }
        Ok(String::new())
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let arguments: Vec<_> = command.args.iter().map(split).collect();
        match command.name.as_str() {
            "execute" => self.apply(Work::Batch(vec![request(Mode::Execute, &arguments)?])),
            "request" => self.apply(Work::Batch(vec![request(Mode::Unified, &arguments)?])),
            "add" => {
                let [(_, kind), rest @ ..] = arguments.as_slice() else {
                    return Err("add what?".into());
                };
                let mode = if kind == "execute" { Mode::Execute } else { Mode::Unified };
                self.pending.push(request(mode, rest)?);
                Ok(String::new())
            }
            "apply" => {
                let requests = std::mem::take(&mut self.pending);
                self.apply(Work::Batch(requests))
            }
            "blank" => self.apply(Work::Blank),
            "membership" => self.apply(Work::Membership(b"members".to_vec())),
            "maintenance" => self.apply(Work::Maintenance(housekeeping(&arguments)?)),
            "set" => self.set(&arguments),
            name => Err(format!("no such command: {name}").into()),
        }
    }
}

/// The key, if it has one, and the value of an argument.
fn split(argument: &Argument) -> (Option<String>, String) {
    match argument {
        Argument::KeyValue(key, value) => (Some(key.clone()), value.clone()),
        Argument::Positional(value) => (None, value.clone()),
        other => (None, other.to_string()),
    }
}

fn request(mode: Mode, arguments: &[(Option<String>, String)]) -> Result<Request, Box<dyn Error>> {
    let mut request = Request { mode, transaction: false, statements: Vec::new() };
    for (key, value) in arguments {
        match (key.as_deref(), value.as_str()) {
            (None, "transaction") => request.transaction = true,
            (None, sql) => request.statements.push(Statement::new(sql)),
            (Some(key), value) => {
                let name = (key != "p").then(|| key.to_owned());
                let last = request.statements.last_mut().ok_or("a parameter before a statement")?;
                last.parameters.push(Parameter { name, value: parse(value) });
            }
        }
    }
    Ok(request)
}

fn parse(value: &str) -> Value {
    if value == "null" {
        Value::Null
    } else if let Ok(integer) = value.parse() {
        Value::Integer(integer)
    } else if let Ok(real) = value.parse() {
        Value::Real(real)
    } else {
        Value::text(value)
    }
}

fn housekeeping(arguments: &[(Option<String>, String)]) -> Result<Maintenance, Box<dyn Error>> {
    let find = |name: &str| arguments.iter().find(|(key, _)| key.as_deref() == Some(name));
    let number = |name: &str| find(name).map(|(_, value)| value.parse::<u32>()).transpose();
    let target = arguments.get(1).map(|(_, value)| value.clone());
    Ok(match arguments.first().map(|(_, value)| value.as_str()) {
        Some("vacuum") => Maintenance::Vacuum {
            page_size: number("page_size")?,
            auto_vacuum: number("auto_vacuum")?.map(u8::try_from).transpose()?,
        },
        Some("analyze") => Maintenance::Analyze { target },
        Some("reindex") => Maintenance::Reindex { target },
        Some("optimize") => Maintenance::Optimize,
        _ => return Err("no such maintenance".into()),
    })
}

fn show(applied: &Applied) -> String {
    let mut text = String::new();
    let several = applied.requests.len() > 1;
    for (number, request) in applied.requests.iter().enumerate() {
        if several {
            writeln!(text, "request {}:", number + 1).unwrap();
        }
        show_request(request, &mut text);
    }
    text
}

fn show_request(request: &RequestOutcome, text: &mut String) {
    if let Some(error) = &request.error {
        writeln!(text, "failed: {error}").unwrap();
    }
    for result in &request.results {
        match &result.outcome {
            Outcome::Empty => writeln!(text, "empty").unwrap(),
            Outcome::Done { last_insert_id, rows_affected } => {
                text.push_str("done");
                if let Some(rows) = rows_affected {
                    write!(text, " rows={rows}").unwrap();
                }
                if let Some(id) = last_insert_id {
                    write!(text, " id={id}").unwrap();
                }
                text.push('\n');
            }
            Outcome::Rows(rows) => {
                let names: Vec<_> =
                    rows.columns.iter().map(|column| column.name.as_str()).collect();
                writeln!(text, "[{}]", names.join(", ")).unwrap();
                for row in &rows.rows {
                    let values: Vec<_> = row.iter().map(show_value).collect();
                    writeln!(text, "  {}", values.join(", ")).unwrap();
                }
            }
            Outcome::Error(error) => {
                writeln!(text, "{:?} error, {:?}: {}", error.kind, error.origin, error.message)
                    .unwrap();
            }
        }
    }
    if request.disruptive {
        text.push_str("disruptive\n");
    }
}

fn show_value(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        Value::Blob(blob) => {
            blob.iter().fold("x'".to_owned(), |text, byte| format!("{text}{byte:02x}")) + "'"
        }
    }
}
