//! Generates hostile SQL from a seed: everything that could make two nodes differ.

use rq_sql::{Parameter, Statement, Value};
use rq_sqlite::{Budget, Maintenance, Mode, Request, Settings};

use crate::harness::{Item, Work};

/// A small generator (splitmix64), so that a seed means the same for ever.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        let index = usize::try_from(self.below(choices.len() as u64)).unwrap();
        choices[index]
    }
}

/// The tables everything happens to. Some are dropped and made again on the way.
pub(crate) const SCHEMA: &[&str] = &[
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b UNIQUE, r DEFAULT (random()), \
     at DEFAULT CURRENT_TIMESTAMP, g AS (a + 1) STORED CHECK (a IS NULL OR a < 900))",
    "CREATE INDEX t_a ON t (a)",
    "CREATE INDEX t_r ON t (r % 7, a)",
    "CREATE TABLE w (k PRIMARY KEY, v, blob DEFAULT (randomblob(9))) WITHOUT ROWID",
    "CREATE TABLE log (n INTEGER PRIMARY KEY AUTOINCREMENT, what, x)",
    "CREATE TABLE big (id INTEGER PRIMARY KEY, x)",
    "CREATE TABLE full (id INTEGER PRIMARY KEY, x)",
    "INSERT INTO full VALUES (9223372036854775807, 0)",
    "CREATE TABLE p (id INTEGER PRIMARY KEY)",
    "CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED, q REFERENCES p ON DELETE CASCADE)",
    "CREATE VIEW v AS SELECT id, a, random() AS r, julianday('now') AS now FROM t",
    "CREATE TRIGGER t_log AFTER INSERT ON t BEGIN \
     INSERT INTO log (what, x) VALUES (datetime('now', 'localtime'), last_insert_rowid() + changes()); END",
    "CREATE TRIGGER t_rollback BEFORE UPDATE ON t WHEN new.a = 13 BEGIN \
     INSERT INTO log (what) VALUES ('lost'); SELECT RAISE(ROLLBACK, 'thirteen'); END",
    "CREATE TRIGGER t_fail BEFORE UPDATE ON t WHEN new.a = 17 BEGIN SELECT RAISE(FAIL, 'seventeen'); END",
    "CREATE TRIGGER full_log AFTER DELETE ON t BEGIN INSERT INTO full (x) VALUES (old.id); END",
    "CREATE TRIGGER v_insert INSTEAD OF INSERT ON v BEGIN INSERT INTO t (a) VALUES (new.a); END",
    "CREATE VIRTUAL TABLE f USING fts5 (body)",
    "CREATE VIRTUAL TABLE o USING fts4 (body)",
    "CREATE VIRTUAL TABLE s USING rtree (id, x1, x2)",
];

/// The next entry.
pub(crate) fn item(dice: &mut Dice) -> Item {
    let work = match dice.below(100) {
        0..2 => Work::Blank,
        2..4 => Work::Membership(vec![7; usize::try_from(dice.below(300)).unwrap()]),
        4..8 => Work::Maintenance(maintenance(dice)),
        _ => Work::Batch((0..=dice.below(4)).map(|_| request(dice)).collect()),
    };
    let budget = Budget {
        steps: *dice.pick(&[&0, &20_000, &100_000, &400_000]),
        pages: *dice.pick(&[&0, &3, &40, &1000]),
    };
    Item {
        clock_ms: i64::try_from(dice.below(4_000_000_000_000)).unwrap() - 1_000_000_000,
        seed: u128::from(dice.next()).to_le_bytes(),
        settings: Settings { foreign_keys: dice.chance(50), budget },
        work,
    }
}

fn maintenance(dice: &mut Dice) -> Maintenance {
    match dice.below(6) {
        0 => Maintenance::Vacuum { page_size: None, auto_vacuum: None },
        1 => Maintenance::Vacuum {
            page_size: None,
            auto_vacuum: Some(u8::try_from(dice.below(3)).unwrap()),
        },
        2 => Maintenance::Analyze { target: None },
        3 => Maintenance::Analyze { target: Some("t".to_owned()) },
        4 => Maintenance::Optimize,
        _ => Maintenance::Reindex { target: dice.chance(50).then(|| "t_a".to_owned()) },
    }
}

