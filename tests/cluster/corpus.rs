//! Requests in which two nodes could differ: time, chance, plans, conflicts, maintenance, limits.

use rq_tests::{Random, Request};
use serde_json::{Value, json};

/// The tables everything happens to.
pub(crate) const SCHEMA: &[&str] = &[
    "CREATE TABLE a(id INTEGER PRIMARY KEY, n, text UNIQUE, chance DEFAULT (random()), \
     at DEFAULT CURRENT_TIMESTAMP, twice AS (n * 2) STORED, CHECK (n IS NULL OR n < 5000))",
    "CREATE INDEX a_n ON a(n)",
    "CREATE INDEX a_mixed ON a(chance % 5, text)",
    "CREATE TABLE b(k PRIMARY KEY, v, x DEFAULT (randomblob(11))) WITHOUT ROWID",
    "CREATE TABLE journal(n INTEGER PRIMARY KEY AUTOINCREMENT, what, at)",
    "CREATE TABLE last(id INTEGER PRIMARY KEY, x)",
    "INSERT INTO last VALUES(9223372036854775807, 0)",
    "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
    "CREATE TABLE child(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER a_insert AFTER INSERT ON a BEGIN \
     INSERT INTO journal(what, at) VALUES (last_insert_rowid() + changes(), julianday('now')); END",
    "CREATE TRIGGER a_update BEFORE UPDATE ON a WHEN new.n = 77 BEGIN \
     INSERT INTO journal(what) VALUES ('gone'); SELECT RAISE(ROLLBACK, 'seventy-seven'); END",
    "CREATE VIRTUAL TABLE words USING fts5(body)",
    "CREATE VIRTUAL TABLE boxes USING rtree(id, left, right)",
];

/// What becomes an entry of its own.
const MAINTENANCE: [&str; 6] =
    ["VACUUM", "ANALYZE", "PRAGMA optimize", "REINDEX", "ANALYZE a", "REINDEX a_mixed"];

/// A request of one statement.
pub(crate) fn single(statement: &str) -> Request {
    Request::post("/db/execute", json!([statement]).to_string())
}

/// The next request.
pub(crate) fn request(random: &mut Random) -> Request {
    let target = *random.pick(&[
        "/db/execute",
        "/db/execute?transaction",
        "/db/request",
        "/db/request?transaction",
        "/db/execute?queue&wait",
    ]);
    if random.below(25) == 0 {
        return single(MAINTENANCE[random.index(MAINTENANCE.len())]);
    }
    let count = 1 + random.below(4);
    let statements: Vec<Value> = (0..count).map(|_| statement(random)).collect();
    Request::post(target, Value::from(statements).to_string())
}

fn statement(random: &mut Random) -> Value {
    let n = random.below(300);
    let many = 1 + random.below(200);
    let text = match random.below(28) {
        0..3 => return json!(["INSERT INTO a(n, text) VALUES(?, ?)", n, format!("text {n}")]),
        3 => {
            return json!([
                "INSERT INTO a(n, text) VALUES(:n, :t) ON CONFLICT(text) DO UPDATE SET n = n + 1",
                {"n": n, "t": format!("text {n}")}
            ]);
        }
        4 => format!("INSERT OR REPLACE INTO b(k, v) VALUES({n}, random())"),
        5 => format!("INSERT OR ROLLBACK INTO a(text) VALUES('text {n}')"),
        6 => format!("INSERT OR FAIL INTO a(n, text) SELECT id, 'text ' || id FROM a LIMIT {n}"),
        7 => format!("UPDATE a SET n = n + 1 WHERE n BETWEEN {n} AND {n} + 40"),
        8 => format!("UPDATE a SET n = 77 WHERE id = {n}"),
        9 => format!("UPDATE a SET text = text || abs(random() % 1000) WHERE n < {n} RETURNING id"),
        10 => format!("DELETE FROM a WHERE id % 7 = {n} % 7 AND abs(random() % 4) = 0"),
        11 => format!(
            "DELETE FROM a WHERE rowid IN (SELECT id FROM a ORDER BY random() LIMIT {n} % 30)"
        ),
        12 => "INSERT INTO last(x) VALUES(random())".to_owned(),
        13 => format!("INSERT INTO words(body) VALUES('w{n} common w{many} ' || datetime('now'))"),
        14 => format!("DELETE FROM words WHERE words MATCH 'w{n}'"),
        15 => "INSERT INTO words(words) VALUES('optimize')".to_owned(),
        16 => format!("INSERT OR REPLACE INTO boxes VALUES({n}, {n} - 0.5, {n} + 0.25 * {many})"),
        17 => format!("DELETE FROM boxes WHERE left < {n} AND right > {n}"),
        18 => format!(
            "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < {many}) \
             INSERT INTO b SELECT hex(randomblob(6)), i, zeroblob(i * 3) FROM r"
        ),
        19 => format!("DELETE FROM b WHERE v < {n} * 100000000000000"),
        20 => format!("INSERT INTO child VALUES({n})"),
        21 => format!("BEGIN; INSERT INTO parent VALUES({n}); ROLLBACK"),
        22 => format!("SAVEPOINT s; INSERT OR IGNORE INTO parent VALUES({n}); RELEASE s"),
        23 => "PRAGMA foreign_keys = ON".to_owned(),
        24 => format!("CREATE TABLE IF NOT EXISTS extra{}(x, y, z)", n % 4),
        25 => format!("DROP TABLE IF EXISTS extra{}", n % 4),
        26 => format!("ALTER TABLE b ADD COLUMN c{n} DEFAULT {many}"),
        _ => format!("SELECT count(*), {n} FROM a JOIN b ON a.id = b.v WHERE a.n > {many}"),
    };
    Value::from(text)
}
