-- Tables, keys, constraints, upserts, what changes and what stays.

CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER CHECK (age >= 0), city TEXT DEFAULT 'Oslo', UNIQUE (name, city))

INSERT INTO person(name, age) VALUES('Ann', 30), ('Bob', 25), ('Cyd', NULL)

INSERT INTO person(name, age, city) VALUES('Ann', 31, 'Rome')

INSERT INTO person(name, age) VALUES('Ann', 32)

INSERT INTO person(name, age) VALUES('Dan', -1)

INSERT INTO person(name) VALUES(NULL)

INSERT INTO person(id, name) VALUES('x', 'Eve')

INSERT OR IGNORE INTO person(name, age) VALUES('Ann', 33), ('Eve', 20)

INSERT OR REPLACE INTO person(id, name, age) VALUES(2, 'Bobby', 26)

INSERT INTO person(name, age) VALUES('Eve', 21) ON CONFLICT(name, city) DO UPDATE SET age = excluded.age + 100 WHERE person.age < 50

INSERT INTO person(name) VALUES('Eve') ON CONFLICT DO NOTHING

INSERT INTO person(name, age) VALUES('Fay', 50) RETURNING id, upper(name) AS shout, age + 1

UPDATE person SET age = age + 1 WHERE age IS NOT NULL

UPDATE person SET city = 'Paris', age = NULL WHERE id IN (SELECT id FROM person WHERE age > 100) RETURNING name, city

UPDATE OR IGNORE person SET name = 'Ann', city = 'Oslo'

UPDATE person SET age = other.age FROM (SELECT 99 AS age) AS other WHERE person.name = 'Cyd'

DELETE FROM person WHERE name = 'Nobody'

DELETE FROM person WHERE age = 99 RETURNING *

SELECT * FROM person ORDER BY id

CREATE TABLE kv(k TEXT PRIMARY KEY, v) WITHOUT ROWID

INSERT INTO kv VALUES('b', 2), ('a', 1), ('c', x'00ff')

INSERT INTO kv VALUES('a', 5)

REPLACE INTO kv VALUES('a', 'five')

SELECT k, quote(v) FROM kv

CREATE TABLE typed(i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT

INSERT INTO typed VALUES(1, 2, 'x', x'00', '007')

INSERT INTO typed(i) VALUES('abc')

INSERT INTO typed(b) VALUES('text')

SELECT typeof(i), typeof(r), typeof(t), typeof(b), typeof(a), a FROM typed

CREATE TABLE calc(a INTEGER, b INTEGER, s AS (a + b) STORED, p AS (a * b))

INSERT INTO calc(a, b) VALUES(2, 3), (4, 5)

INSERT INTO calc(s) VALUES(1)

SELECT a, b, s, p FROM calc

CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v)

INSERT INTO auto(v) VALUES('x'), ('y')

DELETE FROM auto

INSERT INTO auto(v) VALUES('z') RETURNING id

SELECT * FROM sqlite_sequence

CREATE UNIQUE INDEX lowered ON kv(lower(k))

INSERT INTO kv VALUES('A', 0)

CREATE INDEX partial ON person(age) WHERE age > 30

ALTER TABLE person ADD COLUMN note TEXT DEFAULT 'none'

ALTER TABLE person RENAME COLUMN note TO remark

ALTER TABLE person RENAME TO people

ALTER TABLE people DROP COLUMN remark

CREATE TABLE people(x)

CREATE TABLE IF NOT EXISTS people(x)

CREATE TABLE copy AS SELECT name, age FROM people ORDER BY name

SELECT * FROM copy

DROP TABLE copy

DROP TABLE copy

DROP TABLE IF EXISTS copy

CREATE VIEW adults AS SELECT name, age FROM people WHERE age >= 18

SELECT * FROM adults ORDER BY name

INSERT INTO adults VALUES('x', 1)

PRAGMA table_info(people)

PRAGMA foreign_key_list(people)

PRAGMA integrity_check