fn request(dice: &mut Dice) -> Request {
    let mode = if dice.chance(50) { Mode::Execute } else { Mode::Unified };
    let statements = (0..=dice.below(5)).map(|_| string(dice)).collect();
    Request { mode, transaction: dice.chance(40), statements }
}

/// A statement string: mostly one statement, sometimes several, sometimes with parameters.
fn string(dice: &mut Dice) -> Statement {
    if dice.chance(15) {
        let sql = "INSERT INTO t (a, b) VALUES (?, :b) ON CONFLICT (b) DO UPDATE SET a = a + 1";
        let value = |number: u64| Value::Integer(i64::try_from(number).unwrap());
        let a = Parameter { name: None, value: value(dice.below(50)) };
        let b = Parameter { name: Some("b".to_owned()), value: value(dice.below(300)) };
        return Statement { sql: sql.to_owned(), parameters: vec![a, b] };
    }
    let count = if dice.chance(15) { 1 + dice.below(4) } else { 1 };
    let parts: Vec<_> = (0..count).map(|_| statement(dice)).collect();
    Statement::new(parts.join("; "))
}

fn statement(dice: &mut Dice) -> String {
    match dice.below(100) {
        0..30 => rows(dice),
        30..45 => by_plan(dice),
        45..55 => full_text(dice),
        55..65 => control(dice),
        65..75 => definition(dice),
        75..80 => statistics(dice),
        80..86 => pragma(dice),
        86..92 => runaway(dice),
        92..96 => refused(dice),
        _ => read(dice),
    }
}

/// Plain writes with every conflict action.
fn rows(dice: &mut Dice) -> String {
    let action =
        dice.pick(&["", "", "OR IGNORE", "OR REPLACE", "OR FAIL", "OR ROLLBACK", "OR ABORT"]);
    let (x, y, z) = (dice.below(400), dice.below(60), dice.below(1000));
    match dice.below(16) {
        0..4 => {
            format!("INSERT {action} INTO t (a, b) VALUES ({y}, {x}), ({z}, {y}), (NULL, NULL)")
        }
        4 => format!("INSERT {action} INTO w (k, v) VALUES ({y}, hex(randomblob(20)))"),
        5 => format!("UPDATE {action} t SET a = {} WHERE id % 50 = {y}", dice.below(25)),
        6 => format!("UPDATE {action} t SET b = {x} WHERE id > {x} RETURNING id, r"),
        7 => format!("DELETE FROM t WHERE id % 40 = {}", y % 40),
        8 => format!("INSERT INTO v (a) VALUES ({y})"),
        9 => format!("INSERT {action} INTO p VALUES ({})", y % 20),
        10 => format!("INSERT {action} INTO c VALUES ({}, {})", y % 30, z % 20),
        11 => format!("DELETE FROM p WHERE id = {}", y % 20),
        12 => format!("INSERT INTO big (x) VALUES (random() || printf('%.*c', {}, 'x'))", z * 40),
        13 => format!("INSERT INTO full (x) SELECT id FROM t WHERE id > {x} LIMIT 20"),
        14 => format!("DELETE FROM full WHERE id % 9 = {}", y % 9),
        _ => format!("DELETE FROM big WHERE id % 3 = {}", y % 3),
    }
}

