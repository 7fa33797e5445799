"""Runs the statements of a file on a node and on the SQLite of Python, and compares.

Usage: compare.py FILE HOST:PORT. Statements are paragraphs; a paragraph of comments alone is skipped.
"""

import json
import math
import re
import sqlite3
import sys
import urllib.request

path, address = sys.argv[1:]
differences = 0


def report(statement, ours, theirs):
    global differences
    differences += 1
    print(f"--- {statement}\n  through HTTP: {ours!r}\n  directly:     {theirs!r}")


def ask(endpoint, statements):
    request = urllib.request.Request(f"http://{address}{endpoint}", data=json.dumps(statements).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())["results"]


def same(ours, theirs):
    if isinstance(theirs, float) and isinstance(ours, (int, float)):
        return float(ours) == theirs or math.isclose(float(ours), theirs, rel_tol=1e-15)
    if isinstance(theirs, bytes):
        return ours == theirs.decode("utf-8", errors="replace")
    return type(ours) is type(theirs) and ours == theirs


def same_rows(ours, theirs):
    return len(ours) == len(theirs) and all(
        len(left) == len(right) and all(map(same, left, right)) for left, right in zip(ours, theirs)
    )


def content(run):
    tables = {}
    for (name,) in run("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'sqlite_rq_state' ORDER BY name"):
        quoted = '"' + name.replace('"', '""') + '"'
        columns = [row[1] for row in run(f"PRAGMA table_xinfo({quoted})") if row[6] != 1]
        literals = ", ".join('quote("' + column.replace('"', '""') + '")' for column in columns)
        tables[name] = [tuple(row) for row in run(f"SELECT {literals} FROM {quoted}")]
    schema = [tuple(row) for row in run("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name <> 'sqlite_rq_state' ORDER BY type, name")]
    return {"schema": schema, "tables": tables}


def run_here(sql):
    return here.execute(sql).fetchall()


def run_there(sql):
    result = ask("/db/query", [sql])[0]
    if "error" in result:
        raise SystemExit(f"{sql}: {result['error']}")
    return result.get("values", [])


here = sqlite3.connect(":memory:", isolation_level=None)
text = open(path, encoding="utf-8").read()
paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text)]
count = 0
for statement in paragraphs:
    if not re.sub(r"--[^\n]*", "", statement).strip():
        continue
    count += 1
    [ours] = ask("/db/request", [statement])
    before = here.total_changes
    try:
        cursor = here.execute(statement)
        rows = cursor.fetchall()
        theirs = {"columns": [column[0] for column in cursor.description or []], "rows": rows, "changes": here.total_changes - before}
    except sqlite3.Error as error:
        theirs = {"error": str(error)}
    if ("error" in ours) != ("error" in theirs):
        report(statement, ours, theirs)
    elif "error" in ours:
        # The wording of compilation errors changes between versions; that of constraints does not.
        if "constraint failed" in theirs["error"] and ours["error"] != theirs["error"]:
            report(statement, ours, theirs)
    elif "columns" in ours:
        if ours["columns"] != theirs["columns"] or not same_rows(ours.get("values", []), theirs["rows"]):
            report(statement, ours, theirs)
    elif theirs["columns"]:
        report(statement, ours, theirs)

ours, theirs = content(run_there), content(run_here)
if ours["schema"] != theirs["schema"]:
    report("schema", ours["schema"], theirs["schema"])
for name in sorted(set(ours["tables"]) | set(theirs["tables"])):
    left, right = ours["tables"].get(name), theirs["tables"].get(name)
    if left != right:
        report(f"content of {name}", left, right)
print(f"{count} statements, {differences} differences")
sys.exit(1 if differences or not count else 0)
