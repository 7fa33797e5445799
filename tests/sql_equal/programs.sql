-- Triggers, views with triggers, recursive structures, full text, R*Trees.

CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL DEFAULT 0 CHECK (balance >= 0))

CREATE TABLE journal(n INTEGER PRIMARY KEY, account INTEGER, before INTEGER, after INTEGER)

CREATE TRIGGER keep AFTER UPDATE OF balance ON account WHEN old.balance <> new.balance BEGIN INSERT INTO journal(account, before, after) VALUES(new.id, old.balance, new.balance); END

CREATE TRIGGER forbid BEFORE DELETE ON account WHEN old.balance > 0 BEGIN SELECT RAISE(ABORT, 'account is not empty'); END

INSERT INTO account(balance) VALUES(100), (0), (50)

UPDATE account SET balance = balance - 30 WHERE id = 1

UPDATE account SET balance = balance - 1000 WHERE id = 3

UPDATE account SET balance = balance

DELETE FROM account WHERE id = 1

DELETE FROM account WHERE id = 2

SELECT * FROM journal

SELECT * FROM account

CREATE VIEW total AS SELECT sum(balance) AS balance FROM account

CREATE TRIGGER spread INSTEAD OF INSERT ON total BEGIN UPDATE account SET balance = balance + new.balance / 2; END

INSERT INTO total VALUES(20)

SELECT * FROM total

CREATE TABLE tree(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES tree(id), name TEXT)

INSERT INTO tree VALUES(1, NULL, 'root'), (2, 1, 'left'), (3, 1, 'right'), (4, 2, 'leaf'), (5, 4, 'deep')

WITH RECURSIVE path(id, at) AS (SELECT id, name FROM tree WHERE parent IS NULL UNION ALL SELECT tree.id, at || '/' || name FROM tree JOIN path ON tree.parent = path.id) SELECT at FROM path ORDER BY at

CREATE TRIGGER prune AFTER DELETE ON tree BEGIN DELETE FROM tree WHERE parent = old.id; END

DELETE FROM tree WHERE id = 2

SELECT * FROM tree

CREATE VIRTUAL TABLE note USING fts5(title, body)

INSERT INTO note VALUES('One', 'the quick brown fox'), ('Two', 'jumps over the lazy dog'), ('Three', 'quick as a dog')

SELECT title FROM note WHERE note MATCH 'quick AND dog'

SELECT title FROM note WHERE note MATCH 'body : "lazy dog"' ORDER BY rank

SELECT highlight(note, 1, '[', ']') FROM note WHERE note MATCH 'fox'

DELETE FROM note WHERE title = 'One'

SELECT count(*) FROM note WHERE note MATCH 'quick'

CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, y0, y1)

INSERT INTO box VALUES(1, 0, 1, 0, 1), (2, 5, 6, 5, 6), (3, 0, 10, 0, 10)

SELECT id FROM box WHERE x0 <= 5.5 AND x1 >= 5.5 AND y0 <= 5.5 AND y1 >= 5.5 ORDER BY id

INSERT INTO box VALUES(4, 3, 1, 0, 0)

DROP TABLE box

DROP TRIGGER keep

REINDEX

SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name