/// Writes whose effect depends on the order the planner chooses.
fn by_plan(dice: &mut Dice) -> String {
    let (x, y) = (dice.below(30), dice.below(7));
    match dice.below(9) {
        0 => format!(
            "DELETE FROM t WHERE id IN (SELECT id FROM t WHERE a > {x} AND r % 7 = {y} LIMIT 2)"
        ),
        1 => format!(
            "INSERT INTO log (what, x) SELECT 'concat', group_concat(id) FROM \
             (SELECT id FROM t WHERE a BETWEEN {x} AND {} AND r % 7 >= {y} LIMIT 9)",
            x + 20
        ),
        2 => "UPDATE t SET a = a - 1 WHERE id IN (SELECT id FROM t ORDER BY random() LIMIT 3)"
            .to_owned(),
        3 => format!(
            "INSERT INTO log (what, x) SELECT 'join', t.id || '-' || w.k FROM t, w \
             WHERE t.a = w.k OR t.id = {x} LIMIT 4"
        ),
        4 => format!(
            "UPDATE t SET r = (SELECT max(n) FROM log), b = NULL WHERE a = {x} RETURNING random()"
        ),
        5 => "INSERT INTO log (what, x) SELECT 'counters', total_changes() * 1000 + changes() + \
              last_insert_rowid()"
            .to_owned(),
        6 => "WITH x AS (SELECT random() AS n, strftime('%f', 'now') AS f) \
              INSERT INTO log (what, x) SELECT f, n FROM x"
            .to_owned(),
        7 => "INSERT INTO log (what, x) SELECT 'column', group_concat(c.name) \
              FROM sqlite_schema AS s, pragma_table_info(s.name) AS c WHERE s.name LIKE 'x_'"
            .to_owned(),
        _ => format!("DELETE FROM log WHERE n IN (SELECT n FROM log WHERE x > {x} LIMIT 20)"),
    }
}

fn full_text(dice: &mut Dice) -> String {
    let table = dice.pick(&["f", "o"]);
    let number = dice.below(40);
    match dice.below(9) {
        0..3 => {
            format!("INSERT INTO {table} (body) VALUES ('word{number} ' || hex(randomblob(6)))")
        }
        3 => format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) \
             INSERT INTO {table} (body) SELECT 'many ' || i || ' ' || random() FROM n",
            5 * number
        ),
        4 => format!("DELETE FROM {table} WHERE rowid % 13 = {}", number % 13),
        5 => {
            format!("UPDATE {table} SET body = body || ' more' WHERE rowid % 17 = {}", number % 17)
        }
        6 => format!(
            "INSERT INTO {table} ({table}) VALUES ('{}')",
            dice.pick(&["optimize", "rebuild"])
        ),
        7 => format!(
            "INSERT OR REPLACE INTO s VALUES ({number}, {number}, {})",
            number + dice.below(9)
        ),
        _ => format!("DELETE FROM s WHERE x1 < {}", number / 4),
    }
}

fn control(dice: &mut Dice) -> String {
    dice.pick(&[
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT a",
        "SAVEPOINT b",
        "RELEASE a",
        "RELEASE b",
        "ROLLBACK TO a",
        "ROLLBACK TO b",
    ])
    .to_owned()
}

fn definition(dice: &mut Dice) -> String {
    let name = dice.pick(&["x1", "x2", "x3"]);
    match dice.below(16) {
        0 | 1 => format!("CREATE TABLE {name} (a, b DEFAULT (hex(randomblob(3))))"),
        2 => format!("DROP TABLE {name}"),
        3 => format!("ALTER TABLE {name} ADD COLUMN c{} DEFAULT 5", dice.below(5)),
        4 => format!("ALTER TABLE {name} DROP COLUMN c{}", dice.below(5)),
        5 => format!("ALTER TABLE {name} RENAME TO {}", dice.pick(&["x1", "x2", "x3"])),
        6 => format!("CREATE TABLE {name} AS SELECT id, a, r, random() AS z FROM t LIMIT 20"),
        7 => format!("CREATE INDEX {name}_i ON {name} (a)"),
        8 => "DROP INDEX t_a".to_owned(),
        9 => "CREATE INDEX t_a ON t (a)".to_owned(),
        10 => format!("INSERT INTO {name} (a) SELECT a FROM t LIMIT 5"),
        11 => format!("CREATE VIEW {name} AS SELECT 1"),
        12 => format!(
            "CREATE TABLE {name} AS SELECT * FROM p AS p1, p AS p2, p AS p3, p AS p4, p AS p5, p AS p6"
        ),
        13 => format!(
            "CREATE VIEW {name} AS SELECT * FROM p AS p1, p AS p2, p AS p3, p AS p4, p AS p5, p AS p6"
        ),
        14 => "DROP TABLE p".to_owned(),
        _ => "CREATE TABLE p (id INTEGER PRIMARY KEY)".to_owned(),
    }
}

