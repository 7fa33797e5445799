// What an application does with gorqlite, unmodified: types, parameters, transactions, blobs, dates,
// unicode; and through database/sql.
package main

import (
	"database/sql"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/rqlite/gorqlite"
	_ "github.com/rqlite/gorqlite/stdlib"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(what string, found, expected interface{}) {
	if !reflect.DeepEqual(found, expected) {
		must(fmt.Errorf("%s: found %#v, expected %#v", what, found, expected))
	}
}

func count(conn *gorqlite.Connection, table string) int64 {
	rows, err := conn.QueryOne("SELECT count(*) FROM " + table)
	must(err)
	var n int64
	rows.Next()
	must(rows.Scan(&n))
	return n
}

const name = "Grüße, 世界 😀 'quoted' \"double\" <&>"

func types(conn *gorqlite.Connection) {
	_, err := conn.WriteOne("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price REAL, flag BOOLEAN, day DATE, at DATETIME, raw BLOB)")
	must(err)
	at := "2020-02-29 23:59:58"
	written, err := conn.WriteOneParameterized(gorqlite.ParameterizedStatement{
		Query:     "INSERT INTO item(name, price, flag, day, at, raw) VALUES(?, ?, ?, ?, ?, x'00ff')",
		Arguments: []interface{}{name, 19.25, true, "2024-12-31", at},
	})
	must(err)
	check("last insert id", written.LastInsertID, int64(1))
	check("rows affected", written.RowsAffected, int64(1))
	_, err = conn.WriteOneParameterized(gorqlite.ParameterizedStatement{
		Query: "INSERT INTO item(name, price) VALUES(?, ?)", Arguments: []interface{}{nil, nil},
	})
	must(err)

	rows, err := conn.QueryOne("SELECT id, name, price, flag, day, at, raw FROM item ORDER BY id")
	must(err)
	check("columns", rows.Columns(), []string{"id", "name", "price", "flag", "day", "at", "raw"})
	check("types", rows.Types(), []string{"integer", "text", "real", "boolean", "date", "datetime", "blob"})
	check("rows", rows.NumRows(), int64(2))
	var id int64
	var text, raw string
	var price float64
	var day, stamp time.Time
	var flag interface{}
	rows.Next()
	row, err := rows.Map()
	must(err)
	flag = row["flag"]
	check("flag", flag, true)
	check("name", row["name"], name)
	day = row["day"].(time.Time)
	stamp = row["at"].(time.Time)
	check("day", day.UTC(), time.Date(2024, 12, 31, 0, 0, 0, 0, time.UTC))
	check("at", stamp.UTC(), time.Date(2020, 2, 29, 23, 59, 58, 0, time.UTC))
	check("raw", row["raw"], "AP8=")
	rows.Next()
	var nullName gorqlite.NullString
	var nullPrice gorqlite.NullFloat64
	var nullTime, nullDay gorqlite.NullTime
	var nullRaw, nullFlag gorqlite.NullString
	must(rows.Scan(&id, &nullName, &nullPrice, &nullFlag, &nullDay, &nullTime, &nullRaw))
	check("nulls", nullName.Valid || nullPrice.Valid || nullTime.Valid || nullDay.Valid || nullRaw.Valid, false)

	rows, err = conn.QueryOneParameterized(gorqlite.ParameterizedStatement{
		Query: "SELECT id, name, price, raw FROM item WHERE name = ?", Arguments: []interface{}{name},
	})
	must(err)
	rows.Next()
	must(rows.Scan(&id, &text, &price, &raw))
	check("scanned", []interface{}{id, text, price, raw}, []interface{}{int64(1), name, 19.25, "AP8="})
	rows, err = conn.QueryOne("SELECT id FROM item WHERE id > 100")
	must(err)
	check("no rows", rows.NumRows(), int64(0))
}

func transactions(conn *gorqlite.Connection) {
	_, err := conn.WriteOne("CREATE TABLE once(n INTEGER UNIQUE)")
	must(err)
	statements := []string{"INSERT INTO once VALUES(1)", "INSERT INTO once VALUES(1)", "INSERT INTO once VALUES(2)"}
	_, err = conn.Write(statements)
	if err == nil || !strings.Contains(err.Error(), "UNIQUE constraint failed: once.n") {
		must(fmt.Errorf("expected a broken constraint, found %v", err))
	}
	check("after a failed transaction", count(conn, "once"), int64(0))
	must(conn.SetExecutionWithTransaction(false))
	_, err = conn.Write(statements)
	if err == nil {
		must(fmt.Errorf("expected a broken constraint"))
	}
	check("without a transaction", count(conn, "once"), int64(2))
	must(conn.SetExecutionWithTransaction(true))
}

func unified(conn *gorqlite.Connection) {
	results, err := conn.RequestParameterized([]gorqlite.ParameterizedStatement{
		{Query: "INSERT INTO once VALUES(?)", Arguments: []interface{}{10}},
		{Query: "SELECT n FROM once WHERE n = ?", Arguments: []interface{}{10}},
		{Query: "DELETE FROM once WHERE n = 10"},
	})
	must(err)
	check("results", len(results), 3)
	check("written", results[0].Write.RowsAffected, int64(1))
	check("read", results[1].Query.NumRows(), int64(1))
	check("deleted", results[2].Write.RowsAffected, int64(1))
	_, err = conn.QueueOne("INSERT INTO once VALUES(20)")
	must(err)
	for deadline := time.Now().Add(30 * time.Second); count(conn, "once") != 3; {
		if time.Now().After(deadline) {
			must(fmt.Errorf("a queued write did not arrive"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func standardLibrary(url string) {
	db, err := sql.Open("rqlite", url)
	must(err)
	defer db.Close()
	result, err := db.Exec("INSERT INTO item(name, price) VALUES(?, ?)", "via database/sql", 2.5)
	must(err)
	id, err := result.LastInsertId()
	must(err)
	check("id", id, int64(3))
	var text string
	var price float64
	must(db.QueryRow("SELECT name, price FROM item WHERE id = ?", id).Scan(&text, &price))
	check("row", []interface{}{text, price}, []interface{}{"via database/sql", 2.5})
}

// Writes one row after the other for some seconds and prints the numbers of those that were acknowledged.
func steadily(conn *gorqlite.Connection) {
	_, err := conn.WriteOne("CREATE TABLE steady(n INTEGER)")
	must(err)
	for n, begin := 1, time.Now(); time.Since(begin) < 6*time.Second; n++ {
		_, err := conn.WriteOneParameterized(gorqlite.ParameterizedStatement{
			Query: "INSERT INTO steady VALUES(?)", Arguments: []interface{}{n},
		})
		if err == nil {
			fmt.Println(n)
		} else {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func main() {
	url := "http://" + os.Args[1]
	conn, err := gorqlite.Open(url)
	must(err)
	if len(os.Args) == 3 && os.Args[2] == "steadily" {
		steadily(conn)
		return
	}
	// Of several nodes another one leads, or none at this moment.
	if len(os.Args) == 2 {
		leader, err := conn.Leader()
		must(err)
		check("leader", leader, os.Args[1])
	}
	types(conn)
	transactions(conn)
	unified(conn)
	for _, level := range []string{"none", "weak", "linearizable", "strong"} {
		parsed, err := gorqlite.ParseConsistencyLevel(level)
		must(err)
		must(conn.SetConsistencyLevel(parsed))
		check(level, count(conn, "item"), int64(2))
	}
	conn.Close()
	standardLibrary(url)
	fmt.Println("gorqlite: ok")
}
