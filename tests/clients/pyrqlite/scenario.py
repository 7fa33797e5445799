"""What an application does with pyrqlite, unmodified: types, parameters, transactions, blobs, dates, unicode."""

import datetime
import sys
import time

import pyrqlite.dbapi2 as dbapi2

host, port = sys.argv[1].rsplit(":", 1)
connection = dbapi2.connect(host=host, port=int(port), detect_types=dbapi2.PARSE_DECLTYPES)


def steadily():
    """Writes one row after the other for some seconds and prints the numbers of those that were acknowledged."""
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE steady(n INTEGER)")
    begin, n = time.monotonic(), 0
    while time.monotonic() - begin < 6:
        n += 1
        try:
            cursor.execute("INSERT INTO steady VALUES(?)", (n,))
            print(n, flush=True)
        except dbapi2.Error:
            time.sleep(0.05)


if sys.argv[2:] == ["steadily"]:
    steadily()
    sys.exit()


def check(found, expected):
    if found != expected:
        raise SystemExit(f"found {found!r}, expected {expected!r}")


with connection.cursor() as cursor:
    cursor.execute(
        "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price REAL, big INTEGER, flag BOOL,"
        " day DATE, at TIMESTAMP, raw BLOB)"
    )
    at = datetime.datetime(2020, 2, 29, 23, 59, 58, 123456)
    raw = bytes(range(256))
    name = "Grüße, 世界 😀 'quoted' \"double\" <&>"
    cursor.execute(
        "INSERT INTO item(name, price, big, flag, day, at, raw) VALUES(?, ?, ?, ?, ?, ?, ?)",
        (name, 19.25, 9007199254740993, True, datetime.date(2024, 12, 31), at, raw),
    )
    check(cursor.lastrowid, 1)
    cursor.execute("SELECT * FROM item WHERE id = 1")
    row = cursor.fetchone()
    check(row["name"], name)
    check(row["price"], 19.25)
    check(row["big"], 9007199254740993)
    check(row["flag"], True)
    check(row["day"], datetime.date(2024, 12, 31))
    check(row["at"], at)
    check(row["raw"], raw)
    check([column[0] for column in cursor.description][:3], ["id", "name", "price"])

    # NULL in every column, named parameters.
    cursor.execute("INSERT INTO item(name, big) VALUES(:name, :big)", {"name": None, "big": -5})
    cursor.execute("SELECT name, price, day, at, raw, big FROM item WHERE big = :big", {"big": -5})
    check(tuple(cursor.fetchone()), (None, None, None, None, None, -5))

    # Many rows, in one transaction; counts of rows.
    cursor.executemany("INSERT INTO item(name) VALUES(?)", seq_of_parameters=[(f"row {n}",) for n in range(50)])
    check(cursor.rowcount, 50)
    cursor.execute("SELECT COUNT(*) AS n FROM item")
    check(cursor.fetchone()["n"], 52)
    cursor.execute("UPDATE item SET price = 1.5 WHERE name LIKE 'row %'")
    check(cursor.rowcount, 50)
    cursor.execute("DELETE FROM item WHERE name LIKE 'row 1%'")
    check(cursor.rowcount, 11)
    cursor.execute("SELECT name FROM item WHERE name LIKE 'row %' ORDER BY id LIMIT 3")
    check([row[0] for row in cursor.fetchall()], ["row 0", "row 2", "row 3"])

    # A statement that fails says so, and a transaction with one does nothing.
    try:
        cursor.execute("INSERT INTO nope VALUES(1)")
        raise SystemExit("no error for an unknown table")
    except dbapi2.Error as error:
        if "no such table: nope" not in str(error):
            raise
    cursor.execute("CREATE TABLE once(n INTEGER UNIQUE)")
    cursor.executemany("INSERT INTO once VALUES(?)", seq_of_parameters=[(1,), (2,), (1,), (3,)])
    cursor.execute("SELECT COUNT(*) FROM once")
    check(cursor.fetchone()[0], 0)

    # Levels, PRAGMA, WITH and an empty result.
    for level in ("none", "weak", "linearizable", "strong"):
        cursor.execute("SELECT 7 AS seven", consistency=level)
        check(cursor.fetchone()["seven"], 7)
    cursor.execute("PRAGMA table_info(once)")
    check(cursor.fetchone()["name"], "n")
    cursor.execute("SELECT * FROM once")
    check(cursor.fetchall(), [])

    # Queued writes.
    cursor.execute("INSERT INTO once VALUES(10)", queue=True, wait=True)
    cursor.execute("SELECT n FROM once")
    check(cursor.fetchone()[0], 10)

connection.ping()
connection.close()
print("pyrqlite: ok")