/// What the planner believes, changed by hand.
fn statistics(dice: &mut Dice) -> String {
    let rows = 1 + dice.below(5000);
    match dice.below(6) {
        0 | 1 => "ANALYZE".to_owned(),
        2 => format!(
            "UPDATE sqlite_stat1 SET stat = '{rows} {}' WHERE idx = '{}'",
            1 + dice.below(rows),
            dice.pick(&["t_a", "t_r"])
        ),
        3 => "DELETE FROM sqlite_stat1 WHERE idx = 't_a'".to_owned(),
        4 => format!("INSERT INTO sqlite_stat1 VALUES ('t', 't_a', '{rows} {rows}')"),
        _ => "DROP TABLE sqlite_stat1".to_owned(),
    }
}

fn pragma(dice: &mut Dice) -> String {
    let number = dice.below(9);
    match dice.below(6) {
        0 => format!("PRAGMA foreign_keys = {}", number % 2),
        1 => "PRAGMA defer_foreign_keys = 1".to_owned(),
        2 => format!("PRAGMA user_version = {number}"),
        3 => format!("PRAGMA incremental_vacuum({number})"),
        4 => "PRAGMA integrity_check".to_owned(),
        _ => {
            "INSERT INTO log (what, x) SELECT 'pages', page_count FROM pragma_page_count".to_owned()
        }
    }
}

/// Statements that would not end soon, or fill the disk.
fn runaway(dice: &mut Dice) -> String {
    let bound = 100 << dice.below(6);
    match dice.below(8) {
        0 => format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {bound}) \
             INSERT INTO t (a) SELECT i % 60 FROM n"
        ),
        1 => format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {bound}) \
             SELECT count(*), sum(i) FROM n"
        ),
        2 => format!(
            "INSERT INTO big (x) SELECT random() || printf('%.*c', 3000, 'x') FROM t LIMIT {}",
            bound / 4
        ),
        // Steps that do much each: they count by what they look at and by what they allocate.
        3 => format!(
            "INSERT INTO log (what, x) SELECT 'work', sum(instr(x, 'y') + (x LIKE '%xxxxxxxxxxy%')) FROM \
             (SELECT replace(printf('%.*c', 30000, 'z'), 'z', 'x') || a AS x FROM t LIMIT {})",
            bound / 16
        ),
        4 => format!(
            "INSERT INTO log (what, x) SELECT 'long', sum(length(hex(zeroblob(600000 + a)) || 'x')) \
             FROM (SELECT a FROM t LIMIT {})",
            bound / 100
        ),
        // Compiling takes twice as much with each level.
        5 => {
            let levels = 12 + dice.below(5);
            let doubled = (0..levels).fold("SELECT id AS x FROM p".to_owned(), |inner, _| {
                format!("SELECT x + x AS x FROM ({inner})")
            });
            format!(
                "INSERT INTO log (what, x) {}",
                doubled.replacen("SELECT ", "SELECT 'sum', ", 1)
            )
        }
        _ => "DELETE FROM t WHERE id > 500".to_owned(),
    }
}

fn refused(dice: &mut Dice) -> String {
    dice.pick(&[
        "ATTACH ':memory:' AS m",
        "CREATE TEMP TABLE x1 (a)",
        "INSERT INTO log (what) SELECT file FROM pragma_database_list",
        "INSERT INTO log (what) VALUES (sqlite_version())",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA max_page_count = 5",
        "VACUUM",
        "gibberish",
        "INSERT INTO nowhere VALUES (1)",
        "UPDATE sqlite_rq_state SET value = 1",
        "SELECT abs(-9223372036854775807 - 1)",
        "-- nothing",
    ])
    .to_owned()
}

fn read(dice: &mut Dice) -> String {
    dice.pick(&[
        "SELECT * FROM v LIMIT 5",
        "SELECT id FROM t WHERE a > 3 AND r % 7 = 2 LIMIT 6",
        "SELECT rowid FROM f WHERE f MATCH 'many' LIMIT 5",
        "SELECT last_insert_rowid(), changes(), total_changes(), random()",
        "SELECT name FROM sqlite_schema",
        "EXPLAIN QUERY PLAN SELECT * FROM t WHERE a = 1 AND r % 7 = 2",
        "PRAGMA freelist_count",
    ])
    .to_owned()
}
